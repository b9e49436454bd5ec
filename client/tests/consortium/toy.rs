//! Work whose result shows every update that was lost, counted twice, or trained from another model.

use consilium_core::{GroupName, ModelVector, Participant, RoundPlan, Study};
use consilium_site::agent::MakeWork;
use consilium_site::work::{LocalWork, MetricValue, Progress, Trained, WorkError};

use super::{ROUNDS, SITES, TRUNK, initial, site, study};

/// One value per site and round in the trunk, a head that depends on the received one, and a stem that
/// counts how often it was trained.
pub struct Toy {
    index: usize,
    local: ModelVector,
}

impl Toy {
    pub fn new(study: &Study, participant: &Participant) -> Self {
        let index = SITES
            .iter()
            .position(|name| *name == participant.site.as_str())
            .unwrap();
        let lengths = study.manifest.group_lengths();
        let zeros = |group: GroupName| {
            let length = lengths[&group];
            (group, vec![0.0; length])
        };
        let local = study
            .local_groups(participant)
            .into_iter()
            .map(zeros)
            .collect();
        Self {
            index,
            local: ModelVector(local),
        }
    }

    /// As the agent takes it.
    pub fn make() -> MakeWork {
        Box::new(|study, participant| {
            Ok(Box::new(Self::new(study, participant)) as Box<dyn LocalWork>)
        })
    }
}

impl LocalWork for Toy {
    fn train(
        &mut self,
        plan: &RoundPlan,
        global: &ModelVector,
        local: &ModelVector,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Trained, WorkError> {
        progress(Progress { step: 1, steps: 1 });
        let mut update = ModelVector::default();
        for (group, values) in &global.0 {
            let delta = if group.as_str() == "trunk" {
                let mut one_hot = vec![0.0; TRUNK];
                one_hot[(plan.round as usize - 1) * SITES.len() + self.index] = 1.0;
                one_hot[TRUNK - 1] = 1.0;
                one_hot
            } else {
                values
                    .iter()
                    .map(|value| 0.25 * value + self.index as f32)
                    .collect()
            };
            update.0.insert(group.clone(), delta);
        }
        let counted = |values: &Vec<f32>| values.iter().map(|value| value + 1.0).collect();
        let local = local
            .0
            .iter()
            .map(|(group, values)| (group.clone(), counted(values)))
            .collect();
        Ok(Trained {
            update,
            local: ModelVector(local),
            privacy: None,
        })
    }

    fn evaluate(
        &mut self,
        global: &ModelVector,
        local: &ModelVector,
    ) -> Result<Vec<MetricValue>, WorkError> {
        let value = |metric: &str, value| MetricValue {
            split: "test".into(),
            metric: metric.into(),
            value,
        };
        let last = global
            .0
            .get(&"trunk".parse().unwrap())
            .and_then(|trunk| trunk.last());
        let counted = local.0.values().next().map(|values| f64::from(values[0]));
        Ok(vec![
            value("counted", counted),
            value("last", last.map(|last| f64::from(*last))),
            value("undefined", None),
        ])
    }

    fn initial_local(&self) -> ModelVector {
        self.local.clone()
    }
}

/// The final model when every site contributes exactly once to every round, computed without any protocol.
pub fn expected() -> ModelVector {
    let study = study();
    let mut global = initial();
    for round in 1..=ROUNDS {
        let plan = RoundPlan {
            study: study.digest(),
            round,
            attempt: 1,
            model: global.sha256(),
            deadline: consilium_core::clock::Timestamp(0),
        };
        let updates = SITES
            .map(|name| {
                let participant = study.participant(&site(name)).unwrap();
                let mut toy = Toy::new(&study, participant);
                let local = toy.initial_local();
                let trained = toy.train(&plan, &global, &local, &mut |_| ()).unwrap();
                (site(name), trained.update)
            })
            .into();
        global = consilium_strategies::average(&study, &global, &updates).unwrap();
    }
    global
}

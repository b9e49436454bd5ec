//! Training of a site's part of the network on its own cohort.
//!
//! [`SiteTraining`] is the real [`LocalWork`]: it draws batches and views from named streams on the host, so
//! that any step can be done again after a kill, and the same study gives the same bytes in any process.

mod fitting;
mod measure;
mod predict;
mod private;
mod records;
mod settings;
mod steps;

use std::collections::BTreeSet;

use consilium_core::study::PrivacyMode;
use consilium_core::{ModelVector, Participant, RoundPlan, Seed, Study};
use consilium_data::{Augmentation, Cohort, Part, Sampler};
use consilium_models::{
    DeviceChoice, EhpalNet, ModelError, OptimiserRule, OptimiserState, Prediction, SiteNetwork,
    Task, Trainer,
};
use dp_rs::event::Repeated;

use fitting::fits;
pub use measure::{constant_metrics, evaluated, metrics, model_targets, primary_metric};
pub use predict::Predictor;
use predict::{Who, predict};
use private::{PrivateSteps, SiteUpdates};
pub use records::SiteRecords;
pub use settings::{
    Decay, ModalityTraining, OptimiserKind, PrivateRecipe, TrainedPart, TrainingSettings,
};

use crate::preparation::Preparation;
use crate::work::{LocalWork, MetricValue, Progress, Trained, WorkError};

/// A site's network, records and settings, ready to train.
pub struct SiteTraining {
    study: String,
    seed: Seed,
    rounds: u32,
    participant: Participant,
    settings: ModalityTraining,
    task: Task,
    shared: Vec<consilium_core::GroupName>,
    augmentation: Augmentation,
    trainer: Trainer,
    initial: ModelVector,
    records: SiteRecords,
    /// The cohort's id of each record's patient, and the parts with everybody in them.
    patients: Vec<String>,
    parts: [Vec<usize>; 3],
    excluded: BTreeSet<String>,
    sampler: Sampler,
    private: Option<PrivateSteps>,
    updates: Option<SiteUpdates>,
    threads: rayon::ThreadPool,
}

impl SiteTraining {
    /// Joins a site's part of a study with its records.
    ///
    /// # Errors
    /// [`WorkError`] when the study's settings cannot be read, the records are not of the declared
    /// modality and task, or the device is absent.
    pub fn new(
        study: &Study,
        participant: &Participant,
        cohort: &Cohort,
        records: SiteRecords,
        device: DeviceChoice,
    ) -> Result<Self, WorkError> {
        let spec = EhpalNet::from_json(&study.model.settings).map_err(from_model)?;
        let mut settings: TrainingSettings = serde_json::from_value(study.training.clone())
            .map_err(|error| study_error(format!("training settings: {error}")))?;
        let settings = settings.remove(&participant.modality).ok_or_else(|| {
            study_error(format!("no training settings for {}", participant.modality))
        })?;
        if let Some(problem) = settings.problem() {
            return Err(study_error(problem));
        }
        let settings = if study.privacy == PrivacyMode::PrivateSteps {
            settings.as_private(participant.declared_patients)
        } else {
            settings
        };
        let private = PrivateSteps::of(
            study,
            participant,
            cohort,
            (&records.train, &records.examples.patient),
            settings.local_steps,
        )?;
        let updates = SiteUpdates::of(study, participant)?;
        fits(&spec, participant, cohort, &records.examples)?;
        let task = spec.tasks[&participant.task].clone();
        model_targets(&task, &records.examples.targets)?;
        let device = device.open().map_err(from_model)?.autodiff();
        let network = SiteNetwork::new(
            &spec,
            [&participant.modality],
            [&participant.task],
            study.seed(),
            study.name.as_str(),
            &device,
        )
        .map_err(from_model)?;
        if private.is_some() {
            network
                .check_private(&participant.task)
                .map_err(from_model)?;
            for part in settings.private.trained.iter().flatten() {
                if !network.manifest().tensors.iter().any(|t| part.holds(t)) {
                    return Err(study_error(format!(
                        "private.trained: {:?} is no part of this site's network",
                        part.0
                    )));
                }
            }
        }
        let sampler = sampler(&records, &settings)?;
        let patients = (0..cohort.records()).map(|record| {
            // Every record of a cohort has one.
            cohort.id_of(record).unwrap_or_default().to_owned()
        });
        let kind = cohort.manifest().modality.kind;
        let (rate, weight_decay) = (settings.learning_rate as f32, settings.weight_decay as f32);
        let rule = match settings.optimiser {
            OptimiserKind::Adam => OptimiserRule::Adam { rate, weight_decay },
            OptimiserKind::Sgd => OptimiserRule::Sgd { rate, weight_decay },
        };
        let threads = one_thread()?;
        Ok(Self {
            study: study.name.to_string(),
            seed: study.seed(),
            rounds: study.schedule.rounds,
            shared: study.shared_groups(participant).into_iter().collect(),
            augmentation: settings
                .augmentation
                .unwrap_or_else(|| Augmentation::default_for(kind)),
            participant: participant.clone(),
            task,
            settings,
            initial: network.groups(),
            trainer: Trainer::new(network, rule).map_err(from_model)?,
            patients: patients.collect(),
            parts: [Part::Train, Part::Validation, Part::Test]
                .map(|part| records.part(part).to_vec()),
            excluded: BTreeSet::new(),
            records,
            sampler,
            private,
            updates,
            threads,
        })
    }

    /// The model that this site would train alone: as many steps on its own data, from the same initial
    /// values, with the same batches and views, and nobody else. Nothing leaves the site, so nothing is noised.
    /// Returns all its groups.
    ///
    /// # Errors
    /// [`WorkError`] when a step fails.
    pub fn train_alone(
        &mut self,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<ModelVector, WorkError> {
        let initial = self.initial.clone();
        self.start_from(&initial)?;
        let steps = self.rounds * self.settings.local_steps;
        for round in 1..=self.rounds {
            for step in 0..self.settings.local_steps {
                self.step(round, 1, step)?;
                let step = (round - 1) * self.settings.local_steps + step + 1;
                progress(Progress { step, steps });
            }
        }
        Ok(self.trainer.network().groups())
    }

    /// Metrics of `model` (all groups of this site) on one part.
    ///
    /// # Errors
    /// [`WorkError`] when the prediction fails.
    pub fn evaluate_on(
        &mut self,
        model: &ModelVector,
        part: Part,
    ) -> Result<Vec<MetricValue>, WorkError> {
        let predictions = self.predict(model, part, 0)?;
        let targets = self.targets_of(part);
        Ok(metrics(&self.task, &predictions, &targets, part.as_str()))
    }

    /// Predictions of `model` on one part, with `passes` dropout passes, or deterministic for 0.
    ///
    /// # Errors
    /// [`WorkError`] when the prediction fails.
    pub fn predict(
        &mut self,
        model: &ModelVector,
        part: Part,
        passes: usize,
    ) -> Result<Vec<Prediction>, WorkError> {
        self.trainer.load(model).map_err(from_model)?;
        let network = self.trainer.network().for_inference();
        let who = Who {
            study: &self.study,
            seed: self.seed,
            participant: &self.participant,
            threads: &self.threads,
        };
        let (examples, records) = (&self.records.examples, self.records.part(part));
        predict(&network, who, examples, records, passes, &mut |_| ())
    }

    /// What should have been predicted on a part.
    #[must_use]
    pub fn targets_of(&self, part: Part) -> consilium_data::Targets {
        // Cannot fail: parts hold indices of these records.
        self.records
            .examples
            .targets
            .select(self.records.part(part))
            .expect("parts index the records")
    }

    /// The records.
    #[must_use]
    pub fn records(&self) -> &SiteRecords {
        &self.records
    }

    /// The task.
    #[must_use]
    pub fn task(&self) -> &Task {
        &self.task
    }

    fn start_from(&mut self, model: &ModelVector) -> Result<(), WorkError> {
        self.trainer.load(model).map_err(from_model)?;
        self.trainer.set_state(OptimiserState::default());
        Ok(())
    }
}

impl LocalWork for SiteTraining {
    fn exclude(&mut self, patients: &BTreeSet<String>) -> Result<(), WorkError> {
        if *patients == self.excluded {
            return Ok(());
        }
        let out: Vec<bool> = self
            .patients
            .iter()
            .map(|id| patients.contains(id))
            .collect();
        let [train, validation, test] = self.parts.each_ref().map(|part| {
            let stays = part.iter().copied().filter(|&record| !out[record]);
            stays.collect::<Vec<_>>()
        });
        if train.is_empty() {
            return Err(WorkError {
                code: "patients_all_excluded",
                message: "every patient of the training part is excluded".into(),
                hint: "tell the coordinator that this site leaves the study".into(),
            });
        }
        (
            self.records.train,
            self.records.validation,
            self.records.test,
        ) = (train, validation, test);
        self.sampler = sampler(&self.records, &self.settings)?;
        if let Some(private) = &mut self.private {
            private.draw_from(&self.records.train, &self.records.examples.patient);
        }
        self.excluded.clone_from(patients);
        Ok(())
    }

    fn train(
        &mut self,
        plan: &RoundPlan,
        global: &ModelVector,
        local: &ModelVector,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Trained, WorkError> {
        let mut model = global.clone();
        model.extend(local);
        self.start_from(&model)?;
        let steps = self.settings.local_steps;
        let mut privacy = match self.private.take() {
            Some(private) => {
                let transcript = self.private_round(&private, plan, progress);
                self.private = Some(private);
                Some(transcript?)
            }
            None => {
                for step in 0..steps {
                    self.step(plan.round, plan.attempt, step)?;
                    progress(Progress {
                        step: step + 1,
                        steps,
                    });
                }
                None
            }
        };
        let mut update = ModelVector::default();
        let mut new_local = ModelVector::default();
        for (group, trained) in self.trainer.network().groups().0 {
            match global.0.get(&group) {
                Some(from) => {
                    let delta = trained.iter().zip(from).map(|(new, old)| new - old);
                    update.0.insert(group, delta.collect());
                }
                None => {
                    new_local.0.insert(group, trained);
                }
            }
        }
        if let Some(updates) = &self.updates {
            let attempt = [plan.round, plan.attempt].map(u32::to_le_bytes);
            let context: [&[u8]; 4] = [
                self.study.as_bytes(),
                self.participant.site.as_str().as_bytes(),
                &attempt[0],
                &attempt[1],
            ];
            privacy = Some(updates.protect(&mut update, &context)?);
        }
        Ok(Trained {
            update,
            local: new_local,
            privacy,
        })
    }

    fn evaluate(
        &mut self,
        global: &ModelVector,
        local: &ModelVector,
    ) -> Result<Vec<MetricValue>, WorkError> {
        let mut model = global.clone();
        model.extend(local);
        let mut values = Vec::new();
        for part in [Part::Train, Part::Validation, Part::Test] {
            values.extend(self.evaluate_on(&model, part)?);
        }
        Ok(values)
    }

    fn initial_local(&self) -> ModelVector {
        let stays = self
            .initial
            .0
            .keys()
            .filter(|group| !self.shared.contains(group));
        self.initial.restricted_to(stays)
    }

    fn preparation(&self) -> Option<Preparation> {
        Some(self.records.preparation.clone())
    }

    fn round_cost(&self) -> Option<Repeated> {
        let steps = self.private.as_ref().map(PrivateSteps::round_cost);
        steps.or_else(|| self.updates.as_ref().map(SiteUpdates::round_cost))
    }
}

fn sampler(records: &SiteRecords, settings: &ModalityTraining) -> Result<Sampler, WorkError> {
    let of_record = |&record: &usize| records.examples.patient[record];
    let patients: Vec<u32> = records.train.iter().map(of_record).collect();
    Sampler::new(&patients, settings.batch, settings.max_records_per_patient).map_err(|error| {
        WorkError {
            code: error.code(),
            message: error.to_string(),
            hint: "the training part needs records".into(),
        }
    })
}

/// One thread a site: many small operations are faster so, and sites run beside each other.
fn one_thread() -> Result<rayon::ThreadPool, WorkError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        // Autodiff walks the graph recursively; the default of 2 MiB is too little for a deep network.
        .stack_size(64 << 20)
        .build()
        .map_err(|error| WorkError {
            code: "threads",
            message: error.to_string(),
            hint: "let this account start threads".into(),
        })
}

fn study_error(message: String) -> WorkError {
    WorkError {
        code: "study_settings",
        message,
        hint: "the coordinator must correct the study".into(),
    }
}

fn from_model(error: ModelError) -> WorkError {
    WorkError {
        code: error.code(),
        message: error.to_string(),
        hint: String::new(),
    }
}

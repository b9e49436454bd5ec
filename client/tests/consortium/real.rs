//! A small study with the real network and generated cohorts, run to its end.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use consilium_core::clock::SystemClock;
use consilium_core::study::{
    Aggregation, ModelChoice, PrivacyMode, Randomness, Schedule, WeightRule,
};
use consilium_core::{ModelVector, Participant, RoundPlan, Seed, Study};
use consilium_data::generated::{self, GeneratedKind, GeneratedSpec};
use consilium_data::{Cohort, Part};
use consilium_models::{DeviceChoice, EhpalNet, Prediction, SiteNetwork};
use consilium_site::agent::{Agent, AgentError, Errand, Joined, MakeWork};
use consilium_site::outcome::Outcome;
use consilium_site::peer::Peer;
use consilium_site::preparation::Preparation;
use consilium_site::privacy::{CohortFacts, SiteBudget};
use consilium_site::training::{SiteRecords, SiteTraining};
use consilium_site::work::{LocalWork, MetricValue, Progress, Trained, WorkError};
use consilium_store::site::SiteStore;
use dp_rs::agreement::Agreement;
use dp_rs::event::Repeated;

use super::{Consortium, ROUNDS, SITES, ServerState, join_all, site};

/// What the network in a site's memory predicted for the test part: without dropout, and with some passes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    pub plain: Vec<Prediction>,
    pub dropout: Vec<Prediction>,
}

/// Passes of [`Seen::dropout`].
pub const PASSES: usize = 5;

/// The real work, which remembers what its network predicted when the study was over.
struct Watched {
    work: SiteTraining,
    seen: Arc<Mutex<Seen>>,
}

impl LocalWork for Watched {
    fn train(
        &mut self,
        plan: &RoundPlan,
        global: &ModelVector,
        local: &ModelVector,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Trained, WorkError> {
        self.work.train(plan, global, local, progress)
    }

    fn exclude(&mut self, patients: &BTreeSet<String>) -> Result<(), WorkError> {
        self.work.exclude(patients)
    }

    fn evaluate(
        &mut self,
        global: &ModelVector,
        local: &ModelVector,
    ) -> Result<Vec<MetricValue>, WorkError> {
        let metrics = self.work.evaluate(global, local)?;
        let mut model = global.clone();
        model.extend(local);
        *self.seen.lock().unwrap() = Seen {
            plain: self.work.predict(&model, Part::Test, 0)?,
            dropout: self.work.predict(&model, Part::Test, PASSES)?,
        };
        Ok(metrics)
    }

    fn initial_local(&self) -> ModelVector {
        self.work.initial_local()
    }

    fn preparation(&self) -> Option<Preparation> {
        self.work.preparation()
    }

    fn round_cost(&self) -> Option<Repeated> {
        self.work.round_cost()
    }
}

/// Omics and survival at `a`, intensive care at `b`, activities at `c`: only the trunk is shared.
fn spec(survival: serde_json::Value) -> EhpalNet {
    EhpalNet::from_json(&serde_json::json!({
        "modalities": {
            "omics64.v1": {"kind": "table", "slot": 3, "features": 64},
            "icu24.v1": {"kind": "table", "slot": 2, "features": 48},
            "accelerometer3.v1": {"kind": "signal", "slot": 4, "channels": 3, "length": 128},
        },
        "tasks": {
            "survival.overall.v1": survival,
            "binary.icu-mortality.v1": {"kind": "labels", "n": 1},
            "classes.activity.v1": {"kind": "classes", "n": 4},
        },
    }))
    .unwrap()
}

/// The study, and the initial values of its shared groups.
pub fn study() -> (Study, ModelVector) {
    study_of(spec(serde_json::json!({"kind": "cox"})))
}

/// The same with private steps, as agreed by every site. A survival task in intervals: every patient then has a
/// loss of their own.
pub fn private_study(agreement: &Agreement) -> (Study, ModelVector) {
    let cut_points = [6.0, 15.0, 30.0, 60.0];
    let survival = serde_json::json!({"kind": "hazards", "cut_points": cut_points});
    let (mut study, initial) = study_of(spec(survival));
    study.privacy = PrivacyMode::PrivateSteps;
    for participant in &mut study.sites {
        participant.privacy = Some(serde_json::to_value(agreement).unwrap());
    }
    (study, initial)
}

fn study_of(spec: EhpalNet) -> (Study, ModelVector) {
    let seed = Seed(11);
    let device = DeviceChoice::Cpu.open().unwrap();
    let whole = SiteNetwork::whole(&spec, seed, "real", &device).unwrap();
    let participant = |name: &str, modality: &str, task: &str| Participant {
        site: site(name),
        modality: modality.parse().unwrap(),
        task: task.parse().unwrap(),
        declared_patients: 20,
        privacy: None,
    };
    let training = serde_json::json!({"local_steps": 2, "batch": 8, "learning_rate": 0.01});
    let mut study = Study {
        protocol_version: 1,
        name: "real".parse().unwrap(),
        randomness: Randomness::SimulationSeeded { seed },
        model: ModelChoice {
            name: "ehpal-net".into(),
            settings: spec.to_json(),
        },
        manifest: whole.manifest().clone(),
        initial_model_sha256: ModelVector::default().sha256(),
        sites: vec![
            participant("a", "omics64.v1", "survival.overall.v1"),
            participant("b", "icu24.v1", "binary.icu-mortality.v1"),
            participant("c", "accelerometer3.v1", "classes.activity.v1"),
        ],
        schedule: Schedule {
            rounds: ROUNDS,
            retry_rounds: 1,
            quorum: 3,
            deadline_seconds: 600,
        },
        training: serde_json::json!({
            "omics64.v1": training, "icu24.v1": training, "accelerometer3.v1": training,
        }),
        privacy: PrivacyMode::NoneSimulationOnly,
        aggregation: Aggregation {
            weights: WeightRule::EqualSite,
            minimum_holders: 3,
        },
    };
    let initial = whole.groups().restricted_to(&study.federated_groups());
    study.initial_model_sha256 = initial.sha256();
    (study, initial)
}

/// A folder with certificates and, for each site, a cohort and a configuration.
pub struct Real {
    pub consortium: Consortium,
    /// What the sites that run in this process may spend.
    pub budget: Option<SiteBudget>,
}

impl Real {
    pub fn new() -> Self {
        let real = Self {
            consortium: Consortium::new(),
            budget: None,
        };
        for name in SITES {
            real.write_cohort(name, 1, &real.folder().join(name));
            let text = format!(
                "site = \"{name}\"\nstudy = \"real\"\ncohort = \"{name}/cohort.toml\"\n\
                 state = \"state-{name}\"\npolicy = \"{name}.policy.toml\"\n\
                 [server]\naddress = \"localhost:7443\"\nname = \"localhost\"\n\
                 [identity]\ncertificate = \"certs/{name}.pem\"\nkey = \"certs/{name}.key\"\n\
                 authority = \"authority/authority.pem\"\n"
            );
            std::fs::write(real.config(name), text).unwrap();
            real.consortium.write_policy(name, &study().0, None);
        }
        real
    }

    pub fn folder(&self) -> &Path {
        self.consortium.folder.path()
    }

    pub fn config(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.toml"))
    }

    /// Generates the cohort of site `name` from `seed` and writes it to `folder`.
    pub fn write_cohort(&self, name: &str, seed: u64, folder: &Path) {
        let kind = match name {
            "a" => GeneratedKind::Omics,
            "b" => GeneratedKind::Icu,
            _ => GeneratedKind::Signal,
        };
        let spec = GeneratedSpec {
            name: site(name),
            kind,
            hospital: 0,
            train: 20,
            validation: 8,
            test: 70,
            public_constants: false,
        };
        let cohort = generated::cohort(&spec, Seed(seed)).unwrap();
        let _ = std::fs::remove_dir_all(folder);
        generated::write(&cohort, folder).unwrap();
    }

    pub fn cohort(&self, name: &str) -> Cohort {
        Cohort::read(&self.folder().join(name).join("cohort.toml")).unwrap()
    }

    pub async fn store(&self, name: &str) -> SiteStore {
        let state = self.folder().join(format!("state-{name}"));
        std::fs::create_dir_all(&state).unwrap();
        SiteStore::open(&state.join("site.sqlite")).await.unwrap()
    }

    /// Joins the study as `name`, with the cohort as it lies on the disk.
    pub async fn join<P: Peer>(
        &self,
        name: &str,
        mut peer: P,
        seen: &Arc<Mutex<Seen>>,
    ) -> Result<Joined<P>, AgentError> {
        let (cohort, seen) = (self.cohort(name), Arc::clone(seen));
        let manifest = self.folder().join(name).join("cohort.toml");
        let facts = CohortFacts::of(&manifest, &cohort);
        let work: MakeWork = Box::new(move |study, participant| {
            let records = SiteRecords::of_parts(&cohort)?;
            let device = DeviceChoice::Cpu;
            let work = SiteTraining::new(study, participant, &cohort, records, device)?;
            Ok(Box::new(Watched { work, seen }) as Box<dyn LocalWork>)
        });
        let errand = Errand {
            site: site(name),
            study: "real".parse().unwrap(),
            metrics_file: self.folder().join(format!("state-{name}/metrics.json")),
            policy: self.consortium.write_policy(name, &study().0, self.budget),
        };
        let clock = Arc::new(SystemClock);
        let open = Box::new(|| Ok((facts, work)));
        let store = self.store(name).await;
        let document = peer.study(&errand.study).await?;
        let agreed: Study = serde_json::from_slice(&document).unwrap();
        self.consortium.accept(name, &agreed, &store).await;
        Agent::join(errand, store, peer, clock, open).await
    }

    /// Runs the whole study with every site; what each ended with, in name order.
    pub async fn run(&self) -> Vec<(Outcome, Seen)> {
        let (study, initial) = study();
        let server = self.consortium.serve(ServerState::of(study, initial)).await;
        let one = |name: &'static str| {
            let peer = self.consortium.peer(name, &server.address);
            async move {
                let seen = Arc::default();
                let Joined::Agent(agent) = self.join(name, peer, &seen).await.unwrap() else {
                    panic!("{name} had finished before");
                };
                let outcome = agent.run().await.unwrap();
                let seen = seen.lock().unwrap().clone();
                (outcome, seen)
            }
        };
        join_all(SITES.map(one)).await
    }
}

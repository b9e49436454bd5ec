//! A study of two sites, a server that is a script in memory, and work that says what it spent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use consilium_core::clock::Timestamp;
use consilium_core::study::{
    Aggregation, ModelChoice, PROTOCOL_VERSION, PrivacyMode, Randomness as StudyRandomness,
    Schedule, WeightRule,
};
use consilium_core::vector::values_to_bytes;
use consilium_core::{ModelManifest, Seed, TensorSpec};
use consilium_rounds::{Assignment, Countersigned, LedgerHead, Receipt, Withdrawal};
use consilium_transparency::{
    CommittedRound, Entry, Event, Found, Head, Other, Signed, Statement, Tree, View, Witnessed,
    leaf_hash,
};
use dp_rs::adjacency::Adjacency;
use dp_rs::agreement::{AgreedPlan, Agreement};
use dp_rs::clipping::ClipRule;
use dp_rs::event::Repeated;
use dp_rs::ledger::Entry as LedgerEntry;
use dp_rs::noise::{NoiseLevel, Randomness, RootKey};
use dp_rs::plan::{Clip, Plan, PlanSettings, Transcript, Unit};
use tokio::sync::Notify;

use super::super::*;
use crate::work::{MetricValue, Progress, Trained};

pub const ROUNDS: u32 = 3;
/// Private steps of a round.
pub const STEPS: u64 = 50;
pub const DELTA: f64 = 1e-5;

pub fn plan(noise_multiplier: f64) -> Plan {
    Plan::new(settings(noise_multiplier)).unwrap()
}

/// The same as real studies have it.
pub fn hardened() -> Plan {
    Plan::new(PlanSettings {
        noise_level: NoiseLevel::Hardened,
        ..settings(1.0)
    })
    .unwrap()
}

fn settings(noise_multiplier: f64) -> PlanSettings {
    PlanSettings {
        unit: Unit::Patient,
        adjacency: Adjacency::AddRemove,
        clip: Clip::Fixed(ClipRule::flat(1.0).unwrap()),
        noise_multiplier,
        noise_level: NoiseLevel::Fast,
        sampling_rate: 0.02,
        expected_units: 20.0,
        max_records: 4.try_into().unwrap(),
    }
}

/// What `rounds` rounds cost.
pub fn cost(rounds: u64) -> f64 {
    let guarantee = plan(1.0).guarantee(rounds * STEPS, DELTA).unwrap();
    guarantee.epsilon
}

/// Covers one attempt more than there are rounds, to the last bit.
pub fn agreement() -> Agreement {
    let rounds = u64::from(ROUNDS) + 1;
    Agreement {
        plan: AgreedPlan::Steps(plan(1.0)),
        steps: rounds * STEPS,
        delta: DELTA,
        epsilon: cost(rounds),
    }
}

/// A study with noise from the operating system.
pub fn real_study(name: &str, plan: Plan) -> Study {
    let mut study = study(
        name,
        Some(&Agreement {
            plan: AgreedPlan::Steps(plan),
            ..agreement()
        }),
    );
    study.randomness = StudyRandomness::OperatingSystem {
        public_seed: Seed(1),
    };
    study
}

pub fn initial() -> ModelVector {
    ModelVector(BTreeMap::from([("trunk".parse().unwrap(), vec![1.0, 2.0])]))
}

/// A study with the agreement at both sites, or without protection.
pub fn study(name: &str, agreement: Option<&Agreement>) -> Study {
    let tensor = |group: &str| TensorSpec {
        name: group.into(),
        group: group.parse().unwrap(),
        shape: vec![2],
    };
    let participant = |name: &str, modality: &str, task: &str| Participant {
        site: name.parse().unwrap(),
        modality: modality.parse().unwrap(),
        task: task.parse().unwrap(),
        declared_patients: 1000,
        privacy: agreement.map(|agreement| serde_json::to_value(agreement).unwrap()),
    };
    Study {
        protocol_version: PROTOCOL_VERSION,
        name: name.parse().unwrap(),
        randomness: StudyRandomness::SimulationSeeded { seed: Seed(1) },
        model: ModelChoice {
            name: "toy".into(),
            settings: serde_json::Value::Null,
        },
        manifest: ModelManifest {
            tensors: ["trunk", "head/t", "head/u", "stem/m", "stem/n"]
                .map(tensor)
                .into(),
        },
        initial_model_sha256: initial().sha256(),
        sites: vec![participant("a", "m", "t"), participant("b", "n", "u")],
        schedule: Schedule {
            rounds: ROUNDS,
            retry_rounds: 1,
            quorum: 1,
            deadline_seconds: 60,
        },
        training: serde_json::Value::Null,
        aggregation: Aggregation {
            weights: WeightRule::EqualSite,
            minimum_holders: 2,
        },
        privacy: match agreement {
            Some(_) => PrivacyMode::PrivateSteps,
            None => PrivacyMode::NoneSimulationOnly,
        },
    }
}

/// An update that reached the server, and the entries that were on the site's disk at that moment.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub sealed: Sealed,
    pub ledger: Vec<LedgerEntry>,
}

impl Arrived {
    /// Whether it was paid for before it left.
    pub fn is_recorded(&self) -> bool {
        let digest = self.sealed.digest.to_string();
        let pays = |entry: &&LedgerEntry| entry.record.release.as_ref() == Some(&digest);
        self.ledger.iter().filter(pays).count() == 1
    }
}

/// A server that takes every update into a model that never changes.
#[derive(Clone)]
pub struct Server {
    pub study: Study,
    pub store: SiteStore,
    pub script: Arc<Mutex<Script>>,
}

/// What the server does, and what came to it.
#[derive(Default)]
pub struct Script {
    pub arrived: Vec<Arrived>,
    /// Everything that a process tried to send, whether it arrived or not.
    pub offered: Vec<(Sealed, ModelVector)>,
    /// Attempts that fail although the update has come: (round, attempt).
    pub fails: Vec<(u32, u32)>,
    /// Uploads during which the process is killed, before and after the update has arrived.
    pub dies_before: u32,
    pub dies_after: u32,
    /// Withdrawals during which the process is killed.
    pub dies_before_withdrawal: u32,
    /// Withdrawals that came, and whether each was on the site's disk by then.
    pub told: Vec<(Withdrawal, bool)>,
    /// Returns that came.
    pub returned: u32,
    /// Nobody accepts the study.
    pub unaccepted: bool,
    /// Acceptances that came.
    pub acceptances: u32,
    /// The newest head of the site's ledger that came with an update.
    pub head: Option<LedgerHead>,
    /// The site that receipts are about, if it is another one.
    pub receipt_of: Option<SiteId>,
    /// The server's log after its first entry.
    pub log: Vec<Event>,
    /// What another site was shown of it, if it is compared: the first entries of such a log.
    pub shown_elsewhere: Option<Vec<Event>>,
    /// Heads that the site has counter-signed.
    pub witnessed: Vec<Witnessed>,
}

/// A log that begins with the study, and ends as given.
fn log(study: &Study, events: &[Event]) -> (Vec<Vec<u8>>, Tree) {
    let first = Event::StudyAccepted {
        site: "b".parse().unwrap(),
        study: study.digest(),
    };
    let entries = std::iter::once(&first).chain(events).map(|event| {
        let (at, event) = (Timestamp(0), event.clone());
        Entry { at, event }.bytes()
    });
    let entries: Vec<_> = entries.collect();
    let tree = entries.iter().map(|entry| leaf_hash(entry)).collect();
    (entries, tree)
}

/// Not signed: the connection would have checked that.
fn unsigned(statement: &impl Statement) -> Signed {
    Signed {
        statement: statement.bytes(),
        scheme: 0,
        signature: Vec::new(),
        certificate: Vec::new(),
    }
}

fn head(tree: &Tree) -> Head {
    Head {
        log: tree.leaf(0).unwrap(),
        size: tree.len(),
        root: tree.root(),
        at: Timestamp(0),
    }
}

impl Script {
    /// Round and attempt that are open.
    fn open(&self) -> (u32, u32) {
        let last = self.arrived.iter().map(|update| update.sealed);
        match last.map(|sealed| (sealed.round, sealed.attempt)).max() {
            None => (1, 1),
            Some(failed) if self.fails.contains(&failed) => (failed.0, failed.1 + 1),
            Some((round, _)) => (round + 1, 1),
        }
    }
}

impl Script {
    /// What the log tells of an update of this site, and of the round that it ends.
    pub fn told_of(&self, sealed: Sealed) -> Vec<Event> {
        let site: SiteId = "a".parse().unwrap();
        let (round, attempt, update) = (sealed.round, sealed.attempt, sealed.digest);
        let came = Event::UpdateReceived {
            site: site.clone(),
            round,
            attempt,
            update,
            privacy: None,
        };
        let (next, ended) = if self.fails.contains(&(round, attempt)) {
            let code = "test".to_owned();
            let failed = Event::RoundFailed {
                round,
                attempt,
                code,
            };
            ((round, attempt + 1), failed)
        } else {
            let summed = Event::Aggregated {
                round,
                attempt,
                updates: [(site, update)].into(),
                model: initial().sha256(),
            };
            ((round + 1, 1), summed)
        };
        vec![came, ended, opened(next)]
    }
}

/// That an attempt at a round was opened.
pub fn opened((round, attempt): (u32, u32)) -> Event {
    Event::PlanOpened {
        round,
        attempt,
        model: initial().sha256(),
        deadline: Timestamp(0),
    }
}

impl Server {
    pub fn new(study: Study, store: &SiteStore) -> Self {
        let script = Script {
            log: vec![opened((1, 1))],
            ..Script::default()
        };
        Self {
            study,
            store: store.clone(),
            script: Arc::new(Mutex::new(script)),
        }
    }

    /// Not signed: the connection would have checked that.
    fn receipt(&self) -> Option<Receipt> {
        receipt(&self.study, &self.script.lock().unwrap())
    }

    pub fn arrived(&self) -> Vec<Arrived> {
        self.script.lock().unwrap().arrived.clone()
    }

    /// Counts `which` down; true when the process is to die now.
    fn dies(&self, which: impl Fn(&mut Script) -> &mut u32) -> bool {
        let mut script = self.script.lock().unwrap();
        let left = which(&mut script);
        let dies = *left > 0;
        *left = left.saturating_sub(1);
        dies
    }
}

fn receipt(study: &Study, script: &Script) -> Option<Receipt> {
    let said = Countersigned {
        study: study.digest(),
        site: (script.receipt_of.clone()).unwrap_or_else(|| "a".parse().unwrap()),
        ledger: script.head?,
        at: Timestamp(0),
    };
    Some(Receipt {
        statement: serde_json::to_vec(&said).unwrap(),
        scheme: 0,
        signature: Vec::new(),
        certificate: Vec::new(),
    })
}

impl Peer for Server {
    async fn study(&mut self, _: &StudyId) -> Result<Vec<u8>, PeerError> {
        if !self.script.lock().unwrap().unaccepted {
            // Somebody at the site has read it and accepts it.
            let signed = Signed {
                statement: b"{}".to_vec(),
                scheme: 0,
                signature: Vec::new(),
                certificate: Vec::new(),
            };
            let (name, digest) = (&self.study.name, self.study.digest());
            let accepted = self.store.accept_in_writing(name, digest, &signed);
            accepted.await.unwrap();
        }
        Ok(serde_json::to_vec(&self.study).unwrap())
    }

    async fn assignment(&mut self, question: &Question) -> Result<Assignment, PeerError> {
        let script = self.script.lock().unwrap();
        let (round, attempt) = script.open();
        let digest = Digest::of(&values_to_bytes(&initial().0[&"trunk".parse().unwrap()]));
        let mut assignment = Assignment {
            ledger: receipt(&self.study, &script),
            sealed_was_used: question.sealed.and_then(|sealed| {
                let place = (sealed.round, sealed.attempt);
                (place < (round, attempt)).then(|| !script.fails.contains(&place))
            }),
            groups: BTreeMap::from([("trunk".parse().unwrap(), digest)]),
            ..Assignment::default()
        };
        if round > ROUNDS {
            assignment.end = Some(Ok(initial().sha256()));
        } else {
            assignment.plan = Some(RoundPlan {
                study: self.study.digest(),
                round,
                attempt,
                model: initial().sha256(),
                deadline: Timestamp(0),
            });
        }
        Ok(assignment)
    }

    async fn group(&mut self, wanted: &Wanted) -> Result<Vec<f32>, PeerError> {
        Ok(initial().0[&wanted.group].clone())
    }

    async fn upload(
        &mut self,
        _: Digest,
        _: &SiteId,
        sealed: Sealed,
        update: Arc<ModelVector>,
        _: Option<Transcript>,
        head: Option<LedgerHead>,
    ) -> Result<Uploaded, PeerError> {
        let offer = (sealed, ModelVector::clone(&update));
        self.script.lock().unwrap().offered.push(offer);
        let killed = || PeerError::Nonsense("killed".into());
        if self.dies(|script| &mut script.dies_before) {
            return Err(killed());
        }
        let ledger = entries(&self.store).await;
        let known = {
            let mut script = self.script.lock().unwrap();
            let known = script.arrived.iter().any(|update| update.sealed == sealed);
            if !known {
                script.arrived.push(Arrived { sealed, ledger });
                let told = script.told_of(sealed);
                script.log.extend(told);
            }
            script.head = head.or(script.head);
            known
        };
        if self.dies(|script| &mut script.dies_after) {
            return Err(killed());
        }
        Ok(Uploaded {
            already_stored: known,
            ledger: self.receipt(),
        })
    }

    async fn withdraw(&mut self, _: Digest, withdrawal: &Withdrawal) -> Result<(), PeerError> {
        if self.dies(|script| &mut script.dies_before_withdrawal) {
            return Err(PeerError::Nonsense("killed".into()));
        }
        // What the disk says at this moment.
        let halt = self.store.halted(&self.study.name).await.unwrap();
        let durable = halt.is_some_and(|halt| halt.withdrawal == *withdrawal);
        let mut script = self.script.lock().unwrap();
        script.told.push((withdrawal.clone(), durable));
        Ok(())
    }

    async fn accept(&mut self, _: Digest, _: &Signed) -> Result<(), PeerError> {
        self.script.lock().unwrap().acceptances += 1;
        Ok(())
    }

    async fn rejoin(&mut self, _: Digest) -> Result<(), PeerError> {
        self.script.lock().unwrap().returned += 1;
        Ok(())
    }

    async fn read_log(
        &mut self,
        _: Digest,
        seen: u64,
        updates: &[Attempt],
        committed: u32,
    ) -> Result<View, PeerError> {
        let script = self.script.lock().unwrap();
        let (entries, tree) = log(&self.study, &script.log);
        let is_wanted = |event: &Event| match event {
            Event::UpdateReceived { round, attempt, .. } => {
                let (round, attempt) = (*round, *attempt);
                updates.contains(&Attempt { round, attempt })
            }
            _ => false,
        };
        let found = (1..).zip(&script.log).filter(|(_, event)| is_wanted(event));
        let other = script.shown_elsewhere.as_ref().map(|events| {
            let shown = head(&log(&self.study, events).1);
            Other {
                head: unsigned(&shown),
                witnessed: unsigned(&Witnessed {
                    site: "b".parse().unwrap(),
                    head: shown,
                    own: (0, Digest::of(b"")),
                    at: Timestamp(0),
                }),
                consistency: tree.consistency(shown.size, tree.len()).unwrap_or_default(),
            }
        });
        let find = |is_it: &dyn Fn(&Event) -> bool| {
            let position = script.log.iter().rposition(is_it)?;
            let index = position as u64 + 1;
            Some(Found {
                index,
                entry: entries[position + 1].clone(),
                path: tree.inclusion(index, tree.len())?,
            })
        };
        let aggregated =
            find(&|event| matches!(event, Event::Aggregated { round, .. } if *round == committed));
        let opened =
            find(&|event| matches!(event, Event::PlanOpened { round, .. } if *round == committed));
        Ok(View {
            committed: opened
                .zip(aggregated)
                .map(|(opened, aggregated)| CommittedRound { opened, aggregated }),
            head: unsigned(&head(&tree)),
            consistency: tree.consistency(seen, tree.len()).unwrap_or_default(),
            updates: found
                .map(|(index, _)| Found {
                    index,
                    entry: entries[index as usize].clone(),
                    path: tree.inclusion(index, tree.len()).unwrap(),
                })
                .collect(),
            others: other.into_iter().collect(),
        })
    }

    async fn witness_log(&mut self, _: Digest, seen: &Witnessed) -> Result<Signed, PeerError> {
        let mut script = self.script.lock().unwrap();
        script.witnessed.push(seen.clone());
        Ok(unsigned(seen))
    }
}

/// The ledger as it lies on the disk.
pub async fn entries(store: &SiteStore) -> Vec<LedgerEntry> {
    let rows = store.privacy_ledger().await.unwrap();
    rows.iter()
        .map(|row| serde_json::from_str(&row.document).unwrap())
        .collect()
}

/// Work that trains nothing and says that it took `steps` private steps of `plan`.
#[derive(Clone)]
pub struct Work {
    pub plan: Option<Plan>,
    /// What is announced and what is taken; nothing is said where it is `None`.
    pub announced: Option<u64>,
    pub taken: Option<u64>,
    /// Rounds that were trained, by every copy.
    pub trained: Arc<Mutex<u32>>,
    /// How many patients were out in every round and in the evaluation.
    pub excluded: Arc<Mutex<Vec<usize>>>,
    /// Training has come to its last step, and never ends.
    pub hangs: Option<Arc<Notify>>,
    /// Steps are really taken, with noise from the operating system; what they gave, of every copy.
    pub drawn: Option<Arc<Mutex<Vec<Vec<f32>>>>>,
    local: ModelVector,
}

impl Work {
    pub fn private() -> Self {
        let mut work = Self::open();
        work.plan = Some(plan(1.0));
        (work.announced, work.taken) = (Some(STEPS), Some(STEPS));
        work
    }

    /// Takes real steps with randomness of the operating system.
    pub fn secret() -> Self {
        let mut work = Self::private();
        work.plan = Some(hardened());
        work.drawn = Some(Arc::default());
        work
    }

    /// The noise of a round, and the statement about it.
    fn draw(&self, plan: &RoundPlan) -> Option<(Vec<f32>, Transcript)> {
        let drawn = self.drawn.as_ref()?;
        let key = RootKey::from_operating_system().unwrap();
        let mut training = self.plan.as_ref()?.begin().unwrap();
        let mut sum = vec![0.0; 2];
        for step in 0..STEPS {
            let context: [&[u8]; 2] = [&plan.round.to_le_bytes(), &step.to_le_bytes()];
            let mean = training.step(&key, &context, 0).finish(2).unwrap();
            sum.iter_mut()
                .zip(mean)
                .for_each(|(sum, mean)| *sum += mean);
        }
        drawn.lock().unwrap().push(sum.clone());
        Some((sum, training.transcript()))
    }

    pub fn open() -> Self {
        let own = ["head/t", "stem/m"].map(|group| (group.parse().unwrap(), vec![0.0; 2]));
        let study = study("any", None);
        let local = study.local_groups(&study.sites[0]);
        Self {
            plan: None,
            announced: None,
            taken: None,
            trained: Arc::default(),
            excluded: Arc::default(),
            hangs: None,
            drawn: None,
            local: ModelVector(
                own.into_iter()
                    .filter(|(group, _)| local.contains(group))
                    .collect(),
            ),
        }
    }

    pub fn make(&self) -> MakeWork {
        let work = self.clone();
        Box::new(|_, _| Ok(Box::new(work) as Box<dyn LocalWork>))
    }
}

impl LocalWork for Work {
    fn train(
        &mut self,
        plan: &RoundPlan,
        global: &ModelVector,
        local: &ModelVector,
        _: &mut dyn FnMut(Progress),
    ) -> Result<Trained, WorkError> {
        let drawn = self.draw(plan);
        while let Some(begun) = &self.hangs {
            begun.notify_one();
            std::thread::park();
        }
        let mut trained = self.trained.lock().unwrap();
        *trained += 1;
        // Fresh noise stands behind this: another training of the same attempt gives another update.
        let value = (plan.round * 1000 + plan.attempt * 100 + *trained) as f32 / 64.0;
        let update = global.0.keys();
        if let Some((values, transcript)) = drawn {
            return Ok(Trained {
                update: ModelVector(
                    update
                        .map(|group| (group.clone(), values.clone()))
                        .collect(),
                ),
                local: local.clone(),
                privacy: Some(transcript),
            });
        }
        Ok(Trained {
            update: ModelVector(
                update
                    .map(|group| (group.clone(), vec![value; 2]))
                    .collect(),
            ),
            local: local.clone(),
            privacy: self.taken.map(|steps| Transcript {
                unit: Unit::Patient,
                events: self.plan.as_ref().unwrap().events(steps),
                noise_level: NoiseLevel::Fast,
                randomness: Randomness::SimulationSeeded,
                against: Default::default(),
            }),
        })
    }

    fn exclude(&mut self, patients: &BTreeSet<String>) -> Result<(), WorkError> {
        self.excluded.lock().unwrap().push(patients.len());
        Ok(())
    }

    fn evaluate(
        &mut self,
        _: &ModelVector,
        _: &ModelVector,
    ) -> Result<Vec<MetricValue>, WorkError> {
        Ok(Vec::new())
    }

    fn initial_local(&self) -> ModelVector {
        self.local.clone()
    }

    fn round_cost(&self) -> Option<Repeated> {
        let steps = self.announced?;
        Some(self.plan.as_ref().unwrap().events(steps))
    }
}

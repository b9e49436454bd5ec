//! An aggregation server in memory: the real coordination and average, and faults on demand. It survives the end of its
//! listener, as the real one survives its process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use consilium_certs::Signer;
use consilium_core::clock::{Clock as _, SystemClock, Timestamp};
use consilium_core::vector::values_to_bytes;
use consilium_core::{Digest, GroupName, ModelVector, RoundPlan, SiteId, Study};
use consilium_proto::ReadLogRequest;
use consilium_rounds::{
    Assignment, Coordination, Countersigned, Effect, Event, LedgerHead, Receipt, Withdrawal,
};
use consilium_transparency::{
    CommittedRound, Entry, Event as LogEvent, Found, Head, Other, Signed, Statement as _, Tree,
    View, Witnessed, leaf_hash,
};
use tokio::sync::watch;

use super::{initial, study};

/// What the server is told to do wrong, each counted down.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Downloads whose first value is changed on the way.
    pub damaged_downloads: u32,
    /// Downloads that break off after the first chunk.
    pub broken_downloads: u32,
    /// Uploads that are refused because there is no room.
    pub full_disk: u32,
    /// Downloads of a model that was cleaned up.
    pub forgotten_models: u32,
    /// Answers without the digests of the groups.
    pub answers_without_digests: u32,
    /// Models of which a bit is flipped in every value, with digests of what is then sent.
    pub wrong_models: BTreeSet<Digest>,
    /// Receipts whose signature does not fit.
    pub forged_receipts: bool,
    /// The document that is shown instead of the study's.
    pub document: Option<Vec<u8>>,
    /// What is made of every plan before a site sees it.
    pub plan: Option<fn(&mut RoundPlan)>,
}

/// Everything the server knows, and everything that reached it.
pub struct ServerState {
    inner: Mutex<Inner>,
    pub(super) version: watch::Sender<u64>,
}

pub struct Inner {
    pub study: Study,
    pub coordination: Coordination,
    pub models: BTreeMap<Digest, ModelVector>,
    pub updates: BTreeMap<SiteId, ModelVector>,
    pub faults: Faults,
    /// Every header and chunk that arrived: (certificate's site, group of the chunk or announced groups).
    pub arrived_groups: Vec<(SiteId, GroupName)>,
    /// Updates that arrived whole, per site, repeated ones included.
    pub uploads: BTreeMap<SiteId, u32>,
    /// Sites whose acceptance came.
    pub acceptances: Vec<SiteId>,
    /// Withdrawals that came, by site.
    pub withdrawals: Vec<(SiteId, Withdrawal)>,
    /// Every download: (site, group, offset).
    pub downloads: Vec<(SiteId, String, u64)>,
    /// The newest head of each site's ledger that came with an update.
    pub ledgers: BTreeMap<SiteId, LedgerHead>,
    /// Signs what is said about them; nothing before the server listens.
    pub signer: Option<Signer>,
    /// The entries of the log.
    pub log: Vec<Vec<u8>>,
    /// The newest counter-signature of each site, with the head that it is of.
    pub witnessed: BTreeMap<SiteId, (Signed, Signed)>,
}

impl ServerState {
    pub fn new() -> Arc<Self> {
        Self::of(study(), initial())
    }

    /// At the beginning of `study`, with the initial values of its shared groups.
    pub fn of(study: Study, initial: ModelVector) -> Arc<Self> {
        let mut coordination = Coordination::new(&study);
        let before = coordination.clone();
        let started = Event::Started { now: Timestamp(0) };
        let _ = coordination.handle(&study, started.clone()).unwrap();
        let told = consilium_server::log::told(&started, &before, &coordination, None);
        let first = LogEvent::StudyAccepted {
            site: super::site("a"),
            study: study.digest(),
        };
        Arc::new(Self {
            inner: Mutex::new(Inner {
                models: BTreeMap::from([(initial.sha256(), initial)]),
                study,
                coordination,
                updates: BTreeMap::new(),
                faults: Faults::default(),
                arrived_groups: Vec::new(),
                uploads: BTreeMap::new(),
                acceptances: Vec::new(),
                withdrawals: Vec::new(),
                downloads: Vec::new(),
                ledgers: BTreeMap::new(),
                signer: None,
                log: std::iter::once(first).chain(told).map(entry).collect(),
                witnessed: BTreeMap::new(),
            }),
            version: watch::channel(0).0,
        })
    }

    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// The deadline of the open round passes.
    pub fn pass_the_deadline(&self) {
        {
            let mut inner = self.inner();
            let now = inner.coordination.open_plan().unwrap().deadline;
            inner.take(Event::Clock { now });
        }
        self.version.send_modify(|version| *version += 1);
    }

    /// The round that is open, or `None` at the end.
    pub fn open_attempt(&self) -> Option<(u32, u32)> {
        let inner = self.inner();
        inner
            .coordination
            .open_plan()
            .map(|plan| (plan.round, plan.attempt))
    }

    /// Waits until the state is as wanted.
    pub async fn wait_until(&self, wanted: impl Fn(&Inner) -> bool) {
        let mut version = self.version.subscribe();
        loop {
            if wanted(&self.inner()) {
                return;
            }
            version.changed().await.unwrap();
        }
    }
}

impl Inner {
    /// Bytes of a group as they are sent.
    pub(super) fn bytes(&self, model: &Digest, group: &GroupName) -> Vec<u8> {
        let mut bytes = values_to_bytes(&self.models[model].0[group]);
        if self.faults.wrong_models.contains(model) {
            bytes.iter_mut().step_by(4).for_each(|byte| *byte ^= 1);
        }
        bytes
    }

    /// Adds the digests of the groups; every site of the toy study shares all of them.
    pub(super) fn announce(&mut self, mut assignment: Assignment) -> Assignment {
        if self.faults.answers_without_digests > 0 {
            self.faults.answers_without_digests -= 1;
        } else if let Some(model) = assignment.model() {
            let groups = self.models[&model].0.keys();
            assignment.groups = groups
                .map(|group| (group.clone(), Digest::of(&self.bytes(&model, group))))
                .collect();
        }
        if let (Some(change), Some(plan)) = (self.faults.plan, &mut assignment.plan) {
            change(plan);
        }
        assignment
    }

    pub(super) fn receipt(&self, site: &SiteId) -> Option<Receipt> {
        let said = Countersigned {
            study: self.study.digest(),
            site: site.clone(),
            ledger: *self.ledgers.get(site)?,
            at: Timestamp(0),
        };
        let statement = serde_json::to_vec(&said).unwrap();
        let signer = self.signer.as_ref().unwrap();
        let mut signature = signer.sign(&Receipt::signed_bytes(&statement)).unwrap();
        if self.faults.forged_receipts {
            signature.bytes[9] ^= 1;
        }
        Some(Receipt {
            statement,
            scheme: signature.scheme,
            signature: signature.bytes,
            certificate: Vec::new(),
        })
    }

    pub(super) fn sign(&self, head: &Head) -> Signed {
        self.signer.as_ref().unwrap().state(head).unwrap()
    }

    pub(super) fn view(&self, site: &SiteId, asked: &ReadLogRequest) -> View {
        let tree: Tree = self.log.iter().map(|entry| leaf_hash(entry)).collect();
        let size = tree.len();
        let head = Head {
            log: tree.leaf(0).unwrap(),
            size,
            root: tree.root(),
            at: SystemClock.now(),
        };
        let is_wanted = |bytes: &[u8]| match Entry::read(bytes).unwrap().event {
            LogEvent::UpdateReceived {
                site: of,
                round,
                attempt,
                ..
            } => {
                let mut wanted = asked.updates.iter();
                of == *site && wanted.any(|at| (at.round, at.attempt) == (round, attempt))
            }
            _ => false,
        };
        let found = (0..).zip(&self.log).filter(|(_, bytes)| is_wanted(bytes));
        let others = self.witnessed.iter().filter(|(other, _)| *other != site);
        let found_at = |index: usize| Found {
            index: index as u64,
            entry: self.log[index].clone(),
            path: tree.inclusion(index as u64, size).unwrap(),
        };
        let find = |is_it: &dyn Fn(&LogEvent) -> bool| {
            let entries = self
                .log
                .iter()
                .map(|bytes| Entry::read(bytes).unwrap().event);
            let at = entries.enumerate().filter(|(_, event)| is_it(event)).last();
            at.map(|(index, _)| found_at(index))
        };
        let opened = find(
            &|event| matches!(event, LogEvent::PlanOpened { round, .. } if *round == asked.committed),
        );
        let aggregated = find(
            &|event| matches!(event, LogEvent::Aggregated { round, .. } if *round == asked.committed),
        );
        View {
            committed: opened
                .zip(aggregated)
                .map(|(opened, aggregated)| CommittedRound { opened, aggregated }),
            head: self.sign(&head),
            consistency: tree.consistency(asked.seen, size).unwrap_or_default(),
            updates: found.map(|(index, _)| found_at(index)).collect(),
            others: others
                .map(|(_, (head, witnessed))| {
                    let then = head.says::<Head>().unwrap().size;
                    Other {
                        head: head.clone(),
                        witnessed: witnessed.clone(),
                        consistency: tree.consistency(then, size).unwrap_or_default(),
                    }
                })
                .collect(),
        }
    }

    pub(super) fn take(&mut self, event: Event) {
        let before = self.coordination.clone();
        let effects = self
            .coordination
            .handle(&self.study, event.clone())
            .unwrap();
        let told = consilium_server::log::told(&event, &before, &self.coordination, None);
        if before != self.coordination {
            self.log.extend(told.into_iter().map(entry));
        }
        for effect in effects {
            match effect {
                Effect::Aggregate { plan, contributors } => {
                    let mut updates = self.updates.clone();
                    updates.retain(|site, _| contributors.contains_key(site));
                    let global = &self.models[&plan.model];
                    let next =
                        consilium_strategies::average(&self.study, global, &updates).unwrap();
                    let model = next.sha256();
                    self.models.insert(model, next);
                    self.take(Event::Aggregated {
                        round: plan.round,
                        attempt: plan.attempt,
                        model,
                        now: Timestamp(0),
                    });
                }
                Effect::ForgetUpdates { .. } => self.updates.clear(),
                Effect::Announce(_) | Effect::AnnounceEnd => {}
            }
        }
    }
}

pub(super) fn entry(event: LogEvent) -> Vec<u8> {
    let at = SystemClock.now();
    Entry { at, event }.bytes()
}

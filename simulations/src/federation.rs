//! A whole federation in one process: the server's and the sites' state machines, without sockets.
//!
//! It drives the same [`Coordination`], [`Participation`], [`LocalWork`] and average as the programs do, so
//! that a deployment of the same study ends in the same bytes.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Mutex;

use consilium_core::clock::Timestamp;
use consilium_core::{Digest, ModelVector, Participant, RoundPlan, SiteId, Study};
use consilium_rounds::{Assignment, Coordination, Effect, Event, Participation, SiteEffect};
use consilium_site::work::{LocalWork, Progress, WorkError};
use consilium_strategies::average;
use dp_rs::plan::Transcript;

/// What a watcher is told while the federation runs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Told {
    /// A round opened.
    RoundOpened(RoundPlan),
    /// A site is training.
    Training {
        /// The site.
        site: SiteId,
        /// How far it is.
        progress: Progress,
    },
    /// The server has stored a site's update.
    UpdateStored {
        /// The site.
        site: SiteId,
        /// The round.
        round: u32,
    },
    /// A round was committed.
    RoundCommitted {
        /// The round.
        round: u32,
        /// Hash of the new global model.
        model: Digest,
    },
}

/// Bytes of model values that crossed the border of a site, per site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the server to the site.
    pub down: u64,
    /// From the site to the server.
    pub up: u64,
}

/// Why a federation in one process stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FederationError {
    /// A site could not train or evaluate.
    #[error("site {site}: {error}")]
    Work {
        /// The site.
        site: SiteId,
        /// What went wrong there.
        error: WorkError,
    },
    /// The study failed by its own rules.
    #[error("the study failed: {0}")]
    Failed(String),
    /// Both sides disagree: a bug.
    #[error("the round does not fit: {0}")]
    Disagreement(String),
}

/// One site's side.
struct LocalSite {
    participant: Participant,
    participation: Participation,
    /// The groups that stay, as of the last committed round.
    local: ModelVector,
    /// Update and local groups of the sealed attempt.
    sealed: Option<(ModelVector, ModelVector)>,
    released: Vec<Transcript>,
    work: Box<dyn LocalWork>,
    traffic: Traffic,
}

/// What a finished federation leaves behind.
pub struct Finished {
    /// The federated groups.
    pub global: ModelVector,
    /// Per site the groups that stayed there.
    pub local: BTreeMap<SiteId, ModelVector>,
    /// Bytes per site.
    pub traffic: BTreeMap<SiteId, Traffic>,
    /// Per site what every attempt at a round released; empty where training is not private.
    pub released: BTreeMap<SiteId, Vec<Transcript>>,
    /// Every round, as the server recorded it.
    pub coordination: Coordination,
    /// The sites' work, for evaluation.
    pub work: BTreeMap<SiteId, Box<dyn LocalWork>>,
}

/// Runs `study` from the initial values of its federated groups, with up to `threads` sites training at a
/// time. The number of threads changes the time it takes and nothing else.
///
/// # Errors
/// [`FederationError`]: a simulation does not go on without a site.
///
/// # Panics
/// When `work` lacks a site of the study: a bug of the caller.
pub fn run(
    study: &Study,
    initial: &ModelVector,
    mut work: BTreeMap<SiteId, Box<dyn LocalWork>>,
    threads: usize,
    tell: &(dyn Fn(Told) + Sync),
) -> Result<Finished, FederationError> {
    let mut sites: Vec<LocalSite> = study
        .sites
        .iter()
        .map(|participant| {
            let work = work.remove(&participant.site).expect("one work per site");
            LocalSite {
                participant: participant.clone(),
                participation: Participation::new(study),
                local: work.initial_local(),
                sealed: None,
                released: Vec::new(),
                work,
                traffic: Traffic::default(),
            }
        })
        .collect();
    let mut server = InProcessServer {
        study,
        coordination: Coordination::new(study),
        global: initial.clone(),
        updates: BTreeMap::new(),
        tell,
    };
    // Simulated time stands still: no deadline passes in one process.
    server.take(Event::Started { now: NOW })?;
    while sites.iter().any(|site| !site.participation.ended) {
        let mut plans = Vec::new();
        for site in &mut sites {
            plans.push(site.ask_for_work(&server)?);
        }
        let jobs: Vec<(&mut LocalSite, RoundPlan)> = sites
            .iter_mut()
            .zip(plans)
            .filter_map(|(site, plan)| plan.map(|plan| (site, plan)))
            .collect();
        train_all(study, &server.global, jobs, threads, tell)?;
        for site in &mut sites {
            site.deliver(&mut server)?;
        }
    }
    let mut finished = Finished {
        global: server.global,
        local: BTreeMap::new(),
        traffic: BTreeMap::new(),
        released: BTreeMap::new(),
        coordination: server.coordination,
        work: BTreeMap::new(),
    };
    for site in sites {
        let name = site.participant.site;
        finished.local.insert(name.clone(), site.local);
        finished.traffic.insert(name.clone(), site.traffic);
        finished.released.insert(name.clone(), site.released);
        finished.work.insert(name, site.work);
    }
    Ok(finished)
}

const NOW: Timestamp = Timestamp(0);

/// The server's side: what the aggregation server does with files and a database, in memory.
struct InProcessServer<'a> {
    study: &'a Study,
    coordination: Coordination,
    global: ModelVector,
    updates: BTreeMap<SiteId, ModelVector>,
    tell: &'a (dyn Fn(Told) + Sync),
}

impl InProcessServer<'_> {
    fn assignment(&self, site: &SiteId, participation: &Participation) -> Assignment {
        Assignment {
            sealed_was_used: participation.sealed.and_then(|sealed| {
                self.coordination
                    .sealed_was_used(site, sealed.round, sealed.attempt)
            }),
            plan: self.coordination.open_plan().cloned(),
            end: self.coordination.end(),
            // What a site takes here is the model itself.
            groups: BTreeMap::new(),
            // Nobody restores a backup within one process.
            ledger: None,
        }
    }

    fn take(&mut self, event: Event) -> Result<(), FederationError> {
        let effects = self
            .coordination
            .handle(self.study, event)
            .map_err(|unexpected| FederationError::Disagreement(unexpected.to_string()))?;
        for effect in effects {
            match effect {
                Effect::Announce(plan) => (self.tell)(Told::RoundOpened(plan)),
                Effect::Aggregate { plan, .. } => {
                    self.global = average(self.study, &self.global, &self.updates)
                        .map_err(|refusal| FederationError::Disagreement(refusal.to_string()))?;
                    let (round, attempt, model) = (plan.round, plan.attempt, self.global.sha256());
                    (self.tell)(Told::RoundCommitted { round, model });
                    self.take(Event::Aggregated {
                        round,
                        attempt,
                        model,
                        now: NOW,
                    })?;
                }
                Effect::ForgetUpdates { .. } => self.updates.clear(),
                Effect::AnnounceEnd => {}
            }
        }
        Ok(())
    }
}

impl LocalSite {
    /// Asks for work and follows the answer up to training, which is returned as a plan.
    fn ask_for_work(
        &mut self,
        server: &InProcessServer<'_>,
    ) -> Result<Option<RoundPlan>, FederationError> {
        let assignment = server.assignment(&self.participant.site, &self.participation);
        let effects = self
            .participation
            .assigned(server.study, &assignment)
            .map_err(|refusal| FederationError::Disagreement(refusal.to_string()))?;
        let mut plan = None;
        for effect in effects {
            match effect {
                SiteEffect::AdvanceLocalState { .. } => {
                    if let Some((_, local)) = self.sealed.take() {
                        self.local = local;
                    }
                }
                SiteEffect::RollBack { .. } => self.sealed = None,
                SiteEffect::Train(asked) => plan = Some(asked),
                // Nothing is lost between two calls in one process.
                SiteEffect::Upload(_) => {}
                SiteEffect::Finish(Ok(_)) => {
                    self.traffic.down += self.bytes_of(server.study, &server.global);
                }
                SiteEffect::Finish(Err(reason)) => return Err(FederationError::Failed(reason)),
            }
        }
        Ok(plan)
    }

    fn bytes_of(&self, study: &Study, global: &ModelVector) -> u64 {
        let shared = study.shared_groups(&self.participant);
        let values: usize = shared
            .iter()
            .filter_map(|group| global.0.get(group))
            .map(Vec::len)
            .sum();
        4 * values as u64
    }

    fn train(
        &mut self,
        study: &Study,
        global: &ModelVector,
        plan: &RoundPlan,
        tell: &(dyn Fn(Told) + Sync),
    ) -> Result<(), FederationError> {
        let site = self.participant.site.clone();
        self.traffic.down += self.bytes_of(study, global);
        let shared = global.restricted_to(&study.shared_groups(&self.participant));
        let mut report = |progress| {
            tell(Told::Training {
                site: site.clone(),
                progress,
            });
        };
        let trained = self
            .work
            .train(plan, &shared, &self.local, &mut report)
            .map_err(|error| FederationError::Work {
                site: site.clone(),
                error,
            })?;
        self.released.extend(trained.privacy);
        self.participation.seal(plan, trained.update.sha256());
        self.sealed = Some((trained.update, trained.local));
        Ok(())
    }

    fn deliver(&mut self, server: &mut InProcessServer<'_>) -> Result<(), FederationError> {
        let (Some(sealed), Some((update, _))) = (self.participation.sealed, &self.sealed) else {
            return Ok(());
        };
        let site = self.participant.site.clone();
        let (round, attempt, digest) = (sealed.round, sealed.attempt, sealed.digest);
        let admitted = server
            .coordination
            .admits(server.study, &site, round, attempt, digest)
            .map_err(|rejection| FederationError::Disagreement(rejection.to_string()))?;
        if admitted {
            self.traffic.up += 4 * update.len() as u64;
            server.updates.insert(site.clone(), update.clone());
            (server.tell)(Told::UpdateStored {
                site: site.clone(),
                round,
            });
            server.take(Event::UpdateStored {
                site,
                round,
                attempt,
                digest,
            })?;
        }
        Ok(())
    }
}

/// Trains every site that has a plan, `threads` at a time; the largest first, so that no thread ends long after
/// the others.
fn train_all(
    study: &Study,
    global: &ModelVector,
    mut jobs: Vec<(&mut LocalSite, RoundPlan)>,
    threads: usize,
    tell: &(dyn Fn(Told) + Sync),
) -> Result<(), FederationError> {
    jobs.sort_by_key(|(site, _)| Reverse(site.participant.declared_patients));
    let train = |(site, plan): (&mut LocalSite, RoundPlan)| site.train(study, global, &plan, tell);
    each_in_threads(jobs, threads, train).into_iter().collect()
}

/// Applies `work` to every item on up to `threads` threads; the results are in the order of the items.
pub fn each_in_threads<T: Send, R: Send>(
    items: Vec<T>,
    threads: usize,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let count = items.len();
    let queue = Mutex::new(items.into_iter().enumerate());
    let results = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, count.max(1)) {
            let worker = || {
                loop {
                    // The locks are held for a moment only, and a panic elsewhere ends the scope anyway.
                    let next = queue.lock().unwrap_or_else(|e| e.into_inner()).next();
                    let Some((index, item)) = next else { break };
                    let result = work(item);
                    let mut results = results.lock().unwrap_or_else(|e| e.into_inner());
                    results.push((index, result));
                }
            };
            // Dropping an autodiff graph recurses as deeply as the network is long.
            let builder = std::thread::Builder::new().stack_size(64 << 20);
            builder
                .spawn_scoped(scope, worker)
                .expect("the system lets this process start a thread");
        }
    });
    let mut results = results.into_inner().unwrap_or_else(|e| e.into_inner());
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

//! The server's side of a study.

mod messages;
mod record;

use std::collections::BTreeMap;
use std::sync::Arc;

use consilium_core::clock::Timestamp;
use consilium_core::{Digest, RoundPlan, SiteId, Study};
use serde::{Deserialize, Serialize};

pub use messages::{Effect, Event, RejectUpdate, Unexpected};
pub use record::{Outcome, RoundRecord};

use crate::withdrawal::{Missing, Withdrawal};

/// Where a study stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordination {
    /// The study's digest.
    pub study: Digest,
    /// Hash of the current global model.
    pub model: Digest,
    /// What is awaited.
    pub phase: Phase,
    /// Sites that have said that they do not go on, and have not come back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub withdrawn: BTreeMap<SiteId, Withdrawal>,
    /// Rounds that have closed, in order, failed attempts included. Copies of the state share them.
    #[serde(with = "record::shared")]
    pub closed: Arc<Vec<RoundRecord>>,
}

/// What is awaited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// The coordinator has not started the study.
    AwaitStart,
    /// Updates of the open round.
    Training {
        /// What the sites were asked for.
        plan: RoundPlan,
        /// Updates that are stored, with the digest of each.
        received: BTreeMap<SiteId, Digest>,
        /// Sites whose update was refused, with the code of the last refusal.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        refused: BTreeMap<SiteId, String>,
    },
    /// The sum of the contributors' updates.
    Aggregating {
        /// What the sites were asked for.
        plan: RoundPlan,
        /// Whose updates are summed. Fixed: a later update is late.
        contributors: BTreeMap<SiteId, Digest>,
        /// Why each other site is not among them.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        missing: BTreeMap<SiteId, Missing>,
    },
    /// Nothing: all rounds are committed.
    Finished,
    /// Nothing: the study ended without its last model.
    Failed {
        /// Why.
        #[serde(default)]
        cause: Cause,
        /// The same in words.
        reason: String,
    },
}

/// Why a study ended without its last model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Too many rounds missed their quorum.
    #[default]
    QuorumMissed,
    /// The updates of a round could not be summed.
    SumFailed,
}

impl Coordination {
    /// A study that waits for its start.
    #[must_use]
    pub fn new(study: &Study) -> Self {
        Self {
            study: study.digest(),
            model: study.initial_model_sha256,
            phase: Phase::AwaitStart,
            withdrawn: BTreeMap::new(),
            closed: Arc::default(),
        }
    }

    /// Rounds committed so far.
    #[must_use]
    pub fn committed_rounds(&self) -> u32 {
        let committed = |record: &&RoundRecord| matches!(record.outcome, Outcome::Committed { .. });
        self.closed.iter().filter(committed).count() as u32
    }

    /// The open round, if there is one.
    #[must_use]
    pub fn open_plan(&self) -> Option<&RoundPlan> {
        match &self.phase {
            Phase::Training { plan, .. } => Some(plan),
            _ => None,
        }
    }

    /// How the given attempt ended, once it has.
    #[must_use]
    pub fn record(&self, round: u32, attempt: u32) -> Option<&RoundRecord> {
        // The last one is asked for most often.
        self.closed
            .iter()
            .rev()
            .find(|record| record.round == round && record.attempt == attempt)
    }

    /// Whether the site's update of that attempt entered a committed model; `None` while that is open.
    #[must_use]
    pub fn sealed_was_used(&self, site: &SiteId, round: u32, attempt: u32) -> Option<bool> {
        if let Some(record) = self.record(round, attempt) {
            let committed = matches!(record.outcome, Outcome::Committed { .. });
            return Some(committed && record.received.contains_key(site));
        }
        match &self.phase {
            // The sum runs without this site: its update will not be used.
            Phase::Aggregating {
                plan, contributors, ..
            } if (plan.round, plan.attempt) == (round, attempt)
                && !contributors.contains_key(site) =>
            {
                Some(false)
            }
            _ => None,
        }
    }

    /// How the study ended, once it has: the final model, or why it failed.
    #[must_use]
    pub fn end(&self) -> Option<Result<Digest, String>> {
        match &self.phase {
            Phase::Finished => Some(Ok(self.model)),
            Phase::Failed { reason, .. } => Some(Err(reason.clone())),
            _ => None,
        }
    }

    /// Why the study ended without its last model, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<Cause> {
        match &self.phase {
            Phase::Failed { cause, .. } => Some(*cause),
            _ => None,
        }
    }

    /// Whether an update of `site` would enter the open round, before its values are sent.
    /// `Ok(false)` means that this very update is already there: nothing needs to be sent.
    ///
    /// # Errors
    /// [`RejectUpdate`], as storing it would.
    pub fn admits(
        &self,
        study: &Study,
        site: &SiteId,
        round: u32,
        attempt: u32,
        digest: Digest,
    ) -> Result<bool, RejectUpdate> {
        if study.participant(site).is_none() {
            return Err(RejectUpdate::UnknownSite { site: site.clone() });
        }
        let same_or = |known: Option<&Digest>, otherwise| match known {
            Some(known) if *known == digest => Ok(false),
            Some(_) => Err(RejectUpdate::Conflicting {
                round,
                site: site.clone(),
            }),
            None => otherwise,
        };
        let is_of = |plan: &RoundPlan| plan.round == round && plan.attempt == attempt;
        let late = Err(RejectUpdate::Late {
            round,
            site: site.clone(),
        });
        match &self.phase {
            Phase::Training { plan, received, .. } if is_of(plan) => {
                same_or(received.get(site), Ok(true))
            }
            Phase::Aggregating {
                plan, contributors, ..
            } if is_of(plan) => same_or(contributors.get(site), late),
            _ => match self.record(round, attempt) {
                Some(record) => same_or(record.received.get(site), late),
                None => Err(RejectUpdate::NotOpen { round, attempt }),
            },
        }
    }

    /// Takes one event. The caller stores the new state before it carries out the effects.
    ///
    /// # Errors
    /// [`Unexpected`] for an event that cannot have happened; the state is unchanged.
    pub fn handle(&mut self, study: &Study, event: Event) -> Result<Vec<Effect>, Unexpected> {
        match event {
            Event::Started { now } => Ok(match self.phase {
                Phase::AwaitStart => self.open(study, 1, 1, now),
                _ => Vec::new(),
            }),
            Event::UpdateStored {
                site,
                round,
                attempt,
                digest,
            } => match self.admits(study, &site, round, attempt, digest) {
                Ok(true) => Ok(self.receive(study, site, digest)),
                Ok(false) => Ok(Vec::new()),
                Err(_) => Err(Unexpected {
                    event: "an update that the round does not admit",
                }),
            },
            Event::UpdateRefused {
                site,
                round,
                attempt,
                code,
            } => Ok(self.refuse(study, site, (round, attempt), code)),
            Event::Withdrawn { site, withdrawal } => Ok(self.withdraw(study, site, withdrawal)),
            Event::Returned { site } => {
                self.withdrawn.remove(&site);
                Ok(Vec::new())
            }
            Event::Clock { now } => Ok(self.look_at_the_clock(study, now)),
            Event::Aggregated {
                round,
                attempt,
                model,
                now,
            } => self.commit(study, round, attempt, model, now),
            Event::SumFailed {
                round,
                attempt,
                code,
                problem,
            } => self.give_up(study, round, attempt, Outcome::SumFailed { code, problem }),
        }
    }

    /// What has to be done again after a restart: effects may have been lost with the process.
    #[must_use]
    pub fn resume(&self) -> Vec<Effect> {
        match &self.phase {
            Phase::AwaitStart => Vec::new(),
            Phase::Training { plan, .. } => vec![Effect::Announce(plan.clone())],
            Phase::Aggregating {
                plan, contributors, ..
            } => vec![Effect::Aggregate {
                plan: plan.clone(),
                contributors: contributors.clone(),
            }],
            Phase::Finished | Phase::Failed { .. } => vec![Effect::AnnounceEnd],
        }
    }

    fn open(&mut self, study: &Study, round: u32, attempt: u32, now: Timestamp) -> Vec<Effect> {
        let plan = RoundPlan {
            study: self.study,
            round,
            attempt,
            model: self.model,
            deadline: now.plus_seconds(study.schedule.deadline_seconds),
        };
        self.phase = Phase::Training {
            plan: plan.clone(),
            received: BTreeMap::new(),
            refused: BTreeMap::new(),
        };
        let given_up = self.close_early(study);
        if matches!(self.phase, Phase::Failed { .. }) {
            return given_up;
        }
        vec![Effect::Announce(plan)]
    }

    fn receive(&mut self, study: &Study, site: SiteId, digest: Digest) -> Vec<Effect> {
        let Phase::Training {
            received, refused, ..
        } = &mut self.phase
        else {
            return Vec::new();
        };
        refused.remove(&site);
        // Whoever delivers takes part again.
        self.withdrawn.remove(&site);
        received.insert(site, digest);
        self.close_early(study)
    }

    fn refuse(
        &mut self,
        study: &Study,
        site: SiteId,
        place: (u32, u32),
        code: String,
    ) -> Vec<Effect> {
        if let Phase::Training {
            plan,
            received,
            refused,
        } = &mut self.phase
            && (plan.round, plan.attempt) == place
            && !received.contains_key(&site)
            && study.participant(&site).is_some()
        {
            refused.insert(site, code);
        }
        Vec::new()
    }

    fn withdraw(&mut self, study: &Study, site: SiteId, withdrawal: Withdrawal) -> Vec<Effect> {
        let ended = self.end().is_some();
        if ended || study.participant(&site).is_none() {
            return Vec::new();
        }
        // Since when stays as it was first said.
        if (self.withdrawn.get(&site)).is_some_and(|known| known.says_the_same(&withdrawal)) {
            return Vec::new();
        }
        self.withdrawn.insert(site, withdrawal);
        self.close_early(study)
    }

    /// Sites of the open round whose update is still awaited: all but those that have delivered and those that
    /// have withdrawn and are not expected back.
    fn awaited<'s>(
        &'s self,
        study: &'s Study,
        received: &'s BTreeMap<SiteId, Digest>,
    ) -> impl Iterator<Item = &'s SiteId> {
        let sites = study.sites.iter().map(|participant| &participant.site);
        sites.filter(|site| {
            let gone = self.withdrawn.get(*site).is_some_and(|w| !w.may_return);
            !gone && !received.contains_key(*site)
        })
    }

    /// Ends the open round before its deadline when nothing is awaited any more, or when what is awaited cannot
    /// make up the quorum. A later attempt could not reach it either: the study ends.
    fn close_early(&mut self, study: &Study) -> Vec<Effect> {
        let Phase::Training { plan, received, .. } = &self.phase else {
            return Vec::new();
        };
        let awaited = self.awaited(study, received).count();
        let (reachable, quorum) = (received.len() + awaited, study.schedule.quorum);
        if reachable >= quorum as usize {
            return if awaited == 0 {
                self.aggregate(study)
            } else {
                Vec::new()
            };
        }
        let (plan, received) = (plan.clone(), received.clone());
        let gone: Vec<String> = (self.withdrawn.iter())
            .filter(|(site, withdrawal)| !withdrawal.may_return && !received.contains_key(*site))
            .map(|(site, withdrawal)| format!("{site} ({})", withdrawal.code))
            .collect();
        let reason = format!(
            "round {} cannot reach its quorum of {quorum}: withdrawn {}",
            plan.round,
            gone.join(", ")
        );
        let missing = self.why_missing(study, &received, Missing::NotAwaited);
        let reachable = reachable as u32;
        let outcome = Outcome::QuorumOutOfReach { reachable, quorum };
        self.close(study, &plan, received, missing, outcome);
        let cause = Cause::QuorumMissed;
        self.phase = Phase::Failed { cause, reason };
        let (round, attempt) = (plan.round, plan.attempt);
        vec![
            Effect::ForgetUpdates { round, attempt },
            Effect::AnnounceEnd,
        ]
    }

    /// Why each site without a stored update is missing; `otherwise` where nothing was said or refused.
    fn why_missing(
        &self,
        study: &Study,
        received: &BTreeMap<SiteId, Digest>,
        otherwise: Missing,
    ) -> BTreeMap<SiteId, Missing> {
        let refused = match &self.phase {
            Phase::Training { refused, .. } => refused.clone(),
            _ => BTreeMap::new(),
        };
        let sites = study.sites.iter().map(|participant| &participant.site);
        sites
            .filter(|site| !received.contains_key(*site))
            .map(|site| {
                let why = match (self.withdrawn.get(site), refused.get(site)) {
                    (Some(withdrawal), _) => Missing::Withdrawn {
                        code: withdrawal.code.clone(),
                        reason: withdrawal.reason.clone(),
                    },
                    (None, Some(code)) => Missing::Refused { code: code.clone() },
                    (None, None) => otherwise.clone(),
                };
                (site.clone(), why)
            })
            .collect()
    }

    fn look_at_the_clock(&mut self, study: &Study, now: Timestamp) -> Vec<Effect> {
        let Phase::Training { plan, received, .. } = &self.phase else {
            return Vec::new();
        };
        if now < plan.deadline {
            return Vec::new();
        }
        if received.len() >= study.schedule.quorum as usize {
            return self.aggregate(study);
        }
        let (plan, received) = (plan.clone(), received.clone());
        let outcome = Outcome::QuorumMissed {
            received: received.len() as u32,
            quorum: study.schedule.quorum,
        };
        let missing = self.why_missing(study, &received, Missing::Late);
        self.close(study, &plan, received, missing, outcome);
        let forget = Effect::ForgetUpdates {
            round: plan.round,
            attempt: plan.attempt,
        };
        let failed = self.closed.len() as u32 - self.committed_rounds();
        let next = if failed > study.schedule.retry_rounds {
            let reason = format!(
                "round {} missed its quorum of {} and no retry is left",
                plan.round, study.schedule.quorum
            );
            let cause = Cause::QuorumMissed;
            self.phase = Phase::Failed { cause, reason };
            vec![Effect::AnnounceEnd]
        } else {
            self.open(study, plan.round, plan.attempt + 1, now)
        };
        [forget].into_iter().chain(next).collect()
    }

    fn aggregate(&mut self, study: &Study) -> Vec<Effect> {
        let Phase::Training { plan, received, .. } = &self.phase else {
            return Vec::new();
        };
        let (plan, contributors) = (plan.clone(), received.clone());
        self.phase = Phase::Aggregating {
            missing: self.why_missing(study, &contributors, Missing::Late),
            plan: plan.clone(),
            contributors: contributors.clone(),
        };
        vec![Effect::Aggregate { plan, contributors }]
    }

    fn commit(
        &mut self,
        study: &Study,
        round: u32,
        attempt: u32,
        model: Digest,
        now: Timestamp,
    ) -> Result<Vec<Effect>, Unexpected> {
        let (plan, contributors, missing) = match &self.phase {
            Phase::Aggregating {
                plan,
                contributors,
                missing,
            } if plan.round == round && plan.attempt == attempt => {
                (plan.clone(), contributors.clone(), missing.clone())
            }
            _ => {
                return match self.record(round, attempt).map(|record| &record.outcome) {
                    Some(Outcome::Committed { model: known }) if *known == model => Ok(Vec::new()),
                    _ => Err(Unexpected {
                        event: "a sum that nobody asked for",
                    }),
                };
            }
        };
        self.model = model;
        let outcome = Outcome::Committed { model };
        self.close(study, &plan, contributors, missing, outcome);
        let forget = Effect::ForgetUpdates { round, attempt };
        let next = if round == study.schedule.rounds {
            self.phase = Phase::Finished;
            vec![Effect::AnnounceEnd]
        } else {
            self.open(study, round + 1, 1, now)
        };
        Ok([forget].into_iter().chain(next).collect())
    }

    /// Closes a round whose updates cannot be summed, and with it the study: the updates are not what their
    /// sites had sealed, and a new attempt would hide that something is wrong at the server.
    fn give_up(
        &mut self,
        study: &Study,
        round: u32,
        attempt: u32,
        outcome: Outcome,
    ) -> Result<Vec<Effect>, Unexpected> {
        match (&self.phase, &outcome) {
            (
                Phase::Aggregating {
                    plan,
                    contributors,
                    missing,
                },
                Outcome::SumFailed { code, .. },
            ) if (plan.round, plan.attempt) == (round, attempt) => {
                let (plan, contributors) = (plan.clone(), contributors.clone());
                let missing = missing.clone();
                self.phase = Phase::Failed {
                    cause: Cause::SumFailed,
                    reason: format!("the updates of round {round} could not be summed ({code})"),
                };
                self.close(study, &plan, contributors, missing, outcome);
                Ok(vec![Effect::AnnounceEnd])
            }
            (
                Phase::Failed {
                    cause: Cause::SumFailed,
                    ..
                },
                _,
            ) => Ok(Vec::new()),
            _ => Err(Unexpected {
                event: "a failed sum that nobody asked for",
            }),
        }
    }

    fn close(
        &mut self,
        study: &Study,
        plan: &RoundPlan,
        received: BTreeMap<SiteId, Digest>,
        why_missing: BTreeMap<SiteId, Missing>,
        outcome: Outcome,
    ) {
        let missing = study
            .sites
            .iter()
            .map(|participant| participant.site.clone())
            .filter(|site| !received.contains_key(site))
            .collect();
        Arc::make_mut(&mut self.closed).push(RoundRecord {
            round: plan.round,
            attempt: plan.attempt,
            received,
            missing,
            why_missing,
            outcome,
        });
    }
}

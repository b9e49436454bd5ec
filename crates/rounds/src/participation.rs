//! A site's side of a study.

use std::collections::BTreeMap;

use consilium_core::{Digest, GroupName, RoundPlan, Study};
use serde::{Deserialize, Serialize};

use crate::countersigned::Receipt;

/// Where a site stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Participation {
    /// The study's digest.
    pub study: Digest,
    /// The last round in which this site's local state was advanced; 0 before the first.
    pub advanced_to: u32,
    /// The update that is stored durably and whose fate is not known yet.
    pub sealed: Option<Sealed>,
    /// Whether the study has ended for this site.
    pub ended: bool,
}

/// An update that exists durably. Its bytes never change: a retry sends the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Round it belongs to.
    pub round: u32,
    /// Attempt it belongs to.
    pub attempt: u32,
    /// SHA-256 of its values.
    pub digest: Digest,
}

/// What the server tells a site that asks for work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Whether the sealed update entered a committed model; `None` while that is open or nothing is sealed.
    pub sealed_was_used: Option<bool>,
    /// The open round, if there is one.
    pub plan: Option<RoundPlan>,
    /// The study has ended: the final model's hash, or why it failed.
    pub end: Option<Result<Digest, String>>,
    /// SHA-256 of each group that this site shares, little-endian f32, in the model that the plan or the end
    /// names. What the site downloads is compared with them.
    pub groups: BTreeMap<GroupName, Digest>,
    /// The highest head of this site's privacy ledger that the server has seen, signed by it; nothing before the
    /// first update.
    pub ledger: Option<Receipt>,
}

impl Assignment {
    /// The model that it names: the one a round starts from, or the final one.
    #[must_use]
    pub fn model(&self) -> Option<Digest> {
        match &self.end {
            Some(end) => end.as_ref().ok().copied(),
            None => self.plan.as_ref().map(|plan| plan.model),
        }
    }
}

/// What the agent has to do after storing the new state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteEffect {
    /// The local groups trained with the sealed update become the site's own.
    AdvanceLocalState {
        /// The round that was committed.
        round: u32,
    },
    /// The sealed update and the local groups trained with it are dropped.
    RollBack {
        /// The round that failed, or closed without this site.
        round: u32,
        /// The attempt.
        attempt: u32,
    },
    /// Download the plan's model, train, and seal the update.
    Train(RoundPlan),
    /// Send the sealed update (again).
    Upload(Sealed),
    /// Fetch the final model and evaluate.
    Finish(Result<Digest, String>),
}

/// Why a site does not follow a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefusePlan {
    /// The plan is for another study document than the one this site accepted.
    #[error("the plan is for study document {got}, this site accepted {accepted}")]
    OtherStudy {
        /// Digest in the plan.
        got: Digest,
        /// Digest the site accepted.
        accepted: Digest,
    },
    /// The plan asks for a round outside the study, or one that this site has already completed.
    #[error("the plan asks for round {round}, this site expects {from} to {to}")]
    Round {
        /// Round in the plan.
        round: u32,
        /// First acceptable round.
        from: u32,
        /// Last acceptable round.
        to: u32,
    },
    /// The first round starts from another model than the study document names.
    #[error("round 1 starts from model {got}, the study document says {accepted}")]
    OtherModel {
        /// Hash in the plan.
        got: Digest,
        /// Hash in the document.
        accepted: Digest,
    },
}

impl RefusePlan {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::OtherStudy { .. } => "plan_other_study",
            Self::Round { .. } => "plan_wrong_round",
            Self::OtherModel { .. } => "plan_other_model",
        }
    }
}

impl Participation {
    /// A site at the beginning of a study.
    #[must_use]
    pub fn new(study: &Study) -> Self {
        Self {
            study: study.digest(),
            advanced_to: 0,
            sealed: None,
            ended: false,
        }
    }

    /// Takes the server's answer. The caller stores the new state before it carries out the effects, of
    /// which [`SiteEffect::AdvanceLocalState`] and [`SiteEffect::RollBack`] belong to the same transaction.
    ///
    /// # Errors
    /// [`RefusePlan`] when the plan is not what this site agreed to; the state is unchanged.
    pub fn assigned(
        &mut self,
        study: &Study,
        assignment: &Assignment,
    ) -> Result<Vec<SiteEffect>, RefusePlan> {
        if let Some(plan) = &assignment.plan {
            self.check(study, plan)?;
        }
        let mut effects = Vec::new();
        if let (Some(sealed), Some(used)) = (self.sealed, assignment.sealed_was_used) {
            self.sealed = None;
            if used {
                self.advanced_to = sealed.round;
                effects.push(SiteEffect::AdvanceLocalState {
                    round: sealed.round,
                });
            } else {
                let (round, attempt) = (sealed.round, sealed.attempt);
                effects.push(SiteEffect::RollBack { round, attempt });
            }
        }
        if let Some(end) = &assignment.end {
            self.ended = true;
            effects.push(SiteEffect::Finish(end.clone()));
        } else if let Some(plan) = &assignment.plan {
            match self.sealed {
                None => effects.push(SiteEffect::Train(plan.clone())),
                Some(sealed) if (sealed.round, sealed.attempt) == (plan.round, plan.attempt) => {
                    effects.push(SiteEffect::Upload(sealed));
                }
                // Its fate is still open at the server: ask again.
                Some(_) => {}
            }
        }
        Ok(effects)
    }

    /// The update of `plan` is stored durably, together with this state.
    pub fn seal(&mut self, plan: &RoundPlan, digest: Digest) -> SiteEffect {
        let sealed = Sealed {
            round: plan.round,
            attempt: plan.attempt,
            digest,
        };
        self.sealed = Some(sealed);
        SiteEffect::Upload(sealed)
    }

    fn check(&self, study: &Study, plan: &RoundPlan) -> Result<(), RefusePlan> {
        if plan.study != self.study {
            return Err(RefusePlan::OtherStudy {
                got: plan.study,
                accepted: self.study,
            });
        }
        let (from, to) = (self.advanced_to + 1, study.schedule.rounds);
        if !(from..=to).contains(&plan.round) {
            return Err(RefusePlan::Round {
                round: plan.round,
                from,
                to,
            });
        }
        let initial = study.initial_model_sha256;
        if plan.round == 1 && plan.model != initial {
            return Err(RefusePlan::OtherModel {
                got: plan.model,
                accepted: initial,
            });
        }
        Ok(())
    }
}

//! What a data holder agreed to spend: a plan, its number of steps, and the guarantee they amount to.

use serde::{Deserialize, Serialize};

use crate::accounting::{AccountingError, Guarantee};
use crate::event::Repeated;
use crate::faults::{Fault, injected};
use crate::ledger::{Account, Budget, NotAdmitted, Spending, StepsExhausted};
use crate::noise::NoiseLevel;
use crate::plan::{Clip, Plan, PlanError, Training, Unit};
use crate::release::{Against, ReleasePlan};

/// A plan with its length and the guarantee that was agreed.
///
/// The guarantee is a promise of whoever wrote the document; [`Agreement::check`] computes it again. Length and
/// guarantee both bind: [`Agreement::admit`] refuses steps that are too many even where epsilon has room for
/// them, and a training from [`Agreement::begin`] ends with the last step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// Sampler, clip and noise of every step, or clip and noise of every release.
    pub plan: AgreedPlan,
    /// Steps or releases in all, those that may have to be repeated included.
    pub steps: u64,
    /// Probability with which the guarantee may fail.
    pub delta: f64,
    /// Epsilon that `steps` steps may cost at most.
    pub epsilon: f64,
}

/// How data are protected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AgreedPlan {
    /// In every step of training.
    Steps(Plan),
    /// In every release of a whole vector.
    Releases(ReleasePlan),
}

impl AgreedPlan {
    /// What is protected.
    #[must_use]
    pub fn unit(&self) -> Unit {
        match self {
            Self::Steps(plan) => plan.settings().unit,
            Self::Releases(plan) => plan.settings().unit,
        }
    }

    /// How far the noise can be trusted.
    #[must_use]
    pub fn noise_level(&self) -> NoiseLevel {
        match self {
            Self::Steps(plan) => plan.settings().noise_level,
            Self::Releases(plan) => plan.settings().noise_level,
        }
    }

    /// Standard deviation of the noise / clip norm.
    #[must_use]
    pub fn noise_multiplier(&self) -> f64 {
        match self {
            Self::Steps(plan) => plan.settings().noise_multiplier,
            Self::Releases(plan) => plan.settings().noise_multiplier,
        }
    }

    /// Largest norm that a contribution can have after clipping, over the whole training.
    #[must_use]
    pub fn largest_clip_norm(&self) -> f64 {
        match self {
            Self::Steps(plan) => match &plan.settings().clip {
                Clip::Fixed(rule) => rule.sensitivity(),
                Clip::Quantile(config) => config.maximum,
            },
            Self::Releases(plan) => plan.settings().clip_norm,
        }
    }

    /// Probability that a unit takes part.
    #[must_use]
    pub fn sampling_rate(&self) -> f64 {
        match self {
            Self::Steps(plan) => plan.settings().sampling_rate,
            Self::Releases(_) => 1.0,
        }
    }

    /// From whom it protects.
    #[must_use]
    pub fn against(&self) -> Against {
        match self {
            Self::Steps(_) => Against::Everybody,
            Self::Releases(plan) => plan.settings().against,
        }
    }

    /// What `count` steps or releases cost, in the form of the ledger.
    #[must_use]
    pub fn events(&self, count: u64) -> Repeated {
        match self {
            Self::Steps(plan) => plan.events(count),
            Self::Releases(plan) => plan.events(count),
        }
    }

    /// The privacy of `count` steps or releases and nothing else.
    ///
    /// # Errors
    /// [`AccountingError`] for a delta that is none.
    pub fn guarantee(&self, count: u64, delta: f64) -> Result<Guarantee, AccountingError> {
        match self {
            Self::Steps(plan) => plan.guarantee(count, delta),
            Self::Releases(plan) => plan.guarantee(count, delta),
        }
    }
}

/// Why an agreement does not hold.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BrokenAgreement {
    /// The steps cost more than was promised.
    #[error(
        "{steps} steps cost epsilon {costs:.4} at delta {delta:e}, agreed are {agreed}: lower the steps or the sampling rate, or raise the noise"
    )]
    CostsMore {
        /// Steps.
        steps: u64,
        /// What they cost.
        costs: f64,
        /// What was promised.
        agreed: f64,
        /// At this delta.
        delta: f64,
    },
    /// The accountant refuses the plan or delta.
    #[error(transparent)]
    Accounting(#[from] AccountingError),
}

impl Agreement {
    /// All steps, in the form of the ledger.
    #[must_use]
    pub fn events(&self) -> Repeated {
        self.plan.events(self.steps)
    }

    /// Computes what the steps cost and compares it with what was promised.
    ///
    /// # Errors
    /// [`BrokenAgreement`].
    pub fn check(&self) -> Result<Guarantee, BrokenAgreement> {
        let guarantee = self.plan.guarantee(self.steps, self.delta)?;
        // Written so that a NaN is not within the promise.
        if guarantee.epsilon <= self.epsilon {
            return Ok(guarantee);
        }
        Err(BrokenAgreement::CostsMore {
            steps: self.steps,
            costs: guarantee.epsilon,
            agreed: self.epsilon,
            delta: self.delta,
        })
    }

    /// The steps among the releases of `account` that were taken under this plan.
    #[must_use]
    pub fn taken(&self, account: &Account) -> u64 {
        let step = self.plan.events(1).event;
        let taken = account.events().iter().filter(|known| known.event == step);
        taken.fold(0, |sum, known| sum.saturating_add(known.count))
    }

    /// Begins training, for as many steps as are left beside the releases in `account`: those of the study that
    /// was agreed to, and of no other.
    ///
    /// # Errors
    /// As [`Plan::begin`]; [`PlanError::SiteSteps`] for an agreement about releases.
    pub fn begin(&self, account: &Account) -> Result<Training, PlanError> {
        let AgreedPlan::Steps(plan) = &self.plan else {
            return Err(PlanError::SiteSteps);
        };
        let left = self.steps.saturating_sub(self.taken(account));
        Ok(plan.begin()?.at_most(left))
    }

    /// Whether `events` may be released as well as what `account` holds, the releases of the study that was
    /// agreed to: they must be steps of the plan, no more than are left, and together cost no more than was
    /// promised.
    ///
    /// # Errors
    /// [`NotAdmitted::OtherSteps`], [`NotAdmitted::Steps`], and what [`Account::admit`] refuses.
    pub fn admit(&self, account: &Account, events: &Repeated) -> Result<Spending, NotAdmitted> {
        if *events != self.plan.events(events.count) || events.count == 0 {
            return Err(NotAdmitted::OtherSteps);
        }
        let (taken, asked, agreed) = (self.taken(account), events.count, self.steps);
        let too_many = NotAdmitted::Steps(StepsExhausted {
            taken,
            asked,
            agreed,
        });
        // More at once than in all: the accountant need not be asked.
        if asked > agreed && !injected(Fault::StepsBeyondAgreement) {
            return Err(too_many);
        }
        let budget = Budget::new(self.epsilon, self.delta)?;
        let spending = account.admit(self.plan.unit(), events, budget)?;
        if taken.saturating_add(asked) > agreed && !injected(Fault::StepsBeyondAgreement) {
            return Err(too_many);
        }
        Ok(spending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreement(epsilon: f64, steps: u64) -> Agreement {
        serde_json::from_value(serde_json::json!({
            "plan": {
                "unit": "patient",
                "adjacency": "add-remove",
                "clip": {"rule": "flat", "clip_norm": 1.0},
                "noise_multiplier": 1.0,
                "noise_level": "hardened",
                "sampling_rate": 0.02,
                "expected_units": 20.0,
                "max_records": 4
            },
            "steps": steps,
            "delta": 1e-5,
            "epsilon": epsilon
        }))
        .unwrap()
    }

    #[test]
    fn a_promise_is_computed_again() {
        // 500 steps at rate 0.02 and multiplier 1 cost 2.7734 (accountant.json, d01).
        let guarantee = agreement(2.8, 500).check().unwrap();
        assert!((guarantee.epsilon - 2.7734).abs() < 2e-3);
        let broken = agreement(2.7, 500).check().unwrap_err();
        assert!(
            matches!(broken, BrokenAgreement::CostsMore { steps: 500, .. }),
            "{broken}"
        );
        let promising = |epsilon| Agreement {
            epsilon,
            ..agreement(1.0, 10)
        };
        assert!(promising(f64::INFINITY).check().is_ok());
        assert!(promising(f64::NAN).check().is_err());
    }

    fn account(entries: &[(f64, u64)]) -> Account {
        use crate::event::Event;
        use crate::ledger::{Ledger, Moment, Record};
        use crate::noise::{NoiseLevel, Randomness};
        use crate::plan::{Transcript, Unit};

        let mut ledger = Ledger::default();
        for (round, &(noise, steps)) in (1..).zip(entries) {
            let event = Event::poisson_gaussian(noise, 0.02).unwrap();
            let record = Record {
                study: "heart".into(),
                round,
                attempt: 1,
                purpose: "training".into(),
                release: None,
                delta: Some(1e-5),
                transcript: Transcript {
                    unit: Unit::Patient,
                    events: event.repeated(steps, crate::adjacency::Adjacency::AddRemove),
                    noise_level: NoiseLevel::Hardened,
                    randomness: Randomness::OperatingSystem,
                    against: Against::Everybody,
                },
            };
            ledger.append(record, Moment::from_unix_milliseconds(0));
        }
        ledger.total().unwrap()
    }

    #[test]
    fn steps_beyond_the_agreement_are_refused_although_epsilon_has_room() {
        let agreement = agreement(8.0, 100);
        let round = agreement.plan.events(40);
        let spending = agreement.admit(&account(&[(1.0, 60)]), &round).unwrap();
        assert!(spending.epsilon() < 2.0, "room for many more");
        // What else the study released has no steps of this plan.
        let spent = account(&[(1.0, 30), (3.0, 500), (1.0, 31)]);
        assert_eq!(agreement.taken(&spent), 61);
        let refused = agreement.admit(&spent, &round).unwrap_err();
        let (taken, asked, agreed) = (61, 40, 100);
        let expected = NotAdmitted::Steps(StepsExhausted {
            taken,
            asked,
            agreed,
        });
        assert_eq!(refused, expected);
        assert_eq!(refused.code(), "agreed_steps_exhausted");
        // Nor does a count that wraps help.
        let huge = agreement.plan.events(u64::MAX);
        assert!(matches!(
            agreement.admit(&spent, &huge),
            Err(NotAdmitted::Steps(_))
        ));
        // Within the steps, the promised epsilon still binds.
        let tight = Agreement {
            epsilon: 1.0,
            ..agreement
        };
        let refused = tight.admit(&account(&[(1.0, 60)]), &round).unwrap_err();
        assert!(matches!(refused, NotAdmitted::Exhausted(_)), "{refused}");
    }

    #[test]
    fn steps_of_another_kind_are_refused() {
        let agreement = agreement(8.0, 100);
        let none = Account::default();
        let AgreedPlan::Steps(plan) = &agreement.plan else {
            panic!("steps were agreed to");
        };
        let mut weaker = plan.settings().clone();
        weaker.noise_multiplier = 0.9;
        let weaker = Plan::new(weaker).unwrap();
        let other = Repeated {
            adjacency: crate::adjacency::Adjacency::ReplaceOne,
            ..agreement.plan.events(1)
        };
        for events in [weaker.events(1), agreement.plan.events(0), other] {
            let refused = agreement.admit(&none, &events);
            assert_eq!(refused, Err(NotAdmitted::OtherSteps));
        }
    }

    #[test]
    fn training_ends_with_the_last_agreed_step() {
        use crate::noise::RootKey;

        let key = RootKey::simulation(3);
        let mut training = agreement(8.0, 5).begin(&account(&[(1.0, 3)])).unwrap();
        for step in 0..4_u8 {
            let mut drawn = training.step(&key, &[&[step]], 0);
            assert_eq!(drawn.chunks(std::num::NonZeroUsize::MIN).len(), 0);
            struct Nobody;
            impl crate::gradients::UnitGradients for Nobody {
                fn units(&self) -> usize {
                    0
                }
                fn groups(&self) -> usize {
                    1
                }
                fn squared_norms(&self) -> Vec<f64> {
                    Vec::new()
                }
                fn weighted_sum(self, _: &[f64]) -> Vec<f32> {
                    vec![0.0; 7]
                }
            }
            drawn.add(Nobody).unwrap();
            match drawn.finish(7) {
                Ok(mean) => assert!(step < 2 && mean.len() == 7),
                Err(error) => {
                    assert!(step >= 2);
                    assert_eq!(error.code(), "plan_not_agreed");
                }
            }
        }
        assert_eq!(training.transcript().events.count, 2);
        // A limit cannot be raised again.
        let mut none = training.at_most(9).at_most(1);
        assert!(none.step(&key, &[], 0).finish(7).is_err());
    }
}

//! What a data holder agreed to spend: a plan, its number of steps, and the guarantee they amount to.

use serde::{Deserialize, Serialize};

use crate::accounting::{AccountingError, Guarantee};
use crate::event::Repeated;
use crate::noise::NoiseLevel;
use crate::plan::{Plan, Unit};
use crate::release::{Against, ReleasePlan};

/// A plan with its length and the guarantee that was agreed.
///
/// The guarantee is a promise of whoever wrote the document; [`Agreement::check`] computes it again.
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
}

//! How much may be spent, and why something is not admitted.

use serde::{Deserialize, Serialize};

use super::account::MixedLedger;
use crate::accounting::AccountingError;

/// The most that the entries of a ledger may cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct Budget {
    epsilon: f64,
    delta: f64,
}

/// A budget that limits nothing, or none.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "epsilon {epsilon} at delta {delta:e} is no budget: epsilon is a finite number of at least 0, delta is \
     above 0 and below 1, at most one tenth of one over the units"
)]
pub struct InvalidBudget {
    /// The epsilon.
    pub epsilon: f64,
    /// The delta.
    pub delta: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    epsilon: f64,
    delta: f64,
}

impl Budget {
    /// At most `epsilon` at `delta`.
    ///
    /// # Errors
    /// [`InvalidBudget`].
    pub fn new(epsilon: f64, delta: f64) -> Result<Self, InvalidBudget> {
        if epsilon.is_finite() && epsilon >= 0.0 && delta > 0.0 && delta < 1.0 {
            Ok(Self { epsilon, delta })
        } else {
            Err(InvalidBudget { epsilon, delta })
        }
    }

    /// The largest epsilon.
    #[must_use]
    pub fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// The delta it is stated at.
    #[must_use]
    pub fn delta(&self) -> f64 {
        self.delta
    }
}

impl TryFrom<Unchecked> for Budget {
    type Error = InvalidBudget;

    fn try_from(Unchecked { epsilon, delta }: Unchecked) -> Result<Self, InvalidBudget> {
        Self::new(epsilon, delta)
    }
}

impl From<Budget> for Unchecked {
    fn from(Budget { epsilon, delta }: Budget) -> Self {
        Self { epsilon, delta }
    }
}

/// A release that would cost more than is left.
///
/// Epsilons do not add up: `together` is what both cost, and less than `spent` plus `asked`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, thiserror::Error)]
#[error(
    "spent is epsilon {spent:.4}, the release alone costs {asked:.4}, together {together:.4}; the budget is {} at \
     delta {:e}",
    .budget.epsilon, .budget.delta
)]
pub struct Exhausted {
    /// Epsilon of everything before.
    pub spent: f64,
    /// Epsilon of the release alone.
    pub asked: f64,
    /// Epsilon of both.
    pub together: f64,
    /// The most that was allowed.
    pub budget: Budget,
}

impl Exhausted {
    /// Epsilon between what is spent and the budget; too little for the release.
    #[must_use]
    pub fn remaining(&self) -> f64 {
        (self.budget.epsilon - self.spent).max(0.0)
    }
}

/// Steps beyond those that were agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error(
    "{taken} steps were taken and {asked} are asked for; {agreed} were agreed, whatever they cost"
)]
pub struct StepsExhausted {
    /// Steps before.
    pub taken: u64,
    /// Steps of the release.
    pub asked: u64,
    /// Steps in all.
    pub agreed: u64,
}

/// Why a release is not admitted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAdmitted {
    /// It would cost more than is left.
    #[error("the privacy budget is exhausted: {0}")]
    Exhausted(Exhausted),
    /// It would be more steps than were agreed.
    #[error("the agreed steps are exhausted: {0}")]
    Steps(StepsExhausted),
    /// It is not of the kind that was agreed.
    #[error("the release is not made of steps of the agreed plan")]
    OtherSteps,
    /// What was agreed limits nothing.
    #[error(transparent)]
    Budget(#[from] InvalidBudget),
    /// It is stated for another unit or adjacency than the entries before.
    #[error(transparent)]
    Mixed(#[from] MixedLedger),
    /// The accountant refuses it.
    #[error(transparent)]
    Accounting(#[from] AccountingError),
}

impl NotAdmitted {
    /// Stable name of the error, for logs and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Exhausted(_) => "budget_exhausted",
            Self::Steps(_) => "agreed_steps_exhausted",
            Self::OtherSteps => "not_agreed_steps",
            Self::Budget(_) => "no_budget",
            Self::Mixed(_) => "ledger_mixed",
            Self::Accounting(_) => "not_accountable",
        }
    }
}

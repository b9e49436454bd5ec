//! What a study may spend of the privacy of this site's patients, and what it has spent.
//!
//! * [`Protection`] is what this site agreed to in one private study: it says whether a round may begin, and what
//!   the ledger holds about it afterwards.
//! * [`Standing`] is the site's ledger as it lies in the state folder, over all studies and all cohorts that the
//!   folder was ever used with. Whether two cohorts share patients cannot be known here; they are counted as if
//!   they did, and a cohort under a new name does not start anew.
//! * [`Statement`] is a number with everything that must be said beside it.
//! * [`settlement`] charges releases that a server has counter-signed and this ledger does not hold.
//! * [`Refusal`] is why a round or a study is not begun.
//!
//! Nothing here computes a gradient or opens a connection: the agent asks before it trains, and stores the entry
//! in the same transaction as the update, before a byte of it leaves.

mod protection;
mod refusal;
mod settle;
mod standing;
mod statement;

use serde::{Deserialize, Serialize};

pub use protection::Protection;
pub(crate) use protection::record;
pub use refusal::{Refusal, Whose};
pub use settle::{Decision, settlement};
pub use standing::Standing;
pub(crate) use standing::row;
pub use statement::{SIMULATION, Statement};

/// The most that this site's patients may spend, over all studies together: `[privacy]` in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteBudget {
    /// Epsilon of everything that ever leaves, the accountant's composition of all studies. Finite, above 0.
    pub epsilon: f64,
    /// Probability with which that guarantee may fail, above 0 and below 1; at most one tenth of one over the
    /// patients. Left out: the smallest delta that a study in the ledger agreed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
}

impl SiteBudget {
    /// What is wrong with the numbers, if something is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if !(self.epsilon.is_finite() && self.epsilon > 0.0) {
            return Some(format!("privacy.epsilon is {}", self.epsilon));
        }
        let delta = self.delta?;
        (!(delta > 0.0 && delta < 1.0)).then(|| format!("privacy.delta is {delta}"))
    }
}

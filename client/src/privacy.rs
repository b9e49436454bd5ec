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

use std::path::{Path, PathBuf};

use consilium_data::Cohort;
use consilium_data::manifest::Origin;
use serde::{Deserialize, Serialize};

pub use protection::Protection;
pub(crate) use protection::record;
pub use refusal::{NotSimulated, Refusal, Whose};
pub use settle::{Decision, settlement};
pub use standing::Standing;
pub(crate) use standing::row;
pub use statement::{SIMULATION, Statement};

/// The most that this site's patients may spend, over all studies together: `[privacy]` in the policy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteBudget {
    /// Epsilon of everything that ever leaves, the accountant's composition of all studies. Finite, above 0.
    pub epsilon: f64,
    /// Probability with which that guarantee may fail, above 0 and below 1; at most one tenth of one over the
    /// patients. Left out: the smallest delta that a study in the ledger agreed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// Take part in private studies whose noise comes from a seed that everybody has, so that it protects nobody:
    /// with a cohort that is marked simulated or public, and with no other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_simulation: bool,
    /// Take part in studies that put a share of the noise into each site's update: sums are protected, and the
    /// server, which sees single updates, is trusted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trust_server_with_single_updates: bool,
}

/// What a study has to know about the cohort before anything is read for training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CohortFacts {
    /// Its manifest.
    pub manifest: PathBuf,
    /// Whether its records are real, published or generated.
    pub origin: Origin,
    /// Features or channels whose scaling would be computed from its patients; none with public constants.
    pub fitted: Vec<String>,
}

impl CohortFacts {
    /// What `manifest` says, which was read as `cohort`.
    #[must_use]
    pub fn of(manifest: &Path, cohort: &Cohort) -> Self {
        Self {
            manifest: manifest.to_owned(),
            origin: cohort.manifest().origin,
            fitted: cohort.fitted().into_iter().map(str::to_owned).collect(),
        }
    }
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

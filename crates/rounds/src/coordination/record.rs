//! What is kept of a round that has closed.

use std::collections::BTreeMap;

use consilium_core::{Digest, SiteId};
use serde::{Deserialize, Serialize};

use crate::withdrawal::Missing;

/// A closed round: who took part, who did not, how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundRecord {
    /// Round number, from 1.
    pub round: u32,
    /// Attempt, from 1.
    pub attempt: u32,
    /// Sites whose updates were stored in time, with the digest of each.
    pub received: BTreeMap<SiteId, Digest>,
    /// Sites that did not deliver in time.
    pub missing: Vec<SiteId>,
    /// Why, for each of them; empty in rounds that closed before it was kept.
    #[serde(default)]
    pub why_missing: BTreeMap<SiteId, Missing>,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a round ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The new global model is stored.
    Committed {
        /// Its hash.
        model: Digest,
    },
    /// Fewer updates than the quorum at the deadline; the global model is unchanged.
    QuorumMissed {
        /// Updates received.
        received: u32,
        /// Updates needed.
        quorum: u32,
    },
    /// So many sites have withdrawn that the quorum cannot be reached; the global model is unchanged.
    QuorumOutOfReach {
        /// Updates that could still have come together.
        reachable: u32,
        /// Updates needed.
        quorum: u32,
    },
    /// The updates could not be summed, and trying again would not help; the global model is unchanged.
    SumFailed {
        /// Stable code.
        code: String,
        /// What happened, in the words of the store: for the operator, not for sites.
        problem: String,
    },
}

/// A shared list in documents: a list.
pub(super) mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::RoundRecord;

    pub fn serialize<S: Serializer>(
        records: &Arc<Vec<RoundRecord>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        records.as_ref().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<Vec<RoundRecord>>, D::Error> {
        Vec::deserialize(deserializer).map(Arc::new)
    }
}

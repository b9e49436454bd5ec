//! What the server's side is told, what it asks for, and what it refuses.

use std::collections::BTreeMap;

use consilium_core::clock::Timestamp;
use consilium_core::{Digest, RoundPlan, SiteId};

use crate::withdrawal::Withdrawal;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The coordinator starts the study.
    Started {
        /// When.
        now: Timestamp,
    },
    /// A site's update passed all checks and is stored durably.
    UpdateStored {
        /// The site.
        site: SiteId,
        /// Round it belongs to.
        round: u32,
        /// Attempt it belongs to.
        attempt: u32,
        /// SHA-256 of its values.
        digest: Digest,
    },
    /// An update of the open round was refused: it is not what the site had agreed to send.
    UpdateRefused {
        /// The site.
        site: SiteId,
        /// Round it belongs to.
        round: u32,
        /// Attempt it belongs to.
        attempt: u32,
        /// Stable code of the refusal.
        code: String,
    },
    /// A site says that it does not go on.
    Withdrawn {
        /// The site.
        site: SiteId,
        /// Where and why.
        withdrawal: Withdrawal,
    },
    /// A site that had withdrawn takes part again.
    Returned {
        /// The site.
        site: SiteId,
    },
    /// Time went on.
    Clock {
        /// The present moment.
        now: Timestamp,
    },
    /// The new global model is stored durably.
    Aggregated {
        /// Round it closes.
        round: u32,
        /// Attempt it closes.
        attempt: u32,
        /// Hash of the new model.
        model: Digest,
        /// When.
        now: Timestamp,
    },
    /// The contributors' updates cannot be summed, and trying again would not help.
    SumFailed {
        /// Round whose sum it was.
        round: u32,
        /// Attempt whose sum it was.
        attempt: u32,
        /// Stable code.
        code: String,
        /// What happened.
        problem: String,
    },
}

/// What the caller has to do after storing the new state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tell waiting sites of this plan.
    Announce(RoundPlan),
    /// Sum the contributors' updates, step the model, store it, and report [`Event::Aggregated`]; or
    /// [`Event::SumFailed`] when that cannot be done.
    Aggregate {
        /// What the sites were asked for.
        plan: RoundPlan,
        /// Whose updates.
        contributors: BTreeMap<SiteId, Digest>,
    },
    /// The updates of this attempt are not needed any more.
    ForgetUpdates {
        /// Round.
        round: u32,
        /// Attempt.
        attempt: u32,
    },
    /// Tell waiting sites that the study has ended, well or not.
    AnnounceEnd,
}

/// An event that does not belong to the state, by a mistake of the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event} does not belong to the present state of the study")]
pub struct Unexpected {
    pub(super) event: &'static str,
}

/// Why an update does not enter the round. The peer's mistake or bad luck, not ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RejectUpdate {
    /// The site does not take part.
    #[error("site {site} takes no part in the study")]
    UnknownSite {
        /// The site.
        site: SiteId,
    },
    /// The round is not open any more, or not yet, or this was another attempt at it.
    #[error("round {round}, attempt {attempt} is not open")]
    NotOpen {
        /// Round of the update.
        round: u32,
        /// Attempt of the update.
        attempt: u32,
    },
    /// The round closed before the update arrived.
    #[error("round {round} closed before the update from site {site} arrived")]
    Late {
        /// Round of the update.
        round: u32,
        /// The site.
        site: SiteId,
    },
    /// The site has already delivered other values for this round.
    #[error("site {site} has already delivered a different update for round {round}")]
    Conflicting {
        /// Round of the update.
        round: u32,
        /// The site.
        site: SiteId,
    },
}

impl RejectUpdate {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownSite { .. } => "update_unknown_site",
            Self::NotOpen { .. } => "update_round_not_open",
            Self::Late { .. } => "update_late",
            Self::Conflicting { .. } => "update_conflicting",
        }
    }
}

//! What is recorded: names, hashes and numbers that were agreed or already sent; nothing about a patient.

use std::collections::BTreeMap;

use consilium_core::clock::Timestamp;
use consilium_core::{Digest, SiteId, StudyId};
use serde::{Deserialize, Serialize};

use crate::Signed;

/// An event with its time. Its compact JSON is the leaf of the tree: fields in this order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When, by the clock of who keeps the log.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
}

impl Entry {
    /// The bytes that are hashed and kept.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        // Cannot fail: plain numbers and text.
        serde_json::to_vec(self).expect("an entry serialises")
    }

    /// Reads those bytes; nothing for an event that this version does not know.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// Something that changes what may be learned from data. The names of the kinds are stable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The study begins at this server: the first entry of its log.
    StudyCreated {
        /// Its name.
        name: StudyId,
        /// SHA-256 of its document.
        study: Digest,
        /// Rounds that it asks for.
        rounds: u32,
        /// How updates are protected, in the document's word.
        privacy: String,
        /// Its sites, and what the patients of each may spend at most; nothing where nothing is protected.
        sites: BTreeMap<SiteId, Option<AgreedBudget>>,
    },
    /// With what the server runs, when it is other than before.
    Configuration {
        /// Version of the program.
        program: String,
        /// SHA-256 of the server's certificate, DER.
        certificate: Digest,
        /// SHA-256 of the authority's certificates, DER: whose sites are let in.
        authority: Digest,
    },
    /// A site asked to be let in.
    EnrolmentRequested {
        /// The site.
        site: SiteId,
        /// SHA-256 of its request, PKCS#10 PEM.
        request: Digest,
    },
    /// A certificate was issued.
    EnrolmentApproved {
        /// The site.
        site: SiteId,
        /// SHA-256 of the certificate, DER.
        certificate: Digest,
    },
    /// A certificate is good no more.
    CertificateRevoked {
        /// Serial number of the certificate, hexadecimal.
        serial: String,
        /// Since when, by the clock of the authority.
        since: Timestamp,
    },
    /// Somebody at a site has accepted the study in writing.
    AcceptanceSigned {
        /// The site.
        site: SiteId,
        /// [`Acceptance`](crate::Acceptance), signed with the site's key.
        acceptance: Signed,
    },
    /// A site takes part in the study: it has asked for its first round.
    StudyAccepted {
        /// The site.
        site: SiteId,
        /// SHA-256 of the document that it accepted.
        study: Digest,
    },
    /// A site does not go on.
    StudyWithdrawn {
        /// The site.
        site: SiteId,
        /// The round that it did not begin; 0 before the first.
        round: u32,
        /// The attempt at it.
        attempt: u32,
        /// Stable code of the reason.
        code: String,
        /// Whether it may come back.
        may_return: bool,
    },
    /// A site that had withdrawn takes part again.
    StudyRejoined {
        /// The site.
        site: SiteId,
    },
    /// A round was opened.
    PlanOpened {
        /// The round.
        round: u32,
        /// The attempt at it.
        attempt: u32,
        /// Hash of the model that it starts from.
        model: Digest,
        /// Until when updates are awaited.
        deadline: Timestamp,
    },
    /// An update has come and is in the open round.
    UpdateReceived {
        /// The site.
        site: SiteId,
        /// The round.
        round: u32,
        /// The attempt at it.
        attempt: u32,
        /// SHA-256 of its values.
        update: Digest,
        /// The private steps that made it, as the site stated them; nothing where nothing is protected.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        privacy: Option<serde_json::Value>,
    },
    /// An update of the open round was refused.
    UpdateRefused {
        /// The site.
        site: SiteId,
        /// The round.
        round: u32,
        /// The attempt at it.
        attempt: u32,
        /// Stable code of the reason.
        code: String,
    },
    /// A site has shown a longer privacy ledger.
    Budget {
        /// The site.
        site: SiteId,
        /// Its ledger.
        ledger: LedgerLength,
    },
    /// The updates of a round were summed.
    Aggregated {
        /// The round.
        round: u32,
        /// The attempt at it.
        attempt: u32,
        /// SHA-256 of each update in the sum.
        updates: BTreeMap<SiteId, Digest>,
        /// Hash of the new model.
        model: Digest,
    },
    /// A model may be fetched by the sites from now on.
    ModelReleased {
        /// The round that it is of.
        round: u32,
        /// Its hash.
        model: Digest,
    },
    /// A round closed without a new model.
    RoundFailed {
        /// The round.
        round: u32,
        /// The attempt at it.
        attempt: u32,
        /// Stable code of the reason.
        code: String,
    },
    /// At a site: an update is sealed, and may leave from now on.
    UpdateSealed {
        /// The study.
        study: StudyId,
        /// The round.
        round: u32,
        /// The attempt at it.
        attempt: u32,
        /// SHA-256 of its values.
        update: Digest,
        /// The private steps that made it; nothing where nothing is protected.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        privacy: Option<serde_json::Value>,
    },
    /// At a site: the server's log was seen as far as this, and continued all that was seen before.
    HeadSeen {
        /// The study.
        study: StudyId,
        /// Which log: the leaf hash of its first entry.
        log: Digest,
        /// Entries.
        size: u64,
        /// Root over them.
        root: Digest,
    },
    /// At a site: something was refused, and nothing sent.
    Refused {
        /// The study.
        study: StudyId,
        /// Stable code of the reason.
        code: String,
    },
}

impl Event {
    /// Stable name of its kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::StudyCreated { .. } => "study_created",
            Self::Configuration { .. } => "configuration",
            Self::EnrolmentRequested { .. } => "enrolment_requested",
            Self::EnrolmentApproved { .. } => "enrolment_approved",
            Self::CertificateRevoked { .. } => "certificate_revoked",
            Self::AcceptanceSigned { .. } => "acceptance_signed",
            Self::StudyAccepted { .. } => "study_accepted",
            Self::StudyWithdrawn { .. } => "study_withdrawn",
            Self::StudyRejoined { .. } => "study_rejoined",
            Self::PlanOpened { .. } => "plan_opened",
            Self::UpdateReceived { .. } => "update_received",
            Self::UpdateRefused { .. } => "update_refused",
            Self::Budget { .. } => "budget",
            Self::Aggregated { .. } => "aggregated",
            Self::ModelReleased { .. } => "model_released",
            Self::RoundFailed { .. } => "round_failed",
            Self::UpdateSealed { .. } => "update_sealed",
            Self::HeadSeen { .. } => "head_seen",
            Self::Refused { .. } => "refused",
        }
    }
}

/// The most that the patients of a site may spend in a study.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgreedBudget {
    /// Epsilon over the whole study.
    pub epsilon: f64,
    /// The delta that it is stated at.
    pub delta: f64,
}

/// How long a privacy ledger is, and the hash of its newest entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerLength {
    /// Entries, of all studies.
    pub length: u64,
    /// Hash of the newest one.
    pub head: Digest,
}

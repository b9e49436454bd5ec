//! Why an agent stops.

use std::path::PathBuf;

use consilium_core::study::InvalidStudy;
use consilium_core::vector::VectorMismatch;
use consilium_core::{Digest, GroupName, SiteId, StudyId};
use consilium_ops::{ExitCode, OperatorError};
use consilium_rounds::RefusePlan;
use consilium_store::site::SiteStoreError;
use consilium_transparency::Rewritten;

use crate::peer::PeerError;
use crate::policy::Forbidden;
use crate::privacy::Refusal;
use crate::work::WorkError;

/// Why an agent stops. What it had sealed or committed before is kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The server, or the way to it.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The site's database.
    #[error(transparent)]
    Store(#[from] SiteStoreError),
    /// Training or evaluation.
    #[error(transparent)]
    Work(#[from] WorkError),
    /// The thread that trains ended without an answer.
    #[error("the training thread ended without an answer")]
    WorkPanicked,
    /// The site's policy.
    #[error(transparent)]
    Policy(#[from] Forbidden),
    /// Nobody at this site has accepted the document in writing.
    #[error("nobody at this site has accepted study {study} as it is now ({digest})")]
    NotAccepted {
        /// The study.
        study: StudyId,
        /// Digest of its document.
        digest: Digest,
    },
    /// The acceptance was taken back.
    #[error("this site has withdrawn from study {study}: {reason}")]
    Withdrawn {
        /// The study.
        study: StudyId,
        /// Why, in the words of whoever decided.
        reason: String,
    },
    /// A file of this site that is not acceptable: the policy, or the cohort.
    #[error("{0}")]
    Site(OperatorError),
    /// Privacy: an agreement, a budget, or the ledger.
    #[error(transparent)]
    Privacy(#[from] Refusal),
    /// The server's log is not what this site, or another, has seen of it.
    #[error(transparent)]
    Log(#[from] Rewritten),
    /// The plan is not what this site agreed to.
    #[error(transparent)]
    Plan(#[from] RefusePlan),
    /// The study document contradicts itself.
    #[error(transparent)]
    InvalidStudy(#[from] InvalidStudy),
    /// The study document cannot be read.
    #[error("the document of study {study} is not acceptable: {problem}")]
    UnreadableStudy {
        /// The study.
        study: StudyId,
        /// What is wrong.
        problem: String,
    },
    /// The server now shows another document under the same name.
    #[error("study {study} is now document {got}, this site accepted {accepted}")]
    StudyChanged {
        /// The study.
        study: StudyId,
        /// Digest of the document that the server shows.
        got: Digest,
        /// Digest of the document that the site accepted.
        accepted: Digest,
    },
    /// The study does not list this site.
    #[error("study {study} does not list site {site}")]
    NotAParticipant {
        /// The study.
        study: StudyId,
        /// This site.
        site: SiteId,
    },
    /// The records are not those with which this site accepted the study.
    #[error("the cohort has changed since this site accepted study {study}")]
    CohortChanged {
        /// The study.
        study: StudyId,
    },
    /// The study ended without a model.
    #[error("the study failed: {0}")]
    StudyFailed(String),
    /// A group was about to leave that must not.
    #[error("group {0} must stay at this site and was about to leave; nothing was sent")]
    MustStay(GroupName),
    /// Training gave other groups than the study says.
    #[error("training gave the wrong groups: {0}")]
    WrongGroups(String),
    /// Training gave groups of another length.
    #[error(transparent)]
    Mismatch(#[from] VectorMismatch),
    /// An update with a value that cannot be added.
    #[error("group {group} of the update: {problem}; nothing was sent")]
    BadValue {
        /// The group.
        group: GroupName,
        /// Stable code.
        code: &'static str,
        /// What is wrong with which value.
        problem: String,
    },
    /// A model with a value that is not a number.
    #[error("value {position} of group {group} is not finite")]
    NotFinite {
        /// The group.
        group: GroupName,
        /// Position in the group.
        position: usize,
    },
    /// The downloaded groups are the whole model, and not the one that was announced.
    #[error("the downloaded model has hash {got}, the server announced {announced}")]
    OtherModel {
        /// Hash of what was downloaded.
        got: Digest,
        /// Hash in the plan, or of the final model.
        announced: Digest,
    },
    /// The results cannot be written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        error: std::io::Error,
    },
}

impl AgentError {
    /// Stable code for logs and documents.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Peer(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Work(error) => error.code,
            Self::WorkPanicked => "work_panicked",
            Self::Policy(forbidden) => forbidden.code(),
            Self::NotAccepted { .. } => "study_not_accepted",
            Self::Withdrawn { .. } => "study_withdrawn",
            Self::Site(error) => &error.code,
            Self::Privacy(refusal) => refusal.code(),
            Self::Log(rewritten) => rewritten.code(),
            Self::Plan(error) => error.code(),
            Self::InvalidStudy(error) => error.code(),
            Self::UnreadableStudy { .. } => "study_unreadable",
            Self::StudyChanged { .. } => "study_changed",
            Self::NotAParticipant { .. } => "study_without_this_site",
            Self::CohortChanged { .. } => "cohort_changed",
            Self::StudyFailed(_) => "study_failed",
            Self::MustStay(_) => "group_must_stay",
            Self::WrongGroups(_) => "work_wrong_groups",
            Self::Mismatch(error) => error.code(),
            Self::BadValue { code, .. } => code,
            Self::NotFinite { .. } => "model_not_finite",
            Self::OtherModel { .. } => "model_hash_mismatch",
            Self::File { .. } => "results_not_written",
        }
    }
}

impl From<AgentError> for OperatorError {
    fn from(error: AgentError) -> Self {
        let (code, message) = (error.code().to_owned(), error.to_string());
        match error {
            AgentError::Peer(error) => error.into(),
            AgentError::Store(error) => {
                let exit = match error {
                    SiteStoreError::Missing { .. }
                    | SiteStoreError::UnknownSchema { .. }
                    | SiteStoreError::Unreadable { .. } => ExitCode::Configuration,
                    _ => ExitCode::Failed,
                };
                Self::new(exit, code, message, error.hint()).at(error.path().display())
            }
            AgentError::Policy(forbidden) => forbidden.into(),
            AgentError::NotAccepted { .. } => Self::new(
                ExitCode::Refused,
                code,
                message,
                "`consilium-site study show` says what would leave and what it costs; `consilium-site study accept` accepts it",
            ),
            AgentError::Withdrawn { .. } => Self::new(
                ExitCode::Refused,
                code,
                message,
                "nothing more is trained or sent; `consilium-site study accept` accepts the study again",
            ),
            AgentError::Site(error) => error,
            AgentError::Privacy(refusal) => refusal.into(),
            AgentError::Work(error) => Self::failed(code, message, error.hint),
            AgentError::WorkPanicked => Self::new(
                ExitCode::Internal,
                code,
                message,
                "report this with the lines above; start again: nothing sealed is lost",
            ),
            AgentError::Log(_) => Self::new(
                ExitCode::Refused,
                code,
                message,
                "nothing was trained or sent since; keep this state folder and what `consilium-site log export` \
                 writes as evidence, and ask the coordinator and the other sites what they were shown",
            ),
            AgentError::Plan(_) | AgentError::StudyChanged { .. } => Self::new(
                ExitCode::Refused,
                code,
                message,
                "ask the coordinator what has changed; a changed study needs a new name and a new agreement",
            ),
            AgentError::InvalidStudy(_)
            | AgentError::UnreadableStudy { .. }
            | AgentError::NotAParticipant { .. } => Self::new(
                ExitCode::Refused,
                code,
                message,
                "ask the coordinator for a corrected study",
            ),
            AgentError::CohortChanged { .. } => Self::configuration(
                code,
                message,
                "put the records back as they were: scaling and split of a study stay as they began; new \
                 patients join the next study",
            ),
            AgentError::StudyFailed(_) => Self::new(
                ExitCode::Missed,
                code,
                message,
                "ask the coordinator, who sees in `consilium-server round list` what happened",
            ),
            AgentError::MustStay(_) => Self::new(
                ExitCode::Refused,
                code,
                message,
                "this is a bug in the training code; report it",
            ),
            AgentError::WrongGroups(_) | AgentError::Mismatch(_) => Self::new(
                ExitCode::Internal,
                code,
                message,
                "this is a bug in the training code; report it",
            ),
            AgentError::BadValue { .. } | AgentError::NotFinite { .. } => Self::failed(
                code,
                message,
                "training diverged: ask the coordinator for a lower learning rate",
            ),
            AgentError::OtherModel { .. } => Self::failed(
                code,
                message,
                "tell the coordinator that the server's model is damaged; nothing of it was used here",
            ),
            AgentError::File { path, error } => Self::file(&path, &error),
        }
    }
}

//! What the agent needs from the aggregation server, without saying how it travels.
//!
//! [`Peer`] is implemented over mutual TLS by [`transport`](crate::transport) and in memory by tests. Every
//! call may be repeated; an implementation repeats it itself while the server is only unreachable.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use consilium_core::{Digest, GroupName, ModelVector, SiteId, StudyId};
use consilium_ops::{ExitCode, OperatorError};
use consilium_rounds::{Assignment, LedgerHead, Receipt, Sealed, Withdrawal};
use consilium_transparency::{Signed, View, Witnessed};
use dp_rs::plan::Transcript;

/// The aggregation server, as a site sees it.
pub trait Peer: Send {
    /// The study document of that name, byte for byte.
    ///
    /// # Errors
    /// [`PeerError`], also for a study that the server does not know.
    fn study(&mut self, name: &StudyId) -> impl Future<Output = Result<Vec<u8>, PeerError>> + Send;

    /// Work for this site; waits a while for something that differs from `question.known`.
    ///
    /// # Errors
    /// [`PeerError`].
    fn assignment(
        &mut self,
        question: &Question,
    ) -> impl Future<Output = Result<Assignment, PeerError>> + Send;

    /// The values of one group of a committed (or the initial) model; they have the wanted digest.
    ///
    /// # Errors
    /// [`PeerError`].
    fn group(
        &mut self,
        wanted: &Wanted,
    ) -> impl Future<Output = Result<Vec<f32>, PeerError>> + Send;

    /// Delivers a sealed update, with the private steps that made it if there were any, and shows the head of the
    /// ledger that holds them.
    ///
    /// # Errors
    /// [`PeerError`]; [`PeerError::is_too_late`] for a round that closed in the meantime.
    fn upload(
        &mut self,
        study: Digest,
        site: &SiteId,
        sealed: Sealed,
        update: Arc<ModelVector>,
        privacy: Option<Transcript>,
        ledger: Option<LedgerHead>,
    ) -> impl Future<Output = Result<Uploaded, PeerError>> + Send;

    /// Tells the server that this site does not go on; it is recorded there when this returns.
    ///
    /// # Errors
    /// [`PeerError`].
    fn withdraw(
        &mut self,
        study: Digest,
        withdrawal: &Withdrawal,
    ) -> impl Future<Output = Result<(), PeerError>> + Send;

    /// Shows the server this site's written acceptance of the study; it is in its log when this returns.
    ///
    /// # Errors
    /// [`PeerError`].
    fn accept(
        &mut self,
        study: Digest,
        acceptance: &Signed,
    ) -> impl Future<Output = Result<(), PeerError>> + Send;

    /// Tells the server that this site, which had withdrawn, takes part again.
    ///
    /// # Errors
    /// [`PeerError`].
    fn rejoin(&mut self, study: Digest) -> impl Future<Output = Result<(), PeerError>> + Send;

    /// The newest head of the server's log, for a site that has seen its first `seen` entries, with the entries
    /// of these updates, and of the round `committed` that the site goes on from. Every signature in it is of whom it should be.
    ///
    /// # Errors
    /// [`PeerError`]; [`PeerError::Forged`] for a signature that is not.
    fn read_log(
        &mut self,
        study: Digest,
        seen: u64,
        updates: &[Attempt],
        committed: u32,
    ) -> impl Future<Output = Result<View, PeerError>> + Send;

    /// Signs with this site's key that a head was seen, and tells the server. Returns the counter-signature,
    /// which is stored there.
    ///
    /// # Errors
    /// [`PeerError`].
    fn witness_log(
        &mut self,
        study: Digest,
        seen: &Witnessed,
    ) -> impl Future<Output = Result<Signed, PeerError>> + Send;
}

/// What the server says of an update that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// Whether it had the update before.
    pub already_stored: bool,
    /// The head of this site's ledger that it has stored, signed by it.
    pub ledger: Option<Receipt>,
}

/// What a site says when it asks for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Digest of the study document that the site accepted.
    pub study: Digest,
    /// The update whose fate the site does not know.
    pub sealed: Option<Attempt>,
    /// The attempt that the site has been told of.
    pub known: Option<Attempt>,
}

/// One group of a global model that a site needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Digest of the study document that the site accepted.
    pub study: Digest,
    /// Hash of the model.
    pub model: Digest,
    /// The group.
    pub group: GroupName,
    /// Its number of values.
    pub length: usize,
    /// SHA-256 of them, as the server announced it with the model's hash.
    pub digest: Digest,
}

/// One attempt at one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The round.
    pub round: u32,
    /// The attempt.
    pub attempt: u32,
}

/// Why a call did not give what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// No connection, or no answer in time, for longer than the agent is patient.
    #[error("the server at {address} was not reachable for {} s: {problem}", waited.as_secs())]
    Unreachable {
        /// Where it should be.
        address: String,
        /// How long it was tried.
        waited: Duration,
        /// What the last attempt ended with.
        problem: String,
    },
    /// One side's certificate was refused by the other. Trying again does not help.
    #[error("{problem}")]
    NotAuthenticated {
        /// Stable code.
        code: &'static str,
        /// Where the server should be.
        address: String,
        /// What was refused, and by whom.
        problem: String,
        /// What to do next.
        hint: &'static str,
    },
    /// The server understood and refused.
    #[error("the server refused: {message}")]
    Refused {
        /// The server's stable code.
        code: String,
        /// The server's words.
        message: String,
        /// What the server advises.
        hint: String,
        /// Whether it may pass.
        retryable: bool,
    },
    /// What was downloaded, twice, is not what the server had announced.
    #[error("group {group} of model {model} does not have the digest that was announced with it")]
    WrongValues {
        /// The group.
        group: GroupName,
        /// Hash of the model.
        model: Digest,
    },
    /// A message was larger than either side takes.
    #[error("a message between server and site is too large: {0}")]
    TooLarge(String),
    /// A head of the server's log, or a counter-signature of it, is not signed by whom it should be.
    #[error("the server's log is not signed as it must be: {0}")]
    Forged(String),
    /// The server answered something that the protocol does not allow.
    #[error("the server's answer breaks the protocol: {0}")]
    Nonsense(String),
}

impl PeerError {
    /// Stable code for logs and documents; a refusal's is the server's.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Unreachable { .. } => "server_unreachable",
            Self::NotAuthenticated { code, .. } => code,
            Self::Refused { code, .. } => code,
            Self::WrongValues { .. } => "group_digest_mismatch",
            Self::TooLarge(_) => "message_too_large",
            Self::Forged(_) => "log_head_forged",
            Self::Nonsense(_) => "server_protocol",
        }
    }

    /// Whether the server refused for now only: its disk is full, say, or it has moved on to another model.
    /// Asking for work again after a while may help.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                retryable: true,
                ..
            }
        )
    }

    /// Whether the update came after its round was closed: bad luck, not a mistake.
    #[must_use]
    pub fn is_too_late(&self) -> bool {
        matches!(self.code(), "update_late" | "update_round_not_open")
    }
}

impl From<PeerError> for OperatorError {
    fn from(error: PeerError) -> Self {
        let (code, message) = (error.code().to_owned(), error.to_string());
        match error {
            PeerError::Unreachable { address, .. } => Self::new(
                ExitCode::Peer,
                code,
                message,
                "check server.address and the firewall, then start again; nothing is lost",
            )
            .at(address),
            PeerError::NotAuthenticated { address, hint, .. } => {
                Self::new(ExitCode::Peer, code, message, hint).at(address)
            }
            // Understood, and not served: the certificate is not good (any more).
            PeerError::Refused { hint, .. } if code.starts_with("certificate_") => {
                Self::new(ExitCode::Peer, code, message, hint)
            }
            PeerError::Refused { hint, .. } => Self::failed(code, message, hint),
            PeerError::WrongValues { .. } => Self::failed(
                code,
                message,
                "tell the coordinator that the server's model is damaged; nothing of it was used here",
            ),
            PeerError::TooLarge(_) => Self::failed(
                code,
                message,
                "ask the coordinator for a smaller study document, and compare the versions of the programs",
            ),
            PeerError::Forged(_) => Self::new(
                ExitCode::Refused,
                code,
                message,
                "nothing was trained or sent; keep the agent's log as evidence and ask the coordinator whose \
                 certificates the server uses",
            ),
            PeerError::Nonsense(_) => Self::failed(
                code,
                message,
                "compare the versions of consilium-server and consilium-site",
            ),
        }
    }
}

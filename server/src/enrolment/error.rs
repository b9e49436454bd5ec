//! Why a request is not taken, or not found.

use std::io;
use std::path::PathBuf;

use consilium_certs::CertificateError;
use consilium_ops::OperatorError;

use super::REQUESTS_WAITING;

/// Why a request is not taken, or not found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeskError {
    /// More requests than anybody decides.
    #[error("{REQUESTS_WAITING} requests are waiting already")]
    Full,
    /// More requests than honest sites make.
    #[error("requests come too fast")]
    TooFast,
    /// None of that name.
    #[error("no request {0:?} is here")]
    Unknown(String),
    /// Several of that name.
    #[error("{name:?} may be {first} or {second}")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// One of them.
        first: String,
        /// Another.
        second: String,
    },
    /// It was decided before.
    #[error("the request was {0} before")]
    Decided(&'static str),
    /// The folder.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// A certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl DeskError {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Full => "enrolment_full",
            Self::TooFast => "enrolment_busy",
            Self::Unknown(_) => "request_unknown",
            Self::Ambiguous { .. } => "request_ambiguous",
            Self::Decided(_) => "request_decided",
            Self::File { .. } => "request_file",
            Self::Certificate(error) => error.code(),
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Full => {
                "tell the operator of the server, or enrol by files: `consilium-site enroll --request-out`"
            }
            Self::TooFast => "try again in a minute",
            Self::Unknown(_) => "see `consilium-server certs requests`",
            Self::Ambiguous { .. } => "write more digits of its fingerprint",
            Self::Decided(_) => "a site enrols again with a new key, in another folder",
            Self::File { .. } => "check the server's state folder",
            Self::Certificate(error) => error.hint(),
        }
    }

    /// Whether the same request may be taken later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Full | Self::TooFast | Self::File { .. })
    }
}

impl From<DeskError> for OperatorError {
    fn from(error: DeskError) -> Self {
        Self::failed(error.code(), error.to_string(), error.hint())
    }
}

//! A refusal with code, text and hint, inside a gRPC status.

use prost::Message as _;
use tonic::{Code, Status};

use crate::generated::Refusal;

/// Why a call was refused, in words that the peer's operator can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Stable code.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do next.
    pub hint: String,
    /// Whether it may pass: the site waits, asks for its work again and goes on with that.
    pub retryable: bool,
}

impl Refused {
    /// A refusal that stands: the same call will be refused again.
    pub fn new(
        code: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            hint: hint.into(),
            retryable: false,
        }
    }

    /// A refusal that may pass.
    pub fn for_now(
        code: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            retryable: true,
            ..Self::new(code, message, hint)
        }
    }

    /// The status that carries it.
    #[must_use]
    pub fn into_status(self) -> Status {
        let text = format!("{}: {}", self.code, self.message);
        let code = if self.retryable {
            Code::Unavailable
        } else {
            Code::FailedPrecondition
        };
        let details = Refusal {
            code: self.code,
            message: self.message,
            hint: self.hint,
            retryable: self.retryable,
        };
        Status::with_details(code, text, details.encode_to_vec().into())
    }

    /// The refusal in a status, if it carries one.
    #[must_use]
    pub fn from_status(status: &Status) -> Option<Self> {
        if status.details().is_empty() {
            return None;
        }
        let refusal = Refusal::decode(status.details()).ok()?;
        (!refusal.code.is_empty()).then_some(Self {
            code: refusal.code,
            message: refusal.message,
            hint: refusal.hint,
            retryable: refusal.retryable,
        })
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_the_status() {
        let refused = Refused::new("site_mismatch", "not you", "use your own certificate");
        let status = refused.clone().into_status();
        assert_eq!(Refused::from_status(&status), Some(refused));
        assert!(status.message().starts_with("site_mismatch: "));
        let passing = Refused::for_now("store_disk_full", "no room", "wait");
        let status = passing.clone().into_status();
        assert_eq!(Refused::from_status(&status), Some(passing));
        assert_eq!(Refused::from_status(&Status::unavailable("later")), None);
    }
}

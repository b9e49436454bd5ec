//! One request for a certificate, and what became of it.

use consilium_certs::{Fingerprint, SigningRequest};
use consilium_core::clock::Timestamp;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Kind {
    /// A first certificate. Nothing vouches for who asks: somebody compares the key's fingerprint.
    Enrolment,
    /// The next certificate. The present one vouches for who asks.
    Renewal {
        /// Serial number of the present one.
        of: String,
    },
}

/// A request as it is stored.
#[derive(Clone, Debug)]
pub struct Record {
    /// By which it is called: its key's fingerprint for a first certificate, and for a renewal a digest of key and present
    /// certificate.
    pub id: String,
    /// What is asked for.
    pub kind: Kind,
    /// When it came.
    pub received: Timestamp,
    /// From which address.
    pub from: String,
    /// Who asks, for which role and with which key.
    pub request: SigningRequest,
    /// What became of it.
    pub state: State,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody has decided.
    Waiting,
    /// The certificate, DER.
    Approved(Vec<u8>),
    /// Why there will be none.
    Rejected(String),
}

/// What of a [`Record`] stands in its file; name, role and key are read from the request itself.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct Stored {
    #[serde(flatten)]
    pub kind: Kind,
    pub received: Timestamp,
    pub from: String,
    pub request: String,
}

impl Kind {
    /// The name of a request of this kind for this key; repeating the request gives the same one.
    pub(super) fn id(&self, request: &SigningRequest) -> String {
        match self {
            Self::Enrolment => request.fingerprint().to_string(),
            Self::Renewal { of } => {
                let renewed = [b"renewal of ", of.as_bytes(), b"\0", request.key()].concat();
                Fingerprint::of(&renewed).to_string()
            }
        }
    }
}

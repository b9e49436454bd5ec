//! The newest entry of a site's privacy ledger, as the server has seen it and signed that it has.
//!
//! A ledger that was restored from a backup, or begun anew, is one like any other; only somebody elsewhere can
//! tell that entries are missing. The site shows the [`LedgerHead`] with each update, the server keeps the
//! highest, and every answer of it carries a [`Receipt`] of that one.

use consilium_core::clock::Timestamp;
use consilium_core::{Digest, SiteId};
use serde::{Deserialize, Serialize};

/// How long a ledger is, and the hash of its newest entry. It says nothing about patients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerHead {
    /// Entries, of all studies; at least one.
    pub length: u64,
    /// Hash of the newest one.
    pub head: Digest,
}

impl LedgerHead {
    /// Whether a ledger with this head may follow one with the head `known`: it is longer, or the same.
    #[must_use]
    pub fn follows(&self, known: &Self) -> bool {
        self.length > known.length || self == known
    }
}

/// What the server says of a site's ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Countersigned {
    /// Digest of the study document of that server.
    pub study: Digest,
    /// The site.
    pub site: SiteId,
    /// The highest head that the site has shown.
    pub ledger: LedgerHead,
    /// When this was signed.
    pub at: Timestamp,
}

/// A statement of the server with its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// [`Countersigned`] as JSON, byte for byte as it was signed after [`Receipt::PREFIX`].
    pub statement: Vec<u8>,
    /// TLS signature scheme.
    pub scheme: u16,
    /// The signature, with the key of the server's certificate.
    pub signature: Vec<u8>,
    /// That certificate, DER; empty where the connection shows it.
    pub certificate: Vec<u8>,
}

impl Receipt {
    /// Stands before the statement in what is signed, so that the signature is good for nothing else.
    pub const PREFIX: &'static [u8] = b"consilium ledger receipt 1\0";

    /// The bytes that are signed.
    #[must_use]
    pub fn signed_bytes(statement: &[u8]) -> Vec<u8> {
        [Self::PREFIX, statement].concat()
    }

    /// What it says; nothing for bytes that are no statement.
    #[must_use]
    pub fn says(&self) -> Option<Countersigned> {
        serde_json::from_slice(&self.statement).ok()
    }
}

//! What is signed about a log: its head by who keeps it, and by who has seen it.

use consilium_core::clock::Timestamp;
use consilium_core::{Digest, SiteId, StudyId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How long a log is, and the root of its tree: it stands for every entry and their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Which log: the leaf hash of its first entry.
    pub log: Digest,
    /// Entries.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Digest,
    /// When this was signed, by the clock of who keeps the log.
    pub at: Timestamp,
}

impl Head {
    /// Size and root, as proofs take them.
    #[must_use]
    pub fn place(&self) -> (u64, Digest) {
        (self.size, self.root)
    }
}

/// A site has seen a head, and checked that it continues every head that it had seen before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witnessed {
    /// The site.
    pub site: SiteId,
    /// What it saw, as it was signed.
    pub head: Head,
    /// Entries of the log that the site keeps itself, and the root over them: what it says of itself cannot be
    /// changed afterwards either.
    pub own: (u64, Digest),
    /// When, by the clock of the site.
    pub at: Timestamp,
}

/// Somebody at a site has read what a study would send and spend, and accepts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acceptance {
    /// The site.
    pub site: SiteId,
    /// The study's name.
    pub name: StudyId,
    /// SHA-256 of its document.
    pub study: Digest,
    /// SHA-256 of the site's policy file, which permitted it.
    pub policy: Digest,
    /// When, by the clock of the site.
    pub at: Timestamp,
}

/// Something that is signed as JSON behind a prefix of its own, so that the signature is good for nothing else.
pub trait Statement: Serialize + DeserializeOwned {
    /// Stands before the JSON in what is signed.
    const PREFIX: &'static [u8];
    /// Who may sign it.
    const ROLE: Role;

    /// When it says that it was signed.
    fn at(&self) -> Timestamp;

    /// The JSON.
    #[must_use]
    fn bytes(&self) -> Vec<u8> {
        // Cannot fail: plain numbers and text.
        serde_json::to_vec(self).expect("a statement serialises")
    }

    /// What is signed.
    #[must_use]
    fn signed_bytes(statement: &[u8]) -> Vec<u8> {
        [Self::PREFIX, statement].concat()
    }
}

impl Statement for Head {
    const PREFIX: &'static [u8] = b"consilium log head 1\0";
    const ROLE: Role = Role::Server;

    fn at(&self) -> Timestamp {
        self.at
    }
}

impl Statement for Witnessed {
    const PREFIX: &'static [u8] = b"consilium log witness 1\0";
    const ROLE: Role = Role::Site;

    fn at(&self) -> Timestamp {
        self.at
    }
}

impl Statement for Acceptance {
    const PREFIX: &'static [u8] = b"consilium study acceptance 1\0";
    const ROLE: Role = Role::Site;

    fn at(&self) -> Timestamp {
        self.at
    }
}

/// Who a signature must be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The aggregation server.
    Server,
    /// A site.
    Site,
}

/// A statement with its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The JSON, byte for byte as it was signed after its prefix.
    #[serde(with = "text")]
    pub statement: Vec<u8>,
    /// TLS signature scheme (RFC 8446, section 4.2.3).
    pub scheme: u16,
    /// The signature.
    #[serde(with = "hexadecimal")]
    pub signature: Vec<u8>,
    /// Certificate of the key, DER.
    #[serde(with = "hexadecimal")]
    pub certificate: Vec<u8>,
}

impl Signed {
    /// What it says; nothing for bytes that are no such statement.
    #[must_use]
    pub fn says<T: Statement>(&self) -> Option<T> {
        serde_json::from_slice(&self.statement).ok()
    }

    /// What it says, once the notary has found the signature good.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verified<T: Statement>(&self, notary: &dyn Notary) -> Result<(T, String), String> {
        let said: T = self.says().ok_or("its statement cannot be read")?;
        let message = T::signed_bytes(&self.statement);
        let holder = notary.holder(self, &message, T::ROLE, said.at())?;
        Ok((said, holder))
    }
}

/// Judges signatures and certificates.
pub trait Notary {
    /// The name in the certificate, if the signature of `message` was made with its key, the consortium's
    /// authority has issued it for `role`, and it was valid at `at`.
    ///
    /// # Errors
    /// What is wrong.
    fn holder(
        &self,
        signed: &Signed,
        message: &[u8],
        role: Role,
        at: Timestamp,
    ) -> Result<String, String>;
}

/// JSON as text in JSON.
mod text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let text = std::str::from_utf8(bytes).map_err(serde::ser::Error::custom)?;
        text.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        String::deserialize(deserializer).map(String::into_bytes)
    }
}

/// Bytes as hexadecimal digits.
pub(crate) mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        hex::encode(bytes).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode(text).map_err(serde::de::Error::custom)
    }
}

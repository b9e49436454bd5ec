//! A certificate chain with its private key.

use std::path::Path;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::files::{read_certificates, read_key};
use crate::{CertificateError, Peer, Role};

/// Who a program is towards its peers. Not printable: it holds a private key.
pub struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    peer: Peer,
}

impl Identity {
    /// Loads certificate and key, for a program that acts as `role`.
    ///
    /// # Errors
    /// [`CertificateError`]: missing or unreadable files, a key that others can read, another role, a
    /// certificate that is not valid now.
    pub fn load(certificate: &Path, key: &Path, role: Role) -> Result<Self, CertificateError> {
        let chain = read_certificates(certificate)?;
        let key = read_key(key)?;
        // `read_certificates` returns at least one.
        let peer = Peer::of(&chain[0])?;
        peer.expect(role)?;
        peer.expect_valid_now()?;
        Ok(Self { chain, key, peer })
    }

    /// What the certificate says.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            peer: self.peer.clone(),
        }
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({:?}, key hidden)", self.peer.name)
    }
}

//! This site's key and whom it trusts, for statements about the log.

use std::path::Path;

use consilium_certs::{CertificateError, Identity, Signer, TrustAnchor};
use consilium_transparency::{Signed, Witnessed};

/// Signs with the key of this site's certificate, and judges the signatures of others.
#[derive(Clone, Debug)]
pub struct Witness {
    signer: Signer,
    anchor: TrustAnchor,
}

impl Witness {
    /// Signs as `identity`, trusts the certificates of `authority` (PEM).
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn new(identity: &Identity, authority: &Path) -> Result<Self, CertificateError> {
        Ok(Self {
            signer: Signer::of(identity)?,
            anchor: TrustAnchor::read(authority)?,
        })
    }

    /// Shows a renewed certificate of the same key from now on, in every clone.
    pub(super) fn renew(&self, identity: &Identity) -> Result<(), CertificateError> {
        self.signer.renew(identity)
    }

    /// Judges the signatures of others.
    pub(super) fn notary(&self) -> &TrustAnchor {
        &self.anchor
    }

    pub(super) fn sign(&self, seen: &Witnessed) -> Result<Signed, CertificateError> {
        self.signer.state(seen)
    }
}

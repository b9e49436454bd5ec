//! This site's key and whom it trusts, for statements about the log.

use std::path::Path;

use consilium_certs::{CertificateError, Identity, Signature, Signer, TrustAnchor};
use consilium_core::clock::Timestamp;
use consilium_transparency::{Notary, Role, Signed, Statement, Witnessed};

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

    pub(super) fn sign(&self, seen: &Witnessed) -> Result<Signed, CertificateError> {
        let statement = seen.bytes();
        let signature = self.signer.sign(&Witnessed::signed_bytes(&statement))?;
        Ok(Signed {
            statement,
            scheme: signature.scheme,
            signature: signature.bytes,
            certificate: self.signer.certificate().to_vec(),
        })
    }
}

impl Notary for Witness {
    fn holder(
        &self,
        signed: &Signed,
        message: &[u8],
        role: Role,
        at: Timestamp,
    ) -> Result<String, String> {
        let signature = Signature {
            scheme: signed.scheme,
            bytes: signed.signature.clone(),
        };
        let role = match role {
            Role::Server => consilium_certs::Role::Server,
            Role::Site => consilium_certs::Role::Site,
        };
        self.anchor
            .signatory(&signed.certificate, message, &signature, (role, at))
            .map(|peer| peer.name)
            .map_err(|error| error.to_string())
    }
}

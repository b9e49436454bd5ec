//! Statements of the log, signed and judged with the consortium's certificates.

use consilium_core::clock::Timestamp;
use consilium_transparency::{self as transparency, Notary, Signed, Statement};

use crate::{CertificateError, Role, Signature, Signer, TrustAnchor};

impl Signer {
    /// A statement with its signature and certificate.
    ///
    /// # Errors
    /// [`CertificateError::Library`] for a key that cannot sign.
    pub fn state<T: Statement>(&self, said: &T) -> Result<Signed, CertificateError> {
        let statement = said.bytes();
        let signature = self.sign(&T::signed_bytes(&statement))?;
        Ok(Signed {
            statement,
            scheme: signature.scheme,
            signature: signature.bytes,
            certificate: self.certificate().to_vec(),
        })
    }
}

/// Judges signatures by the certificates that the authority has issued.
impl Notary for TrustAnchor {
    fn holder(
        &self,
        signed: &Signed,
        message: &[u8],
        role: transparency::Role,
        at: Timestamp,
    ) -> Result<String, String> {
        let signature = Signature {
            scheme: signed.scheme,
            bytes: signed.signature.clone(),
        };
        let role = match role {
            transparency::Role::Server => Role::Server,
            transparency::Role::Site => Role::Site,
        };
        self.signatory(&signed.certificate, message, &signature, (role, at))
            .map(|peer| peer.name)
            .map_err(|error| error.to_string())
    }
}

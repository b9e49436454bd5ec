//! Signatures with the key of a certificate, for statements that outlive the connection.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::tls::provider;
use crate::{CertificateError, Identity, Peer};

/// Signs with the key of an identity. What is signed must begin with words that say what it is: the same key
/// proves to TLS who the program is.
#[derive(Clone)]
pub struct Signer {
    key: Arc<dyn SigningKey>,
    /// Shared by all clones: a certificate is renewed for every one of them.
    certificate: Arc<RwLock<Arc<[u8]>>>,
}

/// A signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// TLS signature scheme (RFC 8446, section 4.2.3).
    pub scheme: u16,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// In order of preference; the certificates of the authority have keys for the first.
const SCHEMES: &[SignatureScheme] = &[
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
];

impl Signer {
    /// A signer with the key of `identity`.
    ///
    /// # Errors
    /// [`CertificateError::Library`] for a kind of key that cannot sign.
    pub fn of(identity: &Identity) -> Result<Self, CertificateError> {
        let key = provider()
            .key_provider
            .load_private_key(identity.key.clone_key())
            .map_err(CertificateError::library)?;
        Ok(Self {
            key,
            // `Identity::load` has found at least one.
            certificate: Arc::new(RwLock::new(identity.chain[0].as_ref().into())),
        })
    }

    /// The certificate of the key, DER.
    #[must_use]
    pub fn certificate(&self) -> Arc<[u8]> {
        // The lock is held for an assignment only: a poisoned one holds a whole value.
        Arc::clone(
            &self
                .certificate
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Shows the certificate of `identity` from now on, in this signer and all its clones.
    ///
    /// # Errors
    /// [`CertificateError::NotRequested`] for a certificate of another key.
    pub fn renew(&self, identity: &Identity) -> Result<(), CertificateError> {
        if Peer::of(&self.certificate())?.key != identity.peer().key {
            return Err(CertificateError::NotRequested(
                "it is for another key; start the program again to use that".into(),
            ));
        }
        *self
            .certificate
            .write()
            .unwrap_or_else(PoisonError::into_inner) = identity.chain[0].as_ref().into();
        Ok(())
    }

    /// Signs `message`.
    ///
    /// # Errors
    /// [`CertificateError::Library`].
    pub fn sign(&self, message: &[u8]) -> Result<Signature, CertificateError> {
        let signer = self
            .key
            .choose_scheme(SCHEMES)
            .ok_or_else(|| CertificateError::Library("the key cannot sign statements".into()))?;
        Ok(Signature {
            scheme: signer.scheme().into(),
            bytes: signer.sign(message).map_err(CertificateError::library)?,
        })
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(key hidden)")
    }
}

/// Whether `signature` of `message` was made with the key of `certificate` (DER). Whose certificate that is, and
/// who vouches for it, is another question.
///
/// # Errors
/// [`CertificateError::Library`] for bytes that are no certificate, a scheme that is not used here, and a
/// signature that does not fit.
pub fn verify(
    certificate: &[u8],
    message: &[u8],
    signature: &Signature,
) -> Result<(), CertificateError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(CertificateError::library)?;
    let key = &parsed.public_key().subject_public_key.data;
    let scheme = SignatureScheme::from(signature.scheme);
    let known = provider().signature_verification_algorithms.mapping;
    let fits = SCHEMES.contains(&scheme)
        && (known.iter().filter(|(known, _)| *known == scheme))
            .flat_map(|(_, algorithms)| algorithms.iter())
            .any(|algorithm| {
                algorithm
                    .verify_signature(key, message, &signature.bytes)
                    .is_ok()
            });
    if fits {
        Ok(())
    } else {
        Err(CertificateError::Library(
            "the signature was not made with the key of the certificate".into(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Role};

    #[test]
    fn a_signature_fits_its_message_and_certificate_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create_with_unencrypted_key(folder.path(), "test").unwrap();
        let signer = |name: &str| {
            let folder = folder.path().join(name);
            authority.issue_server(&[name.into()], &folder).unwrap();
            let (pem, key) = (folder.join("server.pem"), folder.join("server.key"));
            Signer::of(&Identity::load(&pem, &key, Role::Server).unwrap()).unwrap()
        };
        let (one, other) = (signer("one"), signer("other"));
        let signature = one.sign(b"statement").unwrap();
        verify(&one.certificate(), b"statement", &signature).unwrap();
        verify(&one.certificate(), b"statemenT", &signature).unwrap_err();
        verify(&other.certificate(), b"statement", &signature).unwrap_err();
        verify(b"no certificate", b"statement", &signature).unwrap_err();
        let mut damaged = signature.clone();
        damaged.bytes[9] ^= 1;
        verify(&one.certificate(), b"statement", &damaged).unwrap_err();
        // RSA PKCS#1, which is not used here.
        let scheme = 0x0401;
        let other_scheme = Signature {
            scheme,
            ..signature
        };
        verify(&one.certificate(), b"statement", &other_scheme).unwrap_err();
        assert!(!format!("{one:?}").contains("PRIVATE"));
        // A renewed certificate of the key, and none of another, is shown by every clone.
        let pem = folder.path().join("one/server.pem");
        let load = |name: &str| {
            let folder = folder.path().join(name);
            let (pem, key) = (folder.join("server.pem"), folder.join("server.key"));
            Identity::load(&pem, &key, Role::Server).unwrap()
        };
        one.renew(&load("other")).unwrap_err();
        let (before, clone) = (one.certificate(), one.clone());
        let next = authority.renew_server(&pem).unwrap().certificate;
        one.renew(&load("one")).unwrap();
        assert_eq!(clone.certificate().as_ref(), next.as_ref());
        assert_ne!(clone.certificate(), before);
        let signature = clone.sign(b"statement").unwrap();
        verify(&before, b"statement", &signature).unwrap();
    }
}

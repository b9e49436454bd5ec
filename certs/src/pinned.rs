//! A first meeting: the server is known by its authority's fingerprint alone.

use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::tls::{nameless_config, provider};
use crate::{CertificateError, Fingerprint};

/// The authority's certificate, found by its fingerprint in what a server has shown.
#[derive(Debug)]
pub struct PinnedRoot {
    fingerprint: Fingerprint,
    found: OnceLock<CertificateDer<'static>>,
}

/// What the server has shown does not lead to the authority of the fingerprint.
#[derive(Debug, thiserror::Error)]
#[error("none of the certificates that the server shows has the fingerprint {0}")]
pub struct OtherFingerprint(pub Fingerprint);

/// TLS settings of a site that has no certificate yet: TLS 1.3, and only a server whose certificate is signed by the
/// authority with this fingerprint. After the handshake [`PinnedRoot::certificate`] holds the authority's.
///
/// # Errors
/// [`CertificateError`].
pub fn enrolment_config(
    fingerprint: Fingerprint,
) -> Result<(ClientConfig, Arc<PinnedRoot>), CertificateError> {
    let pinned = Arc::new(PinnedRoot {
        fingerprint,
        found: OnceLock::new(),
    });
    let mut config = nameless_config(Arc::clone(&pinned) as _)?;
    // A resumed session would not show the chain again.
    config.resumption = rustls::client::Resumption::disabled();
    Ok((config, pinned))
}

impl PinnedRoot {
    /// The authority's certificate, once a server has shown it.
    #[must_use]
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.found.get()
    }
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let root = intermediates
            .iter()
            .find(|shown| Fingerprint::of(shown) == self.fingerprint)
            .ok_or_else(|| {
                let other = OtherError(Arc::new(OtherFingerprint(self.fingerprint)));
                rustls::Error::from(rustls::CertificateError::Other(other))
            })?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let verified = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(certificate, intermediates, name, ocsp, now)?;
        self.found.get_or_init(|| root.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not used".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

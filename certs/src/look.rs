//! Whose certificate arrives, without trusting it.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::CertificateError;
use crate::tls::{nameless_config, provider};

/// Who issued the certificate that was shown in a handshake. The handshake itself always fails: nothing is sent to
/// whom was only looked at.
#[derive(Debug, Default)]
pub struct Looked(OnceLock<String>);

impl Looked {
    /// The issuer's name, once a certificate has arrived.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

/// The subject of a certificate (DER), as [`Looked::issuer`] writes the issuer of what it issued.
///
/// # Errors
/// [`CertificateError::Library`] for bytes that are no certificate.
pub fn subject_name(certificate: &[u8]) -> Result<String, CertificateError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(CertificateError::library)?;
    Ok(parsed.subject().to_string())
}

/// TLS settings that only look.
///
/// # Errors
/// [`CertificateError`].
pub fn looking_config() -> Result<(ClientConfig, Arc<Looked>), CertificateError> {
    let looked = Arc::new(Looked::default());
    let config = nameless_config(Arc::clone(&looked) as _)?;
    Ok((config, looked))
}

impl ServerCertVerifier for Looked {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Ok((_, parsed)) = X509Certificate::from_der(certificate) {
            self.0.get_or_init(|| parsed.issuer().to_string());
        }
        Err(rustls::CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::CertificateError::ApplicationVerificationFailure.into())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

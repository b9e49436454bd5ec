//! TLS 1.3 with client certificates, the same on both sides.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::files::read_certificates;
use crate::{CertificateError, Identity};

/// The one place that chooses the cryptographic provider.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// gRPC runs on HTTP/2.
const PROTOCOL: &[u8] = b"h2";

fn roots(authority: &Path) -> Result<Arc<RootCertStore>, CertificateError> {
    let mut store = RootCertStore::empty();
    for certificate in read_certificates(authority)? {
        store.add(certificate).map_err(CertificateError::library)?;
    }
    Ok(Arc::new(store))
}

/// What the server accepts: TLS 1.3, and only peers whose certificate the authority signed.
///
/// # Errors
/// [`CertificateError`].
pub fn server_config(
    identity: Identity,
    authority: &Path,
) -> Result<ServerConfig, CertificateError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(authority)?, provider())
        .build()
        .map_err(CertificateError::library)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(CertificateError::library)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain, identity.key)
        .map_err(CertificateError::library)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(config)
}

/// What a site does: TLS 1.3, and only a server whose certificate the authority signed.
///
/// # Errors
/// [`CertificateError`].
pub fn client_config(
    identity: Identity,
    authority: &Path,
) -> Result<ClientConfig, CertificateError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(CertificateError::library)?
        .with_root_certificates(roots(authority)?)
        .with_client_auth_cert(identity.chain, identity.key)
        .map_err(CertificateError::library)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(config)
}

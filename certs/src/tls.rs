//! TLS 1.3 with client certificates, the same on both sides.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::files::read_certificates;
use crate::{CertificateError, Identity, Peer, Revocations};

/// The one place that chooses the cryptographic provider.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Which implementation of TLS this program was built with, for its `--version`.
#[must_use]
pub fn provider_name() -> &'static str {
    if provider().fips() {
        "rustls with aws-lc-rs, FIPS module"
    } else {
        "rustls with aws-lc-rs"
    }
}

/// Fills `bytes` from the provider's generator.
pub(crate) fn random(bytes: &mut [u8]) -> Result<(), CertificateError> {
    provider()
        .secure_random
        .fill(bytes)
        .map_err(|_| CertificateError::Library("no random numbers are to be had".into()))
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

/// What somebody does who shows no certificate, and judges the server's in another way than by the authority's file.
pub(crate) fn nameless_config(
    judge: Arc<dyn ServerCertVerifier>,
) -> Result<ClientConfig, CertificateError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(CertificateError::library)?
        .dangerous()
        .with_custom_certificate_verifier(judge)
        .with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(config)
}

/// What the server does: TLS 1.3, its certificate with the authority's behind it, and no peer whose certificate the
/// authority did not sign.
///
/// It lets in who shows no certificate, or one whose life is over: such a peer is to be told in words why it is not
/// served, which TLS cannot do, and a certificate can be requested only without one. [`Peer::of`] the certificate,
/// [`Peer::expect_valid_now`] and [`Revocations::check`](crate::Revocations::check) have to be asked at every call.
///
/// # Errors
/// [`CertificateError`].
pub fn server_config(
    identity: Identity,
    authority: &Path,
) -> Result<ServerConfig, CertificateError> {
    let strict = WebPkiClientVerifier::builder_with_provider(roots(authority)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(CertificateError::library)?;
    let mut chain = identity.chain;
    for root in read_certificates(authority)? {
        if !chain.contains(&root) {
            chain.push(root);
        }
    }
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(CertificateError::library)?
        .with_client_cert_verifier(Arc::new(AtAnyAge(strict)))
        .with_single_cert(chain, identity.key)
        .map_err(CertificateError::library)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(config)
}

/// What a site does: TLS 1.3, and only a server whose certificate the authority signed and, where its list of revoked
/// certificates lies beside `authority`, has not taken back.
///
/// # Errors
/// [`CertificateError`].
pub fn client_config(
    identity: Identity,
    authority: &Path,
) -> Result<ClientConfig, CertificateError> {
    let list = Revocations::beside(authority);
    let mut servers = WebPkiServerVerifier::builder_with_provider(roots(authority)?, provider());
    if list.exists() {
        servers = servers
            .with_crls([Revocations::signed(&list, authority)?])
            .only_check_end_entity_revocation();
    }
    let servers = servers.build().map_err(CertificateError::library)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(CertificateError::library)?
        .with_webpki_verifier(servers)
        .with_client_auth_cert(identity.chain, identity.key)
        .map_err(CertificateError::library)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(config)
}

/// Checks that `root` signed a client's certificate which is valid now.
pub(crate) fn verify_client(
    certificate: &CertificateDer<'_>,
    root: &CertificateDer<'_>,
) -> Result<(), CertificateError> {
    let mut store = RootCertStore::empty();
    store
        .add(root.clone().into_owned())
        .map_err(CertificateError::library)?;
    WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider())
        .build()
        .map_err(CertificateError::library)?
        .verify_client_cert(certificate, &[], UnixTime::now())
        .map_err(|error| match error {
            rustls::Error::InvalidCertificate(
                rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature,
            ) => CertificateError::OtherAuthority,
            other => CertificateError::library(other),
        })?;
    Ok(())
}

/// Judges a certificate as of a moment within its life: who signed it, and for what, but not whether it is too old.
#[derive(Debug)]
struct AtAnyAge(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AtAnyAge {
    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let peer = Peer::of(certificate)
            .map_err(|_| rustls::Error::from(rustls::CertificateError::BadEncoding))?;
        let seconds = |at: i64| u64::try_from(at).unwrap_or_default();
        let within = now
            .as_secs()
            .clamp(seconds(peer.from), seconds(peer.to.max(peer.from)));
        let then = UnixTime::since_unix_epoch(std::time::Duration::from_secs(within));
        self.0.verify_client_cert(certificate, intermediates, then)
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

//! Certificates outside of a connection: who holds one, if the authority vouched for it at some time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use consilium_core::Digest;
use consilium_core::clock::Timestamp;
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::tls::provider;
use crate::{CertificateError, Peer, Role, Signature, read_certificates, verify};

/// SHA-256 of a certificate's DER: what is compared over the telephone.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> Digest {
    Digest::of(certificate)
}

/// The authority's certificates, as somebody trusts them.
#[derive(Clone, Debug)]
pub struct TrustAnchor {
    certificates: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
}

impl TrustAnchor {
    /// The certificates in a PEM file.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn read(authority: &Path) -> Result<Self, CertificateError> {
        Self::of(read_certificates(authority)?)
    }

    /// One certificate, DER.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn of_der(certificate: &[u8]) -> Result<Self, CertificateError> {
        Self::of(vec![CertificateDer::from(certificate.to_vec())])
    }

    fn of(certificates: Vec<CertificateDer<'static>>) -> Result<Self, CertificateError> {
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            let added = roots.add(certificate.clone());
            added.map_err(CertificateError::library)?;
        }
        Ok(Self {
            certificates,
            roots: Arc::new(roots),
        })
    }

    /// The certificates, DER.
    pub fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.certificates.iter().map(AsRef::as_ref)
    }

    /// Who holds `certificate` (DER), if the authority has issued it for `role` and it was valid at `at`
    /// (RFC 5280, section 6).
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn holder(
        &self,
        certificate: &[u8],
        role: Role,
        at: Timestamp,
    ) -> Result<Peer, CertificateError> {
        let peer = Peer::of(certificate)?;
        peer.expect(role)?;
        let certificate = CertificateDer::from(certificate);
        let at = UnixTime::since_unix_epoch(Duration::from_millis(at.0));
        let vouched = match role {
            Role::Site | Role::Coordinator | Role::Auditor => {
                let roots = Arc::clone(&self.roots);
                WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .build()
                    .map_err(CertificateError::library)?
                    .verify_client_cert(&certificate, &[], at)
                    .map(|_| ())
            }
            Role::Server => ParsedCertificate::try_from(&certificate).and_then(|parsed| {
                let algorithms = provider().signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, &[], at, algorithms)
            }),
        };
        vouched.map_err(CertificateError::library)?;
        Ok(peer)
    }

    /// As [`holder`](Self::holder), for a certificate whose key has signed `message`.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn signatory(
        &self,
        certificate: &[u8],
        message: &[u8],
        signature: &Signature,
        (role, at): (Role, Timestamp),
    ) -> Result<Peer, CertificateError> {
        verify(certificate, message, signature)?;
        self.holder(certificate, role, at)
    }
}

#[cfg(test)]
mod tests {
    use consilium_core::clock::{Clock as _, SystemClock};

    use super::*;
    use crate::{Authority, Validity};

    fn der(path: &Path) -> Vec<u8> {
        read_certificates(path).unwrap()[0].to_vec()
    }

    #[test]
    fn a_certificate_is_vouched_for_by_its_own_authority_in_its_role_and_while_it_is_valid() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let folder = folder.path().join(name);
            let authority = Authority::create_with_unencrypted_key(&folder, name).unwrap();
            let site = "a".parse().unwrap();
            let validity = Validity::days(2);
            authority.issue_site_for(&site, &folder, validity).unwrap();
            authority
                .issue_server(&["localhost".into()], &folder)
                .unwrap();
            let anchor = TrustAnchor::read(&authority.certificate()).unwrap();
            (
                anchor,
                der(&folder.join("a.pem")),
                der(&folder.join("server.pem")),
            )
        };
        let (anchor, site, server) = make("one");
        let (_, stranger, other_server) = make("other");
        let now = SystemClock.now();
        assert_eq!(anchor.holder(&site, Role::Site, now).unwrap().name, "a");
        anchor.holder(&server, Role::Server, now).unwrap();
        let role = anchor.holder(&site, Role::Server, now).unwrap_err();
        assert_eq!(role.code(), "certificate_wrong_role");
        let role = anchor.holder(&server, Role::Site, now).unwrap_err();
        assert_eq!(role.code(), "certificate_wrong_role");
        for (certificate, role) in [(&stranger, Role::Site), (&other_server, Role::Server)] {
            let refused = anchor.holder(certificate, role, now).unwrap_err();
            assert_eq!(refused.code(), "certificate_refused");
        }
        let day = 24 * 60 * 60;
        anchor
            .holder(&site, Role::Site, now.plus_seconds(day))
            .unwrap();
        anchor
            .holder(&site, Role::Site, now.plus_seconds(3 * day))
            .unwrap_err();
        anchor
            .holder(&site, Role::Site, Timestamp(now.0 - 1000 * day))
            .unwrap_err();
        let authority = anchor.certificates().next().unwrap().to_vec();
        let alone = TrustAnchor::of_der(&authority).unwrap();
        alone.holder(&site, Role::Site, now).unwrap();
        assert_eq!(fingerprint(&authority), Digest::of(&authority));
    }
}

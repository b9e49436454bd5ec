//! A request for a certificate: PKCS#10 (RFC 2986), signed with the key that it asks for.

use std::path::Path;

use consilium_core::SiteId;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use crate::files::{file, read_key};
use crate::peer::subject;
use crate::tls::verify_client;
use crate::{CertificateError, Fingerprint, Peer, Role};

/// Most bytes of a request; one that a program of this consortium makes has about 250.
pub const REQUEST_BYTES: usize = 4096;

/// Who asks for a certificate, for which role and with which key. That it holds the key was checked; who it is was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningRequest {
    /// The name in the certificate to be.
    pub site: SiteId,
    /// What its holder would be allowed to be.
    pub role: Role,
    der: Vec<u8>,
    key: Vec<u8>,
}

impl SigningRequest {
    /// A request of `site`, with the private key in a file that stays where it is.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn make(site: &SiteId, role: Role, key: &Path) -> Result<Self, CertificateError> {
        Self::with(site, role, &read_key(key)?)
    }

    pub(crate) fn with(
        site: &SiteId,
        role: Role,
        key: &PrivateKeyDer<'_>,
    ) -> Result<Self, CertificateError> {
        let key = KeyPair::try_from(key).map_err(CertificateError::library)?;
        let mut params = CertificateParams::default();
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, site.as_str());
        name.push(DnType::OrganizationalUnitName, role.as_str());
        let request = params
            .serialize_request(&key)
            .map_err(CertificateError::library)?;
        Self::read(request.der())
    }

    /// Reads DER and checks that whoever made it holds the key.
    ///
    /// # Errors
    /// [`CertificateError::Request`] for everything that an authority would not sign.
    pub fn read(der: &[u8]) -> Result<Self, CertificateError> {
        let refused = |problem: &str| CertificateError::Request(problem.into());
        if der.len() > REQUEST_BYTES {
            return Err(refused("it is too large"));
        }
        let (rest, parsed) = X509CertificationRequest::from_der(der)
            .map_err(|_| refused("it is no PKCS#10 request"))?;
        if !rest.is_empty() {
            return Err(refused("something follows it"));
        }
        parsed
            .verify_signature()
            .map_err(|_| refused("it is not signed with its own key"))?;
        let info = &parsed.certification_request_info;
        let (name, role) = subject(&info.subject)?;
        let role = Role::from_word(&role)
            .filter(|role| *role != Role::Server)
            .ok_or_else(|| refused("its role is not site, coordinator or auditor"))?;
        let site = SiteId::new(name).map_err(|error| refused(&error.to_string()))?;
        Ok(Self {
            site,
            role,
            der: der.to_vec(),
            key: info.subject_pki.raw.to_vec(),
        })
    }

    /// Reads PEM text.
    ///
    /// # Errors
    /// As [`SigningRequest::read`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem)
            .map_err(|error| CertificateError::Request(error.to_string()))?;
        Self::read(&der)
    }

    /// Reads a PEM file.
    ///
    /// # Errors
    /// As [`SigningRequest::read`], and [`CertificateError::File`].
    pub fn open(path: &Path) -> Result<Self, CertificateError> {
        Self::from_pem(&std::fs::read(path).map_err(|error| file(path, error))?)
    }

    /// Checks that `certificate` is what this request asked for, signed by `root`.
    ///
    /// # Errors
    /// [`CertificateError::NotRequested`] and [`CertificateError::OtherAuthority`].
    pub fn answered_by(
        &self,
        certificate: &CertificateDer<'_>,
        root: &CertificateDer<'_>,
    ) -> Result<Peer, CertificateError> {
        verify_client(certificate, root)?;
        let peer = Peer::of(certificate)?;
        let other = |what: &str| Err(CertificateError::NotRequested(what.into()));
        if peer.name != self.site.as_str() {
            return other("it names another site");
        }
        if peer.role != self.role.as_str() {
            return other("it is for another role");
        }
        if peer.key != self.fingerprint() {
            return other("it is for another key");
        }
        Ok(peer)
    }

    /// Its bytes.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Its bytes as PEM text.
    #[must_use]
    pub fn pem(&self) -> String {
        crate::files::pem("CERTIFICATE REQUEST", &self.der)
    }

    /// The public key, SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// What site and operator compare.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.key)
    }
}

/// Makes a private key in a new file that nobody else can read: ECDSA on P-256.
///
/// # Errors
/// [`CertificateError::File`], also for a file that is there.
pub fn make_key(path: &Path) -> Result<(), CertificateError> {
    let key = KeyPair::generate().map_err(CertificateError::library)?;
    crate::write_private(path, &zeroize::Zeroizing::new(key.serialize_pem()))
}

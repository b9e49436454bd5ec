//! A site's first certificate: the key is made here and stays here.
//!
//! The folder holds `site.key`, and once the consortium has approved it `site.pem` and `authority.pem`. `site.pem` is
//! written last: with it the site is enrolled, without it everything can be done again.

use std::path::{Path, PathBuf};

use consilium_certs::{
    CertificateError, Fingerprint, Identity, Peer, Role, SigningRequest, certificate_pem, make_key,
    read_certificates, replace_public,
};
use consilium_core::SiteId;
use rustls::pki_types::CertificateDer;

/// A site that enrols, or has.
pub struct Enrolment {
    folder: PathBuf,
    request: SigningRequest,
}

impl Enrolment {
    /// Takes up the key in `folder`, or makes one.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn begin(site: &SiteId, folder: &Path) -> Result<Self, CertificateError> {
        let key = folder.join(KEY);
        if !key.exists() {
            make_key(&key)?;
        }
        Ok(Self {
            request: SigningRequest::make(site, Role::Site, &key)?,
            folder: folder.to_owned(),
        })
    }

    /// The request, signed with the key.
    #[must_use]
    pub fn request(&self) -> &SigningRequest {
        &self.request
    }

    /// Where the certificate is, or will be.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.join(CERTIFICATE)
    }

    /// Where the authority's certificate is, or will be.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.folder.join(AUTHORITY)
    }

    /// What the certificate says that was installed before.
    ///
    /// # Errors
    /// [`CertificateError`], for one that is not good any more as well.
    pub fn installed(&self) -> Result<Option<Peer>, CertificateError> {
        let certificate = self.certificate();
        if !certificate.exists() {
            return Ok(None);
        }
        let identity = Identity::load(&certificate, &self.folder.join(KEY), Role::Site)?;
        let root = read_certificates(&self.authority())?.swap_remove(0);
        let shown = read_certificates(&certificate)?.swap_remove(0);
        self.request.answered_by(&shown, &root)?;
        Ok(Some(identity.peer().clone()))
    }

    /// Checks the certificate against request and authority, and puts both in their places.
    ///
    /// # Errors
    /// [`CertificateError`]; nothing was written then but perhaps the authority's certificate.
    pub fn install(
        &self,
        certificate: &CertificateDer<'_>,
        root: &CertificateDer<'_>,
    ) -> Result<Peer, CertificateError> {
        let peer = self.request.answered_by(certificate, root)?;
        replace_public(&self.authority(), &certificate_pem(root))?;
        replace_public(&self.certificate(), &certificate_pem(certificate))?;
        Ok(peer)
    }

    /// As [`install`](Self::install), from a file with both, of which the authority's has this fingerprint.
    ///
    /// # Errors
    /// As [`install`](Self::install).
    pub fn install_file(
        &self,
        file: &Path,
        fingerprint: Fingerprint,
    ) -> Result<Peer, CertificateError> {
        let chain = read_certificates(file)?;
        let root = chain
            .iter()
            .find(|shown| Fingerprint::of(shown) == fingerprint)
            .ok_or(CertificateError::OtherAuthority)?;
        self.install(&chain[0], root)
    }
}

const KEY: &str = "site.key";
const CERTIFICATE: &str = "site.pem";
const AUTHORITY: &str = "authority.pem";

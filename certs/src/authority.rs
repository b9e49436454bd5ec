//! The consortium's authority.

use std::path::{Path, PathBuf};

use consilium_core::SiteId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use crate::files::{write_private, write_public};
use crate::{CertificateError, Role};

/// When a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    from: OffsetDateTime,
    to: OffsetDateTime,
}

impl Validity {
    /// From five minutes ago (clocks differ) for so many days; a negative number has already passed.
    #[must_use]
    pub fn days(days: i64) -> Self {
        let now = OffsetDateTime::now_utc();
        let end = now + Duration::days(days);
        Self {
            from: now.min(end) - Duration::minutes(5),
            to: end,
        }
    }
}

/// Days that certificates of servers and sites are valid.
const DAYS: i64 = 90;

/// Days that the authority itself is valid.
const AUTHORITY_DAYS: i64 = 3650;

/// Signs certificates of a consortium. Lives in a folder: `authority.pem`, `authority.key`.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority in `folder`; refuses one that is already there.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn create(folder: &Path, consortium: &str) -> Result<Self, CertificateError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        name(&mut params, consortium, "authority");
        valid(&mut params, Validity::days(AUTHORITY_DAYS));
        let key = KeyPair::generate().map_err(CertificateError::library)?;
        let certificate = params
            .self_signed(&key)
            .map_err(CertificateError::library)?;
        write_private(&folder.join("authority.key"), &key.serialize_pem())?;
        write_public(&folder.join("authority.pem"), &certificate.pem())?;
        Self::open(folder)
    }

    /// Opens the authority in `folder`.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn open(folder: &Path) -> Result<Self, CertificateError> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).map_err(|error| CertificateError::File { path, error })
        };
        let key = KeyPair::from_pem(&read("authority.key")?).map_err(CertificateError::library)?;
        let issuer = Issuer::from_ca_cert_pem(&read("authority.pem")?, key)
            .map_err(CertificateError::library)?;
        Ok(Self {
            folder: folder.to_owned(),
            issuer,
        })
    }

    /// The authority's certificate, which every program of the consortium trusts.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("authority.pem")
    }

    /// Issues a server certificate for host names or addresses: `server.pem`, `server.key` in `folder`.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn issue_server(&self, hosts: &[String], folder: &Path) -> Result<(), CertificateError> {
        let mut params =
            CertificateParams::new(hosts.to_vec()).map_err(CertificateError::library)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let common_name = hosts.first().map_or("server", String::as_str);
        name(&mut params, common_name, Role::Server.as_str());
        valid(&mut params, Validity::days(DAYS));
        self.sign(params, folder, "server")
    }

    /// Issues a site certificate: `<site>.pem`, `<site>.key` in `folder`.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn issue_site(&self, site: &SiteId, folder: &Path) -> Result<(), CertificateError> {
        self.issue_site_for(site, folder, Validity::days(DAYS))
    }

    /// As [`issue_site`](Self::issue_site), with another life.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn issue_site_for(
        &self,
        site: &SiteId,
        folder: &Path,
        validity: Validity,
    ) -> Result<(), CertificateError> {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        name(&mut params, site.as_str(), Role::Site.as_str());
        valid(&mut params, validity);
        self.sign(params, folder, site.as_str())
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        folder: &Path,
        stem: &str,
    ) -> Result<(), CertificateError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(CertificateError::library)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(CertificateError::library)?;
        write_private(&folder.join(format!("{stem}.key")), &key.serialize_pem())?;
        write_public(&folder.join(format!("{stem}.pem")), &certificate.pem())
    }
}

fn name(params: &mut CertificateParams, common_name: &str, unit: &str) {
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
        .distinguished_name
        .push(DnType::OrganizationalUnitName, unit);
}

fn valid(params: &mut CertificateParams, validity: Validity) {
    params.not_before = validity.from;
    params.not_after = validity.to;
}

//! The consortium's authority.

use std::path::{Path, PathBuf};

use consilium_core::SiteId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::files::{
    certificate_pem, file, read_certificates, read_secret, write_private, write_public,
};
use crate::passphrase::is_sealed;
use crate::request::SigningRequest;
use crate::tls::random;
use crate::validity::{CERTIFICATE_DAYS, Validity};
use crate::{CertificateError, Fingerprint, Passphrase, Peer, Role};

/// Days that the authority itself is valid.
const AUTHORITY_DAYS: i64 = 3650;

/// Signs certificates of a consortium. Lives in a folder: `authority.pem`, `authority.key`, `authority.crl`, and in
/// `issued` a copy of every certificate that it has signed.
pub struct Authority {
    pub(crate) folder: PathBuf,
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) root: CertificateDer<'static>,
}

/// A certificate that was just signed.
#[derive(Clone, Debug)]
pub struct Issued {
    /// What it says.
    pub peer: Peer,
    /// Its DER bytes.
    pub certificate: CertificateDer<'static>,
    /// Itself and the authority's certificate, as PEM text.
    pub chain: String,
}

impl Authority {
    /// Makes a new authority in `folder`, its key under `passphrase`; refuses one that is already there.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn create(
        folder: &Path,
        consortium: &str,
        passphrase: &Passphrase,
    ) -> Result<Self, CertificateError> {
        Self::make(folder, consortium, Some(passphrase))
    }

    /// As [`create`](Self::create), but whoever reads the folder can sign: for tests and demonstrations that throw the
    /// authority away.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn create_with_unencrypted_key(
        folder: &Path,
        consortium: &str,
    ) -> Result<Self, CertificateError> {
        Self::make(folder, consortium, None)
    }

    fn make(
        folder: &Path,
        consortium: &str,
        passphrase: Option<&Passphrase>,
    ) -> Result<Self, CertificateError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(new_serial()?);
        name(&mut params, consortium, "authority");
        valid(&mut params, Validity::days(AUTHORITY_DAYS));
        let key = KeyPair::generate().map_err(CertificateError::library)?;
        let certificate = params
            .self_signed(&key)
            .map_err(CertificateError::library)?;
        let stored = match passphrase {
            Some(passphrase) => passphrase.seal(&Zeroizing::new(key.serialize_der()))?,
            None => Zeroizing::new(key.serialize_pem()),
        };
        write_private(&folder.join(KEY), &stored)?;
        write_public(&folder.join(CERTIFICATE), &certificate.pem())?;
        let authority = Self::open(folder, passphrase)?;
        authority.renew_revocations()?;
        Ok(authority)
    }

    /// Whether the key of the authority in `folder` needs a passphrase.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn needs_passphrase(folder: &Path) -> Result<bool, CertificateError> {
        Ok(is_sealed(&stored_key(folder)?))
    }

    /// Opens the authority in `folder`.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn open(folder: &Path, passphrase: Option<&Passphrase>) -> Result<Self, CertificateError> {
        let pem = stored_key(folder)?;
        let key = match (is_sealed(&pem), passphrase) {
            (true, Some(passphrase)) => {
                let key = passphrase.open(&pem)?;
                KeyPair::try_from(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(
                    key.as_bytes(),
                )))
            }
            (true, None) => return Err(CertificateError::PassphraseNeeded),
            (false, _) => KeyPair::from_pem(&pem),
        };
        let root = read_certificates(&folder.join(CERTIFICATE))?.swap_remove(0);
        let issuer = Issuer::from_ca_cert_der(&root, key.map_err(CertificateError::library)?)
            .map_err(CertificateError::library)?;
        Ok(Self {
            folder: folder.to_owned(),
            issuer,
            root,
        })
    }

    /// The authority's certificate, which every program of the consortium trusts.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.join(CERTIFICATE)
    }

    /// By which sites know the authority's certificate.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.root)
    }

    /// The authority's certificate, DER.
    #[must_use]
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// Signs what was requested. Whoever calls this has made sure that it comes from whom it names.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn approve(
        &self,
        request: &SigningRequest,
        validity: Validity,
    ) -> Result<Issued, CertificateError> {
        let key = SubjectPublicKeyInfo::from_der(request.key())
            .map_err(|error| CertificateError::Request(error.to_string()))?;
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        name(&mut params, request.site.as_str(), request.role.as_str());
        valid(&mut params, validity);
        self.sign(params, &key)
    }

    /// Issues a site certificate: `<site>.pem`, `<site>.key` in `folder`.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn issue_site(&self, site: &SiteId, folder: &Path) -> Result<(), CertificateError> {
        self.issue_site_for(site, folder, Validity::days(CERTIFICATE_DAYS))
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
        self.issue(params, folder, site.as_str())
    }

    pub(crate) fn issue(
        &self,
        params: CertificateParams,
        folder: &Path,
        stem: &str,
    ) -> Result<(), CertificateError> {
        let key = KeyPair::generate().map_err(CertificateError::library)?;
        let issued = self.sign(params, &key)?;
        let pem = Zeroizing::new(key.serialize_pem());
        write_private(&folder.join(format!("{stem}.key")), &pem)?;
        let certificate = certificate_pem(&issued.certificate);
        write_public(&folder.join(format!("{stem}.pem")), &certificate)
    }

    /// Signs, and keeps a copy first: what is not recorded cannot be revoked by name.
    pub(crate) fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<Issued, CertificateError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(new_serial()?);
        let certificate = params
            .signed_by(key, &self.issuer)
            .map_err(CertificateError::library)?;
        let certificate = certificate.der().clone();
        let peer = Peer::of(&certificate)?;
        let pem = certificate_pem(&certificate);
        let copy = self
            .folder
            .join(ISSUED)
            .join(format!("{}.pem", peer.serial));
        write_public(&copy, &pem)?;
        Ok(Issued {
            chain: pem + &certificate_pem(&self.root),
            peer,
            certificate,
        })
    }

    /// What every certificate says that this authority has signed.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn issued(&self) -> Result<Vec<Peer>, CertificateError> {
        Self::issued_in(&self.folder)
    }

    /// As [`issued`](Self::issued), of the authority in `folder`, which need not be opened.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn issued_in(folder: &Path) -> Result<Vec<Peer>, CertificateError> {
        let folder = folder.join(ISSUED);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(file(&folder, error)),
        };
        let mut issued = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| file(&folder, error))?.path();
            if path.extension().is_some_and(|kind| kind == "pem") {
                issued.push(Peer::of(&read_certificates(&path)?[0])?);
            }
        }
        issued.sort_by(|a, b| (&a.name, a.to, &a.serial).cmp(&(&b.name, b.to, &b.serial)));
        Ok(issued)
    }
}

fn stored_key(folder: &Path) -> Result<Zeroizing<String>, CertificateError> {
    let path = folder.join(KEY);
    let bytes = read_secret(&path)?;
    String::from_utf8(bytes)
        .map(Zeroizing::new)
        .map_err(|_| CertificateError::Unreadable {
            path,
            problem: "it is no PEM file".into(),
        })
}

/// 16 random bytes (RFC 5280, section 4.1.2.2: positive, at most 20). A renewed certificate has another one than its
/// predecessor with the same key.
fn new_serial() -> Result<SerialNumber, CertificateError> {
    let mut bytes = [0; 16];
    random(&mut bytes)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

pub(crate) fn name(params: &mut CertificateParams, common_name: &str, unit: &str) {
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
        .distinguished_name
        .push(DnType::OrganizationalUnitName, unit);
}

pub(crate) fn valid(params: &mut CertificateParams, validity: Validity) {
    params.not_before = validity.from;
    params.not_after = validity.to;
}

const CERTIFICATE: &str = "authority.pem";
const KEY: &str = "authority.key";
const ISSUED: &str = "issued";

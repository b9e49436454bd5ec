//! Certificates that are no longer good: the authority's signed list (RFC 5280, section 5).
//!
//! A list whose next one is overdue stays in force: what it revokes stays revoked, and what it does not is accepted.
//! Stopping every hospital because one file was not renewed would harm more than it protects; the server says in its
//! log that the list is overdue.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject as _;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use crate::files::{file, read_certificates, replace_public};
use crate::peer::{date, now, serial};
use crate::{Authority, CertificateError, Peer};

/// Days within which the authority signs its next list.
const LIST_DAYS: i64 = 30;

/// A list of revoked certificates whose signature was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Grows with each list.
    pub number: u64,
    /// When the next list is due, seconds since the Unix epoch.
    pub next: i64,
    /// Serial numbers, and since when they are revoked.
    pub revoked: BTreeMap<String, i64>,
}

impl Revocations {
    /// Where the list lies unless somebody says otherwise: beside the authority's certificate.
    #[must_use]
    pub fn beside(authority: &Path) -> PathBuf {
        authority.with_extension("crl")
    }

    /// The list in `path`, DER, which an authority in the file `authority` must have signed.
    pub(crate) fn signed(
        path: &Path,
        authority: &Path,
    ) -> Result<CertificateRevocationListDer<'static>, CertificateError> {
        let pem = std::fs::read(path).map_err(|error| file(path, error))?;
        let der = CertificateRevocationListDer::from_pem_slice(&pem)
            .map_err(|_| unreadable(path, NO_LIST))?;
        let (_, list) =
            CertificateRevocationList::from_der(&der).map_err(|_| unreadable(path, NO_LIST))?;
        let is_signed = read_certificates(authority)?.iter().any(|root| {
            X509Certificate::from_der(root).is_ok_and(|(_, root)| {
                root.subject().as_raw() == list.issuer().as_raw()
                    && list.verify_signature(root.public_key()).is_ok()
            })
        });
        if !is_signed {
            return Err(unreadable(
                path,
                "this consortium's authority did not sign it",
            ));
        }
        Ok(der)
    }

    /// Reads the list in `path`, which an authority in the file `authority` must have signed.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn read(path: &Path, authority: &Path) -> Result<Self, CertificateError> {
        let der = Self::signed(path, authority)?;
        let (_, list) =
            CertificateRevocationList::from_der(&der).map_err(|_| unreadable(path, NO_LIST))?;
        let unreadable = |problem| unreadable(path, problem);
        let number = list
            .crl_number()
            .and_then(|number| u64::try_from(number).ok())
            .ok_or_else(|| unreadable("it has no number"))?;
        let next = list
            .next_update()
            .ok_or_else(|| unreadable("it does not say when the next one is due"))?
            .timestamp();
        let revoked = list
            .iter_revoked_certificates()
            .map(|entry| {
                (
                    serial(entry.raw_serial()),
                    entry.revocation_date.timestamp(),
                )
            })
            .collect();
        Ok(Self {
            number,
            next,
            revoked,
        })
    }

    /// Refuses a certificate that is on the list.
    ///
    /// # Errors
    /// [`CertificateError::Revoked`].
    pub fn check(&self, peer: &Peer) -> Result<(), CertificateError> {
        match self.revoked.get(&peer.serial) {
            None => Ok(()),
            Some(since) => Err(CertificateError::Revoked {
                name: peer.name.clone(),
                serial: peer.serial.clone(),
                since: date(*since),
            }),
        }
    }

    /// Whether the next list is overdue.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.next < now()
    }
}

impl Authority {
    /// Where the list of this authority lies.
    #[must_use]
    pub fn revocations_file(&self) -> PathBuf {
        Revocations::beside(&self.certificate())
    }

    /// The list of this authority.
    ///
    /// # Errors
    /// [`CertificateError`]; none for a list that is not there yet.
    pub fn revocations(&self) -> Result<Revocations, CertificateError> {
        let path = self.revocations_file();
        if !path.exists() {
            return Ok(Revocations::default());
        }
        Revocations::read(&path, &self.certificate())
    }

    /// Puts certificates on the list: the one with this serial number, or all that are valid and name this holder.
    ///
    /// # Errors
    /// [`CertificateError::NotIssued`] when this authority has signed no such certificate.
    pub fn revoke(&self, target: &str) -> Result<Vec<Peer>, CertificateError> {
        let mut list = self.revocations()?;
        let mut found = self.issued()?;
        let now = now();
        let serial = target.to_ascii_lowercase();
        found.retain(|peer| peer.serial == serial || peer.name == target && peer.to >= now);
        if found.is_empty() {
            return Err(CertificateError::NotIssued(target.to_owned()));
        }
        for peer in &found {
            list.revoked.entry(peer.serial.clone()).or_insert(now);
        }
        self.sign_revocations(list)?;
        Ok(found)
    }

    /// Signs the list anew, as it is, with a later date for the next one.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn renew_revocations(&self) -> Result<Revocations, CertificateError> {
        self.sign_revocations(self.revocations()?)
    }

    fn sign_revocations(&self, list: Revocations) -> Result<Revocations, CertificateError> {
        let this_update = OffsetDateTime::now_utc();
        let revoked = list.revoked.iter().map(|(serial, since)| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from(bytes(serial)?),
                revocation_time: OffsetDateTime::from_unix_timestamp(*since)
                    .map_err(CertificateError::library)?,
                reason_code: None,
                invalidity_date: None,
            })
        });
        let signed = CertificateRevocationListParams {
            this_update,
            next_update: this_update + Duration::days(LIST_DAYS),
            crl_number: SerialNumber::from(list.number + 1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect::<Result<_, CertificateError>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)
        .and_then(|list| list.pem())
        .map_err(CertificateError::library)?;
        let path = self.revocations_file();
        replace_public(&path, &signed)?;
        Revocations::read(&path, &self.certificate())
    }
}

fn unreadable(path: &Path, problem: &str) -> CertificateError {
    CertificateError::Unreadable {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

const NO_LIST: &str = "it holds no list of revoked certificates";

fn bytes(serial: &str) -> Result<Vec<u8>, CertificateError> {
    (0..serial.len())
        .step_by(2)
        .map(|at| {
            let digits = serial.get(at..at + 2).unwrap_or_default();
            u8::from_str_radix(digits, 16).map_err(CertificateError::library)
        })
        .collect()
}

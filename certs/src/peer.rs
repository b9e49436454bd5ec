//! What a certificate says about who holds it.

use consilium_core::SiteId;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::{CertificateError, Fingerprint};

/// What a certificate allows its holder to be. Stands in the subject's organisational unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An aggregation server.
    Server,
    /// A site agent.
    Site,
    /// Who leads a study.
    Coordinator,
    /// Who may read records of what was done, and change nothing.
    Auditor,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Server, Self::Site, Self::Coordinator, Self::Auditor];

    /// The word in the certificate.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Site => "site",
            Self::Coordinator => "coordinator",
            Self::Auditor => "auditor",
        }
    }

    /// The role of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// The holder of a certificate. Its signature was checked by TLS before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Subject's common name.
    pub name: String,
    /// Subject's organisational unit.
    pub role: String,
    /// Serial number, hexadecimal, without leading zero bytes.
    pub serial: String,
    /// Of its public key.
    pub key: Fingerprint,
    /// When it becomes valid, seconds since the Unix epoch.
    pub from: i64,
    /// When its life is over, seconds since the Unix epoch.
    pub to: i64,
}

impl Peer {
    /// Reads a DER certificate.
    ///
    /// # Errors
    /// [`CertificateError::Subject`] for another form of subject, [`CertificateError::Library`] for bytes
    /// that are no certificate.
    pub fn of(certificate: &[u8]) -> Result<Self, CertificateError> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(CertificateError::library)?;
        let (name, role) = subject(parsed.subject())?;
        Ok(Self {
            name,
            role,
            serial: serial(parsed.raw_serial()),
            key: Fingerprint::of(parsed.public_key().raw),
            from: parsed.validity().not_before.timestamp(),
            to: parsed.validity().not_after.timestamp(),
        })
    }

    /// The site that holds this certificate.
    ///
    /// # Errors
    /// [`CertificateError::WrongRole`] for another role, [`CertificateError::Subject`] for a common name
    /// that is no site's.
    pub fn site(&self) -> Result<SiteId, CertificateError> {
        self.expect(Role::Site)?;
        SiteId::new(self.name.clone()).map_err(|error| CertificateError::Subject(error.to_string()))
    }

    /// Refuses another role.
    ///
    /// # Errors
    /// [`CertificateError::WrongRole`].
    pub fn expect(&self, role: Role) -> Result<(), CertificateError> {
        if self.role == role.as_str() {
            return Ok(());
        }
        Err(CertificateError::WrongRole {
            got: self.role.clone(),
            expected: role.as_str().into(),
        })
    }

    /// Refuses a certificate whose life is over or has not begun.
    ///
    /// # Errors
    /// [`CertificateError::NotValidNow`].
    pub fn expect_valid_now(&self) -> Result<(), CertificateError> {
        if (self.from..=self.to).contains(&now()) {
            return Ok(());
        }
        Err(CertificateError::NotValidNow {
            name: self.name.clone(),
            from: date(self.from),
            to: date(self.to),
        })
    }

    /// Whether it is time to renew it.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.renewal() <= now()
    }

    /// From when on a certificate of this life is to be renewed, seconds since the Unix epoch: two thirds of it.
    #[must_use]
    pub fn renewal(&self) -> i64 {
        self.to - self.to.saturating_sub(self.from) / 3
    }
}

/// Common name and organisational unit.
pub(crate) fn subject(subject: &X509Name<'_>) -> Result<(String, String), CertificateError> {
    let first = |value: Option<&AttributeTypeAndValue<'_>>, what: &str| {
        value
            .map(|value| value.as_str().unwrap_or_default().to_owned())
            .ok_or_else(|| CertificateError::Subject(format!("no {what} in {subject}")))
    };
    Ok((
        first(subject.iter_common_name().next(), "common name")?,
        first(
            subject.iter_organizational_unit().next(),
            "organisational unit",
        )?,
    ))
}

/// A serial number as this project writes it.
pub(crate) fn serial(bytes: &[u8]) -> String {
    let significant = bytes.iter().skip_while(|byte| **byte == 0);
    significant.map(|byte| format!("{byte:02x}")).collect()
}

/// A day and minute that people can read, in UTC.
#[must_use]
pub fn date(seconds: i64) -> String {
    match OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(at) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02} UTC",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute()
        ),
        Err(_) => format!("{seconds} s since 1970"),
    }
}

/// Seconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

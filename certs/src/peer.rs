//! What a certificate says about who holds it.

use consilium_core::SiteId;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::CertificateError;

/// What a certificate allows its holder to be. Stands in the subject's organisational unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An aggregation server.
    Server,
    /// A site agent.
    Site,
}

impl Role {
    /// The word in the certificate.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Site => "site",
        }
    }
}

/// The holder of a certificate. Its signature was checked by TLS before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Subject's common name.
    pub name: String,
    /// Subject's organisational unit.
    pub role: String,
    valid_now: bool,
    from: String,
    to: String,
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
        let subject = parsed.subject();
        let first = |mut values: Box<dyn Iterator<Item = String> + '_>, what: &str| {
            values
                .next()
                .ok_or_else(|| CertificateError::Subject(format!("no {what} in {subject}")))
        };
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            value.as_str().unwrap_or_default().to_owned()
        };
        let names = Box::new(subject.iter_common_name().map(text));
        let units = Box::new(subject.iter_organizational_unit().map(text));
        Ok(Self {
            name: first(names, "common name")?,
            role: first(units, "organisational unit")?,
            valid_now: parsed.validity().is_valid(),
            from: parsed.validity().not_before.to_string(),
            to: parsed.validity().not_after.to_string(),
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
        if self.valid_now {
            return Ok(());
        }
        Err(CertificateError::NotValidNow {
            name: self.name.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
        })
    }
}

//! What can be wrong with a certificate or a key.

use std::path::PathBuf;

/// Why a certificate, a key or a TLS setting is not acceptable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A private key that others can read.
    #[error("{}: the private key can be read by others (mode {mode:o})", path.display())]
    KeyPermissions {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The certificate's life is over, or has not begun.
    #[error("the certificate of {name} is valid from {from} to {to}, not now")]
    NotValidNow {
        /// Its common name.
        name: String,
        /// Start, as the certificate says it.
        from: String,
        /// End, as the certificate says it.
        to: String,
    },
    /// The certificate is for another role.
    #[error("the certificate is for the role {got:?}, {expected:?} is needed here")]
    WrongRole {
        /// What it says.
        got: String,
        /// What is needed.
        expected: String,
    },
    /// The certificate's subject is not of the consortium's form.
    #[error("the certificate's subject is not of the consortium's form: {0}")]
    Subject(String),
    /// The cryptographic library refused.
    #[error("the certificate cannot be made or used: {0}")]
    Library(String),
}

impl CertificateError {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "certificate_file",
            Self::Unreadable { .. } => "certificate_unreadable",
            Self::KeyPermissions { .. } => "key_permissions",
            Self::NotValidNow { .. } => "certificate_expired",
            Self::WrongRole { .. } => "certificate_wrong_role",
            Self::Subject(_) => "certificate_subject",
            Self::Library(_) => "certificate_refused",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::File { .. } => "check the path and the rights of this account",
            Self::Unreadable { .. } => "use the PEM files that the authority issued",
            Self::KeyPermissions { .. } => "chmod 600 the key file",
            Self::NotValidNow { .. } => {
                "check the clock, or ask the authority for a new certificate"
            }
            Self::WrongRole { .. } => "use the certificate that was issued for this program",
            Self::Subject(_) => "ask the authority for a certificate",
            Self::Library(_) => "check that certificate and key belong together",
        }
    }

    pub(crate) fn library(error: impl std::fmt::Display) -> Self {
        Self::Library(error.to_string())
    }
}

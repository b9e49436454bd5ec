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
    /// A private key or a passphrase that others can read.
    #[error("{}: the secret in it can be read by others (mode {mode:o})", path.display())]
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
    /// The authority has taken it back.
    #[error("the certificate of {name} was revoked on {since} (serial {serial})")]
    Revoked {
        /// Its common name.
        name: String,
        /// Its serial number.
        serial: String,
        /// Since when.
        since: String,
    },
    /// No certificate was shown.
    #[error("no certificate was shown")]
    Missing,
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
    /// A request that an authority does not sign.
    #[error("the request for a certificate is not acceptable: {0}")]
    Request(String),
    /// A certificate that answers another request.
    #[error("the certificate is not what was requested: {0}")]
    NotRequested(String),
    /// A certificate that this authority did not sign.
    #[error("another authority signed the certificate")]
    OtherAuthority,
    /// No certificate with that serial number, and no valid one of that holder.
    #[error("this authority has signed no certificate {0:?} that is still valid")]
    NotIssued(String),
    /// The authority's key is encrypted.
    #[error("the authority's key is encrypted and no passphrase was given")]
    PassphraseNeeded,
    /// It does not open the authority's key.
    #[error("the passphrase does not open the authority's key")]
    WrongPassphrase,
    /// It can be guessed.
    #[error(
        "a passphrase has at least {} characters",
        crate::passphrase::PASSPHRASE_CHARACTERS
    )]
    PassphraseTooShort,
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
            Self::Revoked { .. } => "certificate_revoked",
            Self::Missing => "certificate_missing",
            Self::WrongRole { .. } => "certificate_wrong_role",
            Self::Request(_) => "certificate_request",
            Self::NotRequested(_) => "certificate_not_requested",
            Self::OtherAuthority => "certificate_other_authority",
            Self::NotIssued(_) => "certificate_not_issued",
            Self::PassphraseNeeded => "passphrase_needed",
            Self::WrongPassphrase => "passphrase_wrong",
            Self::PassphraseTooShort => "passphrase_too_short",
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
            Self::KeyPermissions { .. } => "chmod 600 the file",
            Self::NotValidNow { .. } => {
                "check the clock; then enrol again, in a new folder (a server: `certs renew-server`)"
            }
            Self::Revoked { .. } => {
                "ask the consortium why; a site that may come back enrols again with a new key"
            }
            Self::Missing => "enrol first: `consilium-site enroll`",
            Self::WrongRole { .. } => "use the certificate that was issued for this program",
            Self::Request(_) => "make it with `consilium-site enroll`",
            Self::NotRequested(_) => "ask the operator of the server which request was approved",
            Self::OtherAuthority => "compare the authority's fingerprint with the consortium",
            Self::NotIssued(_) => "see `consilium-server certs issued`",
            Self::PassphraseNeeded => {
                "give --passphrase-file, or run the command on a terminal and type it"
            }
            Self::WrongPassphrase => "try again, or use the copy of the passphrase that was kept",
            Self::PassphraseTooShort => "choose a longer one, for example six random words",
            Self::Subject(_) => "ask the authority for a certificate",
            Self::Library(_) => "check that certificate and key belong together",
        }
    }

    pub(crate) fn library(error: impl std::fmt::Display) -> Self {
        Self::Library(error.to_string())
    }
}

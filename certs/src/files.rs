//! PEM files on disk: keys readable by their owner only.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::CertificateError;

pub(crate) fn file(path: &Path, error: std::io::Error) -> CertificateError {
    CertificateError::File {
        path: path.to_owned(),
        error,
    }
}

/// Writes a private key: mode 0600 from the first byte on. Refuses to overwrite.
///
/// # Errors
/// [`CertificateError::File`].
pub fn write_private(path: &Path, pem: &str) -> Result<(), CertificateError> {
    write(path, pem, 0o600)
}

/// Writes a certificate. Refuses to overwrite.
///
/// # Errors
/// [`CertificateError::File`].
pub fn write_public(path: &Path, pem: &str) -> Result<(), CertificateError> {
    write(path, pem, 0o644)
}

fn write(path: &Path, pem: &str, mode: u32) -> Result<(), CertificateError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| file(parent, error))?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut handle = options.open(path).map_err(|error| file(path, error))?;
    handle
        .write_all(pem.as_bytes())
        .and_then(|()| handle.sync_all())
        .map_err(|error| file(path, error))
}

/// Writes a certificate or a list in place of the one that was there, whole or not at all.
///
/// # Errors
/// [`CertificateError::File`].
pub fn replace_public(path: &Path, pem: &str) -> Result<(), CertificateError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    // Left behind by a program of the same number that was killed.
    let _ = fs::remove_file(&partial);
    write_public(&partial, pem)?;
    fs::rename(&partial, path).map_err(|error| file(path, error))
}

/// DER bytes as PEM text (RFC 7468).
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    // Cannot fail: memory takes every byte, and the labels are ours.
    let kind = pkcs8::LineEnding::LF;
    pkcs8::der::pem::encode_string(label, kind, der).unwrap_or_default()
}

/// A certificate as PEM text.
#[must_use]
pub fn certificate_pem(der: &[u8]) -> String {
    pem("CERTIFICATE", der)
}

/// The certificates in a PEM file, at least one.
///
/// # Errors
/// [`CertificateError::File`] or [`CertificateError::Unreadable`].
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let bytes = fs::read(path).map_err(|error| file(path, error))?;
    let unreadable = |problem: String| CertificateError::Unreadable {
        path: path.to_owned(),
        problem,
    };
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unreadable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(unreadable("it holds no certificate".into()));
    }
    Ok(certificates)
}

/// The bytes of a file that nobody else may read.
///
/// # Errors
/// [`CertificateError`]: no such file, or one that others can read.
pub fn read_secret(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let bytes = fs::read(path).map_err(|error| file(path, error))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(path)
            .map_err(|error| file(path, error))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(CertificateError::KeyPermissions {
                path: path.to_owned(),
                mode: mode & 0o777,
            });
        }
    }
    Ok(bytes)
}

/// The private key in a PEM file that nobody else may read.
pub(crate) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    let bytes = zeroize::Zeroizing::new(read_secret(path)?);
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| CertificateError::Unreadable {
        path: path.to_owned(),
        problem: format!("it holds no private key ({error})"),
    })
}

//! PEM files on disk: keys readable by their owner only.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::CertificateError;

fn file(path: &Path, error: std::io::Error) -> CertificateError {
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

/// The private key in a PEM file that nobody else may read.
pub(crate) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
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
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| CertificateError::Unreadable {
        path: path.to_owned(),
        problem: format!("it holds no private key ({error})"),
    })
}

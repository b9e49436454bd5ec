//! The passphrase of an authority's key, and the key under it.

use std::path::Path;

use pkcs8::pkcs5::{pbes2, scrypt};
use pkcs8::{EncryptedPrivateKeyInfoRef, LineEnding, PrivateKeyInfoRef, SecretDocument};
use zeroize::Zeroizing;

use crate::CertificateError;
use crate::files::read_secret;
use crate::tls::random;

/// Fewest characters of a passphrase.
pub const PASSPHRASE_CHARACTERS: usize = 12;

/// Opens an authority's key. Wiped when dropped; cannot be printed.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// A passphrase that somebody has typed.
    ///
    /// # Errors
    /// [`CertificateError::PassphraseTooShort`].
    pub fn new(text: String) -> Result<Self, CertificateError> {
        let text = Zeroizing::new(text);
        if text.chars().count() < PASSPHRASE_CHARACTERS {
            return Err(CertificateError::PassphraseTooShort);
        }
        Ok(Self(text))
    }

    /// The first line of a file that nobody else may read.
    ///
    /// # Errors
    /// [`CertificateError`]: no such file, one that others can read, or a line that is too short.
    pub fn read(path: &Path) -> Result<Self, CertificateError> {
        let bytes = Zeroizing::new(read_secret(path)?);
        let text = std::str::from_utf8(&bytes).map_err(|_| CertificateError::Unreadable {
            path: path.to_owned(),
            problem: "it is not UTF-8 text".into(),
        })?;
        Self::new(text.lines().next().unwrap_or_default().to_owned())
    }

    /// Whether two passphrases are the same, of somebody who types one twice.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0 == other.0
    }

    /// A PKCS#8 key as encrypted PEM (RFC 5958, section 3): PBES2 with scrypt (RFC 7914) and AES-256-CBC.
    pub(crate) fn seal(&self, key: &[u8]) -> Result<Zeroizing<String>, CertificateError> {
        let (mut salt, mut iv) = ([0; 16], [0; 16]);
        random(&mut salt)?;
        random(&mut iv)?;
        // As dear as N = 2^17, p = 1 for who guesses, in 16 MiB: OpenSSL refuses a file that needs more than 32.
        let cost = scrypt::Params::new(14, 8, 5).map_err(CertificateError::library)?;
        let scheme = pbes2::Parameters::generate_scrypt_aes256cbc(cost, &salt, iv)
            .map_err(CertificateError::library)?;
        PrivateKeyInfoRef::try_from(key)
            .and_then(|key| key.encrypt_with_params(scheme, self.0.as_bytes()))
            .map_err(CertificateError::library)?
            .to_pem(LABEL, LineEnding::LF)
            .map_err(CertificateError::library)
    }

    /// The key in what [`Passphrase::seal`] gave, or another program in the same form.
    pub(crate) fn open(&self, pem: &str) -> Result<SecretDocument, CertificateError> {
        let (_, sealed) = SecretDocument::from_pem(pem).map_err(CertificateError::library)?;
        EncryptedPrivateKeyInfoRef::try_from(sealed.as_bytes())
            .map_err(CertificateError::library)?
            .decrypt(self.0.as_bytes())
            .map_err(|_| CertificateError::WrongPassphrase)
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// Whether a PEM file holds a key that needs a passphrase.
pub(crate) fn is_sealed(pem: &str) -> bool {
    pem.contains(LABEL)
}

const LABEL: &str = "ENCRYPTED PRIVATE KEY";

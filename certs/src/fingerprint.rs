//! Fingerprints that people compare, by telephone for example.

use std::fmt;
use std::str::FromStr;

use consilium_core::Digest;

/// SHA-256 of a certificate (DER), or of a public key (SubjectPublicKeyInfo, DER).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(Digest);

/// The text is no fingerprint.
#[derive(Debug, thiserror::Error)]
#[error(
    "a fingerprint is 64 hexadecimal digits, with or without spaces and colons between them; got {0} digits"
)]
pub struct InvalidFingerprint(usize);

impl Fingerprint {
    /// Of these DER bytes.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        Self(Digest::of(der))
    }

    /// In groups of four digits, to be read aloud.
    #[must_use]
    pub fn spoken(&self) -> String {
        let digits = self.to_string();
        let groups: Vec<_> = (0..digits.len())
            .step_by(4)
            .map(|at| &digits[at..at + 4])
            .collect();
        groups.join(" ")
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: String = text
            .chars()
            .filter(|c| !c.is_whitespace() && *c != ':')
            .collect();
        let count = digits.chars().count();
        let digest = digits.to_ascii_lowercase().parse();
        digest.map(Self).map_err(|_| InvalidFingerprint(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_people_write_it() {
        let fingerprint = Fingerprint::of(b"certificate");
        let plain = fingerprint.to_string();
        let colons: Vec<_> = (0..64).step_by(2).map(|at| &plain[at..at + 2]).collect();
        for text in [
            plain.clone(),
            colons.join(":").to_uppercase(),
            fingerprint.spoken(),
        ] {
            assert_eq!(text.parse::<Fingerprint>().unwrap(), fingerprint);
        }
        assert!(plain[1..].parse::<Fingerprint>().is_err());
        assert!("".parse::<Fingerprint>().is_err());
    }
}

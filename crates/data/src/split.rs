//! Which patients train, validate and test: a threshold on a keyed hash of the patient id.
//!
//! The part of one patient depends on the key and that patient's id alone, so that nobody's part changes
//! when another patient is added or removed, as privacy accounting needs; nothing is ranked or stratified.

use consilium_core::Digest;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use sha2::Sha256;

use crate::manifest::Fractions;

/// One part of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Models and everything else that is fitted see this part only.
    Train,
    /// Recipes are chosen on this part.
    Validation,
    /// Results are stated on this part.
    Test,
}

impl Part {
    /// All parts, in order.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// The word in files and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }

    /// The part called `word`.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.as_str() == word)
    }
}

/// HMAC-SHA-256 of length-prefixed parts.
pub(crate) fn keyed_hash(key: &[u8], purpose: &str, text: &[u8]) -> [u8; 32] {
    // Cannot fail: HMAC takes keys of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key length");
    mac.update(&(purpose.len() as u64).to_le_bytes());
    mac.update(purpose.as_bytes());
    mac.update(text);
    mac.finalize().into_bytes().into()
}

/// A number in `[0, 1)` that depends on key, purpose and patient only.
fn position(key: &[u8], purpose: &str, patient: &str) -> f64 {
    let hash = keyed_hash(key, purpose, patient.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    // 53 bits fit a f64 exactly, so the result is below 1.
    (u64::from_be_bytes(first) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The part of `patient` under `fractions`.
#[must_use]
pub fn part_of(patient: &str, fractions: &Fractions, key: &[u8]) -> Part {
    let at = position(key, "split", patient);
    if at < fractions.train {
        Part::Train
    } else if at < fractions.train + fractions.validation || fractions.test == 0.0 {
        Part::Validation
    } else {
        Part::Test
    }
}

/// The fold of `patient`, 0 to `folds - 1`, independent of [`part_of`]. Zero folds count as one.
#[must_use]
pub fn fold(patient: &str, folds: u32, key: &[u8]) -> u32 {
    let folds = folds.max(1);
    // Below `folds`, since the position is below 1; `min` guards the last rounding.
    ((position(key, "fold", patient) * f64::from(folds)) as u32).min(folds - 1)
}

/// Digest over the sorted pairs (keyed hash of the patient, part): equal exactly for equal splits.
#[must_use]
pub fn split_hash<'a>(patients: impl Iterator<Item = (&'a str, Part)>, key: &[u8]) -> Digest {
    let mut pairs: Vec<_> = patients
        .map(|(patient, part)| {
            (
                keyed_hash(key, "split-hash", patient.as_bytes()),
                part.as_str(),
            )
        })
        .collect();
    pairs.sort_unstable();
    pairs.dedup();
    let bytes: Vec<u8> = (pairs.iter())
        .flat_map(|(hash, part)| hash.iter().copied().chain(part.bytes()).chain([0]))
        .collect();
    Digest::of(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIXTY_TWENTY_TWENTY: Fractions = Fractions {
        train: 0.6,
        validation: 0.2,
        test: 0.2,
    };

    #[test]
    fn hashed_parts_have_about_the_declared_shares() {
        let count = |part| {
            (0..5000)
                .filter(|i| part_of(&format!("patient {i}"), &SIXTY_TWENTY_TWENTY, b"key") == part)
                .count()
        };
        // 5000 draws: standard deviations are 35 and 28 patients.
        assert!(
            count(Part::Train).abs_diff(3000) < 140,
            "{}",
            count(Part::Train)
        );
        assert!(count(Part::Validation).abs_diff(1000) < 112);
        assert!(count(Part::Test).abs_diff(1000) < 112);
    }

    #[test]
    fn another_key_gives_another_split_and_folds_do_not_follow_parts() {
        let ids: Vec<String> = (0..400).map(|i| i.to_string()).collect();
        let parts = |key: &[u8]| -> Vec<Part> {
            ids.iter()
                .map(|id| part_of(id, &SIXTY_TWENTY_TWENTY, key))
                .collect()
        };
        assert_ne!(parts(b"a"), parts(b"b"));
        let in_train = |f| {
            (ids.iter())
                .filter(|id| fold(id, 5, b"a") == f)
                .filter(|id| part_of(id, &SIXTY_TWENTY_TWENTY, b"a") == Part::Train)
                .count()
        };
        assert!((0..5).all(|f| in_train(f) > 20));
    }

    #[test]
    fn the_split_hash_ignores_order_and_sees_every_part() {
        let a = [("p1", Part::Train), ("p2", Part::Test)];
        let b = [("p2", Part::Test), ("p1", Part::Train)];
        let c = [("p2", Part::Train), ("p1", Part::Train)];
        let hash = |pairs: [(&'static str, Part); 2]| split_hash(pairs.into_iter(), b"k");
        assert_eq!(hash(a), hash(b));
        assert_ne!(hash(a), hash(c));
    }
}

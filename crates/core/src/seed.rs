//! Randomness: one generator per named use.
//!
//! Adding a draw in one place leaves every other stream, and so every published result, unchanged. Sites
//! that run in one process do not disturb each other, and a killed site can redo any step.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Root of all streams of a seeded simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seed(pub u64);

/// What a stream is drawn for. Every part enters length-prefixed, so that no two keys collide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamKey<'a> {
    /// The study.
    pub study: &'a str,
    /// Attempt at the round; 0 outside rounds.
    pub attempt: u32,
    /// The use, for example `initial-weights`, `batch`, `view-a`, `dropout`.
    pub purpose: &'a str,
    /// The round; 0 outside rounds.
    pub round: u32,
    /// The local step; 0 outside steps.
    pub step: u32,
    /// The site, or whose values are drawn; empty for the consortium.
    pub site: &'a str,
}

/// The generator for `key`.
#[must_use]
pub fn stream(seed: Seed, key: &StreamKey<'_>) -> ChaCha20Rng {
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(&seed.0.to_le_bytes());
    part(key.study.as_bytes());
    part(&key.attempt.to_le_bytes());
    part(key.purpose.as_bytes());
    part(&key.round.to_le_bytes());
    part(&key.step.to_le_bytes());
    part(key.site.as_bytes());
    ChaCha20Rng::from_seed(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use rand::Rng as _;

    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let first = |study, purpose| {
            let key = StreamKey {
                study,
                purpose,
                ..StreamKey::default()
            };
            stream(Seed(1), &key).next_u64()
        };
        assert_ne!(first("ab", "c"), first("a", "bc"));
        assert_eq!(first("ab", "c"), first("ab", "c"));
    }
}

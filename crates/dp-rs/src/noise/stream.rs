//! Keys and streams: one generator per named use.

use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use chacha20::ChaCha20Rng;
use hkdf::Hkdf;
use rand::rand_core::{TryCryptoRng, TryRng};
use rand::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::NoiseError;
use super::keystream::Key;

/// Version of the derivation below; changes when the same seed no longer gives the same values.
const DERIVATION: &[u8] = b"dp-rs stream 1";

/// Where the randomness comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Randomness {
    /// A fresh key from the operating system. The only choice with a guarantee.
    OperatingSystem,
    /// A key derived from a seed: repeatable, and therefore **not private**. For simulations and tests.
    SimulationSeeded,
}

/// What a stream is used for. Different purposes never share values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// Which units take part in a step.
    Sampling,
    /// Which records of a unit are used.
    RecordChoice,
    /// Noise on sums of gradients or updates.
    GradientNoise,
    /// Noise on counts, such as those of adaptive clipping.
    CountNoise,
    /// Stochastic rounding.
    Rounding,
    /// Any other use, by a name of the caller's.
    Named(&'static str),
}

impl Purpose {
    fn parts(self) -> [&'static [u8]; 2] {
        match self {
            Self::Sampling => [b"sampling", b""],
            Self::RecordChoice => [b"record-choice", b""],
            Self::GradientNoise => [b"gradient-noise", b""],
            Self::CountNoise => [b"count-noise", b""],
            Self::Rounding => [b"rounding", b""],
            Self::Named(name) => [b"named", name.as_bytes()],
        }
    }
}

/// 256 bits from which every stream is derived. Wiped on drop, never printed, not `Clone`.
pub struct RootKey {
    key: Zeroizing<[u8; 32]>,
    randomness: Randomness,
    issued: AtomicU64,
}

impl RootKey {
    /// A fresh key from the operating system.
    ///
    /// # Errors
    ///
    /// [`NoiseError::NoEntropy`] if the operating system has none to give.
    pub fn from_operating_system() -> Result<Self, NoiseError> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *key).map_err(NoiseError::NoEntropy)?;
        Ok(Self::new(key, Randomness::OperatingSystem))
    }

    /// A repeatable key for simulations. Everything made with it says so, see [`Stream::simulation`].
    #[must_use]
    pub fn simulation(seed: u64) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Self::new(key, Randomness::SimulationSeeded)
    }

    fn new(key: Zeroizing<[u8; 32]>, randomness: Randomness) -> Self {
        let issued = AtomicU64::new(0);
        Self {
            key,
            randomness,
            issued,
        }
    }

    /// Where this key comes from.
    #[must_use]
    pub fn randomness(&self) -> Randomness {
        self.randomness
    }

    /// The stream for one purpose in one context, for example study, attempt, round, step and site.
    ///
    /// HKDF-SHA-256 (RFC 5869) over the parts, each with its length before it, so that `["ab", "c"]` and
    /// `["a", "bc"]` differ. In a simulation the same purpose and context give the same stream. A key of the
    /// operating system adds the number of streams issued so far and the process, so that no mistake in the
    /// context, no retry and no fork can release the same noise twice.
    #[must_use]
    pub fn stream(&self, purpose: Purpose, context: &[&[u8]]) -> Stream {
        let mut info = Vec::new();
        for part in purpose.parts().iter().chain(context) {
            push_part(&mut info, part);
        }
        if self.randomness == Randomness::OperatingSystem {
            let number = self.issued.fetch_add(1, Ordering::Relaxed);
            push_part(&mut info, &number.to_le_bytes());
            push_part(&mut info, &std::process::id().to_le_bytes());
        }
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(DERIVATION), &*self.key)
            .expand(&info, &mut *key)
            // Cannot fail: 32 bytes are within the 8160 of HKDF-SHA-256.
            .expect("a key is one hash long");
        Stream::new(&key, self.randomness)
    }
}

fn push_part(info: &mut Vec<u8>, part: &[u8]) {
    info.extend_from_slice(&(part.len() as u64).to_le_bytes());
    info.extend_from_slice(part);
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootKey")
            .field("randomness", &self.randomness)
            .finish_non_exhaustive()
    }
}

/// A ChaCha20 stream for one use. Not `Clone`: its values can be drawn once.
///
/// Scalar draws take nonce 0 of the stream's key; each vector of noise takes the next nonce, so that the two
/// never overlap and a vector can be filled in any order.
pub struct Stream {
    scalars: ChaCha20Rng,
    key: Key,
    vectors: u64,
    randomness: Randomness,
}

impl Stream {
    fn new(key: &Zeroizing<[u8; 32]>, randomness: Randomness) -> Self {
        Self {
            scalars: ChaCha20Rng::from_seed(**key),
            key: Key::new(key),
            vectors: 0,
            randomness,
        }
    }

    /// Where the values come from.
    #[must_use]
    pub fn randomness(&self) -> Randomness {
        self.randomness
    }

    /// Whether the values are repeatable, so that nothing drawn from them is private.
    #[must_use]
    pub fn simulation(&self) -> bool {
        self.randomness == Randomness::SimulationSeeded
    }

    /// The key with a nonce that nothing else uses.
    pub(super) fn next_vector(&mut self) -> (Key, u64) {
        self.vectors += 1;
        (self.key.duplicate(), self.vectors)
    }

    /// A generator for one member of a family, the same whichever members were asked before.
    pub(crate) fn into_family(self) -> StreamFamily {
        StreamFamily { stream: self }
    }
}

impl TryRng for Stream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.scalars.next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.scalars.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.scalars.fill_bytes(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Stream {}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("randomness", &self.randomness)
            .finish_non_exhaustive()
    }
}

/// One stream per member: the member's number, counted from the last nonce down, away from the scalars and
/// vectors that the stream may have given before.
pub(crate) struct StreamFamily {
    stream: Stream,
}

impl StreamFamily {
    pub(crate) fn member(&self, number: u64) -> ChaCha20Rng {
        let mut scalars = ChaCha20Rng::from_seed(*self.stream.key.bytes());
        scalars.set_stream(u64::MAX - number);
        scalars
    }

    pub(crate) fn randomness(&self) -> Randomness {
        self.stream.randomness
    }
}

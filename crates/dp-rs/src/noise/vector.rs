//! A vector of Gaussian noise, addressed by position, so that it can be filled in pieces and in parallel.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use super::keystream::Key;
use super::{NoiseError, NoiseLevel, Randomness, Stream, fast, hardened, lanes};

/// Values computed together.
pub(super) const TILE: usize = 256;

/// Adds Gaussian noise of standard deviation `std` to every value.
///
/// ```
/// use dp_rs::noise::{NoiseLevel, Purpose, RootKey, add_noise};
///
/// let mut stream = RootKey::simulation(7).stream(Purpose::GradientNoise, &[b"round 1"]);
/// let mut values = [0.0_f32; 4];
/// let stamp = add_noise(NoiseLevel::Fast, &mut values, 1.0, &mut stream)?;
/// assert!(stamp.simulation() && values.iter().all(|&v| v != 0.0));
/// # Ok::<(), dp_rs::noise::NoiseError>(())
/// ```
///
/// # Errors
///
/// [`NoiseError::InvalidStd`]; [`NoiseError::ExactNeedsIntegers`] for [`NoiseLevel::Exact`], which
/// [`ExactSum`](super::ExactSum) provides.
pub fn add_noise(
    level: NoiseLevel,
    values: &mut [f32],
    std: f64,
    stream: &mut Stream,
) -> Result<NoiseStamp, NoiseError> {
    let mut noise = NoiseVector::new(level, std, stream)?;
    noise.add_to(values);
    Ok(noise.stamp())
}

/// What was added: for ledgers and reports.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoiseStamp {
    /// Level of protection.
    pub level: NoiseLevel,
    /// Standard deviation per coordinate, in the unit of the values.
    pub std: f64,
    /// Source of the randomness.
    pub randomness: Randomness,
}

impl NoiseStamp {
    /// Whether the noise is repeatable and therefore protects nobody.
    #[must_use]
    pub fn simulation(&self) -> bool {
        self.randomness == Randomness::SimulationSeeded
    }
}

/// Independent Gaussians, one for each position from zero on; each can be added once.
///
/// The noise at a position depends on the stream and the position alone: pieces of any size and any number
/// of threads give the same bits, and so do processors with vectors of different width.
pub struct NoiseVector {
    key: Key,
    nonce: u64,
    kernel: Kernel,
    stamp: NoiseStamp,
    /// Positions already used.
    position: u64,
}

#[derive(Clone, Copy)]
enum Kernel {
    Fast { std: f32 },
    Hardened { std: f64, step: f64 },
}

impl NoiseVector {
    /// Takes the next vector of the stream.
    ///
    /// # Errors
    ///
    /// As [`add_noise`].
    pub fn new(level: NoiseLevel, std: f64, stream: &mut Stream) -> Result<Self, NoiseError> {
        // Also in single precision, and with room for the grid step below it.
        let fits = std > 0.0 && (std as f32).is_normal() && std.is_finite();
        if !fits {
            return Err(NoiseError::InvalidStd { std });
        }
        let kernel = match level {
            NoiseLevel::Fast => Kernel::Fast { std: std as f32 },
            NoiseLevel::Hardened => Kernel::Hardened {
                std,
                step: hardened::grid_step(std),
            },
            NoiseLevel::Exact => return Err(NoiseError::ExactNeedsIntegers),
        };
        let randomness = stream.randomness();
        let (key, nonce) = stream.next_vector();
        let stamp = NoiseStamp {
            level,
            std,
            randomness,
        };
        Ok(Self {
            key,
            nonce,
            kernel,
            stamp,
            position: 0,
        })
    }

    /// What this noise is.
    #[must_use]
    pub fn stamp(&self) -> NoiseStamp {
        self.stamp
    }

    /// Adds the noise of the next `values.len()` positions.
    pub fn add_to(&mut self, values: &mut [f32]) {
        self.add_from(self.position, values);
        self.position += values.len() as u64;
    }

    /// As [`add_to`](Self::add_to), on several threads, with the same result.
    pub fn add_to_parallel(&mut self, values: &mut [f32], threads: NonZeroUsize) {
        let start = self.position;
        self.position += values.len() as u64;
        // Whole tiles per thread, so that none is computed twice.
        let share = values
            .len()
            .div_ceil(threads.get())
            .next_multiple_of(TILE)
            .max(TILE);
        let this = &*self;
        std::thread::scope(|scope| {
            for (part, number) in values.chunks_mut(share).zip(0_u64..) {
                scope.spawn(move || this.add_from(start + number * share as u64, part));
            }
        });
    }

    fn add_from(&self, start: u64, values: &mut [f32]) {
        let offset = (start % TILE as u64) as usize;
        let head = if offset == 0 {
            0
        } else {
            (TILE - offset).min(values.len())
        };
        let (head, rest) = values.split_at_mut(head);
        let index = start / TILE as u64;
        if !head.is_empty() {
            self.add_part(index, offset, head);
        }
        let index = index + u64::from(offset > 0);
        let (tiles, tail) = rest.as_chunks_mut::<TILE>();
        self.add_tiles(index, tiles);
        if !tail.is_empty() {
            self.add_part(index + tiles.len() as u64, 0, tail);
        }
    }

    /// A piece of a tile, by way of a whole one.
    fn add_part(&self, index: u64, offset: usize, values: &mut [f32]) {
        let mut tile = [0.0; TILE];
        let part = offset..offset + values.len();
        tile[part.clone()].copy_from_slice(values);
        self.add_tiles(index, std::slice::from_mut(&mut tile));
        values.copy_from_slice(&tile[part]);
    }

    fn add_tiles(&self, first: u64, tiles: &mut [[f32; TILE]]) {
        match self.kernel {
            Kernel::Fast { std } => lanes::widest(
                #[inline(always)]
                || {
                    for (tile, index) in tiles.iter_mut().zip(first..) {
                        fast::add_tile(&self.key, self.nonce, index, std, tile);
                    }
                },
            ),
            Kernel::Hardened { std, step } => lanes::widest(
                #[inline(always)]
                || {
                    for (tile, index) in tiles.iter_mut().zip(first..) {
                        hardened::add_tile(&self.key, self.nonce, index, std, step, tile);
                    }
                },
            ),
        }
    }
}

impl std::fmt::Debug for NoiseVector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NoiseVector")
            .field("stamp", &self.stamp)
            .finish_non_exhaustive()
    }
}

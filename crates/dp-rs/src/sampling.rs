//! Which units take part in a step, and which of their records.
//!
//! A *unit* is what the guarantee protects: a patient or a record. [`PoissonSampler`] includes each unit
//! independently, [`FixedBatchSampler`] draws a batch of fixed size without replacement; the two need
//! different accounting. [`RecordChooser`] bounds the records of one unit. A [`Batch`] of any size, also an
//! empty one, takes one noisy step: [`Batch::physical`] splits it to fit memory, without a cap.
//!
//! ```
//! use std::num::NonZeroUsize;
//! use dp_rs::noise::{Purpose, RootKey};
//! use dp_rs::sampling::PoissonSampler;
//!
//! let root = RootKey::from_operating_system()?;
//! let mut stream = root.stream(Purpose::Sampling, &[b"study", b"step 1"]);
//! let batch = PoissonSampler::new(0.05)?.sample(10_000, &mut stream);
//! for part in batch.physical(NonZeroUsize::new(64).unwrap()) {
//!     assert!(part.len() <= 64);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::num::NonZeroUsize;

use rand::Rng;

use crate::noise::{Randomness, Stream, StreamFamily};

/// 2^64: a rate times this is a threshold for 64-bit integers.
const TWO_64: f64 = 18_446_744_073_709_551_616.0;

/// Why a sampler was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// A rate that is not a probability, or above zero but below 2^-64.
    #[error("the sampling rate must be 0 or within [2^-64, 1], got {rate}")]
    InvalidRate {
        /// The refused rate.
        rate: f64,
    },
    /// More units wanted than there are.
    #[error("a batch of {batch} cannot be drawn from {units} units without replacement")]
    BatchTooLarge {
        /// The wanted size.
        batch: usize,
        /// The units at hand.
        units: usize,
    },
}

impl SamplingError {
    /// Stable name of the error, for logs and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidRate { .. } => "sampling_invalid_rate",
            Self::BatchTooLarge { .. } => "sampling_batch_too_large",
        }
    }
}

/// The units of one logical step, in ascending order.
///
/// Which units these are, and how many, is private: `Debug` shows neither.
pub struct Batch {
    units: Vec<usize>,
    randomness: Randomness,
}

impl Batch {
    /// Indices of the units.
    #[must_use]
    pub fn units(&self) -> &[usize] {
        &self.units
    }

    /// Parts of at most `size` units, all units in all. None if the batch is empty; the step is then noise
    /// alone, and is taken.
    pub fn physical(&self, size: NonZeroUsize) -> impl ExactSizeIterator<Item = &[usize]> {
        self.units.chunks(size.get())
    }

    /// Whether the choice is repeatable, so that it amplifies nothing.
    #[must_use]
    pub fn simulation(&self) -> bool {
        self.randomness == Randomness::SimulationSeeded
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("randomness", &self.randomness)
            .finish_non_exhaustive()
    }
}

/// Includes each unit independently with the same probability.
///
/// Exact: a uniform 64-bit integer is compared with floor(q 2^64). The realised probability is at most q, so
/// an account at q holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoissonSampler {
    rate: f64,
    /// None: every unit.
    threshold: Option<u64>,
}

impl PoissonSampler {
    /// Of inclusion probability `rate`.
    ///
    /// # Errors
    ///
    /// [`SamplingError::InvalidRate`].
    pub fn new(rate: f64) -> Result<Self, SamplingError> {
        if !(0.0..=1.0).contains(&rate) || (rate > 0.0 && rate * TWO_64 < 1.0) {
            return Err(SamplingError::InvalidRate { rate });
        }
        // The product with a power of two is exact; the conversion takes the floor.
        let threshold = (rate < 1.0).then_some((rate * TWO_64) as u64);
        Ok(Self { rate, threshold })
    }

    /// The inclusion probability.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// The batch of one step among `units` units. It may be empty.
    #[must_use]
    pub fn sample(&self, units: usize, stream: &mut Stream) -> Batch {
        let included = match self.threshold {
            None => (0..units).collect(),
            Some(0) => Vec::new(),
            Some(threshold) => (0..units)
                .filter(|_| stream.next_u64() < threshold)
                .collect(),
        };
        Batch {
            units: included,
            randomness: stream.randomness(),
        }
    }
}

/// Draws a fixed number of units, every set of that size with the same probability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedBatchSampler {
    batch: usize,
}

impl FixedBatchSampler {
    /// Of `batch` units per step.
    #[must_use]
    pub fn new(batch: usize) -> Self {
        Self { batch }
    }

    /// The batch of one step among `units` units.
    ///
    /// # Errors
    ///
    /// [`SamplingError::BatchTooLarge`].
    pub fn sample(&self, units: usize, stream: &mut Stream) -> Result<Batch, SamplingError> {
        if self.batch > units {
            return Err(SamplingError::BatchTooLarge {
                batch: self.batch,
                units,
            });
        }
        let randomness = stream.randomness();
        Ok(Batch {
            units: without_replacement(self.batch, units, stream),
            randomness,
        })
    }
}

/// Bounds the records of a unit: at most `max_records`, drawn anew in every step.
///
/// The choice for a unit depends on the stream and the unit's number alone, not on the other units or on the
/// order in which they are asked for, so a unit's presence does not move another's choice.
pub struct RecordChooser {
    family: StreamFamily,
    max_records: usize,
}

impl RecordChooser {
    /// The choices of one step. Takes the whole stream.
    #[must_use]
    pub fn new(max_records: NonZeroUsize, stream: Stream) -> Self {
        Self {
            family: stream.into_family(),
            max_records: max_records.get(),
        }
    }

    /// Indices, ascending, of the records used of a unit that has `records`.
    #[must_use]
    pub fn choose(&self, unit: u64, records: usize) -> Vec<usize> {
        if records <= self.max_records {
            return (0..records).collect();
        }
        without_replacement(self.max_records, records, &mut self.family.member(unit))
    }

    /// Whether the choice is repeatable.
    #[must_use]
    pub fn simulation(&self) -> bool {
        self.family.randomness() == Randomness::SimulationSeeded
    }
}

impl fmt::Debug for RecordChooser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordChooser")
            .field("max_records", &self.max_records)
            .finish_non_exhaustive()
    }
}

/// A uniform subset, ascending (Floyd's algorithm: as many draws as members).
fn without_replacement(chosen: usize, of: usize, rng: &mut impl Rng) -> Vec<usize> {
    let mut members = std::collections::BTreeSet::new();
    for last in of - chosen..of {
        let candidate = below(last as u64 + 1, rng) as usize;
        if !members.insert(candidate) {
            members.insert(last);
        }
    }
    members.into_iter().collect()
}

/// A uniform integer in `[0, bound)`, without bias, by rejection under a mask.
fn below(bound: u64, rng: &mut impl Rng) -> u64 {
    let mask = u64::MAX
        .checked_shr((bound - 1).leading_zeros())
        .unwrap_or(0);
    loop {
        let draw = rng.next_u64() & mask;
        if draw < bound {
            return draw;
        }
    }
}

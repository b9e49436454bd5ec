//! What was released, in the form that a ledger stores.
//!
//! A [`Mechanism`] describes one release, an [`Event`] is a description that was checked, and a
//! [`Repeated`] event says how often it happened and under which [`Adjacency`]. An accountant
//! ([`crate::accounting`]) turns a list of them into a guarantee. The stored form never contains an
//! epsilon, so that an old ledger can be judged again by a better accountant.
//!
//! ```
//! use dp_rs::adjacency::Adjacency;
//! use dp_rs::event::Event;
//!
//! let step = Event::poisson_gaussian(1.1, 0.01)?;
//! let ledger = [step.repeated(1000, Adjacency::AddRemove)];
//! assert_eq!(
//!     serde_json::to_string(&ledger[0].event).unwrap(),
//!     r#"{"mechanism":"poisson-gaussian","noise_multiplier":1.1,"sampling_rate":0.01}"#,
//! );
//! # Ok::<(), dp_rs::event::InvalidEvent>(())
//! ```

use serde::{Deserialize, Serialize};

use crate::adjacency::Adjacency;

pub(crate) mod validation;
pub use validation::InvalidEvent;

/// One release, described by what determines its privacy.
///
/// `noise_multiplier` is the standard deviation of the noise divided by the clip norm, for every
/// adjacency relation; zero means no noise. Lengths "in grid units" are in multiples of the step to
/// which values were rounded. The list of fields is complete: an unknown mechanism or field is an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mechanism", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Mechanism {
    /// A clipped sum over all units with Gaussian noise.
    Gaussian {
        /// Standard deviation / clip norm.
        noise_multiplier: f64,
    },
    /// A clipped sum over units that were each included independently, with Gaussian noise.
    PoissonGaussian {
        /// Standard deviation / clip norm.
        noise_multiplier: f64,
        /// Probability that a unit is included.
        sampling_rate: f64,
    },
    /// As [`Mechanism::PoissonGaussian`] over records, seen by a patient who has several of them.
    MixtureOfGaussians {
        /// Standard deviation / clip norm of one record.
        noise_multiplier: f64,
        /// Probability that a record is included.
        sampling_rate: f64,
        /// Largest number of records of one patient.
        max_records: u32,
    },
    /// Poisson sampling of which a random surplus above a fixed batch size is dropped.
    TruncatedPoisson {
        /// Standard deviation / clip norm.
        noise_multiplier: f64,
        /// Probability that a unit is drawn, before the surplus is dropped.
        sampling_rate: f64,
        /// Number of units, public.
        units: u64,
        /// Largest batch.
        max_batch: u64,
    },
    /// A batch of fixed size, drawn uniformly without replacement.
    FixedBatch {
        /// Standard deviation / clip norm.
        noise_multiplier: f64,
        /// Number of units, public.
        units: u64,
        /// Number of units in every batch.
        batch: u64,
    },
    /// A sum with Laplace noise.
    Laplace {
        /// Scale of the noise / L1 clip norm.
        scale: f64,
    },
    /// An integer vector with independent discrete Gaussian noise.
    DiscreteGaussian {
        /// Parameter sigma of the noise, in grid units.
        standard_deviation: f64,
        /// L2 norm of one unit's contribution, in grid units.
        clip_norm: f64,
        /// Number of coordinates.
        dimension: u64,
    },
    /// A sum of integer vectors to which every site added its own discrete Gaussian noise.
    DistributedDiscreteGaussian {
        /// Parameter sigma of one site's noise, in grid units.
        standard_deviation: f64,
        /// Number of sites whose noise is in the sum.
        sites: u64,
        /// L2 norm of one unit's contribution, in grid units.
        clip_norm: f64,
        /// L1 norm of one unit's contribution, in grid units.
        clip_norm_l1: f64,
        /// Number of coordinates.
        dimension: u64,
    },
    /// An integer vector with independent Skellam noise.
    Skellam {
        /// Variance of the noise in the sum, in squared grid units.
        variance: f64,
        /// L2 norm of one unit's contribution, in grid units.
        clip_norm: f64,
        /// L1 norm of one unit's contribution, in grid units.
        clip_norm_l1: f64,
    },
    /// All prefix sums of a stream by binary trees; a unit appears at most once in a tree.
    TreeAggregation {
        /// Standard deviation of one node's noise / clip norm.
        noise_multiplier: f64,
        /// Number of leaves of a tree.
        steps: u64,
        /// Number of trees (restarts) that a unit appears in.
        trees: u64,
    },
    /// A whole training run with noise that is correlated over steps by a banded Toeplitz matrix.
    BandedToeplitz {
        /// Standard deviation of the uncorrelated noise / clip norm.
        noise_multiplier: f64,
        /// First column of the strategy matrix, from the diagonal down.
        coefficients: Vec<f64>,
        /// Number of steps of the run.
        steps: u64,
        /// Smallest number of steps between two participations of a unit.
        min_separation: u64,
        /// Largest number of participations of a unit.
        max_participations: u64,
    },
    /// A whole training run with noise that is correlated over steps by a buffered linear Toeplitz matrix.
    Blt {
        /// Standard deviation of the uncorrelated noise / clip norm.
        noise_multiplier: f64,
        /// Decay of each buffer, in `[0, 1)`.
        decays: Vec<f64>,
        /// Weight of each buffer in the output.
        scales: Vec<f64>,
        /// Number of steps of the run.
        steps: u64,
        /// Smallest number of steps between two participations of a unit.
        min_separation: u64,
        /// Largest number of participations of a unit.
        max_participations: u64,
    },
    /// Anything of which only a zero-concentrated guarantee is known: Renyi divergence at most `xi + rho a`.
    Zcdp {
        /// Slope.
        rho: f64,
        /// Offset, zero in most cases.
        #[serde(default)]
        xi: f64,
    },
    /// A release without protection; epsilon becomes infinite.
    NonPrivate {},
}

/// A [`Mechanism`] whose fields were checked; the only thing an accountant accepts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Mechanism", into = "Mechanism")]
pub struct Event(Mechanism);

impl Event {
    /// Checks a description.
    ///
    /// # Errors
    ///
    /// [`InvalidEvent`] names the first field that is out of range and what to do about it.
    pub fn new(mechanism: Mechanism) -> Result<Self, InvalidEvent> {
        validation::check(&mechanism)?;
        Ok(Self(mechanism))
    }

    /// [`Mechanism::Gaussian`].
    ///
    /// # Errors
    ///
    /// As [`Event::new`].
    pub fn gaussian(noise_multiplier: f64) -> Result<Self, InvalidEvent> {
        Self::new(Mechanism::Gaussian { noise_multiplier })
    }

    /// [`Mechanism::PoissonGaussian`].
    ///
    /// # Errors
    ///
    /// As [`Event::new`].
    pub fn poisson_gaussian(
        noise_multiplier: f64,
        sampling_rate: f64,
    ) -> Result<Self, InvalidEvent> {
        Self::new(Mechanism::PoissonGaussian {
            noise_multiplier,
            sampling_rate,
        })
    }

    /// [`Mechanism::MixtureOfGaussians`].
    ///
    /// # Errors
    ///
    /// As [`Event::new`].
    pub fn mixture_of_gaussians(
        noise_multiplier: f64,
        sampling_rate: f64,
        max_records: u32,
    ) -> Result<Self, InvalidEvent> {
        Self::new(Mechanism::MixtureOfGaussians {
            noise_multiplier,
            sampling_rate,
            max_records,
        })
    }

    /// [`Mechanism::Laplace`].
    ///
    /// # Errors
    ///
    /// As [`Event::new`].
    pub fn laplace(scale: f64) -> Result<Self, InvalidEvent> {
        Self::new(Mechanism::Laplace { scale })
    }

    /// [`Mechanism::Zcdp`] with offset zero.
    ///
    /// # Errors
    ///
    /// As [`Event::new`].
    pub fn zcdp(rho: f64) -> Result<Self, InvalidEvent> {
        Self::new(Mechanism::Zcdp { rho, xi: 0.0 })
    }

    /// [`Mechanism::NonPrivate`].
    pub fn non_private() -> Self {
        Self(Mechanism::NonPrivate {})
    }

    /// What was released.
    pub fn mechanism(&self) -> &Mechanism {
        &self.0
    }

    /// The event, `count` times, for units that are neighbours under `adjacency`.
    pub fn repeated(self, count: u64, adjacency: Adjacency) -> Repeated {
        Repeated {
            event: self,
            count,
            adjacency,
        }
    }
}

impl TryFrom<Mechanism> for Event {
    type Error = InvalidEvent;

    fn try_from(mechanism: Mechanism) -> Result<Self, InvalidEvent> {
        Self::new(mechanism)
    }
}

impl From<Event> for Mechanism {
    fn from(event: Event) -> Self {
        event.0
    }
}

/// An event, how often it happened, and the adjacency that its numbers are meant for.
///
/// A list of these is what accountants take. Splitting an entry in two, or merging equal ones, changes
/// nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repeated {
    /// What was released.
    pub event: Event,
    /// How many times; zero is allowed and costs nothing.
    pub count: u64,
    /// Which data sets are neighbours.
    pub adjacency: Adjacency,
}

//! One plan for private training, from which sampler, clip, noise and ledger events follow.
//!
//! The parts of DP-SGD (Abadi et al., arXiv 1607.00133) are easy to get right one by one and easy to combine
//! wrongly: a sampler that is not the one accounted for, a divisor that depends on the data, noise scaled for
//! another clip. Here they come from one [`Plan`]: a [`Training`] hands out one [`Step`] at a time, the step
//! samples, clips, adds noise and divides, and every finished step is in the training's [`Transcript`].
//!
//! ```
//! use dp_rs::adjacency::Adjacency;
//! use dp_rs::clipping::ClipRule;
//! use dp_rs::gradients::UnitGradients;
//! use dp_rs::noise::{NoiseLevel, RootKey};
//! use dp_rs::plan::{Clip, Plan, PlanSettings, Unit};
//!
//! // The gradients of a model with one weight: the units' own values.
//! struct Values(Vec<f32>);
//!
//! impl UnitGradients for Values {
//!     fn units(&self) -> usize {
//!         self.0.len()
//!     }
//!     fn groups(&self) -> usize {
//!         1
//!     }
//!     fn squared_norms(&self) -> Vec<f64> {
//!         self.0.iter().map(|v| f64::from(v * v)).collect()
//!     }
//!     fn weighted_sum(self, factors: &[f64]) -> Vec<f32> {
//!         vec![self.0.iter().zip(factors).map(|(v, f)| v * *f as f32).sum()]
//!     }
//! }
//!
//! let plan = Plan::new(PlanSettings {
//!     unit: Unit::Patient,
//!     adjacency: Adjacency::AddRemove,
//!     clip: Clip::Fixed(ClipRule::flat(1.0)?),
//!     noise_multiplier: 1.1,
//!     noise_level: NoiseLevel::Hardened,
//!     sampling_rate: 0.1,
//!     expected_units: 20.0,
//!     max_records: 4.try_into().unwrap(),
//! })?;
//! let patients: Vec<f32> = (0..200).map(|i| i as f32 / 100.0).collect();
//! let key = RootKey::from_operating_system()?;
//! let mut training = plan.begin()?;
//! for round in 0..3_u8 {
//!     let mut step = training.step(&key, &[b"study", &[round]], patients.len());
//!     for chunk in step.chunks(64.try_into().unwrap()) {
//!         step.add(Values(chunk.iter().map(|&unit| patients[unit]).collect()))?;
//!     }
//!     let mean_gradient = step.finish(1)?;
//!     assert_eq!(mean_gradient.len(), 1);
//! }
//! let spent = training.transcript().guarantee(1e-4)?;
//! assert!(spent.epsilon > 0.0 && spent.epsilon < 2.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod training;

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

pub use training::{Step, Training, Transcript};

use crate::accounting::{AccountingError, Guarantee, Profile};
use crate::adjacency::Adjacency;
use crate::clipping::{ClipRule, ClippingError, QuantileClipConfig};
use crate::event::{Event, InvalidEvent, Repeated};
use crate::noise::{NoiseError, NoiseLevel};
use crate::sampling::{PoissonSampler, SamplingError};
use training::ClipState;

/// What the guarantee protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// All records of one person.
    Patient,
    /// One record; a person with several is protected less.
    Record,
    /// Everything that one site contributes. Says how well the institution is hidden, and nothing about a person in
    /// addition to that.
    Site,
}

impl Unit {
    /// The name in files and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Patient => "patient",
            Self::Record => "record",
            Self::Site => "site",
        }
    }
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// How contributions are bounded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Clip {
    /// The same rule in every step.
    Fixed(ClipRule),
    /// A clip norm that follows a quantile of the norms; its count shares the step's noise budget.
    Quantile(QuantileClipConfig),
}

/// The free choices of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanSettings {
    /// What is protected.
    pub unit: Unit,
    /// Which data sets are neighbours.
    pub adjacency: Adjacency,
    /// How contributions are bounded.
    pub clip: Clip,
    /// Standard deviation of the noise on a sum / clip norm.
    pub noise_multiplier: f64,
    /// How far the noise can be trusted.
    pub noise_level: NoiseLevel,
    /// Probability that a unit takes part in a step.
    pub sampling_rate: f64,
    /// What a noisy sum is divided by: a declared number, `sampling_rate` times the declared units. Never the
    /// realised number, which is private.
    pub expected_units: f64,
    /// Most records of one unit in one step; which ones is drawn anew in every step.
    pub max_records: NonZeroU32,
}

/// A plan that was checked. The only way to a private step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PlanSettings", into = "PlanSettings")]
pub struct Plan {
    settings: PlanSettings,
    event: Event,
}

/// Why a plan or a step was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Noise or sampling out of range.
    #[error(transparent)]
    Event(#[from] InvalidEvent),
    /// The sampling rate cannot be drawn.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The clip is not possible.
    #[error(transparent)]
    Clipping(#[from] ClippingError),
    /// The noise could not be drawn.
    #[error(transparent)]
    Noise(#[from] NoiseError),
    /// No noise at all.
    #[error("noise_multiplier is 0: training would not be private; give a number above 0")]
    NoNoise,
    /// A divisor that is no number of units.
    #[error(
        "expected_units is {0}: give the sampling rate times the declared number of units, above 0"
    )]
    ExpectedUnits(f64),
    /// Exact noise needs contributions in memory one by one.
    #[error("noise level exact needs every contribution on a grid: use hardened for gradients")]
    ExactGradients,
    /// Exact noise in shares.
    #[error(
        "noise level exact is accounted for in single releases only: use hardened for noise in shares"
    )]
    ExactShares,
    /// A step cannot protect a site: it does not clip what a site contributes.
    #[error(
        "steps protect a patient or a record; a site is protected by clipping its whole update"
    )]
    SiteSteps,
    /// Gradients of the wrong number of units.
    #[error("{sampled} units were sampled, gradients came for {added}: add every chunk once")]
    OtherUnits {
        /// Units of the step.
        sampled: usize,
        /// Units whose gradients were added.
        added: usize,
    },
    /// Gradients of different lengths.
    #[error("gradients have {got} values, the step {expected}")]
    OtherLength {
        /// Values before.
        expected: usize,
        /// Values now.
        got: usize,
    },
    /// A step more than were to be taken.
    #[error("all {agreed} steps of this training are taken: another one was not agreed")]
    NotAgreed {
        /// Steps in all.
        agreed: u64,
    },
    /// A clipped sum that is not finite.
    #[error(
        "the clipped sum is not finite although every norm was: the gradients contradict their norms"
    )]
    NotFinite,
}

impl PlanError {
    /// Stable name of the error, for logs and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Event(_) => "plan_event",
            Self::Sampling(error) => error.code(),
            Self::Clipping(error) => error.code(),
            Self::Noise(error) => error.code(),
            Self::NoNoise => "plan_no_noise",
            Self::ExpectedUnits(_) => "plan_expected_units",
            Self::ExactGradients => "plan_exact_gradients",
            Self::ExactShares => "plan_exact_shares",
            Self::SiteSteps => "plan_site_steps",
            Self::OtherUnits { .. } => "plan_other_units",
            Self::OtherLength { .. } => "plan_other_length",
            Self::NotAgreed { .. } => "plan_not_agreed",
            Self::NotFinite => "plan_not_finite",
        }
    }
}

impl Plan {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`PlanError`], naming the setting.
    pub fn new(settings: PlanSettings) -> Result<Self, PlanError> {
        let event = Event::poisson_gaussian(settings.noise_multiplier, settings.sampling_rate)?;
        PoissonSampler::new(settings.sampling_rate)?;
        if settings.noise_multiplier == 0.0 {
            return Err(PlanError::NoNoise);
        }
        if !(settings.expected_units.is_finite() && settings.expected_units > 0.0) {
            return Err(PlanError::ExpectedUnits(settings.expected_units));
        }
        if settings.noise_level == NoiseLevel::Exact {
            return Err(PlanError::ExactGradients);
        }
        if settings.unit == Unit::Site {
            return Err(PlanError::SiteSteps);
        }
        let plan = Self { settings, event };
        ClipState::of(&plan.settings)?;
        Ok(plan)
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &PlanSettings {
        &self.settings
    }

    /// What `steps` steps cost, in the form of the ledger.
    #[must_use]
    pub fn events(&self, steps: u64) -> Repeated {
        self.event.clone().repeated(steps, self.settings.adjacency)
    }

    /// The privacy of `steps` steps and nothing else.
    ///
    /// # Errors
    /// [`AccountingError`] for a delta that is none.
    pub fn guarantee(&self, steps: u64, delta: f64) -> Result<Guarantee, AccountingError> {
        Profile::of(&[self.events(steps)], self.settings.adjacency)?.epsilon(delta)
    }

    /// Begins training: no step is taken yet.
    ///
    /// # Errors
    /// [`PlanError::Clipping`].
    pub fn begin(&self) -> Result<Training, PlanError> {
        Training::new(self.clone())
    }
}

impl TryFrom<PlanSettings> for Plan {
    type Error = PlanError;

    fn try_from(settings: PlanSettings) -> Result<Self, PlanError> {
        Self::new(settings)
    }
}

impl From<Plan> for PlanSettings {
    fn from(plan: Plan) -> Self {
        plan.settings
    }
}

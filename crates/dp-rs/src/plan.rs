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

use std::num::{NonZeroU32, NonZeroUsize};

use serde::{Deserialize, Serialize};

use crate::accounting::{AccountingError, Guarantee, Profile};
use crate::adjacency::Adjacency;
use crate::clipping::{ClipRule, ClippingError, Factor, QuantileClip, QuantileClipConfig};
use crate::event::{Event, InvalidEvent, Repeated};
use crate::faults::{Fault, injected};
use crate::gradients::UnitGradients;
use crate::noise::{NoiseError, NoiseLevel, Purpose, Randomness, RootKey, Stream, add_noise};
use crate::sampling::{PoissonSampler, RecordChooser, SamplingError};

/// What the guarantee protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// All records of one person.
    Patient,
    /// One record; a person with several is protected less.
    Record,
}

impl Unit {
    /// The name in files and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Patient => "patient",
            Self::Record => "record",
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
            Self::OtherUnits { .. } => "plan_other_units",
            Self::OtherLength { .. } => "plan_other_length",
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
        let plan = Self { settings, event };
        plan.clip()?;
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
        Ok(Training {
            clip: self.clip()?,
            plan: self.clone(),
            steps: 0,
            randomness: None,
            not_finite: 0,
        })
    }

    fn clip(&self) -> Result<ClipState, PlanError> {
        Ok(match &self.settings.clip {
            Clip::Fixed(rule) => ClipState::Fixed(rule.clone()),
            Clip::Quantile(config) => {
                let config = QuantileClipConfig {
                    expected_batch: self.settings.expected_units,
                    noise_multiplier: self.settings.noise_multiplier,
                    ..*config
                };
                ClipState::Quantile(QuantileClip::new(config)?)
            }
        })
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

#[derive(Debug)]
enum ClipState {
    Fixed(ClipRule),
    Quantile(QuantileClip),
}

/// Training under a plan: hands out one step at a time and remembers what they cost.
#[derive(Debug)]
pub struct Training {
    plan: Plan,
    clip: ClipState,
    steps: u64,
    randomness: Option<Randomness>,
    not_finite: u64,
}

impl Training {
    /// Draws the units of the next of `units`; `context` names the step among all that use the key, for example by
    /// study, round, attempt and step.
    ///
    /// The step counts from now on, whether it is finished or not.
    pub fn step(&mut self, key: &RootKey, context: &[&[u8]], units: usize) -> Step<'_> {
        let rate = self.plan.settings.sampling_rate;
        // Cannot fail: the plan was checked with the same rate.
        let sampler = PoissonSampler::new(rate).expect("a checked rate");
        let sampled = if injected(Fault::FixedBatchAsPoisson) {
            (0..(rate * units as f64).round() as usize).collect()
        } else {
            let mut stream = key.stream(Purpose::Sampling, context);
            sampler.sample(units, &mut stream).units().to_vec()
        };
        let max_records = self.plan.settings.max_records;
        // Cannot fail: 32 bits fit.
        let max_records = NonZeroUsize::try_from(max_records).expect("a small number");
        let noise_context: &[&[u8]] = if injected(Fault::NoiseReused) {
            &[]
        } else {
            context
        };
        self.steps += 1;
        self.randomness = Some(key.randomness());
        Step {
            records: RecordChooser::new(max_records, key.stream(Purpose::RecordChoice, context)),
            noise: key.stream(Purpose::GradientNoise, noise_context),
            count_noise: key.stream(Purpose::CountNoise, noise_context),
            training: self,
            units: sampled,
            sum: None,
            norms: Vec::new(),
            added: 0,
        }
    }

    /// What was done so far.
    #[must_use]
    pub fn transcript(&self) -> Transcript {
        Transcript {
            unit: self.plan.settings.unit,
            events: self.plan.events(self.steps),
            noise_level: self.plan.settings.noise_level,
            // Without a step there is no randomness; the harmless answer is the one that claims nothing.
            randomness: self.randomness.unwrap_or(Randomness::SimulationSeeded),
        }
    }

    /// Units left out because their gradient was not finite. Private: it must not leave the site.
    #[must_use]
    pub fn not_finite(&self) -> u64 {
        self.not_finite
    }
}

/// What was released, for the ledger: it exists for steps that were taken only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transcript {
    /// What is protected.
    pub unit: Unit,
    /// The steps.
    pub events: Repeated,
    /// How far the noise can be trusted.
    pub noise_level: NoiseLevel,
    /// Where sampling and noise came from.
    pub randomness: Randomness,
}

impl Transcript {
    /// The privacy of these steps and nothing else.
    ///
    /// # Errors
    /// [`AccountingError`] for a delta that is none.
    pub fn guarantee(&self, delta: f64) -> Result<Guarantee, AccountingError> {
        let adjacency = self.events.adjacency;
        Profile::of(std::slice::from_ref(&self.events), adjacency)?.epsilon(delta)
    }
}

/// One step: the units drawn, and the sum of their clipped gradients.
#[derive(Debug)]
#[must_use = "a step that is drawn must be finished, also when it is empty"]
pub struct Step<'t> {
    training: &'t mut Training,
    units: Vec<usize>,
    records: RecordChooser,
    noise: Stream,
    count_noise: Stream,
    sum: Option<Vec<f32>>,
    norms: Vec<f64>,
    added: usize,
}

impl Step<'_> {
    /// The units of this step in parts of at most `size`, however many there are: memory bounds a part, never
    /// the step. Nothing when nobody was drawn; the step is then noise alone.
    #[must_use]
    pub fn chunks(&self, size: NonZeroUsize) -> Vec<Vec<usize>> {
        self.units
            .chunks(size.get())
            .map(<[usize]>::to_vec)
            .collect()
    }

    /// Which of the `records` of a unit are used in this step, ascending.
    #[must_use]
    pub fn records_of(&self, unit: usize, records: usize) -> Vec<usize> {
        self.records.choose(unit as u64, records)
    }

    /// Clips the gradients of one part and adds them. A unit whose gradient is not finite adds nothing.
    ///
    /// # Errors
    /// [`PlanError::OtherUnits`], [`PlanError::OtherLength`], [`PlanError::NotFinite`] and
    /// [`PlanError::Clipping`] for gradients in other groups than the clip.
    pub fn add(&mut self, gradients: impl UnitGradients) -> Result<(), PlanError> {
        let (units, groups) = (gradients.units(), gradients.groups());
        self.added += units;
        if self.added > self.units.len() {
            return Err(self.other_units());
        }
        let rule = match &self.training.clip {
            ClipState::Fixed(rule) => rule.clone(),
            ClipState::Quantile(clip) => clip.rule()?,
        };
        let mut factors = Vec::with_capacity(units * groups);
        for squares in gradients.squared_norms().chunks_exact(groups) {
            let norms: Vec<f64> = squares.iter().map(|square| square.sqrt()).collect();
            let found = rule.factors(&norms)?;
            self.training.not_finite += u64::from(found.contains(&Factor::Drop));
            factors.extend(found.into_iter().map(|factor| match factor {
                Factor::Scale(_) if injected(Fault::NoClip) => 1.0,
                Factor::Scale(scale) => scale,
                Factor::Drop => 0.0,
            }));
            self.norms
                .push(norms.iter().map(|norm| norm * norm).sum::<f64>().sqrt());
        }
        let part = gradients.weighted_sum(&factors);
        // Without a way out of the loop, so that it is vectorised.
        if !part.iter().fold(true, |all, value| all & value.is_finite()) {
            return Err(PlanError::NotFinite);
        }
        match &mut self.sum {
            empty @ None => *empty = Some(part),
            Some(sum) if sum.len() == part.len() => {
                for (sum, part) in sum.iter_mut().zip(part) {
                    *sum += part;
                }
            }
            Some(sum) => {
                return Err(PlanError::OtherLength {
                    expected: sum.len(),
                    got: part.len(),
                });
            }
        }
        Ok(())
    }

    /// Adds the noise and divides by the declared number of units: the mean gradient of `parameters` values,
    /// private. What is computed from it (optimiser, decay, averages) is private as well.
    ///
    /// # Errors
    /// [`PlanError::OtherUnits`] when a part is missing, [`PlanError::OtherLength`], [`PlanError::Noise`].
    pub fn finish(mut self, parameters: usize) -> Result<Vec<f32>, PlanError> {
        if self.added != self.units.len() {
            return Err(self.other_units());
        }
        let empty = self.units.is_empty();
        let mut sum = self.sum.take().unwrap_or_else(|| vec![0.0; parameters]);
        if sum.len() != parameters {
            return Err(PlanError::OtherLength {
                expected: parameters,
                got: sum.len(),
            });
        }
        let settings = &self.training.plan.settings;
        let (mut multiplier, clip_norm) = match &self.training.clip {
            ClipState::Fixed(rule) => (settings.noise_multiplier, rule.sensitivity()),
            ClipState::Quantile(clip) => (clip.gradient_multiplier(), clip.clip_norm()),
        };
        if injected(Fault::NoiseHalved) {
            multiplier /= 2.0;
        }
        if !(empty && injected(Fault::NoNoiseOnEmpty)) {
            add_noise(
                settings.noise_level,
                &mut sum,
                multiplier * clip_norm,
                &mut self.noise,
            )?;
        }
        let mut divisor = settings.expected_units;
        if injected(Fault::RealisedDivisor) {
            divisor = self.units.len().max(1) as f64;
        }
        // Divisions would take as long as fast noise.
        let share = 1.0 / divisor;
        for value in &mut sum {
            *value = (f64::from(*value) * share) as f32;
        }
        if let ClipState::Quantile(clip) = &mut self.training.clip {
            clip.update(&self.norms, &mut self.count_noise)?;
        }
        Ok(sum)
    }

    fn other_units(&self) -> PlanError {
        PlanError::OtherUnits {
            sampled: self.units.len(),
            added: self.added,
        }
    }
}

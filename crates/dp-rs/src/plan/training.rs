//! Training under a plan, step by step.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use super::{Clip, Plan, PlanError, PlanSettings, Unit};
use crate::accounting::{AccountingError, Guarantee, Profile};
use crate::clipping::{ClipRule, Factor, QuantileClip, QuantileClipConfig};
use crate::event::Repeated;
use crate::faults::{Fault, injected};
use crate::gradients::UnitGradients;
use crate::noise::{NoiseLevel, Purpose, Randomness, RootKey, Stream, add_noise};
use crate::release::Against;
use crate::sampling::{PoissonSampler, RecordChooser};

/// How the next step clips.
#[derive(Debug)]
pub(super) enum ClipState {
    Fixed(ClipRule),
    Quantile(QuantileClip),
}

impl ClipState {
    pub fn of(settings: &PlanSettings) -> Result<Self, PlanError> {
        Ok(match &settings.clip {
            Clip::Fixed(rule) => Self::Fixed(rule.clone()),
            Clip::Quantile(config) => {
                let config = QuantileClipConfig {
                    expected_batch: settings.expected_units,
                    noise_multiplier: settings.noise_multiplier,
                    ..*config
                };
                Self::Quantile(QuantileClip::new(config)?)
            }
        })
    }
}

/// Training under a plan: hands out one step at a time and remembers what they cost.
#[derive(Debug)]
pub struct Training {
    plan: Plan,
    clip: ClipState,
    steps: u64,
    /// Steps that may be taken in all.
    most: u64,
    randomness: Option<Randomness>,
    not_finite: u64,
}

impl Training {
    pub(super) fn new(plan: Plan) -> Result<Self, PlanError> {
        Ok(Self {
            clip: ClipState::of(&plan.settings)?,
            plan,
            steps: 0,
            most: u64::MAX,
            randomness: None,
            not_finite: 0,
        })
    }

    /// The same training, which hands out `steps` steps in all and not one more.
    #[must_use]
    pub fn at_most(self, steps: u64) -> Self {
        let most = self.most.min(steps);
        Self { most, ..self }
    }

    /// Draws the units of the next of `units`; `context` names the step among all that use the key, for example by
    /// study, round, attempt and step.
    ///
    /// The step counts from now on, whether it is finished or not. A step beyond [`Training::at_most`] draws
    /// nobody, counts for nothing and cannot be finished.
    pub fn step(&mut self, key: &RootKey, context: &[&[u8]], units: usize) -> Step<'_> {
        let rate = self.plan.settings.sampling_rate;
        // Cannot fail: the plan was checked with the same rate.
        let sampler = PoissonSampler::new(rate).expect("a checked rate");
        let beyond = self.steps >= self.most;
        let sampled = if beyond {
            Vec::new()
        } else if injected(Fault::FixedBatchAsPoisson) {
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
        if !beyond {
            self.steps += 1;
            self.randomness = Some(key.randomness());
        }
        Step {
            beyond,
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
            against: Against::Everybody,
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
    /// From whom it protects.
    #[serde(default, skip_serializing_if = "Against::is_everybody")]
    pub against: Against,
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
    /// More than the training was to take.
    beyond: bool,
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
    /// [`PlanError::OtherUnits`] when a part is missing, [`PlanError::OtherLength`], [`PlanError::Noise`], and
    /// [`PlanError::NotAgreed`] for a step beyond those of the training.
    pub fn finish(mut self, parameters: usize) -> Result<Vec<f32>, PlanError> {
        if self.beyond && !injected(Fault::StepsBeyondAgreement) {
            let agreed = self.training.most;
            return Err(PlanError::NotAgreed { agreed });
        }
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

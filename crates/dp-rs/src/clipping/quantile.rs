//! Adaptive clipping to a quantile of the norms (Andrew et al., arXiv 1905.03871).

use serde::{Deserialize, Serialize};

use super::{ClipRule, ClippingError, positive};
use crate::noise::{NoiseLevel, Stream, add_noise};

/// Parameters of [`QuantileClip`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantileClipConfig {
    /// Clip norm of the first step.
    pub initial: f64,
    /// Smallest clip norm.
    pub minimum: f64,
    /// Largest clip norm.
    pub maximum: f64,
    /// Share of the units whose norm should be at most the clip norm, within (0, 1).
    pub target: f64,
    /// Step of the geometric update.
    pub learning_rate: f64,
    /// Declared number of units in a step. A constant: the realised number is private.
    pub expected_batch: f64,
    /// Standard deviation of the noise on the count of units.
    pub count_std: f64,
    /// Multiplier of gradient and count as one query: the value to put into the account, once per step.
    pub noise_multiplier: f64,
}

impl QuantileClipConfig {
    /// The published defaults: median, rate 0.2, start at 0.1, a count with a standard deviation of a twentieth of
    /// the batch.
    #[must_use]
    pub fn new(noise_multiplier: f64, expected_batch: f64) -> Self {
        Self {
            initial: 0.1,
            minimum: 1e-6,
            maximum: 1e6,
            target: 0.5,
            learning_rate: 0.2,
            expected_batch,
            count_std: expected_batch / 20.0,
            noise_multiplier,
        }
    }
}

/// A flat clip norm that follows a quantile of the norms.
///
/// Each step releases the clipped sum *and* the count of units within the norm, from the same units: one
/// vector query. Its multiplier is [`joint_multiplier`](Self::joint_multiplier), and it is **one** event of
/// the ledger; two separately subsampled events would understate the loss. The sum needs the larger
/// [`gradient_multiplier`](Self::gradient_multiplier).
#[derive(Clone, Debug, PartialEq)]
pub struct QuantileClip {
    config: QuantileClipConfig,
    gradient_multiplier: f64,
    clip_norm: f64,
}

impl QuantileClip {
    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// [`ClippingError::CountTooPrecise`] if the multiplier is not below twice the standard deviation of the
    /// count; the variants on single parameters otherwise.
    pub fn new(config: QuantileClipConfig) -> Result<Self, ClippingError> {
        positive("learning_rate", config.learning_rate)?;
        positive("expected_batch", config.expected_batch)?;
        positive("minimum", config.minimum)?;
        positive("maximum", config.maximum)?;
        positive("initial", config.initial)?;
        let value = config.target;
        if !(value > 0.0 && value < 1.0) {
            return Err(ClippingError::InvalidQuantile { value });
        }
        let QuantileClipConfig {
            minimum,
            initial,
            maximum,
            ..
        } = config;
        if !(minimum <= initial && initial <= maximum) {
            return Err(ClippingError::InvalidBounds {
                minimum,
                initial,
                maximum,
            });
        }
        Ok(Self {
            gradient_multiplier: gradient_multiplier(config.noise_multiplier, config.count_std)?,
            clip_norm: initial,
            config,
        })
    }

    /// The clip norm of the coming step.
    #[must_use]
    pub fn clip_norm(&self) -> f64 {
        self.clip_norm
    }

    /// The rule of the coming step.
    ///
    /// # Errors
    ///
    /// None in practice: the norm stays within positive bounds.
    pub fn rule(&self) -> Result<ClipRule, ClippingError> {
        ClipRule::flat(self.clip_norm)
    }

    /// Standard deviation of the noise on the sum, divided by the clip norm of the step.
    #[must_use]
    pub fn gradient_multiplier(&self) -> f64 {
        self.gradient_multiplier
    }

    /// The multiplier of sum and count together, for the account.
    #[must_use]
    pub fn joint_multiplier(&self) -> f64 {
        self.config.noise_multiplier
    }

    /// Moves the clip norm after a step, given the norms of the units that took part. Also after an empty one.
    ///
    /// b = 1/2 + (sum of ([norm <= C] - 1/2) + noise) / B: by the shift one unit changes the sum by 1/2, whether
    /// it is there or not, and a missing unit counts as undecided. The noise is never less than hardened.
    ///
    /// # Errors
    ///
    /// None for a checked configuration, unless the noise fails.
    pub fn update(&mut self, norms: &[f64], stream: &mut Stream) -> Result<(), ClippingError> {
        // A norm that is not a number is not within the clip norm.
        let within = norms.iter().filter(|&&norm| norm <= self.clip_norm).count();
        let mut shifted = [within as f32 - norms.len() as f32 / 2.0];
        add_noise(
            NoiseLevel::Hardened,
            &mut shifted,
            self.config.count_std,
            stream,
        )?;
        let share = 0.5 + f64::from(shifted[0]) / self.config.expected_batch;
        let factor = (-self.config.learning_rate * (share - self.config.target)).exp();
        self.clip_norm = (self.clip_norm * factor).clamp(self.config.minimum, self.config.maximum);
        Ok(())
    }
}

/// (z^-2 - (2 s)^-2)^(-1/2): what the sum needs, when the count with standard deviation s and sensitivity 1/2
/// is to be had within the same multiplier z.
fn gradient_multiplier(noise_multiplier: f64, count_std: f64) -> Result<f64, ClippingError> {
    positive("noise_multiplier", noise_multiplier)?;
    positive("count_std", count_std)?;
    let rest = noise_multiplier.powi(-2) - (2.0 * count_std).powi(-2);
    let multiplier = rest.powf(-0.5);
    if noise_multiplier < 2.0 * count_std && multiplier.is_finite() {
        Ok(multiplier)
    } else {
        Err(ClippingError::CountTooPrecise {
            noise_multiplier,
            count_std,
        })
    }
}

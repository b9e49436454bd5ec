//! Rounding to integers before noise and secure aggregation (Kairouz, Liu, Steinke, arXiv 2102.06387).

use rand::Rng as _;

use super::{NoiseError, Stream};

/// Stochastic rounding that is repeated until the norm is within a bound, which is then the sensitivity.
///
/// Unbiased but for the conditioning, which fails at most with probability `retry_probability`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConditionalRounding {
    scale: f64,
    clip_norm: f64,
    retry_probability: f64,
}

impl ConditionalRounding {
    /// `scale` is the number of integer steps per unit; the published choice of `retry_probability` is
    /// exp(-1/2).
    ///
    /// # Errors
    ///
    /// [`NoiseError::InvalidRounding`].
    pub fn new(scale: f64, clip_norm: f64, retry_probability: f64) -> Result<Self, NoiseError> {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        // Up to 2^40 steps a double still holds a fraction to round by.
        if positive(scale)
            && positive(clip_norm)
            && scale * clip_norm <= (1_u64 << 40) as f64
            && retry_probability > 0.0
            && retry_probability < 1.0
        {
            return Ok(Self {
                scale,
                clip_norm,
                retry_probability,
            });
        }
        Err(NoiseError::InvalidRounding)
    }

    /// Largest norm of a rounded vector of `dimension` values, in steps (Proposition 2).
    #[must_use]
    pub fn sensitivity(&self, dimension: usize) -> f64 {
        let (norm, d) = (self.clip_norm * self.scale, dimension as f64);
        let always = (norm + d.sqrt()).powi(2);
        let usually = norm * norm
            + d / 4.0
            + (2.0 * (1.0 / self.retry_probability).ln()).sqrt() * (norm + d.sqrt() / 2.0);
        always.min(usually).sqrt()
    }

    /// Shrinks to the clip norm if need be, then rounds.
    ///
    /// # Errors
    ///
    /// [`NoiseError::InvalidRounding`] for a vector that is not finite.
    pub fn round(&self, values: &[f32], stream: &mut Stream) -> Result<Vec<i64>, NoiseError> {
        let norm = values
            .iter()
            .map(|&v| f64::from(v).powi(2))
            .sum::<f64>()
            .sqrt();
        if !norm.is_finite() {
            return Err(NoiseError::InvalidRounding);
        }
        // Within the clip norm a rounding within the bound is found soon; beyond it, perhaps never.
        let scale = self.scale * (self.clip_norm / norm.max(self.clip_norm));
        let bound = self.sensitivity(values.len());
        loop {
            let steps: Vec<i64> = values
                .iter()
                .map(|&v| stochastic(f64::from(v) * scale, stream))
                .collect();
            let square: f64 = steps.iter().map(|&s| (s as f64).powi(2)).sum();
            if square <= bound * bound {
                return Ok(steps);
            }
        }
    }
}

/// Up with the probability of the fraction, else down.
fn stochastic(x: f64, stream: &mut Stream) -> i64 {
    let below = x.floor();
    let uniform = (stream.next_u64() >> 11) as f64 * (f64::EPSILON / 2.0);
    below as i64 + i64::from(uniform < x - below)
}

/// Nearest integers of `scale` times the values: no randomness, no retry, sensitivity
/// [`nearest_sensitivity`].
#[must_use]
pub fn round_to_nearest(values: &[f32], scale: f64) -> Vec<i64> {
    values
        .iter()
        .map(|&v| (f64::from(v) * scale).round_ties_even() as i64)
        .collect()
}

/// Largest norm, in steps, of a vector of norm `clip_norm` after rounding each value to the nearest step.
#[must_use]
pub fn nearest_sensitivity(scale: f64, clip_norm: f64, dimension: usize) -> f64 {
    clip_norm * scale + (dimension as f64).sqrt() / 2.0
}

//! Integer noise added by several parties under secure aggregation: norms, divergences, scales.
//!
//! Distributed discrete Gaussian: arXiv 2102.06387; Skellam: 2110.04995. Lengths are in grid units
//! unless they say otherwise.

use std::f64::consts::PI;

/// What stochastic rounding may do to the norm of a clipped vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoundedNorm {
    /// Largest L2 norm after rounding, in grid units.
    pub l2: f64,
    /// Largest L1 norm after rounding, in grid units.
    pub l1: f64,
}

impl RoundedNorm {
    /// Rounding that is repeated until the norm is at most `l2` (arXiv 2102.06387, proposition 22).
    ///
    /// `clip_norm` is in the units of the data, `scale` is grid steps per unit, `beta` in `(0, 1)` is the
    /// bias parameter (`exp(-1/2)` by default in the paper), `dimension` the padded length.
    pub fn conditional(clip_norm: f64, scale: f64, beta: f64, dimension: u64) -> Self {
        let clip = clip_norm * scale;
        let root = (dimension as f64).sqrt();
        let worst = (clip + root).powi(2);
        let likely = clip * clip
            + dimension as f64 / 4.0
            + (2.0 * (1.0 / beta).ln()).sqrt() * (clip + root / 2.0);
        Self::with_l2(worst.min(likely).sqrt(), dimension)
    }

    /// Rounding to the nearest grid point, never repeated.
    pub fn nearest(clip_norm: f64, scale: f64, dimension: u64) -> Self {
        let half_cell = (dimension as f64).sqrt() / 2.0;
        Self::with_l2(clip_norm * scale + half_cell, dimension)
    }

    fn with_l2(l2: f64, dimension: u64) -> Self {
        // The entries are integers, so the L1 norm is at most the squared L2 norm.
        let l1 = l2 * (dimension as f64).sqrt().min(l2);
        Self { l2, l1 }
    }
}

/// Grid steps per unit of the data, so that a sum of `sites` values fits `bits` bits.
///
/// `clip_norm` and `local_deviation` are in the units of the data, `dimension` is the padded length of a
/// rotated vector, and a coordinate wraps around with probability about `2 exp(-deviations^2 / 2)`.
/// `None` when the bits do not suffice at any scale.
pub fn scale_from_bits(
    bits: u32,
    sites: u64,
    clip_norm: f64,
    local_deviation: f64,
    dimension: u64,
    deviations: f64,
) -> Option<f64> {
    let n = sites as f64;
    let room = 4.0_f64.powi(i32::try_from(bits).ok()?) - n * deviations * deviations;
    let spread = clip_norm.powi(2) * n * n / dimension as f64 + n * local_deviation.powi(2);
    (room > 0.0 && spread > 0.0).then(|| room.sqrt() / (2.0 * deviations * spread.sqrt()))
}

/// The sum of independent discrete Gaussians, one from each site.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiscreteGaussianSum {
    /// Number of sites.
    pub sites: u64,
    /// Parameter sigma of each site's noise.
    pub deviation: f64,
    /// Number of coordinates.
    pub dimension: u64,
}

impl DiscreteGaussianSum {
    /// How far the sum is from one discrete Gaussian (arXiv 2102.06387, theorem 1).
    pub fn tau(&self) -> f64 {
        let rate = 2.0 * (PI * self.deviation).powi(2);
        let mut tau = 0.0;
        for k in 1..self.sites {
            let k = k as f64;
            let term = (-rate * k / (k + 1.0)).exp();
            tau += term;
            // Terms approach exp(-rate) from above; far out they are all equal.
            if k > 1e6 {
                return 10.0 * (tau + term * (self.sites as f64 - 1.0 - k));
            }
        }
        10.0 * tau
    }

    /// Renyi divergence of order `a` for contributions of these norms.
    pub fn renyi(&self, a: f64, l2: f64, l1: f64) -> f64 {
        let tau = self.tau();
        let d = self.dimension as f64;
        let noise = (self.sites as f64).sqrt() * self.deviation;
        let (s2, s1) = (l2 / noise, l1 / noise);
        let per_coordinate = a / 2.0 * s2 * s2 + tau * d;
        let by_l1 = a / 2.0 * (s2 * s2 + 2.0 * s1 * tau + tau * tau * d);
        let by_l2 = a / 2.0 * (s2 + d.sqrt() * tau).powi(2);
        per_coordinate.min(by_l1).min(by_l2)
    }
}

/// Renyi divergence of whole order `a` of Skellam noise of this variance (arXiv 2110.04995, theorem 3.5).
pub fn skellam_renyi(a: u32, variance: f64, l2: f64, l1: f64) -> f64 {
    let a = f64::from(a);
    let quadratic = ((2.0 * a - 1.0) * l2 * l2 + 6.0 * l1) / (4.0 * variance * variance);
    a * l2 * l2 / (2.0 * variance) + quadratic.min(1.5 * l1 / variance)
}

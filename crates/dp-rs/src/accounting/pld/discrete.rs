//! One integer with discrete Gaussian noise: the losses are `shift (2 x - shift) / (2 sigma^2)`.

use super::discretise::Grid;
use super::distribution::LossDistribution;

/// `P[X = x]` for `x = 0, 1, ...` up to `last`, of the discrete Gaussian with parameter `deviation`
/// (arXiv 2004.00010, definition 1).
pub fn discrete_gaussian_masses(deviation: f64, last: u64) -> Vec<f64> {
    let weight = |x: u64| (-(x as f64).powi(2) / (2.0 * deviation * deviation)).exp();
    let far = (deviation * 40.0).ceil() as u64 + 1;
    // From small to large.
    let half: f64 = (1..=far).rev().map(weight).sum();
    let total = 1.0 + 2.0 * half;
    (0..=last).map(|x| weight(x) / total).collect()
}

fn furthest(deviation: f64, shift: u64, deviations: f64) -> u64 {
    (deviations * deviation).ceil() as u64 + shift + 1
}

fn loss(deviation: f64, shift: u64, x: i64) -> f64 {
    let shift = shift as f64;
    shift * (2.0 * x as f64 - shift) / (2.0 * deviation * deviation)
}

/// Largest loss that is enumerated.
pub(super) fn largest_loss(deviation: f64, shift: u64, deviations: f64) -> f64 {
    let far = furthest(deviation, shift, deviations);
    loss(deviation, shift, (far + shift) as i64)
}

/// Noise centred at `shift` against noise centred at zero; the reverse has the same losses.
pub(super) fn discretise(deviation: f64, shift: u64, grid: Grid) -> LossDistribution {
    let Grid { mesh, deviations } = grid;
    let far = furthest(deviation, shift, deviations);
    let masses = discrete_gaussian_masses(deviation, far);
    let last = (largest_loss(deviation, shift, deviations) / mesh).ceil() as i64 + 1;
    let mut losses = LossDistribution::empty(mesh, -last, 2 * last as usize + 1);
    for noise in -(far as i64)..=far as i64 {
        let mass = masses[noise.unsigned_abs() as usize];
        losses.add_atom(loss(deviation, shift, noise + shift as i64), mass);
    }
    let inside: f64 = masses[0] + 2.0 * masses[1..].iter().rev().sum::<f64>();
    losses.infinity = (1.0 - inside).max(0.0);
    losses.normalise();
    losses
}

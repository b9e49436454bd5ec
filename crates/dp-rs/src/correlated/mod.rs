//! Noise that is correlated over the steps of a training run, so that prefix sums get less of it.
//!
//! The gradients of step `t` are released with noise `(C^-1 z)_t`, where `C` is lower triangular and
//! Toeplitz and `z` is independent Gaussian noise. The whole transcript is then *one* Gaussian mechanism
//! whose sensitivity is the largest norm that a unit's participations can reach through `C`
//! (matrix mechanism: arXiv 2211.06530; banded: 2306.08153; buffered: 2404.16706). No sampling or
//! shuffling is assumed, only that a unit takes part at most so often and so far apart.
//!
//! [`Toeplitz`] and [`Blt`] hold the strategy, say its sensitivity and error, and make streams that turn
//! independent noise into correlated noise. Drawing the independent noise is not done here.

mod blt;
mod toeplitz;
pub mod tree;

pub use blt::{Blt, BltStream};
pub use toeplitz::{Toeplitz, ToeplitzStream};

/// How often, and how far apart, one unit takes part in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Participation {
    /// Number of steps of the run.
    pub steps: usize,
    /// Smallest number of steps between two participations; at least one.
    pub min_separation: usize,
    /// Largest number of participations.
    pub max_participations: usize,
}

impl Participation {
    /// The largest number of participations that fit in the run.
    pub fn most(&self) -> usize {
        self.max_participations
            .min(self.steps.div_ceil(self.min_separation.max(1)))
    }
}

/// Squared error of the prefix sums for independent noise of variance one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SquaredError {
    /// Of the worst step.
    pub max: f64,
    /// On average over the steps.
    pub mean: f64,
}

/// L2 sensitivity, in clip norms, of `C x` for a Toeplitz `C` with these coefficients.
///
/// For coefficients that are non-negative and do not increase, the worst pattern is to take part at
/// steps `0, b, 2b, ...` (arXiv 2405.13763, theorem 2); the sum of those columns is built in one pass.
fn sensitivity(coefficients: &[f64], participation: Participation) -> f64 {
    let separation = participation.min_separation.max(1);
    let span = participation.most() * separation;
    let at = |index: usize| coefficients.get(index).copied().unwrap_or(0.0);
    let mut column = Vec::with_capacity(participation.steps);
    for step in 0..participation.steps {
        let earlier = if step >= separation {
            column[step - separation]
        } else {
            0.0
        };
        let left = if step >= span { at(step - span) } else { 0.0 };
        column.push(at(step) + earlier - left);
    }
    column.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// Error of prefix sums of noise `C^-1 z`, from the first column of `C^-1`.
fn squared_error(inverse: &[f64]) -> SquaredError {
    let (mut entry, mut row, mut total) = (0.0, 0.0, 0.0);
    for coefficient in inverse {
        entry += coefficient;
        row += entry * entry;
        total += row;
    }
    SquaredError {
        max: row,
        mean: total / inverse.len() as f64,
    }
}

/// What a stream makes of a one followed by zeros: the first coefficients of the inverse of its matrix.
fn impulse_response(steps: usize, mut correlate: impl FnMut(&mut [f64])) -> Vec<f64> {
    (0..steps)
        .map(|step| {
            let mut value = [if step == 0 { 1.0 } else { 0.0 }];
            correlate(&mut value);
            value[0]
        })
        .collect()
}

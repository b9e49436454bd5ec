use std::collections::VecDeque;

use super::{Participation, SquaredError, impulse_response, sensitivity, squared_error};
use crate::event::{InvalidEvent, validation};

/// A lower triangular Toeplitz strategy with few bands.
///
/// ```
/// use dp_rs::correlated::{Participation, Toeplitz};
///
/// let strategy = Toeplitz::square_root(3);
/// let run = Participation { steps: 12, min_separation: 3, max_participations: 4 };
/// assert!((strategy.sensitivity(run) - 2.358495283014151).abs() < 1e-12);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Toeplitz {
    coefficients: Vec<f64>,
}

impl Toeplitz {
    /// A strategy from its first column, from the diagonal down.
    ///
    /// # Errors
    ///
    /// When the list is empty, or not non-negative and non-increasing with a positive first value: the
    /// worst participation pattern is only known for those.
    pub fn new(coefficients: Vec<f64>) -> Result<Self, InvalidEvent> {
        validation::coefficients(&coefficients)?;
        Ok(Self { coefficients })
    }

    /// The first `bands` coefficients of `(1 - x)^(-1/2)`, optimal for the largest error of one
    /// participation (arXiv 2202.11205). At least one band.
    pub fn square_root(bands: usize) -> Self {
        let next = |last: &f64, j: usize| last * (2 * j - 1) as f64 / (2 * j) as f64;
        let mut coefficients = vec![1.0];
        for j in 1..bands {
            coefficients.push(next(&coefficients[j - 1], j));
        }
        Self { coefficients }
    }

    /// First column, from the diagonal down; zero beyond its end.
    pub fn coefficients(&self) -> &[f64] {
        &self.coefficients
    }

    /// Largest norm, in clip norms, that one unit can reach in `C x`.
    pub fn sensitivity(&self, participation: Participation) -> f64 {
        sensitivity(&self.coefficients, participation)
    }

    /// First `steps` coefficients of `C^-1`.
    pub fn inverse(&self, steps: usize) -> Vec<f64> {
        let mut stream = self.stream(1);
        impulse_response(steps, |value| stream.correlate(value))
    }

    /// Error of the prefix sums of a run of `steps` steps.
    pub fn squared_error(&self, steps: usize) -> SquaredError {
        squared_error(&self.inverse(steps))
    }

    /// Turns independent noise into correlated noise, for vectors of `dimension` values.
    pub fn stream(&self, dimension: usize) -> ToeplitzStream {
        ToeplitzStream {
            coefficients: self.coefficients.clone(),
            past: VecDeque::with_capacity(self.coefficients.len()),
            dimension,
        }
    }
}

/// State of a banded run: the last `bands - 1` vectors of correlated noise.
#[derive(Clone, Debug)]
pub struct ToeplitzStream {
    coefficients: Vec<f64>,
    /// Newest first.
    past: VecDeque<Vec<f64>>,
    dimension: usize,
}

impl ToeplitzStream {
    /// Replaces the next step's independent noise `z`, `[dimension]`, by `C^-1 z`, in place.
    ///
    /// # Panics
    ///
    /// When the length is not the stream's dimension.
    pub fn correlate(&mut self, noise: &mut [f64]) {
        assert_eq!(noise.len(), self.dimension, "length of the noise vector");
        for (past, coefficient) in self.past.iter().zip(&self.coefficients[1..]) {
            for (value, earlier) in noise.iter_mut().zip(past) {
                *value -= coefficient * earlier;
            }
        }
        for value in noise.iter_mut() {
            *value /= self.coefficients[0];
        }
        if self.coefficients.len() == 1 {
            return;
        }
        let mut newest = if self.past.len() + 1 == self.coefficients.len() {
            self.past.pop_back().unwrap_or_default()
        } else {
            Vec::new()
        };
        newest.clear();
        newest.extend_from_slice(noise);
        self.past.push_front(newest);
    }
}

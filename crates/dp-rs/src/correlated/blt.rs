use super::{Participation, SquaredError, impulse_response, sensitivity, squared_error};
use crate::event::{InvalidEvent, validation};

/// A buffered linear Toeplitz strategy: `c_0 = 1`, `c_t = sum_r scale_r decay_r^(t-1)`
/// (arXiv 2404.16706).
///
/// Needs one vector of state for each buffer, however long the run is.
#[derive(Clone, Debug, PartialEq)]
pub struct Blt {
    decays: Vec<f64>,
    scales: Vec<f64>,
}

impl Blt {
    /// A strategy from the decay and the scale of each buffer.
    ///
    /// # Errors
    ///
    /// When the lists differ in length, a decay is outside `[0, 1)`, or the scales are negative or sum
    /// to more than one, so that the coefficients would increase.
    pub fn new(decays: Vec<f64>, scales: Vec<f64>) -> Result<Self, InvalidEvent> {
        validation::buffers(&decays, &scales)?;
        Ok(Self { decays, scales })
    }

    /// First `steps` Toeplitz coefficients.
    pub fn coefficients(&self, steps: usize) -> Vec<f64> {
        let mut terms = self.scales.clone();
        let mut coefficients = Vec::with_capacity(steps);
        for step in 0..steps {
            if step == 0 {
                coefficients.push(1.0);
                continue;
            }
            coefficients.push(terms.iter().sum());
            for (term, decay) in terms.iter_mut().zip(&self.decays) {
                *term *= decay;
            }
        }
        coefficients
    }

    /// Largest norm, in clip norms, that one unit can reach in `C x`.
    pub fn sensitivity(&self, participation: Participation) -> f64 {
        sensitivity(&self.coefficients(participation.steps), participation)
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
    pub fn stream(&self, dimension: usize) -> BltStream {
        BltStream {
            strategy: self.clone(),
            buffers: vec![vec![0.0; dimension]; self.decays.len()],
        }
    }
}

/// State of a buffered run: one vector for each buffer.
#[derive(Clone, Debug)]
pub struct BltStream {
    strategy: Blt,
    /// `[buffers][dimension]`
    buffers: Vec<Vec<f64>>,
}

impl BltStream {
    /// Replaces the next step's independent noise `z`, `[dimension]`, by `C^-1 z`, in place.
    ///
    /// # Panics
    ///
    /// When the length is not the stream's dimension.
    pub fn correlate(&mut self, noise: &mut [f64]) {
        for (buffer, scale) in self.buffers.iter().zip(&self.strategy.scales) {
            assert_eq!(noise.len(), buffer.len(), "length of the noise vector");
            for (value, held) in noise.iter_mut().zip(buffer) {
                *value -= scale * held;
            }
        }
        for (buffer, decay) in self.buffers.iter_mut().zip(&self.strategy.decays) {
            for (held, value) in buffer.iter_mut().zip(noise.iter()) {
                *held = decay * *held + value;
            }
        }
    }
}

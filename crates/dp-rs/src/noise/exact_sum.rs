//! A sum of clipped contributions in integers, released with exact noise.

use super::vector::NoiseStamp;
use super::{DiscreteGaussian, NoiseError, NoiseLevel, Stream};

/// An integer grid for contributions of bounded norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// A power of two, so that scaling to and from integers does not round.
    step: f64,
    /// Largest norm of a contribution, in steps.
    radius: u64,
}

impl Grid {
    /// A grid on which `clip_norm` is between 2^bits and 2^(bits + 1) steps. 20 bits are plenty: the rounding of
    /// a coordinate is then a millionth of the norm.
    ///
    /// # Errors
    ///
    /// [`NoiseError::InvalidGrid`] unless the norm is finite and above zero and there are 1 to 40 bits.
    pub fn new(clip_norm: f64, bits: u32) -> Result<Self, NoiseError> {
        if !(clip_norm.is_normal() && clip_norm > 0.0 && (1..=40).contains(&bits)) {
            return Err(NoiseError::InvalidGrid { clip_norm, bits });
        }
        let power = f64::from_bits(clip_norm.to_bits() & !(u64::MAX >> 12));
        let step = power / (1_u64 << bits) as f64;
        if !step.is_normal() {
            return Err(NoiseError::InvalidGrid { clip_norm, bits });
        }
        let radius = (clip_norm / step).floor() as u64;
        Ok(Self { step, radius })
    }

    /// The L2 sensitivity in steps, when one contribution is added or removed.
    #[must_use]
    pub fn radius(&self) -> u64 {
        self.radius
    }

    /// The value of one step.
    #[must_use]
    pub fn step(&self) -> f64 {
        self.step
    }

    /// The contribution in steps, of norm at most [`radius`](Self::radius): exactly, by integer arithmetic.
    /// A contribution with a value that is not finite becomes zero.
    #[must_use]
    pub fn quantise(&self, values: &[f32]) -> Vec<i64> {
        let norm = values
            .iter()
            .map(|&v| f64::from(v).powi(2))
            .sum::<f64>()
            .sqrt();
        if !norm.is_finite() {
            return vec![0; values.len()];
        }
        let radius = self.radius as f64;
        // A first clip in floats keeps the integers small; the bound does not rest on it.
        let factor = radius / (norm / self.step).max(radius) / self.step;
        let mut steps: Vec<i64> = values
            .iter()
            .map(|&v| (f64::from(v) * factor).round_ties_even() as i64)
            .collect();
        self.clip(&mut steps);
        steps
    }

    /// Shrinks towards zero until the squared norm, an integer, is at most the squared radius.
    fn clip(&self, steps: &mut [i64]) {
        let square: u128 = steps
            .iter()
            .map(|&s| u128::from(s.unsigned_abs()).pow(2))
            .sum();
        let radius = u128::from(self.radius);
        if square <= radius * radius {
            return;
        }
        let root = square.isqrt();
        // The next integer above the norm: the scaled vector is then below the radius, and truncation
        // only shortens it.
        let norm = i128::try_from(root + 1).unwrap_or(i128::MAX);
        for step in steps {
            *step = (i128::from(*step) * i128::from(self.radius) / norm) as i64;
        }
    }

    /// The least integer variance, in squared steps, of noise with the given multiplier of the clip norm.
    fn variance(&self, noise_multiplier: f64) -> Result<DiscreteGaussian, NoiseError> {
        let std = noise_multiplier * self.radius as f64;
        if !(noise_multiplier.is_normal() && noise_multiplier > 0.0) {
            return Err(NoiseError::InvalidStd {
                std: noise_multiplier,
            });
        }
        // Above the true product: three roundings of at most 2^-53 each, then up to an integer.
        let variance = (std * std * (1.0 + 4.0 * f64::EPSILON)).ceil();
        DiscreteGaussian::new(variance as u64, 1)
    }
}

/// Contributions summed in integers and released once.
///
/// The guarantee holds for the released floats themselves: each contribution is bounded in integers, the sum
/// is exact, the noise is an exact discrete Gaussian, and all that follows does not see the data again.
///
/// ```
/// use dp_rs::noise::{ExactSum, Grid, Purpose, RootKey};
///
/// let mut stream = RootKey::from_operating_system()?.stream(Purpose::GradientNoise, &[b"round 1"]);
/// let mut sum = ExactSum::new(Grid::new(1.0, 20)?, 3);
/// sum.add(&[0.5, -0.5, 0.1])?;
/// sum.add(&[30.0, 0.0, 0.0])?; // clipped to norm 1
/// let (released, stamp) = sum.release(1e-3, &mut stream)?;
/// assert!((released[0] - 1.5).abs() < 0.1);
/// # Ok::<(), dp_rs::noise::NoiseError>(())
/// ```
pub struct ExactSum {
    grid: Grid,
    steps: Vec<i64>,
}

impl ExactSum {
    /// An empty sum of `dimension` coordinates.
    #[must_use]
    pub fn new(grid: Grid, dimension: usize) -> Self {
        Self {
            grid,
            steps: vec![0; dimension],
        }
    }

    /// Clips a contribution on the grid and adds it.
    ///
    /// # Errors
    ///
    /// [`NoiseError::WrongLength`], [`NoiseError::Overflow`].
    pub fn add(&mut self, contribution: &[f32]) -> Result<(), NoiseError> {
        let (expected, got) = (self.steps.len(), contribution.len());
        if got != expected {
            return Err(NoiseError::WrongLength { got, expected });
        }
        for (sum, step) in self.steps.iter_mut().zip(self.grid.quantise(contribution)) {
            *sum = sum.checked_add(step).ok_or(NoiseError::Overflow)?;
        }
        Ok(())
    }

    /// The sum with noise of `noise_multiplier` times the radius of the grid, in the unit of the contributions.
    ///
    /// # Errors
    ///
    /// [`NoiseError::InvalidStd`] for a multiplier that is not finite and above zero;
    /// [`NoiseError::ParameterOutOfRange`] when the noise is more than 2^26 steps (choose fewer bits).
    pub fn release(
        mut self,
        noise_multiplier: f64,
        stream: &mut Stream,
    ) -> Result<(Vec<f32>, NoiseStamp), NoiseError> {
        self.grid
            .variance(noise_multiplier)?
            .add_to(&mut self.steps, stream)?;
        let values = self
            .steps
            .iter()
            .map(|&s| (s as f64 * self.grid.step) as f32)
            .collect();
        let stamp = NoiseStamp {
            level: NoiseLevel::Exact,
            std: noise_multiplier * self.grid.radius as f64 * self.grid.step,
            randomness: stream.randomness(),
        };
        Ok((values, stamp))
    }
}

impl std::fmt::Debug for ExactSum {
    /// Without the sum, which is private until released.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExactSum")
            .field("grid", &self.grid)
            .finish_non_exhaustive()
    }
}

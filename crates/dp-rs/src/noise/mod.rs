//! Gaussian and discrete noise, drawn from keyed ChaCha streams.
//!
//! A [`RootKey`] gives one [`Stream`] per purpose and context. From a stream come whole vectors of Gaussian
//! noise ([`add_noise`], [`NoiseVector`]), exact integer samplers ([`DiscreteGaussian`],
//! [`DiscreteLaplace`]) and an integer sum with exact noise ([`ExactSum`]). How far the noise can be trusted
//! is named, not implied: see [`NoiseLevel`].
//!
//! Nothing here knows about clipping norms, sampling rates or budgets: `std` is the standard deviation per
//! coordinate, in the unit of the values.
//!
//! ```
//! use dp_rs::noise::{NoiseLevel, Purpose, RootKey, add_noise};
//!
//! let root = RootKey::from_operating_system()?;
//! let mut stream = root.stream(Purpose::GradientNoise, &[b"study", b"round 1"]);
//! let mut sum = vec![0.0_f32; 1000];
//! let stamp = add_noise(NoiseLevel::Hardened, &mut sum, 0.8, &mut stream)?;
//! assert!(!stamp.simulation());
//! # Ok::<(), dp_rs::noise::NoiseError>(())
//! ```

mod discrete;
mod exact_sum;
mod fast;
mod hardened;
mod keystream;
mod lanes;
mod rounding;
mod stream;
mod vector;

pub use discrete::{DiscreteGaussian, DiscreteLaplace, bernoulli, bernoulli_exp, uniform_below};
pub use exact_sum::{ExactSum, Grid};
pub use rounding::{ConditionalRounding, nearest_sensitivity, round_to_nearest};
pub(crate) use stream::StreamFamily;
pub use stream::{Purpose, Randomness, RootKey, Stream};
pub use vector::{NoiseStamp, NoiseVector, add_noise};

use serde::{Deserialize, Serialize};

/// How far the noise is what the analysis assumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoiseLevel {
    /// Single-precision Box-Muller over ChaCha8. The guarantee holds for idealised real numbers only: low
    /// bits of a float may betray its origin (Mironov, CCS 2012; Jin et al., arXiv 2112.05307). For
    /// simulations.
    Fast,
    /// Sum of four double-precision Gaussians over ChaCha20, halved, first draws discarded (Holohan and
    /// Braghin, arXiv 2107.10138), and the noisy value rounded to a fixed power-of-two grid of step at most
    /// 2^-20 standard deviations. Raises the cost of the known attacks; not a proof.
    Hardened,
    /// Contributions clipped and summed as integers, exact discrete Gaussian (Canonne et al., arXiv
    /// 2004.00010). The guarantee holds for the actual outputs. See [`ExactSum`].
    Exact,
}

/// Why noise was not drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoiseError {
    /// Zero, negative, infinite or not a number, or too small or large for a float.
    #[error("the noise standard deviation must be finite and above zero, got {std}")]
    InvalidStd {
        /// The refused value.
        std: f64,
    },
    /// Exact noise needs integer contributions; a sum of floats has lost the sensitivity bound.
    #[error(
        "exact noise needs a sum of quantised contributions: use ExactSum instead of a float vector"
    )]
    ExactNeedsIntegers,
    /// A rational parameter outside the range in which integer arithmetic cannot overflow.
    #[error(
        "{name} must be a positive fraction of integers up to 2^52, got {numerator}/{denominator}"
    )]
    ParameterOutOfRange {
        /// The parameter.
        name: &'static str,
        /// Its numerator.
        numerator: u64,
        /// Its denominator.
        denominator: u64,
    },
    /// A grid that cannot hold the clipped contributions.
    #[error(
        "a grid of {bits} bits for clip norm {clip_norm} is not possible: 1 to 40 bits, finite norm above zero"
    )]
    InvalidGrid {
        /// The requested bound on a contribution.
        clip_norm: f64,
        /// The requested resolution.
        bits: u32,
    },
    /// A scale, bound or probability of the stochastic rounding outside its range.
    #[error(
        "rounding needs a scale and clip norm above zero, of product at most 2^40, and a retry probability within (0, 1)"
    )]
    InvalidRounding,
    /// Vectors of different lengths.
    #[error("the contribution has {got} values, the sum has {expected}")]
    WrongLength {
        /// Values in the contribution.
        got: usize,
        /// Values in the sum.
        expected: usize,
    },
    /// More contributions than a 64-bit sum can hold.
    #[error("the integer sum overflowed")]
    Overflow,
    /// The operating system gave no randomness.
    #[error("the operating system's random generator failed: {0}")]
    NoEntropy(getrandom::Error),
}

impl NoiseError {
    /// Stable name of the error, for logs and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidStd { .. } => "noise_invalid_std",
            Self::ExactNeedsIntegers => "noise_exact_needs_integers",
            Self::ParameterOutOfRange { .. } => "noise_parameter_out_of_range",
            Self::InvalidGrid { .. } => "noise_invalid_grid",
            Self::InvalidRounding => "noise_invalid_rounding",
            Self::WrongLength { .. } => "noise_wrong_length",
            Self::Overflow => "noise_overflow",
            Self::NoEntropy(_) => "noise_no_entropy",
        }
    }
}

//! Bounding what one unit contributes to a sum.
//!
//! A [`ClipRule`] turns the norms of a contribution into factors and names the sensitivity that results. A
//! [`Clipper`] applies a rule to contributions at hand. [`QuantileClip`] follows a quantile of the norms with a
//! private estimate.
//!
//! ```
//! use dp_rs::clipping::{ClipRule, Clipper};
//!
//! let mut clipper = Clipper::new(ClipRule::flat(1.0)?);
//! let mut sum = vec![0.0_f32; 2];
//! clipper.add(&[3.0, 4.0], &mut sum)?;
//! assert!((sum[0] - 0.6).abs() < 1e-6 && (sum[1] - 0.8).abs() < 1e-6);
//! # Ok::<(), dp_rs::clipping::ClippingError>(())
//! ```

mod apply;
mod quantile;
mod rule;

pub use apply::{Clipper, norm};
pub use quantile::{QuantileClip, QuantileClipConfig};
pub use rule::{ClipRule, Factor};

/// Why a rule was refused or not applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClippingError {
    /// A bound that is not finite and above zero.
    #[error("{name} must be finite and above zero, got {value}")]
    NotPositive {
        /// The parameter.
        name: &'static str,
        /// The refused value.
        value: f64,
    },
    /// A rule per group without groups.
    #[error("a rule per group needs at least one group")]
    NoGroups,
    /// Norms or group lengths that do not fit the rule.
    #[error("the rule has {expected} groups, the contribution {got}")]
    WrongGroups {
        /// Groups of the rule.
        expected: usize,
        /// Groups of the contribution.
        got: usize,
    },
    /// Vectors of different lengths.
    #[error("the contribution has {got} values, the sum has {expected}")]
    WrongLength {
        /// Values in the contribution.
        got: usize,
        /// Values in the sum.
        expected: usize,
    },
    /// A quantile outside (0, 1).
    #[error("the target quantile must be within (0, 1), got {value}")]
    InvalidQuantile {
        /// The refused value.
        value: f64,
    },
    /// Bounds of the clip norm in the wrong order, or a start outside them.
    #[error("the clip norm must start within its bounds: {minimum} <= {initial} <= {maximum}")]
    InvalidBounds {
        /// Lower bound.
        minimum: f64,
        /// Initial clip norm.
        initial: f64,
        /// Upper bound.
        maximum: f64,
    },
    /// The count alone would spend the whole budget: no finite noise on the gradient is enough.
    #[error(
        "the noise multiplier {noise_multiplier} must be below twice the count's standard deviation {count_std}"
    )]
    CountTooPrecise {
        /// Wanted multiplier of the joint query.
        noise_multiplier: f64,
        /// Standard deviation of the noise on the count.
        count_std: f64,
    },
    /// The noise on the count failed.
    #[error(transparent)]
    Noise(#[from] crate::noise::NoiseError),
}

impl ClippingError {
    /// Stable name of the error, for logs and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotPositive { .. } => "clipping_not_positive",
            Self::NoGroups => "clipping_no_groups",
            Self::WrongGroups { .. } => "clipping_wrong_groups",
            Self::WrongLength { .. } => "clipping_wrong_length",
            Self::InvalidQuantile { .. } => "clipping_invalid_quantile",
            Self::InvalidBounds { .. } => "clipping_invalid_bounds",
            Self::CountTooPrecise { .. } => "clipping_count_too_precise",
            Self::Noise(error) => error.code(),
        }
    }
}

fn positive(name: &'static str, value: f64) -> Result<f64, ClippingError> {
    if value.is_finite() && value > 0.0 {
        Ok(value)
    } else {
        Err(ClippingError::NotPositive { name, value })
    }
}

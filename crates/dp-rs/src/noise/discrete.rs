//! Exact samplers in integer arithmetic (Canonne, Kamath, Steinke, arXiv 2004.00010, section 5).
//!
//! No floating-point number takes part, so the probabilities are exactly those of the formulas. The time of
//! a draw depends on its value: draw in bulk and do not expose the time of single draws.

use rand::Rng as _;

use super::{NoiseError, Stream};

/// Largest numerator and denominator of a parameter: all products below stay within 128 bits.
const LIMIT: u64 = 1 << 52;

/// A uniform integer in `[0, bound)`, by rejection, hence without bias.
///
/// # Panics
///
/// If `bound` is zero.
#[must_use]
pub fn uniform_below(bound: u128, stream: &mut Stream) -> u128 {
    assert!(bound > 0, "there is no integer below zero");
    let bits = 128 - (bound - 1).leading_zeros();
    loop {
        let draw = if bits <= 64 {
            u128::from(stream.next_u64()) & low(bits)
        } else {
            (u128::from(stream.next_u64()) << 64 | u128::from(stream.next_u64())) & low(bits)
        };
        if draw < bound {
            return draw;
        }
    }
}

fn low(bits: u32) -> u128 {
    u128::MAX.checked_shr(128 - bits).unwrap_or(0)
}

/// True with probability `numerator / denominator`, or always if that is above one.
///
/// # Panics
///
/// If `denominator` is zero.
#[must_use]
pub fn bernoulli(numerator: u128, denominator: u128, stream: &mut Stream) -> bool {
    uniform_below(denominator, stream) < numerator
}

/// True with probability `exp(-numerator / denominator)` (Algorithm 1).
///
/// # Panics
///
/// If `denominator` is zero.
#[must_use]
pub fn bernoulli_exp(numerator: u128, denominator: u128, stream: &mut Stream) -> bool {
    // exp(-x) = exp(-1)^floor(x) exp(-fraction). Stops at the first failure, so a large x is cheap.
    (0..numerator / denominator).all(|_| bernoulli_exp_fraction(1, 1, stream))
        && bernoulli_exp_fraction(numerator % denominator, denominator, stream)
}

/// As above, for a fraction of at most one: the parity of the first failure in a series of
/// Bernoulli(x / k) is the alternating series of the exponential (von Neumann).
fn bernoulli_exp_fraction(numerator: u128, denominator: u128, stream: &mut Stream) -> bool {
    let mut k = 1;
    while bernoulli(numerator, denominator.saturating_mul(k), stream) {
        k += 1;
    }
    k % 2 == 1
}

/// The discrete Laplace distribution: probability proportional to `exp(-|x| / scale)` on the integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscreteLaplace {
    numerator: u64,
    denominator: u64,
}

impl DiscreteLaplace {
    /// Of scale `numerator / denominator`. For one integer query of sensitivity 1 that is `1 / epsilon`.
    ///
    /// # Errors
    ///
    /// [`NoiseError::ParameterOutOfRange`] unless both are within 1 and 2^52.
    pub fn new(numerator: u64, denominator: u64) -> Result<Self, NoiseError> {
        check("scale", numerator, denominator)?;
        Ok(Self {
            numerator,
            denominator,
        })
    }

    /// One draw (Algorithm 2).
    #[must_use]
    pub fn sample(&self, stream: &mut Stream) -> i64 {
        let t = u128::from(self.numerator);
        loop {
            let fraction = uniform_below(t, stream);
            if !bernoulli_exp(fraction, t, stream) {
                continue;
            }
            let mut whole = 0_u128;
            while bernoulli_exp_fraction(1, 1, stream) {
                whole += 1;
            }
            let magnitude = (fraction + whole * t) / u128::from(self.denominator);
            let negative = stream.next_u32() & 1 == 1;
            if negative && magnitude == 0 {
                // Zero has one sign only.
                continue;
            }
            // Saturates beyond 2000 scales, an event of probability below 2^-2900.
            let magnitude = i64::try_from(magnitude).unwrap_or(i64::MAX);
            return if negative { -magnitude } else { magnitude };
        }
    }
}

/// The discrete Gaussian: probability proportional to `exp(-x^2 / (2 variance))` on the integers.
///
/// One release of an integer vector of L2 sensitivity D with this noise on every coordinate is
/// D² / (2 variance)-zCDP, as with the continuous Gaussian (Theorem 4).
///
/// ```
/// use dp_rs::noise::{DiscreteGaussian, Purpose, RootKey};
///
/// let mut stream = RootKey::from_operating_system()?.stream(Purpose::CountNoise, &[b"admissions"]);
/// let count = 1234 + DiscreteGaussian::new(25, 1)?.sample(&mut stream);
/// assert!((1134..1334).contains(&count));
/// # Ok::<(), dp_rs::noise::NoiseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscreteGaussian {
    numerator: u64,
    denominator: u64,
    proposal: DiscreteLaplace,
}

impl DiscreteGaussian {
    /// Of parameter `variance = numerator / denominator`, in squared integer steps.
    ///
    /// # Errors
    ///
    /// [`NoiseError::ParameterOutOfRange`] unless both are within 1 and 2^52.
    pub fn new(numerator: u64, denominator: u64) -> Result<Self, NoiseError> {
        check("variance", numerator, denominator)?;
        // floor(sqrt(a / b)) + 1, the scale of the proposal.
        let scale = (numerator / denominator).isqrt() + 1;
        let proposal = DiscreteLaplace::new(scale, 1)?;
        Ok(Self {
            numerator,
            denominator,
            proposal,
        })
    }

    /// One draw (Algorithm 3).
    #[must_use]
    pub fn sample(&self, stream: &mut Stream) -> i64 {
        loop {
            let draw = self.proposal.sample(stream);
            if self.accepts(draw.unsigned_abs(), stream) {
                return draw;
            }
        }
    }

    /// With probability `exp(-(|y| - variance / t)^2 / (2 variance))`, `t` the scale of the proposal.
    ///
    /// With the variance a / b the exponent is (|y| b t - a)^2 / (2 a b t^2). By the limit on a and b the
    /// denominator is at most 8 · 2^104.
    fn accepts(&self, magnitude: u64, stream: &mut Stream) -> bool {
        let (a, b) = (u128::from(self.numerator), u128::from(self.denominator));
        let t = u128::from(self.proposal.numerator);
        let distance = (u128::from(magnitude) * b * t).abs_diff(a);
        // More than 64 bits means more than 2000 proposal scales: an acceptance below exp(-10^6).
        let Some(square) = distance.checked_mul(distance) else {
            return false;
        };
        bernoulli_exp(square, 2 * a * b * t * t, stream)
    }

    /// Adds an independent draw to every value.
    ///
    /// # Errors
    ///
    /// [`NoiseError::Overflow`]; the values are then unusable.
    pub fn add_to(&self, values: &mut [i64], stream: &mut Stream) -> Result<(), NoiseError> {
        for value in values {
            *value = value
                .checked_add(self.sample(stream))
                .ok_or(NoiseError::Overflow)?;
        }
        Ok(())
    }
}

fn check(name: &'static str, numerator: u64, denominator: u64) -> Result<(), NoiseError> {
    let range = 1..=LIMIT;
    if range.contains(&numerator) && range.contains(&denominator) {
        return Ok(());
    }
    Err(NoiseError::ParameterOutOfRange {
        name,
        numerator,
        denominator,
    })
}

//! Gaussian differential privacy (arXiv 1905.02383): one number `mu` for a whole trade-off curve.
//!
//! The central limit formulas give an [`Approximation`], which may be too small and cannot become a
//! guarantee. [`smallest_mu`] gives the number that may be reported.

use super::AccountingError;
use super::gaussian;
use super::pld::LossProfile;

/// Not a guarantee: a limit formula that understated epsilon in every comparison we know of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Approximation {
    mu: f64,
}

impl Approximation {
    /// Limit for Poisson sampling: `q sqrt(T (exp(1/s^2) - 1))` (arXiv 1911.11607, section 2.4).
    pub fn poisson(noise_multiplier: f64, sampling_rate: f64, steps: u64) -> Self {
        let excess = noise_multiplier.powi(-2).exp_m1();
        Self {
            mu: sampling_rate * (steps as f64 * excess).sqrt(),
        }
    }

    /// Limit for batches of fixed size: `q sqrt(2 T (exp(1/s^2) F(3/(2s)) + 3 F(-1/(2s)) - 2))`
    /// (arXiv 1905.02383, corollary 5.4).
    pub fn uniform(noise_multiplier: f64, sampling_rate: f64, steps: u64) -> Self {
        let below = |x: f64| 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
        let inverse = 1.0 / noise_multiplier;
        let spread = (inverse * inverse).exp() * below(1.5 * inverse) + 3.0 * below(-0.5 * inverse);
        Self {
            mu: sampling_rate * (2.0 * steps as f64 * (spread - 2.0)).sqrt(),
        }
    }

    /// The approximate `mu`.
    pub fn approximate_mu(&self) -> f64 {
        self.mu
    }

    /// The epsilon that would hold if the approximation were exact.
    pub fn approximate_epsilon(&self, delta: f64) -> f64 {
        gaussian::epsilon(self.mu, delta)
    }
}

/// The smallest `mu` whose profile lies above that of the ledger at every delta from `smallest_delta` up.
///
/// Below `smallest_delta` nothing is said: the tail of a subsampled mechanism is heavier than any
/// useful `mu`. Infinite for a ledger without protection.
///
/// # Errors
///
/// [`AccountingError::Delta`] unless `smallest_delta` is above zero and below one.
pub fn smallest_mu(profile: &LossProfile, smallest_delta: f64) -> Result<f64, AccountingError> {
    if !(smallest_delta > 0.0 && smallest_delta < 1.0) {
        return Err(AccountingError::Delta(smallest_delta));
    }
    if let Some(mu) = profile.exact_mu() {
        return Ok(mu);
    }
    let curve = profile.curve(smallest_delta);
    // Between two points delta is at most its value at the left one.
    let mut mu = 0.0_f64;
    for pair in curve.windows(2) {
        mu = mu.max(mu_with_delta(pair[1].0, pair[0].1));
    }
    Ok(mu)
}

/// The `mu` whose profile passes through `delta` at `epsilon`.
fn mu_with_delta(epsilon: f64, delta: f64) -> f64 {
    if delta >= 1.0 {
        return f64::INFINITY;
    }
    let (mut low, mut high) = (0.0, 1.0);
    while gaussian::delta(high, epsilon) < delta {
        low = high;
        high *= 2.0;
    }
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if gaussian::delta(middle, epsilon) < delta {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

//! Pairs of one-dimensional Gaussian mixtures that dominate one step of a subsampled mechanism.
//!
//! The pair is the whole privacy of the step: any two neighbouring data sets give outputs that are at
//! most as easy to tell apart as the two mixtures (arXiv 2106.08567, 2405.20769).

use std::f64::consts::PI;

use statrs::distribution::{Binomial, Discrete};

/// Exponents above this are summed in log space.
const LARGE: f64 = 1.0;

/// `sum_j weight_j N(mean_j, s^2)`, for a deviation `s` that the pair holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mixture(Vec<(f64, f64)>);

impl Mixture {
    fn point(mean: f64) -> Self {
        Self(vec![(1.0, mean)])
    }

    fn largest(&self) -> f64 {
        self.0.iter().map(|c| c.1).fold(f64::NEG_INFINITY, f64::max)
    }

    fn smallest(&self) -> f64 {
        self.0.iter().map(|c| c.1).fold(f64::INFINITY, f64::min)
    }

    /// `ln` of the density at `x` over the density of `N(0, s^2)`, and the posterior mean there.
    ///
    /// Near one the ratio is formed as `1 + u`, so that tiny `u` (small sampling rates) keeps its
    /// relative accuracy.
    fn log_ratio(&self, x: f64, precision: f64) -> (f64, f64) {
        let exponent = |mean: f64| mean * (x - 0.5 * mean) * precision;
        if let [(_, mean)] = self.0[..] {
            return (exponent(mean), mean);
        }
        let exponents = self.0.iter().map(|&(_, mean)| exponent(mean));
        let top = exponents.fold(f64::NEG_INFINITY, f64::max);
        if top < LARGE {
            let (mut excess, mut moment) = (0.0, 0.0);
            for &(weight, mean) in self.0.iter().filter(|c| c.1 != 0.0) {
                let term = exponent(mean).exp_m1();
                excess += weight * term;
                moment += weight * mean * (1.0 + term);
            }
            if excess > -0.5 {
                return (excess.ln_1p(), moment / (1.0 + excess));
            }
        }
        let (mut sum, mut moment) = (0.0, 0.0);
        for &(weight, mean) in &self.0 {
            let term = weight * (exponent(mean) - top).exp();
            sum += term;
            moment += term * mean;
        }
        (top + sum.ln(), moment / sum)
    }
}

/// What a pair says about one outcome.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Log density over `N(0, s^2)` under the upper mixture.
    pub upper: f64,
    /// Log density over `N(0, s^2)` under the lower mixture.
    pub lower: f64,
    /// Derivative of the loss with respect to the outcome.
    pub slope: f64,
}

impl Outcome {
    /// Privacy loss `ln(upper / lower)`.
    pub fn loss(&self) -> f64 {
        self.upper - self.lower
    }
}

/// Two mixtures with a common deviation; the loss grows with the outcome.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pair {
    upper: Mixture,
    lower: Mixture,
    /// Standard deviation over clip norm.
    pub deviation: f64,
    /// `ln(deviation sqrt(2 pi))`.
    log_norm: f64,
    /// The lower mixture is the mirror image of the upper one, so both directions are equal.
    pub symmetric: bool,
}

impl Pair {
    fn new(upper: Mixture, lower: Mixture, deviation: f64, symmetric: bool) -> Self {
        Self {
            upper,
            lower,
            deviation,
            log_norm: deviation.ln() + 0.5 * (2.0 * PI).ln(),
            symmetric,
        }
    }

    /// Without sampling: `N(shift, s^2)` against `N(0, s^2)`.
    pub fn shifted(shift: f64, deviation: f64) -> Self {
        Self::new(Mixture::point(shift), Mixture::point(0.0), deviation, true)
    }

    /// Present with probability `rate`, against absent.
    pub fn presence(rate: f64, sensitivity: f64, deviation: f64) -> Self {
        Self::new(
            Mixture(vec![(1.0 - rate, 0.0), (rate, sensitivity)]),
            Mixture::point(0.0),
            deviation,
            false,
        )
    }

    /// Either of two opposite contributions, each present with probability `rate`, `distance` apart.
    pub fn exchange(rate: f64, distance: f64, deviation: f64) -> Self {
        let half = distance / 2.0;
        Self::new(
            Mixture(vec![(1.0 - rate, 0.0), (rate, half)]),
            Mixture(vec![(1.0 - rate, 0.0), (rate, -half)]),
            deviation,
            true,
        )
    }

    /// A binomial number of hits among `records`, against none.
    pub fn several(rate: f64, records: u32, deviation: f64) -> Self {
        // Cannot fail: rate and count were checked when the event was made.
        let hits = Binomial::new(rate, u64::from(records)).expect("checked rate");
        let weights = (0..=records)
            .map(|j| (hits.pmf(u64::from(j)), f64::from(j)))
            .filter(|&(weight, _)| weight > 0.0)
            .collect();
        Self::new(Mixture(weights), Mixture::point(0.0), deviation, false)
    }

    /// The sampling rate, when this is [`Pair::presence`] at distance one.
    pub fn presence_rate(&self) -> Option<f64> {
        match (&self.upper.0[..], &self.lower.0[..]) {
            (&[(_, 0.0), (rate, 1.0)], &[(_, 0.0)]) => Some(rate),
            _ => None,
        }
    }

    /// Number of Gaussians in both mixtures.
    pub fn components(&self) -> usize {
        self.upper.0.len() + self.lower.0.len()
    }

    /// Largest distance of two means, in deviations: what remains without sampling.
    pub fn largest_mu(&self) -> f64 {
        let up = self.upper.largest() - self.lower.smallest();
        let down = self.lower.largest() - self.upper.smallest();
        up.max(down) / self.deviation
    }

    /// Densities and slope at an outcome.
    pub fn at(&self, x: f64) -> Outcome {
        let precision = 1.0 / (self.deviation * self.deviation);
        let (upper, upper_mean) = self.upper.log_ratio(x, precision);
        let (lower, lower_mean) = self.lower.log_ratio(x, precision);
        Outcome {
            upper,
            lower,
            slope: (upper_mean - lower_mean) * precision,
        }
    }

    /// `ln` of the density of `N(0, s^2)`.
    pub fn log_standard(&self, x: f64) -> f64 {
        let z = x / self.deviation;
        -0.5 * z * z - self.log_norm
    }

    /// Outcomes that hold all but the mass beyond `deviations` standard deviations of either mixture.
    pub fn range(&self, deviations: f64) -> (f64, f64) {
        let margin = deviations * self.deviation;
        let low = self.lower.smallest().min(self.upper.smallest());
        let high = self.upper.largest().max(self.lower.largest());
        (low - margin, high + margin)
    }

    /// Outcomes where `first^order second^(1 - order)` is not negligible.
    fn tilted_range(&self, order: f64, upper_first: bool) -> (f64, f64) {
        let margin = 13.0 * self.deviation;
        let (first, second) = if upper_first {
            (&self.upper, &self.lower)
        } else {
            (&self.lower, &self.upper)
        };
        let rest = 1.0 - order;
        let ends = [second.smallest(), second.largest()].map(|mean| rest * mean);
        (
            order * first.smallest() + ends[0].min(ends[1]) - margin,
            order * first.largest() + ends[0].max(ends[1]) + margin,
        )
    }

    /// Outcomes for every order from zero to `highest`; the ends of a range move linearly with the order.
    pub fn tilted_ranges(&self, highest: f64, upper_first: bool) -> (f64, f64) {
        let ends = [0.0, highest].map(|order| self.tilted_range(order, upper_first));
        (ends[0].0.min(ends[1].0), ends[0].1.max(ends[1].1))
    }

    /// Step in `x` at which the trapezoid rule on densities of this pair is exact to machine precision.
    ///
    /// A density ratio is a polynomial in `exp(gap x / s^2)`. Its zeros are real and negative: those of the
    /// binomial are, and factors `exp(-c j^2)` keep them so (Polya and Schur, 1914). The nearest
    /// singularity of a power of the ratio is therefore `pi s^2 / gap` away from the axis, and the error
    /// falls with `exp(-2 pi distance / step)`.
    pub fn smooth_step(&self) -> f64 {
        let hits = (self.upper.0.len().max(self.lower.0.len()) - 1).max(1) as f64;
        let furthest = self.upper.largest().max(-self.lower.smallest());
        let gap = (furthest / hits).max(f64::MIN_POSITIVE);
        self.deviation * (self.deviation / (3.0 * gap)).min(0.25)
    }

    /// The outcome with this loss; `start` is a guess, improved by Newton steps inside `[low, high]`.
    pub fn outcome_with_loss(&self, loss: f64, start: f64, mut low: f64, mut high: f64) -> f64 {
        let mut x = start;
        for _ in 0..200 {
            let outcome = self.at(x);
            let miss = outcome.loss() - loss;
            if miss > 0.0 {
                high = high.min(x);
            } else {
                low = low.max(x);
            }
            let step = miss / outcome.slope;
            let next = x - step;
            let safe = next > low && next < high;
            let next = if safe { next } else { 0.5 * (low + high) };
            // Newton squares the error: the next one would be in the last digits.
            if (next - x).abs() <= 1e-7 * self.deviation {
                return next;
            }
            x = next;
        }
        x
    }
}

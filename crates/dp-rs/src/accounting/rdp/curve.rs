//! Mechanisms of which a bound on the Renyi divergence is known, and nothing more.

use statrs::function::factorial::ln_binomial;

use super::without_replacement;
use crate::accounting::distributed;

/// A bound on the Renyi divergence of every order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Curve {
    /// Gaussian noise on a batch without replacement.
    FixedBatch {
        /// Batch / units.
        rate: f64,
        /// Replacement sensitivity / standard deviation.
        mu: f64,
    },
    /// Sum of discrete Gaussians.
    DistributedDiscreteGaussian {
        sites: u64,
        deviation: f64,
        l2: f64,
        l1: f64,
        dimension: u64,
    },
    /// Skellam noise.
    Skellam { variance: f64, l2: f64, l1: f64 },
    /// `xi + rho a`.
    Zcdp { rho: f64, xi: f64 },
}

impl Curve {
    /// The bound at each of `orders`.
    pub fn at(&self, orders: &[f64]) -> Vec<f64> {
        match *self {
            Self::FixedBatch { rate, mu } => without_replacement::curve(rate, mu, orders),
            Self::DistributedDiscreteGaussian {
                sites,
                deviation,
                l2,
                l1,
                dimension,
            } => {
                let sum = distributed::DiscreteGaussianSum {
                    sites,
                    deviation,
                    dimension,
                };
                orders.iter().map(|a| sum.renyi(*a, l2, l1)).collect()
            }
            Self::Skellam { variance, l2, l1 } => {
                interpolated(orders, |a| distributed::skellam_renyi(a, variance, l2, l1))
            }
            Self::Zcdp { rho, xi } => orders.iter().map(|a| xi + rho * a).collect(),
        }
    }
}

/// A bound that is known at whole orders, by linear interpolation of `(a - 1) r(a)`, which is convex.
pub(super) fn interpolated(orders: &[f64], whole: impl Fn(u32) -> f64) -> Vec<f64> {
    let log_moment = |a: u32| {
        if a == 1 {
            0.0
        } else {
            f64::from(a - 1) * whole(a)
        }
    };
    orders
        .iter()
        .map(|&order| {
            let below = order.floor();
            let part = order - below;
            let low = (1.0 - part) * log_moment(below as u32);
            let high = if part == 0.0 {
                0.0
            } else {
                part * log_moment(below as u32 + 1)
            };
            (low + high) / (order - 1.0)
        })
        .collect()
}

/// `ln` of the binomial coefficient.
pub(super) fn ln_choose(n: u32, k: u32) -> f64 {
    ln_binomial(u64::from(n), u64::from(k))
}

/// `ln(exp(x) - 1)` for positive `x`.
pub(super) fn ln_exp_m1(x: f64) -> f64 {
    if x > 30.0 {
        x + (-(-x).exp()).ln_1p()
    } else {
        x.exp_m1().ln()
    }
}

/// Sum of numbers given by their logarithms, as a logarithm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogSum {
    top: f64,
    sum: f64,
}

impl LogSum {
    /// Of nothing.
    pub fn new() -> Self {
        Self {
            top: f64::NEG_INFINITY,
            sum: 0.0,
        }
    }

    /// Adds `exp(term)`. Not a number makes the sum not a number: a lost term would be a lost cost.
    pub fn add(&mut self, term: f64) {
        if term == f64::NEG_INFINITY {
            return;
        }
        if term <= self.top {
            self.sum += (term - self.top).exp();
        } else {
            self.sum = self.sum * (self.top - term).exp() + 1.0;
            self.top = term;
        }
    }

    /// `ln` of the sum.
    pub fn ln(self) -> f64 {
        self.top + self.sum.ln()
    }
}

/// `ln(1 + exp(x))`.
pub(super) fn ln_1p_exp(x: f64) -> f64 {
    if x > 30.0 {
        x + (-x).exp()
    } else {
        x.exp().ln_1p()
    }
}

//! Moments of the privacy loss of a pair, the core of Renyi accounting.
//!
//! Both ways compute `A - 1` as a sum of terms that are never negative, in log space, so that even
//! `A - 1 = 1e-12` keeps its relative accuracy; the alternating series of other libraries does not.

use super::curve::{LogSum, ln_1p_exp, ln_choose, ln_exp_m1};
use crate::accounting::pair::Pair;

/// `ln(A - 1)` at whole order `a` of the Poisson-subsampled Gaussian, remove direction
/// (arXiv 1908.10530, section 3.3, with the first two terms taken out).
pub(super) fn poisson_series(rate: f64, deviation: f64, a: u32) -> f64 {
    let mut sum = LogSum::new();
    let keep = (-rate).ln_1p();
    for k in 2..=a {
        let exponent = f64::from(k) * f64::from(k - 1) / (2.0 * deviation * deviation);
        let chosen = ln_choose(a, k) + f64::from(k) * rate.ln() + f64::from(a - k) * keep;
        sum.add(chosen + ln_exp_m1(exponent));
    }
    sum.ln()
}

/// Components evaluated for one table at most, about a third of a second.
const MOST_EVALUATIONS: f64 = 2e7;

/// The loss of a pair at equidistant outcomes, from which any moment is a weighted sum.
pub(super) struct LossTable {
    low: f64,
    step: f64,
    /// Largest order that the table covers.
    highest: f64,
    upper_first: bool,
    /// Loss of the first distribution against the second, and log density of the second.
    nodes: Vec<(f64, f64)>,
}

impl LossTable {
    /// Tabulates one direction of `pair` for those of `orders` that can be afforded.
    pub fn up_to(pair: &Pair, upper_first: bool, orders: &[f64]) -> Self {
        let step = pair.smooth_step();
        let evaluations = |order: f64| {
            let (low, high) = pair.tilted_ranges(order, upper_first);
            (high - low) / step * pair.components() as f64
        };
        let affordable = orders
            .iter()
            .copied()
            .filter(|a| evaluations(*a) <= MOST_EVALUATIONS);
        let highest = affordable.fold(0.0, f64::max);
        let mut table = Self {
            low: 0.0,
            step,
            highest,
            upper_first,
            nodes: Vec::new(),
        };
        if highest > 0.0 {
            table.fill(pair);
        }
        table
    }

    fn fill(&mut self, pair: &Pair) {
        let (low, high) = pair.tilted_ranges(self.highest, self.upper_first);
        self.low = low;
        let count = ((high - low) / self.step).ceil() as usize + 1;
        self.nodes = (0..count)
            .map(|node| {
                let x = low + self.step * node as f64;
                let outcome = pair.at(x);
                let standard = pair.log_standard(x) + self.step.ln();
                if self.upper_first {
                    (outcome.loss(), standard + outcome.lower)
                } else {
                    (-outcome.loss(), standard + outcome.upper)
                }
            })
            .collect();
    }

    /// `ln(A - 1)`, or that of the pair without sampling, which is never smaller (the divergence is
    /// quasi-convex), for orders beyond the table.
    pub fn log_excess_or_bound(&self, pair: &Pair, a: f64) -> f64 {
        if a <= self.highest {
            return self.log_excess_moment(a, pair.tilted_ranges(a, self.upper_first));
        }
        ln_exp_m1(a * (a - 1.0) * pair.largest_mu().powi(2) / 2.0)
    }

    /// `ln(A - 1)` for `A = E[(P/Q)^a]` under the second distribution `Q`, by the trapezoid rule on
    /// `(P/Q)^a - 1 - a (P/Q - 1)`, which has the same mean and no sign.
    fn log_excess_moment(&self, a: f64, range: (f64, f64)) -> f64 {
        let index = |x: f64| ((x - self.low) / self.step).clamp(0.0, self.nodes.len() as f64);
        let (from, to) = (
            index(range.0).floor() as usize,
            index(range.1).ceil() as usize,
        );
        let mut sum = LogSum::new();
        for &(loss, weight) in &self.nodes[from..to] {
            sum.add(weight + ln_convex_gap(a, loss));
        }
        sum.ln()
    }
}

/// `ln((1 + u)^a - 1 - a u)` for `u = exp(loss) - 1`, which is not negative for `a > 1`.
fn ln_convex_gap(a: f64, loss: f64) -> f64 {
    let u = loss.exp_m1();
    if u.abs() < 2e-3 {
        let (mut term, mut sum) = (a * u, 0.0);
        for k in 2..200 {
            let k = f64::from(k);
            term *= (a - k + 1.0) / k * u;
            sum += term;
            if term.abs() < 1e-17 * sum.abs() {
                break;
            }
        }
        return sum.ln();
    }
    let power = a * loss;
    if power > 30.0 {
        // exp(loss) alone may overflow here, so it is only used times exp(-power).
        let rest = (a - 1.0) * (-power).exp() - a * (loss - power).exp();
        return power + rest.ln_1p();
    }
    (power.exp_m1() - a * u).ln()
}

/// `(a - 1) r(a)` at each order, for steps that are one of several pairs; the worse direction.
pub(super) fn pairs_log_moments(pairs: &[(f64, Pair)], orders: &[f64]) -> Vec<f64> {
    if let [(_, pair)] = pairs
        && let Some(rate) = pair.presence_rate()
    {
        return presence_log_moments(pair, rate, orders);
    }
    let upper = direction_log_moments(pairs, orders, true);
    if pairs.iter().all(|(_, pair)| pair.symmetric) {
        return upper;
    }
    let lower = direction_log_moments(pairs, orders, false);
    upper.iter().zip(&lower).map(|(u, l)| u.max(*l)).collect()
}

fn direction_log_moments(pairs: &[(f64, Pair)], orders: &[f64], upper_first: bool) -> Vec<f64> {
    let mut sums = vec![LogSum::new(); orders.len()];
    for (weight, pair) in pairs {
        let table = LossTable::up_to(pair, upper_first, orders);
        for (sum, &order) in sums.iter_mut().zip(orders) {
            sum.add(weight.ln() + table.log_excess_or_bound(pair, order));
        }
    }
    sums.into_iter().map(|sum| ln_1p_exp(sum.ln())).collect()
}

/// Poisson sampling: the remove direction is the larger one (arXiv 1908.10530, theorem 5), and whole
/// orders have a finite series.
fn presence_log_moments(pair: &Pair, rate: f64, orders: &[f64]) -> Vec<f64> {
    let fractional: Vec<_> = orders
        .iter()
        .copied()
        .filter(|a| a.fract() != 0.0)
        .collect();
    let table = LossTable::up_to(pair, true, &fractional);
    let log_excess = |a: f64| {
        if a.fract() == 0.0 {
            poisson_series(rate, pair.deviation, a as u32)
        } else {
            table.log_excess_or_bound(pair, a)
        }
    };
    orders.iter().map(|&a| ln_1p_exp(log_excess(a))).collect()
}

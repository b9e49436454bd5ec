//! A batch of fixed size without replacement: an upper bound (arXiv 1808.00087, theorem 27).

use super::curve::{LogSum, interpolated, ln_1p_exp, ln_choose, ln_exp_m1};
use crate::accounting::pair::Pair;

/// Orders up to here use the sharper bound for Gaussian noise.
const SHARP_ORDERS: u32 = 256;

/// Bound at each order for batches of `rate` of the units, `mu` = replacement sensitivity / deviation.
pub(super) fn curve(rate: f64, mu: f64, orders: &[f64]) -> Vec<f64> {
    let highest = orders.iter().copied().fold(2.0, f64::max).ceil() as u32;
    let differences = forward_differences(mu, highest.min(SHARP_ORDERS) + 1);
    interpolated(orders, |a| {
        log_moment(rate, mu, a, &differences) / f64::from(a - 1)
    })
}

/// `ln A` at whole order `a`.
fn log_moment(rate: f64, mu: f64, a: u32, differences: &[f64]) -> f64 {
    let renyi = |a: f64| a * mu * mu / 2.0;
    let mut sum = LogSum::new();
    for j in 2..=a {
        let crude = 2.0_f64.ln() + f64::from(j - 1) * renyi(f64::from(j));
        let factor = if j == 2 {
            crude.min(4.0_f64.ln() + ln_exp_m1(renyi(2.0)))
        } else if a <= SHARP_ORDERS {
            // 4 sqrt(B(2 floor(j/2)) B(2 ceil(j/2))): the even differences around j.
            let even = |k: u32| differences[(k / 2) as usize];
            crude.min(4.0_f64.ln() + 0.5 * (even(2 * (j / 2)) + even(2 * j.div_ceil(2))))
        } else {
            crude
        };
        sum.add(factor + f64::from(j) * rate.ln() + ln_choose(a, j));
    }
    ln_1p_exp(sum.ln())
}

/// `ln E_Q[(P/Q - 1)^k]` for `k = 0, 2, 4, ...` up to `highest`, for normal distributions `mu` apart.
///
/// The alternating sum of the theorem is this expectation, whose integrand is not negative.
fn forward_differences(mu: f64, highest: u32) -> Vec<f64> {
    let pair = Pair::shifted(1.0, 1.0 / mu);
    let step = pair.deviation / 8.0;
    let (low, high) = pair.tilted_ranges(f64::from(highest), true);
    let nodes = ((high - low) / step).ceil() as usize;
    let mut sums = vec![LogSum::new(); highest as usize / 2 + 1];
    for node in 0..=nodes {
        let x = low + step * node as f64;
        let loss = pair.at(x).loss();
        let excess = if loss > 30.0 {
            ln_exp_m1(loss)
        } else {
            loss.exp_m1().abs().ln()
        };
        let weight = pair.log_standard(x) + step.ln();
        for (k, sum) in sums.iter_mut().enumerate() {
            let power = 2.0 * k as f64;
            let term = if k == 0 { 0.0 } else { power * excess };
            sum.add(weight + term);
        }
    }
    sums.into_iter().map(LogSum::ln).collect()
}

//! Zero-concentrated differential privacy (arXiv 1605.02065): Renyi divergence at most `rho a` at every
//! order `a`.

use super::rdp::conversion::AtOrder;

/// Closed form `rho + 2 sqrt(rho ln(1/delta))` (arXiv 1605.02065, proposition 1.3). Looser than
/// [`epsilon`]; for comparison.
pub fn simple_epsilon(rho: f64, delta: f64) -> f64 {
    rho + 2.0 * (rho * (1.0 / delta).ln()).sqrt()
}

/// Smallest epsilon of the improved conversion over all real orders above 1.01
/// (arXiv 2004.00010, corollary 13), and the order it is reached at.
pub fn epsilon(rho: f64, delta: f64) -> AtOrder {
    let at = |a: f64| rho * a + (-1.0 / a).ln_1p() - (delta * a).ln() / (a - 1.0);
    let result = |epsilon: f64, order| AtOrder {
        epsilon,
        order,
        index: 0,
    };
    if rho == 0.0 || delta >= 1.0 {
        return result(0.0, f64::INFINITY);
    }
    if delta == 0.0 {
        return result(f64::INFINITY, f64::INFINITY);
    }
    // The derivative is rho + ln(delta a) / (a - 1)^2, which changes sign once.
    let rises = |t: f64| rho * (2.0 * t).exp() + delta.ln() + t.exp().ln_1p() > 0.0;
    let (mut low, mut high) = (0.01_f64.ln(), 1e9_f64.ln());
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if rises(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    let best = 1.0 + high.exp();
    result(at(best).max(0.0), best)
}

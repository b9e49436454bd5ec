//! The exact privacy profile of a Gaussian mechanism, and its inverse (arXiv 1805.06530, theorem 8).

use std::f64::consts::{PI, SQRT_2};

/// `P[Z > x] / density(x)` of a standard normal variable, to a few units in the last place.
fn mills_ratio(x: f64) -> f64 {
    if x < 6.0 {
        let density = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
        return 0.5 * libm::erfc(x / SQRT_2) / density;
    }
    // Continued fraction x + 1/(x + 2/(x + 3/...)), evaluated from far out.
    let terms = if x > 30.0 { 30 } else { 160 };
    let mut tail = x;
    for k in (1..=terms).rev() {
        tail = x + f64::from(k) / tail;
    }
    1.0 / tail
}

/// Smallest delta at which a Gaussian release of `mu` = sensitivity / standard deviation is
/// `(epsilon, delta)`-private: `F(-e/mu + mu/2) - exp(e) F(-e/mu - mu/2)`.
///
/// The two terms agree to many digits in the tail; they are subtracted as ratios to one density.
pub fn delta(mu: f64, epsilon: f64) -> f64 {
    if mu == 0.0 {
        return (-epsilon.exp_m1()).max(0.0);
    }
    if mu.is_infinite() {
        return 1.0;
    }
    let near = epsilon / mu - 0.5 * mu;
    let far = epsilon / mu + 0.5 * mu;
    if near < -6.0 {
        // No cancellation here, while the ratio to the density would overflow.
        let tail = |x: f64| 0.5 * libm::erfc(x / SQRT_2);
        let second = (epsilon + log_tail(far)).exp();
        return (tail(near) - second).clamp(0.0, 1.0);
    }
    let density = (-0.5 * near * near).exp() / (2.0 * PI).sqrt();
    (density * (mills_ratio(near) - mills_ratio(far))).clamp(0.0, 1.0)
}

fn log_tail(x: f64) -> f64 {
    if x < 6.0 {
        return (0.5 * libm::erfc(x / SQRT_2)).ln();
    }
    mills_ratio(x).ln() - 0.5 * x * x - 0.5 * (2.0 * PI).ln()
}

/// Smallest epsilon, zero or larger, at which the profile is at most `delta`.
pub fn epsilon(mu: f64, delta: f64) -> f64 {
    if mu == 0.0 || self::delta(mu, 0.0) <= delta {
        return 0.0;
    }
    if delta == 0.0 || mu.is_infinite() {
        return f64::INFINITY;
    }
    let mut high = 1.0;
    while self::delta(mu, high) > delta {
        high *= 2.0;
    }
    let mut low = if high == 1.0 { 0.0 } else { high / 2.0 };
    // The interval shrinks to neighbouring numbers; the upper one is returned.
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return high;
        }
        if self::delta(mu, middle) > delta {
            low = middle;
        } else {
            high = middle;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mills_ratio_is_continuous_where_the_formula_changes() {
        for x in [6.0, 30.0] {
            let (below, above) = (
                mills_ratio(x * (1.0 - 1e-13)),
                mills_ratio(x * (1.0 + 1e-13)),
            );
            assert!((below / above - 1.0).abs() < 2e-12, "{x}: {below} {above}");
        }
    }

    #[test]
    fn the_profile_is_symmetric_under_exchange_of_the_two_distributions() {
        for mu in [0.01, 0.3, 1.0, 4.0, 40.0] {
            for e in [0.0, 0.1, 1.0, 5.0_f64] {
                let mirrored = 1.0 - (-e).exp() * (1.0 - delta(mu, e));
                assert!((delta(mu, -e) - mirrored).abs() < 1e-12, "{mu} {e}");
            }
        }
    }
}

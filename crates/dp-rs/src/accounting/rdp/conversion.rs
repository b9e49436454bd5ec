//! From Renyi divergences to epsilon and delta.

/// An epsilon and the order it was found at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AtOrder {
    /// Epsilon, zero or larger.
    pub epsilon: f64,
    /// The best order of those given.
    pub order: f64,
    /// Position of that order in the list.
    pub index: usize,
}

/// Orders this close to one have no usable main term.
const LOWEST_ORDER: f64 = 1.01;

/// Smallest epsilon over the orders: `r + ln(1 - 1/a) - ln(delta a)/(a - 1)`
/// (arXiv 2004.00010, proposition 12), zero when total variation alone is below delta.
///
/// `orders` and `divergences` have the same length; without any order the answer is infinite.
pub fn improved(orders: &[f64], divergences: &[f64], delta: f64) -> AtOrder {
    best(orders, divergences, delta, |a, r| {
        // Total variation is at most sqrt(1 - exp(-r)) (Bretagnolle-Huber).
        if delta * delta > -(-r).exp_m1() {
            return 0.0;
        }
        if a <= LOWEST_ORDER {
            return f64::INFINITY;
        }
        r + (-1.0 / a).ln_1p() - (delta * a).ln() / (a - 1.0)
    })
}

/// Smallest epsilon over the orders by the older, looser `r + ln(1/delta)/(a - 1)` (arXiv 1702.07476,
/// proposition 3). For comparison with other tools only.
pub fn classic(orders: &[f64], divergences: &[f64], delta: f64) -> AtOrder {
    best(orders, divergences, delta, |a, r| {
        r - delta.ln() / (a - 1.0)
    })
}

fn best(
    orders: &[f64],
    divergences: &[f64],
    delta: f64,
    epsilon: impl Fn(f64, f64) -> f64,
) -> AtOrder {
    let mut best = AtOrder {
        epsilon: f64::INFINITY,
        order: orders.first().copied().unwrap_or(f64::NAN),
        index: 0,
    };
    for (index, (&order, &r)) in orders.iter().zip(divergences).enumerate() {
        let found = if r == 0.0 {
            0.0
        } else if delta == 0.0 {
            f64::INFINITY
        } else {
            epsilon(order, r)
        };
        if found < best.epsilon {
            best = AtOrder {
                epsilon: found,
                order,
                index,
            };
        }
    }
    best.epsilon = best.epsilon.max(0.0);
    best
}

/// Smallest delta over the orders at `epsilon`:
/// `min { exp((a-1)(r - epsilon + ln(1-1/a)))/a, sqrt(1 - exp(-r)), 1 }`.
pub fn delta(orders: &[f64], divergences: &[f64], epsilon: f64) -> f64 {
    orders
        .iter()
        .zip(divergences)
        .map(|(&a, &r)| {
            let total_variation = (-(-r).exp_m1()).sqrt();
            if a <= LOWEST_ORDER {
                return total_variation;
            }
            let main = ((a - 1.0) * (r - epsilon + (-1.0 / a).ln_1p())).exp() / a;
            main.min(total_variation)
        })
        .fold(1.0, f64::min)
}

//! Renyi differential privacy (arXiv 1702.07476): divergences at a list of orders, added up.
//!
//! Looser than [`super::pld`] (5 to 25 % for typical training, much more for few steps or small
//! epsilons) but cheap, and valid for adaptively chosen parameters when used as a filter. The product
//! uses it as the cross-check.

pub mod conversion;
pub(crate) mod curve;
mod moments;
mod orders;
mod without_replacement;

pub use orders::{default_orders, whole_orders};

use super::dominating::{Loss, dominating};
use super::{AccountingError, common_adjacency};
use crate::event::Repeated;

/// Renyi divergences of a whole ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct RenyiCurve {
    orders: Vec<f64>,
    divergences: Vec<f64>,
}

impl RenyiCurve {
    /// Divergences of all entries together, at `orders`.
    ///
    /// # Errors
    ///
    /// [`AccountingError::Orders`] unless the orders are finite, above one and increasing;
    /// [`AccountingError::MixedAdjacency`] and [`AccountingError::Adjacency`] as for every accountant.
    pub fn of(ledger: &[Repeated], orders: &[f64]) -> Result<Self, AccountingError> {
        let usable = |a: &f64| a.is_finite() && *a > 1.0 && *a <= 1e6;
        let increasing = orders.windows(2).all(|pair| pair[0] < pair[1]);
        if orders.is_empty() || !orders.iter().all(usable) || !increasing {
            return Err(AccountingError::Orders);
        }
        common_adjacency(ledger)?;
        let mut divergences = vec![0.0; orders.len()];
        for entry in ledger.iter().filter(|entry| entry.count > 0) {
            let loss = dominating(&entry.event, entry.adjacency)?;
            for (total, r) in divergences.iter_mut().zip(divergence(&loss, orders)) {
                *total += entry.count as f64 * r;
            }
        }
        Ok(Self {
            orders: orders.to_vec(),
            divergences,
        })
    }

    /// The orders, increasing.
    pub fn orders(&self) -> &[f64] {
        &self.orders
    }

    /// The divergence at each order.
    pub fn divergences(&self) -> &[f64] {
        &self.divergences
    }

    /// Smallest epsilon for `delta`, by the improved conversion.
    pub fn epsilon(&self, delta: f64) -> conversion::AtOrder {
        conversion::improved(&self.orders, &self.divergences, delta)
    }

    /// Smallest delta for `epsilon`.
    pub fn delta(&self, epsilon: f64) -> f64 {
        conversion::delta(&self.orders, &self.divergences, epsilon)
    }

    /// Smallest delta for `epsilon`, and the order that gives it.
    pub(crate) fn delta_and_order(&self, epsilon: f64) -> (f64, f64) {
        let each = self.orders.iter().zip(&self.divergences);
        each.map(|(&a, &r)| (conversion::delta(&[a], &[r], epsilon), a))
            .fold((1.0, self.orders[0]), |best, next| {
                if next.0 < best.0 { next } else { best }
            })
    }

    /// The best order is the first or last of the list, so that a longer list could give a smaller
    /// epsilon.
    pub fn is_at_the_end(&self, best: conversion::AtOrder) -> bool {
        best.epsilon > 0.0 && (best.index == 0 || best.index + 1 == self.orders.len())
    }
}

/// Divergence of one event at each order.
pub(crate) fn divergence(loss: &Loss, orders: &[f64]) -> Vec<f64> {
    let each = |f: &dyn Fn(f64) -> f64| orders.iter().map(|&a| f(a)).collect();
    match loss {
        Loss::None => vec![0.0; orders.len()],
        Loss::Unbounded => vec![f64::INFINITY; orders.len()],
        Loss::Normal { mu } => each(&|a| a * mu * mu / 2.0),
        Loss::Pairs(pairs) => moments::pairs_log_moments(pairs, orders)
            .into_iter()
            .zip(orders)
            .map(|(log_moment, a)| log_moment / (a - 1.0))
            .collect(),
        Loss::Laplace { epsilon } => each(&|a| laplace(*epsilon, a)),
        // arXiv 2004.00010, theorem 4.
        Loss::DiscreteGaussian { deviation, shift } => {
            let rho = (*shift as f64 / deviation).powi(2) / 2.0;
            each(&|a| a * rho)
        }
        Loss::Curve(curve) => curve.at(orders),
    }
}

/// Laplace noise whose loss is at most `epsilon` (arXiv 1702.07476, proposition 6).
fn laplace(epsilon: f64, a: f64) -> f64 {
    let up = (a / (2.0 * a - 1.0)).ln() + (a - 1.0) * epsilon;
    let down = ((a - 1.0) / (2.0 * a - 1.0)).ln() - a * epsilon;
    // For tiny epsilons the two terms sum to one plus rounding; the divergence is never negative.
    ((up.max(down) + (-(up - down).abs()).exp().ln_1p()) / (a - 1.0)).max(0.0)
}

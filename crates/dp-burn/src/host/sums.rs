//! Gradients that are sums over positions: biases, the affine part of normalisation, scales and shifts.
//!
//! They are as small as their parameter and are kept for every unit.

use burn::backend::flex::FlexTensor;

use super::real::{Real, add_scaled, dot};
use crate::Units;

/// One use: output gradients, times the values they were multiplied with, as `[rows, outer, size, inner]`,
/// to be summed over `outer` and `inner`.
#[derive(Debug)]
pub(crate) struct Sum {
    pub gradient: FlexTensor,
    pub value: Option<FlexTensor>,
    pub outer: usize,
    pub inner: usize,
}

/// The gradients of all units, `[units, size]`.
pub(crate) fn of_units<E: Real>(uses: &[Sum], size: usize, units: &Units) -> Vec<E> {
    let mut total = vec![E::zero(); units.len() * size];
    let ones = vec![E::one(); uses.iter().map(|sum| sum.inner).max().unwrap_or(0)];
    for Sum {
        gradient,
        value,
        outer,
        inner,
    } in uses
    {
        let gradient = E::values(gradient);
        let value = value.as_ref().map(E::values);
        let len = size * inner;
        for row in 0..units.rows() {
            let unit = units.of_row(row);
            let to = &mut total[unit * size..(unit + 1) * size];
            for start in (0..*outer).map(|o| (row * outer + o) * len) {
                let gradient = &gradient[start..start + len];
                let value = value.map(|value| &value[start..start + len]);
                match value {
                    None if *inner == 1 => add_scaled(to, E::one(), gradient),
                    Some(value) if *inner == 1 => {
                        for ((to, &g), &v) in to.iter_mut().zip(gradient).zip(value) {
                            *to += g * v;
                        }
                    }
                    None => {
                        for (to, gradient) in to.iter_mut().zip(gradient.chunks_exact(*inner)) {
                            *to += E::from_f64(dot(gradient, &ones[..*inner]));
                        }
                    }
                    Some(value) => {
                        let pairs = gradient
                            .chunks_exact(*inner)
                            .zip(value.chunks_exact(*inner));
                        for (to, (gradient, value)) in to.iter_mut().zip(pairs) {
                            *to += E::from_f64(dot(gradient, value));
                        }
                    }
                }
            }
        }
    }
    total
}

/// `sum_u factor_u gradient_u`, added to `to`; units with factor 0 are not touched.
pub(crate) fn weighted<E: Real>(gradients: &[E], factors: &[f64], to: &mut [E]) {
    for (gradient, &factor) in gradients.chunks_exact(to.len()).zip(factors) {
        if factor != 0.0 {
            add_scaled(to, E::from_f64(factor), gradient);
        }
    }
}

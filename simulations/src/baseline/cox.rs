//! Cox regression with Breslow ties and a small ridge, by Newton's method.

use nalgebra::{DMatrix, DVector};

/// Weight of half the squared norm of the coefficients beside the summed log partial likelihood.
const RIDGE: f64 = 1.0;
const STEPS: usize = 50;

/// Log hazard ratios for `rows` `[records, covariates]`.
pub fn fit(rows: &DMatrix<f64>, times: &[f64], events: &[bool]) -> DVector<f64> {
    let mut weights = DVector::zeros(rows.ncols());
    let mut now = Likelihood::at(rows, times, events, &weights);
    for _ in 0..STEPS {
        // Cannot fail: the ridge makes the negative Hessian positive definite.
        let Some(cholesky) = now.information.clone().cholesky() else {
            break;
        };
        let mut step = cholesky.solve(&now.gradient);
        let mut next = Likelihood::at(rows, times, events, &(&weights + &step));
        while next.value < now.value && step.amax() > 1e-12 {
            step *= 0.5;
            next = Likelihood::at(rows, times, events, &(&weights + &step));
        }
        weights += &step;
        now = next;
        if step.amax() < 1e-9 {
            break;
        }
    }
    weights
}

/// The penalised log partial likelihood, its gradient and its negative Hessian.
struct Likelihood {
    value: f64,
    gradient: DVector<f64>,
    information: DMatrix<f64>,
}

impl Likelihood {
    fn at(rows: &DMatrix<f64>, times: &[f64], events: &[bool], weights: &DVector<f64>) -> Self {
        let k = rows.ncols();
        let risks = rows * weights;
        let highest = risks.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut order: Vec<usize> = (0..times.len()).collect();
        order.sort_by(|&a, &b| times[b].total_cmp(&times[a])); // latest first
        let mut found = Self {
            value: -0.5 * RIDGE * weights.norm_squared(),
            gradient: -RIDGE * weights,
            information: DMatrix::identity(k, k) * RIDGE,
        };
        // Sums of e^risk, e^risk x and e^risk x xᵀ over everybody still at risk.
        let (mut s0, mut s1, mut s2) = (0.0, DVector::zeros(k), DMatrix::zeros(k, k));
        for tied in order.chunk_by(|&a, &b| times[a] == times[b]) {
            for &row in tied {
                let x = rows.row(row).transpose();
                let weight = (risks[row] - highest).exp();
                s0 += weight;
                s1 += &x * weight;
                s2 += &x * x.transpose() * weight;
            }
            for &row in tied.iter().filter(|&&row| events[row]) {
                let mean = &s1 / s0;
                found.value += risks[row] - highest - s0.ln();
                found.gradient += rows.row(row).transpose() - &mean;
                found.information += &s2 / s0 - &mean * mean.transpose();
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_evaluation::cox::{Ties, partial_likelihood};

    #[test]
    fn the_gradient_of_an_independent_likelihood_is_zero_at_the_fit() {
        let rows = DMatrix::from_row_slice(
            7,
            2,
            &[
                0.5, 1.0, -0.3, 0.2, 1.1, -0.8, 0.0, 0.4, -1.2, 0.9, 0.7, -0.1, 0.3, -0.6,
            ],
        );
        let times = [5.0, 3.0, 3.0, 8.0, 1.0, 3.0, 9.0];
        let events = [true, true, false, false, true, true, true];
        let weights = fit(&rows, &times, &events);
        let risks: Vec<f64> = (&rows * &weights).iter().copied().collect();
        let loss = partial_likelihood(&times, &events, &risks, None, Ties::Breslow);
        for covariate in 0..2 {
            let slope: f64 = (0..7)
                .map(|row| loss.gradient[row] * rows[(row, covariate)])
                .sum();
            assert!(
                (slope + RIDGE * weights[covariate]).abs() < 1e-7,
                "{slope} {weights}"
            );
        }
    }

    #[test]
    fn without_events_there_is_no_risk() {
        let rows = DMatrix::from_row_slice(2, 1, &[1.0, 2.0]);
        assert_eq!(fit(&rows, &[1.0, 2.0], &[false, false])[0], 0.0);
    }
}

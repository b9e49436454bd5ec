//! Ridge logistic regression by Newton's method.
//!
//! Newton and not a library's gradient method: the optimum is unique, it is reached to machine precision in
//! about ten steps, and the same records give the same bytes.

use nalgebra::{DMatrix, DVector};

/// Weight of half the squared norm of the coefficients beside the summed log-loss; the intercept is free.
const RIDGE: f64 = 1.0;
const STEPS: usize = 50;

/// A fitted model: the last coefficient is the intercept.
pub struct Logistic(DVector<f64>);

impl Logistic {
    /// Fits on `rows` `[records, features]`.
    pub fn fit(rows: &DMatrix<f64>, positive: &[bool]) -> Self {
        let x = rows.clone().insert_column(rows.ncols(), 1.0);
        let transposed = x.transpose();
        let y = DVector::from_iterator(
            positive.len(),
            positive.iter().map(|&p| f64::from(u8::from(p))),
        );
        let mut ridge = DVector::repeat(x.ncols(), RIDGE);
        // A trace on the intercept keeps the system solvable when all outcomes are equal.
        ridge[rows.ncols()] = 1e-6;
        let loss = |w: &DVector<f64>| {
            let scores = &x * w;
            // log(1 + exp(s)) - y s, without overflow.
            let data: f64 = (scores.iter().zip(&y))
                .map(|(&s, &y)| s.max(0.0) + (-s.abs()).exp().ln_1p() - y * s)
                .sum();
            data + 0.5 * ridge.component_mul(w).dot(w)
        };
        let mut w = DVector::zeros(x.ncols());
        let mut value = loss(&w);
        for _ in 0..STEPS {
            let p = (&x * &w).map(sigmoid);
            let gradient = &transposed * (&p - &y) + ridge.component_mul(&w);
            let mut weighted = x.clone();
            for (mut row, p) in weighted.row_iter_mut().zip(&p) {
                row *= p * (1.0 - p);
            }
            let hessian = &transposed * weighted + DMatrix::from_diagonal(&ridge);
            let Some(cholesky) = hessian.cholesky() else {
                break;
            };
            let mut step = cholesky.solve(&gradient);
            let mut next = loss(&(&w - &step));
            while next > value && step.amax() > 1e-12 {
                step *= 0.5;
                next = loss(&(&w - &step));
            }
            w -= &step;
            value = next;
            if step.amax() < 1e-9 {
                break;
            }
        }
        Self(w)
    }

    /// Probability of the positive class for each row.
    pub fn probabilities(&self, rows: &DMatrix<f64>) -> Vec<f64> {
        let x = rows.clone().insert_column(rows.ncols(), 1.0);
        (x * &self.0).iter().map(|&score| sigmoid(score)).collect()
    }
}

fn sigmoid(score: f64) -> f64 {
    1.0 / (1.0 + (-score).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_of_the_penalised_loss_is_zero_at_the_fit() {
        let rows = DMatrix::from_row_slice(
            6,
            2,
            &[0.1, 1.0, 0.4, -0.3, 0.9, 0.2, 1.4, -1.0, 0.2, 0.5, 1.1, 0.3],
        );
        let positive = [false, true, false, true, false, true];
        let model = Logistic::fit(&rows, &positive);
        let error: Vec<f64> = (model.probabilities(&rows).iter().zip(positive))
            .map(|(p, y)| p - f64::from(u8::from(y)))
            .collect();
        for feature in 0..2 {
            let slope: f64 = (0..6).map(|row| error[row] * rows[(row, feature)]).sum();
            assert!((slope + RIDGE * model.0[feature]).abs() < 1e-8);
        }
        assert!(error.iter().sum::<f64>().abs() < 1e-5);
    }

    #[test]
    fn separable_records_and_a_single_class_still_end() {
        let rows = DMatrix::from_row_slice(4, 1, &[-2.0, -1.0, 1.0, 2.0]);
        let p = Logistic::fit(&rows, &[false, false, true, true]).probabilities(&rows);
        assert!(p[0] < 0.5 && p[3] > 0.5);
        let p = Logistic::fit(&rows, &[false; 4]).probabilities(&rows);
        assert!(p.iter().all(|p| p.is_finite() && *p < 0.01));
    }
}

//! Principal components of more columns than rows.

use nalgebra::{DMatrix, RowDVector};

/// Directions of largest variance, each scaled so that its score has variance 1 on the fitted rows.
pub struct Components {
    mean: RowDVector<f64>,
    /// `[features, components]`.
    directions: DMatrix<f64>,
}

impl Components {
    /// Fits up to `count` components on `rows` `[records, features]`, through the Gram matrix of the rows.
    pub fn fit(rows: &DMatrix<f64>, count: usize) -> Self {
        let mean = rows.row_mean();
        let centred = centred(rows, &mean);
        let gram = &centred * centred.transpose();
        let eigen = gram.symmetric_eigen();
        let mut order: Vec<usize> = (0..rows.nrows()).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
        let largest = order.first().map_or(0.0, |&first| eigen.eigenvalues[first]);
        order.retain(|&index| eigen.eigenvalues[index] > 1e-9 * largest);
        order.truncate(count);
        let vectors = eigen.eigenvectors.select_columns(&order);
        let mut directions = centred.transpose() * vectors;
        for (mut direction, &index) in directions.column_iter_mut().zip(&order) {
            // Xᵀu/√λ has length 1 and scores √λ·u; their variance over n rows is λ/n.
            direction *= (rows.nrows() as f64).sqrt() / eigen.eigenvalues[index];
        }
        Self { mean, directions }
    }

    /// Scores `[records, components]`.
    pub fn scores(&self, rows: &DMatrix<f64>) -> DMatrix<f64> {
        centred(rows, &self.mean) * &self.directions
    }
}

fn centred(rows: &DMatrix<f64>, mean: &RowDVector<f64>) -> DMatrix<f64> {
    let mut centred = rows.clone();
    for mut row in centred.row_iter_mut() {
        row -= mean;
    }
    centred
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_have_variance_one_and_do_not_correlate() {
        let rows = DMatrix::from_fn(7, 12, |i, j| {
            ((i * 5 + j * 3) % 11) as f64 + 0.1 * (i * j) as f64
        });
        let scores = Components::fit(&rows, 3).scores(&rows);
        let covariance = scores.transpose() * &scores / 7.0;
        assert!((covariance - DMatrix::identity(3, 3)).amax() < 1e-9);
    }

    #[test]
    fn there_are_no_more_components_than_the_rows_have_directions() {
        let rows = DMatrix::from_fn(5, 4, |i, _| i as f64);
        assert_eq!(Components::fit(&rows, 3).scores(&rows).ncols(), 1);
    }
}

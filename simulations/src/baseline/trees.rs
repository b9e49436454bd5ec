//! Ensembles of trees, from smartcore.

use nalgebra::DMatrix;
use smartcore::ensemble::random_forest_classifier::{
    RandomForestClassifier, RandomForestClassifierParameters,
};
use smartcore::linalg::basic::matrix::DenseMatrix;
use smartcore::xgboost::{XGRegressor, XGRegressorParameters};

/// Trees of a forest.
const TREES: u64 = 100;

/// Shares of votes `[asked, classes]` of a random forest.
///
/// smartcore's forest returns the winning class only, so each tree is a forest of one with its own seed, and
/// therefore its own bootstrap sample.
pub fn forest(
    known: &DMatrix<f64>,
    labels: &[u32],
    asked: &DMatrix<f64>,
    classes: usize,
) -> Result<Vec<Vec<f64>>, String> {
    let (known, asked) = (dense(known)?, dense(asked)?);
    let labels = labels.to_vec();
    let mut shares: Vec<Vec<f64>> = Vec::new();
    for seed in 0..TREES {
        let settings = RandomForestClassifierParameters::default()
            .with_n_trees(1)
            .with_seed(seed);
        let tree =
            RandomForestClassifier::fit(&known, &labels, settings).map_err(|e| e.to_string())?;
        let votes: Vec<u32> = tree.predict(&asked).map_err(|e| e.to_string())?;
        shares.resize(votes.len(), vec![0.0; classes]);
        for (share, vote) in shares.iter_mut().zip(votes) {
            share[vote as usize] += 1.0 / TREES as f64;
        }
    }
    Ok(shares)
}

/// Gradient boosting of squared error on the 0/1 label: 100 trees of depth 3, rate 0.1.
///
/// The scores are mapped to (0, 1) by a fixed increasing function, which AUROC does not see.
pub fn boosting(
    known: &DMatrix<f64>,
    labels: &[u32],
    asked: &DMatrix<f64>,
) -> Result<Vec<f64>, String> {
    let positive: Vec<f64> = labels.iter().map(|&label| f64::from(label)).collect();
    let share = positive.iter().sum::<f64>() / positive.len().max(1) as f64;
    let settings = XGRegressorParameters::default()
        .with_n_estimators(100)
        .with_max_depth(3)
        .with_learning_rate(0.1)
        .with_base_score(share);
    let model = XGRegressor::fit(&dense(known)?, &positive, settings).map_err(|e| e.to_string())?;
    let scores = model.predict(&dense(asked)?).map_err(|e| e.to_string())?;
    Ok(scores
        .into_iter()
        .map(|score| 1.0 / (1.0 + (-4.0 * (score - 0.5)).exp()))
        .collect())
}

fn dense(rows: &DMatrix<f64>) -> Result<DenseMatrix<f64>, String> {
    let values = rows.as_slice().to_vec();
    DenseMatrix::new(rows.nrows(), rows.ncols(), values, true).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_clouds() -> (DMatrix<f64>, Vec<u32>) {
        let rows = DMatrix::from_fn(40, 2, |i, j| {
            (i % 2) as f64 + 0.01 * (i * (j + 1)) as f64 / 40.0
        });
        (rows, (0..40).map(|i| i % 2).collect())
    }

    #[test]
    fn two_clouds_are_told_apart_and_the_same_forest_grows_twice() {
        let (rows, labels) = two_clouds();
        let once = forest(&rows, &labels, &rows, 3).unwrap();
        assert_eq!(once, forest(&rows, &labels, &rows, 3).unwrap());
        for (share, &label) in once.iter().zip(&labels) {
            assert!(share[label as usize] > 0.9, "{share:?}");
            assert_eq!(share[2], 0.0);
        }
        let scores = boosting(&rows, &labels, &rows).unwrap();
        assert!((scores.iter().zip(&labels)).all(|(s, &label)| (*s > 0.5) == (label == 1)));
    }
}

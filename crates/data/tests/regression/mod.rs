//! A logistic regression, to see whether prepared records hold what they should.

use consilium_data::{Cohort, Examples};

/// Rows of features and a label of 0 or 1 for a logistic regression.
pub type Rows = Vec<(Vec<f64>, f64)>;

/// Rows of the training and test records of one cohort, scaled on the training records; `features` makes
/// the row of one record, the label is whether it has this class.
pub fn rows(
    cohort: &Cohort,
    [train, test]: [&[usize]; 2],
    class: u32,
    features: impl Fn(&Examples, usize) -> Vec<f64>,
) -> [Rows; 2] {
    let prepared = cohort.prepare(train).unwrap();
    [train, test].map(|records| {
        let examples = prepared.examples().select(records).unwrap();
        let labels = examples.targets.labels().unwrap().to_vec();
        let label = |record: usize| f64::from(u8::from(labels[record] == class));
        (0..examples.len())
            .map(|record| (features(&examples, record), label(record)))
            .collect()
    })
}

fn score(weights: &[f64], row: &[f64]) -> f64 {
    weights.iter().zip(row).map(|(w, x)| w * x).sum::<f64>() + weights[row.len()]
}

/// Logistic regression with a ridge penalty, by gradient descent.
pub fn fit(rows: &Rows, ridge: f64) -> Vec<f64> {
    let width = rows[0].0.len();
    let mut weights = vec![0.0; width + 1];
    for _ in 0..600 {
        let mut gradient = vec![0.0; width + 1];
        for (row, label) in rows {
            let error = 1.0 / (1.0 + (-score(&weights, row)).exp()) - label;
            for (g, x) in gradient.iter_mut().zip(row) {
                *g += error * x;
            }
            gradient[width] += error;
        }
        for (at, g) in gradient.iter().enumerate() {
            let penalty = if at < width { ridge * weights[at] } else { 0.0 };
            weights[at] -= 0.05 * (g / rows.len() as f64 + penalty);
        }
    }
    weights
}

/// Share of pairs of a positive and a negative row that are in the right order.
pub fn auroc(weights: &[f64], rows: &Rows) -> f64 {
    let scores = |wanted: f64| -> Vec<f64> {
        (rows.iter())
            .filter(|(_, label)| *label == wanted)
            .map(|(row, _)| score(weights, row))
            .collect()
    };
    let (positive, negative) = (scores(1.0), scores(0.0));
    let right: f64 = (positive.iter())
        .flat_map(|p| negative.iter().map(move |n| f64::from(u8::from(p > n))))
        .sum();
    right / (positive.len() * negative.len()) as f64
}

/// The record as it is.
pub fn plain(examples: &Examples, record: usize) -> Vec<f64> {
    let values = examples.record(record).unwrap();
    values.iter().map(|&value| f64::from(value)).collect()
}

//! Variance of an AUROC and of the difference of two on the same patients (DeLong et al. 1988).

use statrs::distribution::{ContinuousCDF, Normal};

use crate::intervals::{Interval, Z_975};

/// Two AUROCs on the same patients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeLong {
    /// AUROC of the first and the second score.
    pub areas: [f64; 2],
    /// Their covariance matrix.
    pub covariance: [[f64; 2]; 2],
}

impl DeLong {
    /// Compares `first` and `second` as scores for `labels`; `None` with fewer than two rows of a class,
    /// where the variance is undefined.
    ///
    /// # Panics
    /// Where the columns have different lengths.
    #[must_use]
    pub fn compare(labels: &[bool], first: &[f64], second: &[f64]) -> Option<Self> {
        assert!(first.len() == labels.len() && second.len() == labels.len());
        let (a, b) = (
            Placements::of(labels, first)?,
            Placements::of(labels, second)?,
        );
        let covariance = |x: &Placements, y: &Placements| {
            covariance(&x.of_positives, &y.of_positives) / x.of_positives.len() as f64
                + covariance(&x.of_negatives, &y.of_negatives) / x.of_negatives.len() as f64
        };
        Some(Self {
            areas: [mean(&a.of_positives), mean(&b.of_positives)],
            covariance: [
                [covariance(&a, &a), covariance(&a, &b)],
                [covariance(&b, &a), covariance(&b, &b)],
            ],
        })
    }

    /// Difference of the areas in standard errors; `None` where its variance is zero.
    #[must_use]
    pub fn z(&self) -> Option<f64> {
        let [[first, shared], [_, second]] = self.covariance;
        let variance = first + second - 2.0 * shared;
        (variance > 0.0).then(|| (self.areas[0] - self.areas[1]) / variance.sqrt())
    }

    /// Two-sided p value of equal areas.
    #[must_use]
    pub fn p_two_sided(&self) -> Option<f64> {
        Some(2.0 * Normal::standard().sf(self.z()?.abs()))
    }

    /// 95 % interval of the first area, normal on the logit scale; `None` at areas of 0 and 1.
    #[must_use]
    pub fn logit_interval(&self) -> Option<Interval> {
        let area = self.areas[0];
        if area <= 0.0 || area >= 1.0 {
            return None;
        }
        let logit = (area / (1.0 - area)).ln();
        let half_width = Z_975 * self.covariance[0][0].sqrt() / (area * (1.0 - area));
        let back = |x: f64| 1.0 / (1.0 + (-x).exp());
        Some(Interval {
            lower: back(logit - half_width),
            upper: back(logit + half_width),
        })
    }
}

/// For each patient the share of the other class on the right side, ties one half.
struct Placements {
    of_positives: Vec<f64>,
    of_negatives: Vec<f64>,
}

impl Placements {
    fn of(labels: &[bool], scores: &[f64]) -> Option<Self> {
        let of_class = |class: bool| -> Vec<f64> {
            let rows = labels.iter().zip(scores);
            rows.filter(|(label, _)| **label == class)
                .map(|(_, &score)| score)
                .collect()
        };
        let (positives, negatives) = (of_class(true), of_class(false));
        if positives.len() < 2 || negatives.len() < 2 {
            return None;
        }
        Some(Self {
            of_positives: positives
                .iter()
                .map(|&positive| share(&negatives, |negative| beats(positive, negative)))
                .collect(),
            of_negatives: negatives
                .iter()
                .map(|&negative| share(&positives, |positive| beats(positive, negative)))
                .collect(),
        })
    }
}

fn share(others: &[f64], won: impl Fn(f64) -> f64) -> f64 {
    others.iter().map(|&other| won(other)).sum::<f64>() / others.len() as f64
}

fn beats(positive: f64, negative: f64) -> f64 {
    if positive > negative {
        1.0
    } else if positive == negative {
        0.5
    } else {
        0.0
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn covariance(x: &[f64], y: &[f64]) -> f64 {
    let (mean_x, mean_y) = (mean(x), mean(y));
    let products = x.iter().zip(y).map(|(x, y)| (x - mean_x) * (y - mean_y));
    products.sum::<f64>() / (x.len() - 1) as f64
}

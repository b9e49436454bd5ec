//! Predictions of one of several classes.

use crate::binary::LOG_LOSS_CLIP;
use crate::calibration::{self, CalibrationError, EQUAL_WIDTH_BINS};
use crate::confusion::{Confusion, mean};
use crate::problem::{InvalidPredictions, probability, same_length};
use crate::ranking;

/// True classes and class probabilities, one row per patient, checked once here.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiClassPredictions {
    classes: usize,
    labels: Vec<usize>,
    /// `[rows, classes]`, C order.
    probabilities: Vec<f64>,
}

impl MultiClassPredictions {
    /// Takes one class in `0..classes` and one row of `classes` probabilities per patient. Rows need not
    /// sum to one exactly.
    ///
    /// # Errors
    /// [`InvalidPredictions`] for unequal lengths, undeclared classes, ragged rows and values outside `[0, 1]`.
    pub fn new(
        classes: usize,
        labels: Vec<usize>,
        probabilities: &[Vec<f64>],
    ) -> Result<Self, InvalidPredictions> {
        same_length("probability", probabilities.len(), labels.len())?;
        for (row, (&class, values)) in labels.iter().zip(probabilities).enumerate() {
            if class >= classes {
                return Err(InvalidPredictions::Class {
                    row,
                    class,
                    classes,
                });
            }
            if values.len() != classes {
                return Err(InvalidPredictions::Width {
                    row,
                    got: values.len(),
                    expected: classes,
                });
            }
            for &value in values {
                probability("probability", row, value)?;
            }
        }
        Ok(Self {
            classes,
            labels,
            probabilities: probabilities.concat(),
        })
    }

    /// Number of declared classes.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The true classes.
    #[must_use]
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// The given rows, in that order; a row may occur several times.
    #[must_use]
    pub fn rows(&self, rows: &[usize]) -> Self {
        Self {
            classes: self.classes,
            labels: rows.iter().map(|&row| self.labels[row]).collect(),
            probabilities: rows
                .iter()
                .flat_map(|&row| self.row(row))
                .copied()
                .collect(),
        }
    }

    /// One-against-rest AUROC of each class; `None` for a class that is absent or alone.
    #[must_use]
    pub fn auroc_per_class(&self) -> Vec<Option<f64>> {
        self.per_class(ranking::auroc)
    }

    /// Mean one-against-rest AUROC over the classes for which it is defined.
    #[must_use]
    pub fn macro_auroc(&self) -> Option<f64> {
        mean(self.auroc_per_class().into_iter().flatten())
    }

    /// As [`Self::macro_auroc`], each class weighted by its rows.
    #[must_use]
    pub fn prevalence_weighted_auroc(&self) -> Option<f64> {
        let (mut sum, mut rows) = (0.0, 0);
        for (class, area) in self.auroc_per_class().into_iter().enumerate() {
            if let Some(area) = area {
                let count = self.labels.iter().filter(|&&label| label == class).count();
                sum += area * count as f64;
                rows += count;
            }
        }
        (rows > 0).then(|| sum / rows as f64)
    }

    /// One-against-rest average precision of each class.
    #[must_use]
    pub fn auprc_per_class(&self) -> Vec<Option<f64>> {
        self.per_class(ranking::average_precision)
    }

    /// Mean average precision over the classes for which it is defined.
    #[must_use]
    pub fn macro_auprc(&self) -> Option<f64> {
        mean(self.auprc_per_class().into_iter().flatten())
    }

    /// Squared distance of the probabilities from the true class, summed over classes, mean over rows.
    #[must_use]
    pub fn brier(&self) -> Option<f64> {
        mean(self.labels.iter().enumerate().map(|(row, &label)| {
            let distance =
                |(class, &p): (usize, &f64)| (p - f64::from(u8::from(class == label))).powi(2);
            self.row(row).iter().enumerate().map(distance).sum()
        }))
    }

    /// Mean negative log-probability of the true class, clipped at [`LOG_LOSS_CLIP`].
    #[must_use]
    pub fn log_loss(&self) -> Option<f64> {
        mean(self.labels.iter().enumerate().map(|(row, &label)| {
            -self.row(row)[label]
                .clamp(LOG_LOSS_CLIP, 1.0 - LOG_LOSS_CLIP)
                .ln()
        }))
    }

    /// Calibration error of the most likely class over 15 bins of equal width.
    #[must_use]
    pub fn calibration(&self) -> Option<CalibrationError> {
        let (confidence, hits): (Vec<_>, Vec<_>) = (0..self.labels.len())
            .map(|row| {
                let class = self.most_likely(row);
                (self.row(row)[class], class == self.labels[row])
            })
            .unzip();
        calibration::equal_width(&confidence, &hits, EQUAL_WIDTH_BINS)
    }

    /// Counts of the true against the most likely class; the first wins a tie.
    #[must_use]
    pub fn confusion(&self) -> Confusion {
        let pairs = self.labels.iter().enumerate();
        Confusion::count(
            self.classes,
            pairs.map(|(row, &label)| (label, self.most_likely(row))),
        )
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.probabilities[row * self.classes..(row + 1) * self.classes]
    }

    fn most_likely(&self, row: usize) -> usize {
        let values = self.row(row);
        (1..values.len()).fold(0, |best, class| {
            if values[class] > values[best] {
                class
            } else {
                best
            }
        })
    }

    fn per_class(&self, measure: fn(&[bool], &[f64]) -> Option<f64>) -> Vec<Option<f64>> {
        (0..self.classes)
            .map(|class| {
                let labels: Vec<bool> = self.labels.iter().map(|&label| label == class).collect();
                let scores: Vec<f64> = (0..labels.len()).map(|row| self.row(row)[class]).collect();
                measure(&labels, &scores)
            })
            .collect()
    }
}

//! Predictions of several yes-or-no outcomes at once, some of which may be unknown.

use crate::binary::BinaryPredictions;
use crate::confusion::mean;
use crate::problem::{InvalidPredictions, probability, same_length};
use crate::ranking;

/// Labels (`None` where unknown) and probabilities, `[rows, labels]`, checked once here. Unknown labels take
/// part in no measure.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiLabelPredictions {
    width: usize,
    labels: Vec<Vec<Option<bool>>>,
    probabilities: Vec<Vec<f64>>,
}

impl MultiLabelPredictions {
    /// Takes `width` labels and probabilities per row.
    ///
    /// # Errors
    /// [`InvalidPredictions`] for unequal lengths, ragged rows and values outside `[0, 1]`.
    pub fn new(
        width: usize,
        labels: Vec<Vec<Option<bool>>>,
        probabilities: Vec<Vec<f64>>,
    ) -> Result<Self, InvalidPredictions> {
        same_length("probability", probabilities.len(), labels.len())?;
        for (row, (known, values)) in labels.iter().zip(&probabilities).enumerate() {
            for got in [known.len(), values.len()] {
                if got != width {
                    return Err(InvalidPredictions::Width {
                        row,
                        got,
                        expected: width,
                    });
                }
            }
            for &value in values {
                probability("probability", row, value)?;
            }
        }
        Ok(Self {
            width,
            labels,
            probabilities,
        })
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The given rows, in that order; a row may occur several times.
    #[must_use]
    pub fn rows(&self, rows: &[usize]) -> Self {
        Self {
            width: self.width,
            labels: rows.iter().map(|&row| self.labels[row].clone()).collect(),
            probabilities: rows
                .iter()
                .map(|&row| self.probabilities[row].clone())
                .collect(),
        }
    }

    /// The rows in which label `label` is known, as binary predictions.
    #[must_use]
    pub fn label(&self, label: usize) -> BinaryPredictions {
        self.known(label..label + 1)
    }

    /// AUROC of each label; `None` where its known rows lack a class.
    #[must_use]
    pub fn auroc_per_label(&self) -> Vec<Option<f64>> {
        self.per_label(BinaryPredictions::auroc)
    }

    /// Mean AUROC over the labels for which it is defined.
    #[must_use]
    pub fn macro_auroc(&self) -> Option<f64> {
        mean(self.auroc_per_label().into_iter().flatten())
    }

    /// AUROC over all known (row, label) pairs together.
    #[must_use]
    pub fn micro_auroc(&self) -> Option<f64> {
        let all = self.known(0..self.width);
        ranking::auroc(all.labels(), all.probabilities())
    }

    /// Average precision of each label.
    #[must_use]
    pub fn auprc_per_label(&self) -> Vec<Option<f64>> {
        self.per_label(BinaryPredictions::auprc)
    }

    /// Mean average precision over the labels for which it is defined.
    #[must_use]
    pub fn macro_auprc(&self) -> Option<f64> {
        mean(self.auprc_per_label().into_iter().flatten())
    }

    /// Share of known labels predicted wrongly at a threshold of one half.
    #[must_use]
    pub fn hamming_loss(&self) -> Option<f64> {
        Some(1.0 - self.known(0..self.width).confusion().accuracy()?)
    }

    /// Share of rows with every known label right; rows without a known label are left out.
    #[must_use]
    pub fn subset_accuracy(&self) -> Option<f64> {
        let rows = self.labels.iter().zip(&self.probabilities);
        let with_labels = rows.filter(|(labels, _)| labels.iter().any(Option::is_some));
        mean(with_labels.map(|(labels, probabilities)| {
            let right = |(label, &p): (&Option<bool>, &f64)| label.is_none_or(|y| y == (p >= 0.5));
            f64::from(u8::from(labels.iter().zip(probabilities).all(right)))
        }))
    }

    /// Brier score of each label, mean over the labels that have known rows.
    #[must_use]
    pub fn brier(&self) -> Option<f64> {
        mean(
            self.per_label(BinaryPredictions::brier)
                .into_iter()
                .flatten(),
        )
    }

    /// Log-loss of each label, mean over the labels that have known rows.
    #[must_use]
    pub fn log_loss(&self) -> Option<f64> {
        mean(
            self.per_label(BinaryPredictions::log_loss)
                .into_iter()
                .flatten(),
        )
    }

    /// Expected calibration error of each label, mean over the labels that have known rows.
    #[must_use]
    pub fn expected_calibration_error(&self) -> Option<f64> {
        let per_label = self.per_label(|label| Some(label.calibration()?.expected));
        mean(per_label.into_iter().flatten())
    }

    fn per_label(&self, measure: impl Fn(&BinaryPredictions) -> Option<f64>) -> Vec<Option<f64>> {
        (0..self.width)
            .map(|label| measure(&self.label(label)))
            .collect()
    }

    fn known(&self, labels: std::ops::Range<usize>) -> BinaryPredictions {
        let (mut known, mut probabilities) = (Vec::new(), Vec::new());
        for (row, values) in self.labels.iter().zip(&self.probabilities) {
            for label in labels.clone() {
                if let Some(value) = row[label] {
                    known.push(value);
                    probabilities.push(values[label]);
                }
            }
        }
        // Cannot fail: both columns grow together and the probabilities were checked in `new`.
        BinaryPredictions::new(known, probabilities).expect("a part of checked predictions")
    }
}

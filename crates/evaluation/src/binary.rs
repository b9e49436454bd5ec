//! Predictions of one yes-or-no outcome.

use crate::calibration::{self, CalibrationError, EQUAL_MASS_BINS, EQUAL_WIDTH_BINS};
use crate::confusion::{Confusion, mean};
use crate::problem::{InvalidPredictions, probability, same_length};
use crate::ranking;

/// Probabilities are kept this far from 0 and 1 before a logarithm is taken.
pub const LOG_LOSS_CLIP: f64 = 1e-15;

/// Outcomes and probabilities of the positive class, one per row, checked once here.
#[derive(Clone, Debug, PartialEq)]
pub struct BinaryPredictions {
    labels: Vec<bool>,
    probabilities: Vec<f64>,
}

impl BinaryPredictions {
    /// Takes one label and one probability per row.
    ///
    /// # Errors
    /// [`InvalidPredictions`] for unequal lengths and for probabilities outside `[0, 1]`.
    pub fn new(labels: Vec<bool>, probabilities: Vec<f64>) -> Result<Self, InvalidPredictions> {
        same_length("probability", probabilities.len(), labels.len())?;
        for (row, &value) in probabilities.iter().enumerate() {
            probability("probability", row, value)?;
        }
        Ok(Self {
            labels,
            probabilities,
        })
    }

    /// The outcomes.
    #[must_use]
    pub fn labels(&self) -> &[bool] {
        &self.labels
    }

    /// The probabilities of the positive class.
    #[must_use]
    pub fn probabilities(&self) -> &[f64] {
        &self.probabilities
    }

    /// The given rows, in that order; a row may occur several times.
    #[must_use]
    pub fn rows(&self, rows: &[usize]) -> Self {
        Self {
            labels: rows.iter().map(|&row| self.labels[row]).collect(),
            probabilities: rows.iter().map(|&row| self.probabilities[row]).collect(),
        }
    }

    /// Area under the ROC curve.
    #[must_use]
    pub fn auroc(&self) -> Option<f64> {
        ranking::auroc(&self.labels, &self.probabilities)
    }

    /// Average precision.
    #[must_use]
    pub fn auprc(&self) -> Option<f64> {
        ranking::average_precision(&self.labels, &self.probabilities)
    }

    /// Mean squared difference of probability and outcome.
    #[must_use]
    pub fn brier(&self) -> Option<f64> {
        mean(
            self.pairs()
                .map(|(label, p)| (p - f64::from(u8::from(label))).powi(2)),
        )
    }

    /// Mean negative log-likelihood, probabilities clipped at [`LOG_LOSS_CLIP`].
    #[must_use]
    pub fn log_loss(&self) -> Option<f64> {
        mean(self.pairs().map(|(label, p)| {
            // Clipped after, not before, taking it from 1: 1 - (1 - 1e-15) is not 1e-15.
            let of_outcome = if label { p } else { 1.0 - p };
            -of_outcome.clamp(LOG_LOSS_CLIP, 1.0 - LOG_LOSS_CLIP).ln()
        }))
    }

    /// Calibration error over 15 bins of equal width.
    #[must_use]
    pub fn calibration(&self) -> Option<CalibrationError> {
        calibration::equal_width(&self.probabilities, &self.labels, EQUAL_WIDTH_BINS)
    }

    /// Calibration error over 10 bins of equal mass.
    #[must_use]
    pub fn calibration_equal_mass(&self) -> Option<CalibrationError> {
        calibration::equal_mass(&self.probabilities, &self.labels, EQUAL_MASS_BINS)
    }

    /// Counts at a threshold of one half, which itself counts as positive; class 1 is the positive one.
    #[must_use]
    pub fn confusion(&self) -> Confusion {
        Confusion::count(
            2,
            self.pairs()
                .map(|(label, p)| (usize::from(label), usize::from(p >= 0.5))),
        )
    }

    /// Mean of sensitivity and specificity. `None` unless both classes occur: unlike in the multi-class
    /// case, half of a two-class comparison is not a comparison.
    #[must_use]
    pub fn balanced_accuracy(&self) -> Option<f64> {
        let confusion = self.confusion();
        Some((confusion.recall(0)? + confusion.recall(1)?) / 2.0)
    }

    fn pairs(&self) -> impl Iterator<Item = (bool, f64)> {
        self.labels
            .iter()
            .copied()
            .zip(self.probabilities.iter().copied())
    }
}

//! What is predicted, and which metric speaks for it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{BinaryPredictions, MultiClassPredictions, MultiLabelPredictions, SurvivalPredictions};

/// A metric by the name it has in tables and in `metrics.csv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Metric {
    /// Area under the ROC curve of a binary outcome.
    Auroc,
    /// Mean AUROC over classes (one against rest) or labels, over those for which it is defined.
    MacroAuroc,
    /// Average precision; over classes or labels the mean of those for which it is defined.
    Auprc,
    /// Share of right predictions at one half, or of the most likely class.
    Accuracy,
    /// Mean recall over classes.
    BalancedAccuracy,
    /// Squared distance of probabilities from outcomes; summed over classes, mean over labels.
    Brier,
    /// Mean negative log-likelihood.
    LogLoss,
    /// Expected calibration error, 15 bins of equal width; of the most likely class where there are several.
    Ece,
    /// Harrell's concordance.
    CIndex,
}

/// A name that is no metric's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a metric; use one of auroc, macro_auroc, auprc, accuracy, balanced_accuracy, brier, log_loss, ece, c_index"
)]
pub struct UnknownMetric(String);

impl UnknownMetric {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "metric_unknown"
    }
}

impl Metric {
    /// All metrics, in the order of the documents.
    pub const ALL: [Self; 9] = [
        Self::Auroc,
        Self::MacroAuroc,
        Self::Auprc,
        Self::Accuracy,
        Self::BalancedAccuracy,
        Self::Brier,
        Self::LogLoss,
        Self::Ece,
        Self::CIndex,
    ];

    /// Its name in files and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auroc => "auroc",
            Self::MacroAuroc => "macro_auroc",
            Self::Auprc => "auprc",
            Self::Accuracy => "accuracy",
            Self::BalancedAccuracy => "balanced_accuracy",
            Self::Brier => "brier",
            Self::LogLoss => "log_loss",
            Self::Ece => "ece",
            Self::CIndex => "c_index",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Metric {
    type Err = UnknownMetric;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|metric| metric.name() == text);
        found.ok_or_else(|| UnknownMetric(text.to_owned()))
    }
}

/// The kinds of outcome that can be evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TaskKind {
    /// One yes-or-no outcome.
    Binary,
    /// One of several classes.
    MultiClass,
    /// Several yes-or-no outcomes.
    MultiLabel,
    /// Time to an event, possibly censored.
    Survival,
}

impl TaskKind {
    /// The metric that tables show when they show one.
    #[must_use]
    pub fn primary_metric(self) -> Metric {
        match self {
            Self::Binary => Metric::Auroc,
            Self::MultiClass | Self::MultiLabel => Metric::MacroAuroc,
            Self::Survival => Metric::CIndex,
        }
    }

    /// All metrics that have a meaning for this kind, the primary one first. Accuracy is not one of them
    /// for several labels: it rewards predicting that nobody has anything.
    #[must_use]
    pub fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Binary => &[
                Metric::Auroc,
                Metric::Auprc,
                Metric::Accuracy,
                Metric::BalancedAccuracy,
                Metric::Brier,
                Metric::LogLoss,
                Metric::Ece,
            ],
            Self::MultiClass => &[
                Metric::MacroAuroc,
                Metric::Auprc,
                Metric::Accuracy,
                Metric::BalancedAccuracy,
                Metric::Brier,
                Metric::LogLoss,
                Metric::Ece,
            ],
            Self::MultiLabel => &[
                Metric::MacroAuroc,
                Metric::Auprc,
                Metric::Brier,
                Metric::LogLoss,
                Metric::Ece,
            ],
            Self::Survival => &[Metric::CIndex],
        }
    }
}

/// Outcomes and predictions of one of the kinds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Predictions {
    /// One yes-or-no outcome.
    Binary(BinaryPredictions),
    /// One of several classes.
    MultiClass(MultiClassPredictions),
    /// Several yes-or-no outcomes.
    MultiLabel(MultiLabelPredictions),
    /// Time to an event.
    Survival(SurvivalPredictions),
}

impl Predictions {
    /// Their kind.
    #[must_use]
    pub fn kind(&self) -> TaskKind {
        match self {
            Self::Binary(_) => TaskKind::Binary,
            Self::MultiClass(_) => TaskKind::MultiClass,
            Self::MultiLabel(_) => TaskKind::MultiLabel,
            Self::Survival(_) => TaskKind::Survival,
        }
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Binary(p) => p.labels().len(),
            Self::MultiClass(p) => p.labels().len(),
            Self::MultiLabel(p) => p.len(),
            Self::Survival(p) => p.times().len(),
        }
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The given rows, in that order; a row may occur several times.
    ///
    /// # Panics
    /// Where a row does not exist.
    #[must_use]
    pub fn rows(&self, rows: &[usize]) -> Self {
        match self {
            Self::Binary(p) => Self::Binary(p.rows(rows)),
            Self::MultiClass(p) => Self::MultiClass(p.rows(rows)),
            Self::MultiLabel(p) => Self::MultiLabel(p.rows(rows)),
            Self::Survival(p) => Self::Survival(p.rows(rows)),
        }
    }

    /// The primary metric of their kind; `None` where undefined on these rows.
    #[must_use]
    pub fn primary(&self) -> Option<f64> {
        self.metric(self.kind().primary_metric())
    }

    /// A metric; `None` where it is undefined on these rows, and where it has no meaning for this kind.
    #[must_use]
    pub fn metric(&self, metric: Metric) -> Option<f64> {
        match self {
            Self::Binary(p) => match metric {
                Metric::Auroc => p.auroc(),
                Metric::Auprc => p.auprc(),
                Metric::Accuracy => p.confusion().accuracy(),
                Metric::BalancedAccuracy => p.balanced_accuracy(),
                Metric::Brier => p.brier(),
                Metric::LogLoss => p.log_loss(),
                Metric::Ece => Some(p.calibration()?.expected),
                Metric::MacroAuroc | Metric::CIndex => None,
            },
            Self::MultiClass(p) => match metric {
                Metric::MacroAuroc => p.macro_auroc(),
                Metric::Auprc => p.macro_auprc(),
                Metric::Accuracy => p.confusion().accuracy(),
                Metric::BalancedAccuracy => p.confusion().balanced_accuracy(),
                Metric::Brier => p.brier(),
                Metric::LogLoss => p.log_loss(),
                Metric::Ece => Some(p.calibration()?.expected),
                Metric::Auroc | Metric::CIndex => None,
            },
            Self::MultiLabel(p) => match metric {
                Metric::MacroAuroc => p.macro_auroc(),
                Metric::Auprc => p.macro_auprc(),
                Metric::Brier => p.brier(),
                Metric::LogLoss => p.log_loss(),
                Metric::Ece => p.expected_calibration_error(),
                _ => None,
            },
            Self::Survival(p) => match metric {
                Metric::CIndex => p.c_index(),
                _ => None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_read_back_from_its_name() {
        for metric in Metric::ALL {
            assert_eq!(metric.to_string().parse(), Ok(metric));
            assert_eq!(
                serde_json::to_string(&metric).unwrap(),
                format!("{:?}", metric.name())
            );
        }
        assert_eq!(
            "auc".parse::<Metric>().unwrap_err().code(),
            "metric_unknown"
        );
    }

    #[test]
    fn every_kind_lists_its_primary_metric_first() {
        for kind in [
            TaskKind::Binary,
            TaskKind::MultiClass,
            TaskKind::MultiLabel,
            TaskKind::Survival,
        ] {
            assert_eq!(kind.metrics()[0], kind.primary_metric());
        }
    }

    #[test]
    fn predictions_that_are_not_probabilities_are_refused() {
        let refused = BinaryPredictions::new(vec![true, false], vec![0.5, f64::NAN]).unwrap_err();
        assert_eq!(refused.code(), "predictions_value");
        let refused = BinaryPredictions::new(vec![true], vec![0.5, 0.5]).unwrap_err();
        assert_eq!(refused.code(), "predictions_length");
        let refused = MultiClassPredictions::new(2, vec![2], &[vec![0.5, 0.5]]).unwrap_err();
        assert_eq!(refused.code(), "predictions_class");
        let refused = MultiClassPredictions::new(3, vec![2], &[vec![0.5, 0.5]]).unwrap_err();
        assert_eq!(refused.code(), "predictions_width");
        let refused =
            SurvivalPredictions::new(vec![f64::INFINITY], vec![true], vec![0.0]).unwrap_err();
        assert_eq!(refused.code(), "predictions_value");
    }
}

//! The simple models that the network is compared with on the same folds: what the data sets' own notes name.
//!
//! | records | task | baseline |
//! |---|---|---|
//! | images | binary | ridge logistic regression on the pixels |
//! | tables, intensive care, omics | binary | gradient boosting; ridge logistic regression |
//! | any but signals | survival | Cox regression on ten principal components |
//! | signals, and several classes | classes | random forest; on window statistics for signals |
//!
//! Settings are fixed in advance: a baseline that is tuned by hand is no baseline. Nothing is fitted on a
//! record outside the training list.

mod components;
mod cox;
mod features;
mod logistic;
mod trees;

use consilium_data::manifest::ModalityKind;
use consilium_data::{Cohort, PrepareError, Targets};
use consilium_models::Prediction;

/// Number of principal components under a Cox regression.
const COMPONENTS: usize = 10;

/// A simple model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Baseline {
    /// Ridge logistic regression.
    Logistic,
    /// Gradient boosted trees.
    Boosting,
    /// Cox regression on principal components.
    Cox,
    /// Random forest.
    Forest,
}

/// Why a baseline has no predictions.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaselineError {
    /// The records could not be scaled.
    #[error(transparent)]
    Records(#[from] PrepareError),
    /// The library refused the records.
    #[error("{name} could not be fitted: {message}")]
    Fit {
        /// The baseline.
        name: &'static str,
        /// What the library said.
        message: String,
    },
}

impl BaselineError {
    /// Stable code for logs and replies.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Records(error) => error.code(),
            Self::Fit { .. } => "baseline_fit",
        }
    }
}

impl Baseline {
    /// The baselines of a cohort, the one its notes name first.
    #[must_use]
    pub fn of(cohort: &Cohort) -> Vec<Self> {
        match (cohort.targets(), cohort.manifest().modality.kind) {
            (Targets::Survival { .. }, _) => vec![Self::Cox],
            (_, ModalityKind::Signal) => vec![Self::Forest],
            (Targets::Classes { names, .. }, kind) if names.len() == 2 => match kind {
                ModalityKind::Image => vec![Self::Logistic],
                _ => vec![Self::Boosting, Self::Logistic],
            },
            _ => vec![Self::Forest],
        }
    }

    /// Name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Logistic => "logistic regression",
            Self::Boosting => "gradient boosting",
            Self::Cox => "cox on 10 components",
            Self::Forest => "random forest",
        }
    }

    /// Fits on the records `train` and predicts the records `test`, in that order.
    ///
    /// # Errors
    /// [`BaselineError`] when the records cannot be prepared or fitted.
    pub fn fit_and_predict(
        self,
        cohort: &Cohort,
        train: &[usize],
        test: &[usize],
    ) -> Result<Vec<Prediction>, BaselineError> {
        let rows = features::rows(cohort, train)?;
        let (known, asked) = (rows.select_rows(train), rows.select_rows(test));
        match cohort.targets() {
            Targets::Survival { time, event } => {
                let times: Vec<f64> = train.iter().map(|&r| f64::from(time[r])).collect();
                let events: Vec<bool> = train.iter().map(|&r| event[r]).collect();
                let components = components::Components::fit(&known, COMPONENTS);
                let weights = cox::fit(&components.scores(&known), &times, &events);
                let risks = components.scores(&asked) * weights;
                Ok(risks.iter().map(|&risk| of_risk(risk)).collect())
            }
            Targets::Unlabelled { .. } => Err(self.failed("the records are unlabelled".into())),
            Targets::Classes { label, names } => {
                let labels: Vec<u32> = train.iter().map(|&r| label[r]).collect();
                match self {
                    Self::Forest | Self::Cox => {
                        let shares = trees::forest(&known, &labels, &asked, names.len());
                        Ok(shares
                            .map_err(|e| self.failed(e))?
                            .into_iter()
                            .map(of_outputs)
                            .collect())
                    }
                    Self::Boosting => {
                        let scores = trees::boosting(&known, &labels, &asked);
                        let scores = scores.map_err(|e| self.failed(e))?;
                        Ok(scores.into_iter().map(|p| of_outputs(vec![p])).collect())
                    }
                    Self::Logistic => {
                        let positive: Vec<bool> = labels.iter().map(|&class| class == 1).collect();
                        let model = logistic::Logistic::fit(&known, &positive);
                        let scores = model.probabilities(&asked);
                        Ok(scores.into_iter().map(|p| of_outputs(vec![p])).collect())
                    }
                }
            }
        }
    }

    fn failed(self, message: String) -> BaselineError {
        BaselineError::Fit {
            name: self.name(),
            message,
        }
    }
}

fn of_outputs(outputs: Vec<f64>) -> Prediction {
    Prediction {
        outputs: outputs.into_iter().map(|value| value as f32).collect(),
        risk: None,
        variance: 0.0,
        entropy: None,
        mutual_information: None,
    }
}

fn of_risk(risk: f64) -> Prediction {
    Prediction {
        outputs: vec![risk as f32],
        risk: Some(risk as f32),
        variance: 0.0,
        entropy: None,
        mutual_information: None,
    }
}

//! What a site does with its own records: the seam between the protocol and the learning.

use std::collections::BTreeSet;

use consilium_core::{ModelVector, RoundPlan};
use dp_rs::event::Repeated;
use dp_rs::plan::Transcript;
use serde::{Deserialize, Serialize};

use crate::preparation::Preparation;

/// Training and evaluation on one site's cohort. Implemented with the real network by the `training`
/// module, and by toys in tests. The agent and the in-process simulation drive the same object.
pub trait LocalWork: Send {
    /// Trains from `global` (the groups this site shares) and `local` (the groups that stay).
    ///
    /// # Errors
    /// [`WorkError`] when the cohort or the device fails; the round then goes on without this site.
    fn train(
        &mut self,
        plan: &RoundPlan,
        global: &ModelVector,
        local: &ModelVector,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Trained, WorkError>;

    /// Takes patients out of training and evaluation, by the ids of the cohort: these and no others. Nobody else moves
    /// to another part, and what was fitted stays as it was. Nothing to do where there are no records.
    ///
    /// # Errors
    /// [`WorkError`] when nobody is left to train on.
    fn exclude(&mut self, patients: &BTreeSet<String>) -> Result<(), WorkError> {
        let _ = patients;
        Ok(())
    }

    /// Metrics of the joined model on the parts of this site's cohort.
    ///
    /// # Errors
    /// [`WorkError`] as for training.
    fn evaluate(
        &mut self,
        global: &ModelVector,
        local: &ModelVector,
    ) -> Result<Vec<MetricValue>, WorkError>;

    /// Initial values of the groups that stay at this site.
    fn initial_local(&self) -> ModelVector;

    /// How the records are prepared for the network; nothing where there are no records.
    fn preparation(&self) -> Option<Preparation> {
        None
    }

    /// The private steps of one round, in the form of the ledger: what [`LocalWork::train`] is about to spend.
    /// Nothing where training is not private.
    fn round_cost(&self) -> Option<Repeated> {
        None
    }
}

/// How far a round's local training is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Local steps done.
    pub step: u32,
    /// Local steps in all.
    pub steps: u32,
}

/// The result of one round's local training.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// Trained minus global values, shared groups only.
    pub update: ModelVector,
    /// The new values of the groups that stay.
    pub local: ModelVector,
    /// The private steps that were taken; nothing where training is not private.
    pub privacy: Option<Transcript>,
}

/// One number about a model at this site. It stays in the site's folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricValue {
    /// `train`, `validation` or `test`.
    pub split: String,
    /// For example `auroc`; the names of the metrics file.
    pub metric: String,
    /// `None` where the metric is undefined, for example with one class only.
    pub value: Option<f64>,
}

impl MetricValue {
    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let number = self
            .value
            .map_or("undefined".into(), |value| format!("{value:.4}"));
        format!("  {:<11}{:<20}{number}\n", self.split, self.metric)
    }
}

/// Why local work failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct WorkError {
    /// Stable code.
    pub code: &'static str,
    /// What happened.
    pub message: String,
    /// What to do next.
    pub hint: String,
}

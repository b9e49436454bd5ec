//! Prediction with uncertainty by Monte Carlo dropout (Gal and Ghahramani 2016).

use consilium_core::TaskKey;
use rand::Rng;
use serde::Serialize;

use crate::loss::{activate, risk};
use crate::network::host_values;
use crate::{ModelError, SiteNetwork, Task, View};

/// What the network says about one record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Mean over the passes: class or label probabilities, the probability of being alive at each cut point,
    /// or one log-risk.
    pub outputs: Vec<f32>,
    /// Survival tasks: higher risk, shorter survival.
    pub risk: Option<f32>,
    /// Variance over the passes, averaged over the outputs; 0 for a single pass.
    pub variance: f32,
    /// Classes and labels: entropy of the mean prediction in nats, summed over labels.
    pub entropy: Option<f32>,
    /// Classes and labels: `entropy` minus the mean entropy of the single passes, in nats: the part that
    /// comes from not knowing the weights (Houlsby et al. 2011); 0 for a single pass.
    pub mutual_information: Option<f32>,
}

impl SiteNetwork {
    /// Predicts every record of a batch from `passes` dropout passes (10 to 30 give an uncertainty), or
    /// deterministically without dropout for 0 passes. Only dropout, mean and head are repeated.
    ///
    /// # Errors
    /// What [`features`](Self::features) refuses, [`ModelError::UnknownTask`], [`ModelError::NotFinite`].
    pub fn predict(
        &self,
        views: &[View<'_>],
        task: &TaskKey,
        passes: usize,
        dropout: &mut impl Rng,
    ) -> Result<Vec<Prediction>, ModelError> {
        let features = self.features(views, [false; 4])?;
        let [.., batch] = features.dims();
        let kind = self.task(task)?;
        let mut mean = vec![vec![0.0_f64; kind.outputs()]; batch];
        let mut square = mean.clone();
        let mut entropies = vec![0.0_f64; batch];
        for _ in 0..passes.max(1) {
            let mask = if passes == 0 {
                None
            } else {
                self.dropout_mask(features.dims(), dropout)
            };
            let logits = host_values(self.logits(task, &features, mask.as_ref())?);
            if !logits.iter().all(|value| value.is_finite()) {
                return Err(ModelError::NotFinite {
                    what: "a prediction".into(),
                });
            }
            for (b, outputs) in activate(kind, &logits, batch).into_iter().enumerate() {
                entropies[b] += entropy(kind, outputs.iter().copied()).unwrap_or_default();
                for (o, value) in outputs.into_iter().enumerate() {
                    mean[b][o] += f64::from(value);
                    square[b][o] += f64::from(value).powi(2);
                }
            }
        }
        let count = passes.max(1) as f64;
        let predictions = mean.into_iter().zip(square).zip(entropies);
        let predictions = predictions.map(|((mean, square), entropies)| {
            let outputs: Vec<f32> = mean.iter().map(|total| (total / count) as f32).collect();
            let entropy = entropy(kind, outputs.iter().copied());
            // Not negative but for rounding: entropy is concave.
            let information = entropy.map(|whole| (whole - entropies / count).max(0.0) as f32);
            let spread = mean
                .iter()
                .zip(&square)
                .map(|(m, s)| (s / count - (m / count).powi(2)).max(0.0));
            let variance = (spread.sum::<f64>() / outputs.len() as f64) as f32;
            Prediction {
                risk: risk(kind, &outputs),
                entropy: entropy.map(|value| value as f32),
                mutual_information: information,
                variance,
                outputs,
            }
        });
        Ok(predictions.collect())
    }
}

/// Entropy in nats of probabilities of classes, or summed over labels; nothing for survival.
fn entropy(task: &Task, outputs: impl Iterator<Item = f32>) -> Option<f64> {
    let part = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
    let outputs = outputs.map(f64::from);
    match task {
        Task::Classes { .. } => Some(outputs.map(part).sum()),
        Task::Labels { .. } => Some(outputs.map(|p| part(p) + part(1.0 - p)).sum()),
        Task::Cox | Task::Hazards { .. } => None,
    }
}

//! How a site trains between two rounds.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use consilium_core::{GroupName, ModalityKey, TensorSpec};
use consilium_data::Augmentation;
use serde::{Deserialize, Serialize};

/// Training settings of a study, per modality key.
pub type TrainingSettings = BTreeMap<ModalityKey, ModalityTraining>;

/// How the sites of one modality train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModalityTraining {
    /// Optimiser steps in one round.
    pub local_steps: u32,
    /// Records in one step.
    pub batch: usize,
    /// Most records of one patient in one step.
    #[serde(default = "four")]
    pub max_records_per_patient: usize,
    /// What turns gradients into steps.
    #[serde(default)]
    pub optimiser: OptimiserKind,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Decoupled weight decay, as a fraction of the learning rate.
    #[serde(default)]
    pub weight_decay: f64,
    /// Steps of the whole study over which the rate grows from zero.
    #[serde(default)]
    pub warm_up_steps: u32,
    /// What the rate does afterwards.
    #[serde(default)]
    pub decay: Decay,
    /// Probability that a slot other than the site's own holds the learned absent embedding in a step
    /// (`ehpal-net.md` 10.3).
    #[serde(default = "quarter")]
    pub absent_probability: f64,
    /// How the two views of a record differ; the kind's own defaults when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augmentation: Option<Augmentation>,
    /// What is different when steps are private; what is left out stays as above.
    #[serde(default)]
    pub private: PrivateRecipe,
}

/// How private steps differ from others. Noise asks for few trained values, large batches and other rates; what is
/// left out is what did best at epsilon 4 on the public cohorts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrivateRecipe {
    /// Optimiser steps in one round; as without privacy if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_steps: Option<u32>,
    /// Patients expected in one step; a third of the declared ones if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// What turns noisy means into steps; Adam if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimiser: Option<OptimiserKind>,
    /// Highest learning rate, from the first step on: clipped gradients need no warm-up. 0.05 if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// What the rate does after the warm-up; half a cosine if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay: Option<Decay>,
    /// Norm to which a patient's gradient is clipped; 1 if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// What is trained; the rest keeps the seeded values it began with. The head if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trained: Option<Vec<TrainedPart>>,
}

/// A part of the network that private steps may train: `stem`, `head`, `trunk`, `norms` (the scales and shifts
/// of every normalisation), or the beginning of dotted tensor names, as `stem.icu24.v1.dense1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrainedPart(pub String);

impl TrainedPart {
    /// Whether a tensor belongs to the part.
    #[must_use]
    pub fn holds(&self, tensor: &TensorSpec) -> bool {
        let name = &tensor.name;
        match self.0.as_str() {
            "trunk" => tensor.group == GroupName::trunk(),
            "norms" => name.ends_with(".gamma") || name.ends_with(".beta"),
            part => {
                let rest = name.strip_prefix(part);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            }
        }
    }
}

/// What turns gradients into steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimiserKind {
    /// Adam.
    #[default]
    Adam,
    /// Stochastic gradient descent. On wide tables of few patients its steps on the first layer stay in the span
    /// of the records, where Adam moves every column by as much.
    Sgd,
}

/// What the learning rate does after the warm-up. Fixed in advance: nothing depends on validation data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// It stays.
    #[default]
    Constant,
    /// It falls to a hundredth on half a cosine over the steps of the study.
    Cosine,
}

/// Most optimiser steps in one round; with the most rounds of a study, its steps fit 32 bits.
const MOST_LOCAL_STEPS: u32 = 100_000;

fn four() -> usize {
    4
}

fn quarter() -> f64 {
    0.25
}

impl ModalityTraining {
    /// What is wrong with the settings, if anything.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if self.batch == 0 || self.max_records_per_patient == 0 {
            return Some("batch and max_records_per_patient must be at least 1".into());
        }
        if !(1..=MOST_LOCAL_STEPS).contains(&self.local_steps) {
            return Some(format!("local_steps must be from 1 to {MOST_LOCAL_STEPS}"));
        }
        if !positive(self.learning_rate) {
            return Some("learning_rate must be above 0".into());
        }
        if !(0.0..=1.0).contains(&self.absent_probability) {
            return Some("absent_probability must be from 0 to 1".into());
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return Some("weight_decay must be 0 or above".into());
        }
        if !positive(self.clip_norm()) {
            return Some("private.clip_norm must be above 0".into());
        }
        if self.private.trained.as_ref().is_some_and(Vec::is_empty) {
            return Some("private.trained must name at least one part, or be left out".into());
        }
        let private = &self.private;
        if private.batch == Some(0) || private.local_steps == Some(0) {
            return Some("private.batch and private.local_steps must be at least 1".into());
        }
        if private
            .local_steps
            .is_some_and(|steps| steps > MOST_LOCAL_STEPS)
        {
            return Some(format!(
                "private.local_steps must be at most {MOST_LOCAL_STEPS}"
            ));
        }
        if !private.learning_rate.is_none_or(positive) {
            return Some("private.learning_rate must be above 0".into());
        }
        let views = self.augmentation.and_then(|views| views.problem());
        views.map(|problem| format!("augmentation: {problem}"))
    }

    /// The settings as the private steps of a site with so many declared patients use them.
    #[must_use]
    pub fn as_private(&self, declared_patients: u32) -> Self {
        let private = &self.private;
        let third = declared_patients.div_ceil(3) as usize;
        Self {
            local_steps: private.local_steps.unwrap_or(self.local_steps),
            batch: private.batch.unwrap_or(third.max(1)),
            optimiser: private.optimiser.unwrap_or(OptimiserKind::Adam),
            learning_rate: private.learning_rate.unwrap_or(0.05),
            warm_up_steps: 0,
            decay: private.decay.unwrap_or(Decay::Cosine),
            ..self.clone()
        }
    }

    /// Whether private steps train a tensor.
    #[must_use]
    pub fn trains_privately(&self, tensor: &TensorSpec) -> bool {
        match &self.private.trained {
            Some(parts) => parts.iter().any(|part| part.holds(tensor)),
            None => TrainedPart("head".into()).holds(tensor),
        }
    }

    /// Norm to which a patient's gradient is clipped.
    #[must_use]
    pub fn clip_norm(&self) -> f64 {
        self.private.clip_norm.unwrap_or(1.0)
    }

    /// The learning rate at `step` (from 0) of `steps` in the whole study.
    #[must_use]
    pub fn rate_at(&self, step: u32, steps: u32) -> f64 {
        if step < self.warm_up_steps {
            return self.learning_rate * f64::from(step + 1) / f64::from(self.warm_up_steps);
        }
        match self.decay {
            Decay::Constant => self.learning_rate,
            Decay::Cosine => {
                let rest = steps.saturating_sub(self.warm_up_steps).max(1);
                let done = f64::from(step - self.warm_up_steps) / f64::from(rest);
                self.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + (PI * done.min(1.0)).cos()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use consilium_data::TableAugmentation;

    use super::*;

    fn settings(decay: Decay) -> ModalityTraining {
        ModalityTraining {
            local_steps: 5,
            batch: 8,
            max_records_per_patient: 4,
            optimiser: OptimiserKind::default(),
            learning_rate: 0.1,
            weight_decay: 0.0,
            warm_up_steps: 4,
            decay,
            absent_probability: 0.25,
            augmentation: None,
            private: PrivateRecipe::default(),
        }
    }

    #[test]
    fn the_rate_grows_then_falls_on_half_a_cosine() {
        let cosine = settings(Decay::Cosine);
        assert_eq!(cosine.rate_at(0, 104), 0.025);
        assert_eq!(cosine.rate_at(4, 104), 0.1);
        assert!((cosine.rate_at(54, 104) - 0.0505).abs() < 1e-12);
        assert!((cosine.rate_at(104, 104) - 0.001).abs() < 1e-12);
        assert_eq!(settings(Decay::Constant).rate_at(104, 104), 0.1);
    }

    #[test]
    fn settings_that_cannot_train_are_refused_by_name() {
        let refused = |change: &dyn Fn(&mut ModalityTraining)| {
            let mut settings = settings(Decay::Constant);
            change(&mut settings);
            settings.problem().unwrap_or_default()
        };
        assert_eq!(refused(&|_| ()), "");
        assert!(refused(&|s| s.local_steps = u32::MAX).contains("local_steps"));
        assert!(refused(&|s| s.learning_rate = f64::NAN).contains("learning_rate"));
        assert!(refused(&|s| s.private.clip_norm = Some(0.0)).contains("clip_norm"));
        let private = refused(&|s| s.private.learning_rate = Some(-1.0));
        assert!(private.contains("private.learning_rate"), "{private}");
        for (dropout, noise, named) in [
            (2.0, 0.0, "dropout"),
            (f32::NAN, 0.0, "dropout"),
            (0.0, -1.0, "noise"),
            (0.0, f32::NAN, "noise"),
        ] {
            let views = Augmentation::Table(TableAugmentation { dropout, noise });
            let problem = refused(&|s| s.augmentation = Some(views));
            assert!(problem.contains(named), "{problem}");
        }
    }

    #[test]
    fn private_steps_train_the_head_unless_more_is_named() {
        let tensor = |name: &str, group: GroupName| TensorSpec {
            name: name.into(),
            group,
            shape: vec![2],
        };
        let key = "icu.v1".parse().unwrap();
        let task = "binary.died.v1".parse().unwrap();
        let tensors = [
            tensor("stem.icu.v1.dense1.kernel", GroupName::stem(&key)),
            tensor("stem.icu.v1.norm.gamma", GroupName::stem(&key)),
            tensor("ehf512.norm_a.beta", GroupName::trunk()),
            tensor("ehf512.pw.kernel", GroupName::trunk()),
            tensor("head.binary.died.v1.kernel", GroupName::head(&task)),
        ];
        let trained = |parts: Option<&[&str]>| {
            let mut settings = settings(Decay::Constant);
            settings.private.trained = parts.map(|parts| {
                let parts = parts.iter();
                parts.map(|&part| TrainedPart(part.into())).collect()
            });
            tensors.each_ref().map(|t| settings.trains_privately(t))
        };
        assert_eq!(trained(None), [false, false, false, false, true]);
        assert_eq!(trained(Some(&["norms"])), [false, true, true, false, false]);
        assert_eq!(
            trained(Some(&["stem", "trunk"])),
            [true, true, true, true, false]
        );
        let first = ["stem.icu.v1.dense1", "head"];
        assert_eq!(trained(Some(&first)), [true, false, false, false, true]);
        // Whole words only.
        assert_eq!(trained(Some(&["stem.icu.v1.dense"])), [false; 5]);
        let private = settings(Decay::Constant).as_private(100);
        assert_eq!((private.batch, private.local_steps), (34, 5));
    }
}

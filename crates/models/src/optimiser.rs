//! Optimisers on the host, with explicit state.

use serde::{Deserialize, Serialize};

/// A rule that turns gradients into steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum OptimiserRule {
    /// Stochastic gradient descent.
    Sgd {
        /// Learning rate.
        rate: f32,
        /// Decoupled weight decay per step, times the rate.
        #[serde(default)]
        weight_decay: f32,
    },
    /// Adam (Kingma and Ba 2015) with decoupled weight decay (Loshchilov and Hutter 2019); betas 0.9 and
    /// 0.999, epsilon 1e-7.
    Adam {
        /// Learning rate.
        rate: f32,
        /// Decoupled weight decay per step, times the rate.
        #[serde(default)]
        weight_decay: f32,
    },
}

impl OptimiserRule {
    fn rate(self) -> f32 {
        match self {
            Self::Sgd { rate, .. } | Self::Adam { rate, .. } => rate,
        }
    }

    fn weight_decay(self) -> f32 {
        match self {
            Self::Sgd { weight_decay, .. } | Self::Adam { weight_decay, .. } => weight_decay,
        }
    }
}

/// Moments of every trained value, and the number of steps taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OptimiserState {
    /// Steps taken.
    pub steps: u64,
    /// First moments, in manifest order; empty for SGD.
    pub first: Vec<f32>,
    /// Second moments, in manifest order; empty for SGD.
    pub second: Vec<f32>,
}

/// Rule and state.
#[derive(Clone, Debug)]
pub(crate) struct Optimiser {
    pub rule: OptimiserRule,
    pub state: OptimiserState,
}

impl Optimiser {
    /// Changes `weights` by one step; `factor` scales the learning rate (schedules).
    pub fn step(&mut self, weights: &mut [f32], gradient: &[f32], factor: f32) {
        let rate = self.rule.rate() * factor;
        let keep = 1.0 - rate * self.rule.weight_decay();
        self.state.steps += 1;
        match self.rule {
            OptimiserRule::Sgd { .. } => {
                for (w, g) in weights.iter_mut().zip(gradient) {
                    *w = w.mul_add(keep, -rate * g);
                }
            }
            OptimiserRule::Adam { .. } => {
                self.state.first.resize(weights.len(), 0.0);
                self.state.second.resize(weights.len(), 0.0);
                let steps = self.state.steps as f64;
                let correct1 = (1.0 / (1.0 - 0.9_f64.powf(steps))) as f32;
                let correct2 = (1.0 / (1.0 - 0.999_f64.powf(steps))) as f32;
                let moments = self.state.first.iter_mut().zip(&mut self.state.second);
                for ((w, g), (m, v)) in weights.iter_mut().zip(gradient).zip(moments) {
                    *m = 0.9 * *m + 0.1 * g;
                    *v = 0.999 * *v + 0.001 * g * g;
                    let direction = *m * correct1 / ((*v * correct2).sqrt() + 1e-7);
                    *w = *w * keep - rate * direction;
                }
            }
        }
    }
}

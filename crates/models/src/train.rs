//! Training of a site's network, one step at a time.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};
use consilium_core::{ModelVector, TaskKey, TensorSpec};
use rand::Rng;

use crate::loss::{Targets, loss};
use crate::network::host_values;
use crate::optimiser::Optimiser;
use crate::{ModelError, OptimiserRule, OptimiserState, SParam, SiteNetwork, View};

/// One batch of records of a site.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    /// The site's modalities; the first is the anchor.
    pub views: &'a [View<'a>],
    /// Which slots use the learned absent embedding; slots of the site's own modalities never do.
    pub absent: [bool; 4],
    /// The task.
    pub task: &'a TaskKey,
    /// What should be predicted.
    pub targets: &'a Targets,
    /// Weight per record, or per record and label; 0 excludes.
    pub mask: Option<&'a [f32]>,
}

/// Sum of the losses of a batch and the weight to divide it by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSum {
    /// Sum over records, labels or events.
    pub sum: f64,
    /// Number of records, labels or events.
    pub weight: f64,
}

/// A site's network with its optimiser.
#[derive(Clone, Debug)]
pub struct Trainer {
    network: SiteNetwork,
    /// All values in manifest order; the network's tensors are copies.
    weights: Vec<f32>,
    optimiser: Optimiser,
}

impl Trainer {
    /// Takes a network on a device with gradients.
    ///
    /// # Errors
    /// [`ModelError::Device`] when the device has none.
    pub fn new(network: SiteNetwork, rule: OptimiserRule) -> Result<Self, ModelError> {
        if !network.device().is_autodiff() {
            return Err(ModelError::Device {
                device: format!("{:?}", network.device()),
                remedy: "open the network on `device.autodiff()`".into(),
            });
        }
        let weights = flat(&network);
        let optimiser = Optimiser {
            rule,
            state: OptimiserState::default(),
        };
        Ok(Self {
            network,
            weights,
            optimiser,
        })
    }

    /// The network as trained so far.
    #[must_use]
    pub fn network(&self) -> &SiteNetwork {
        &self.network
    }

    /// Replaces groups, for example by the global model; the moments stay.
    ///
    /// # Errors
    /// As [`SiteNetwork::load`].
    pub fn load(&mut self, vector: &ModelVector) -> Result<(), ModelError> {
        self.network.load(vector)?;
        self.weights = flat(&self.network);
        Ok(())
    }

    /// The optimiser's state, to keep over a restart.
    #[must_use]
    pub fn state(&self) -> &OptimiserState {
        &self.optimiser.state
    }

    /// Restores a state, or starts afresh with the default.
    pub fn set_state(&mut self, state: OptimiserState) {
        self.optimiser.state = state;
    }

    /// Mean loss gradient in manifest order, and the loss, without changing anything.
    ///
    /// # Errors
    /// What [`SiteNetwork::features`] refuses, and [`ModelError::Target`].
    pub fn gradient(
        &self,
        batch: &Batch<'_>,
        dropout: &mut impl Rng,
    ) -> Result<(Vec<f32>, LossSum), ModelError> {
        let network = &self.network;
        let features = network.features(batch.views, batch.absent)?;
        let mask = network.dropout_mask(features.dims(), dropout);
        let logits = network.logits(batch.task, &features, mask.as_ref())?;
        let task = network.task(batch.task)?;
        let (sum, weight) = loss(batch.task, task, &logits, batch.targets, batch.mask)?;
        let value = host_values(sum.clone())
            .first()
            .copied()
            .unwrap_or(f32::NAN);
        if !value.is_finite() {
            return Err(ModelError::NotFinite {
                what: "the training loss".into(),
            });
        }
        let total = LossSum {
            sum: f64::from(value),
            weight,
        };
        if weight == 0.0 {
            return Ok((vec![0.0; self.weights.len()], total));
        }
        Ok((network.collect(sum / weight as f32, |_| true), total))
    }

    /// One optimiser step on the mean loss of a batch; `factor` scales the learning rate.
    ///
    /// A batch of weight 0 (no event, no known label) changes nothing.
    ///
    /// # Errors
    /// As [`gradient`](Self::gradient), and [`ModelError::NotFinite`]; then nothing is changed.
    pub fn step(
        &mut self,
        batch: &Batch<'_>,
        factor: f32,
        dropout: &mut impl Rng,
    ) -> Result<LossSum, ModelError> {
        let (gradient, total) = self.gradient(batch, dropout)?;
        if total.weight > 0.0 {
            self.apply(&gradient, |_| true, factor)?;
        }
        Ok(total)
    }

    /// One optimiser step with a gradient, for example a privatised one: the values of the tensors for which
    /// `trained` says so, in manifest order. The other tensors keep their values.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] or [`ModelError::ArrayLength`]; then nothing is changed.
    pub fn apply(
        &mut self,
        gradient: &[f32],
        trained: impl Fn(&TensorSpec) -> bool,
        factor: f32,
    ) -> Result<(), ModelError> {
        let specs = self.network.tensor_specs();
        let lengths = specs.iter().filter(|spec| trained(spec));
        let expected = lengths.map(|spec| spec.len()).sum();
        if gradient.len() != expected {
            return Err(ModelError::ArrayLength {
                shape: vec![expected],
                got: gradient.len(),
            });
        }
        if !gradient.iter().all(|value| value.is_finite()) {
            return Err(ModelError::NotFinite {
                what: "a gradient".into(),
            });
        }
        if expected == self.weights.len() {
            self.optimiser.step(&mut self.weights, gradient, factor);
        } else {
            // The optimiser keeps a place for every value, so that its state has one form.
            let (mut rest, mut full) = (gradient, Vec::with_capacity(self.weights.len()));
            for spec in specs {
                if trained(spec) {
                    let (values, tail) = rest.split_at(spec.len());
                    full.extend_from_slice(values);
                    rest = tail;
                } else {
                    full.resize(full.len() + spec.len(), 0.0);
                }
            }
            let before = self.weights.clone();
            self.optimiser.step(&mut self.weights, &full, factor);
            let mut start = 0;
            for spec in specs {
                let place = start..start + spec.len();
                start = place.end;
                if !trained(spec) {
                    // Weight decay moves values without a gradient.
                    self.weights[place.clone()].copy_from_slice(&before[place]);
                }
            }
        }
        post_step(&self.network, &mut self.weights, trained);
        let mut rest = self.weights.as_slice();
        let tensors = self.network.tensor_specs().iter().map(|spec| {
            let (values, tail) = rest.split_at(spec.len());
            rest = tail;
            Some(values)
        });
        let tensors = tensors.collect();
        self.network.write(tensors);
        Ok(())
    }
}

/// What holds of the trained tensors after every step: `kappa` within the clip of `exp(kappa)` (section 6.2), and with the raw
/// parametrisation the projection of S (section 6.4). Data-independent.
fn post_step(network: &SiteNetwork, weights: &mut [f32], trained: impl Fn(&TensorSpec) -> bool) {
    let mut start = 0;
    for spec in network.tensor_specs() {
        let values = &mut weights[start..start + spec.len()];
        start += spec.len();
        if !trained(spec) {
            continue;
        }
        if spec.name.ends_with(".curvature_log") {
            for value in values {
                *value = value.clamp(0.1_f32.ln(), 10.0_f32.ln());
            }
        } else if network.spec().s_param == SParam::Raw && spec.name.ends_with(".S") {
            project_s(values);
        }
    }
}

/// `S *= clip(n, 1, 2) / (n + 1e-7)` with `n = ||S||` (section 6.4).
pub(crate) fn project_s(s: &mut [f32]) {
    let norm = s.iter().map(|v| v * v).sum::<f32>().sqrt();
    let factor = norm.clamp(1.0, 2.0) / (norm + 1e-7);
    for value in s {
        *value *= factor;
    }
}

fn flat(network: &SiteNetwork) -> Vec<f32> {
    let mut reader = Flat(Vec::new());
    network.parts.visit(&mut reader);
    reader.0
}

struct Flat(Vec<f32>);

impl ModuleVisitor for Flat {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.extend(host_values(param.val()));
    }
}

impl SiteNetwork {
    /// The gradient of `loss` for the tensors that `kept` names by their place in the manifest.
    pub(crate) fn collect(&self, loss: Tensor<1>, kept: impl Fn(usize) -> bool) -> Vec<f32> {
        let mut collector = Collector {
            gradients: &mut loss.backward(),
            flat: Vec::new(),
            index: 0,
            kept,
        };
        self.parts.visit(&mut collector);
        collector.flat
    }
}

struct Collector<'a, F> {
    gradients: &'a mut Gradients,
    flat: Vec<f32>,
    index: usize,
    kept: F,
}

impl<F: Fn(usize) -> bool> ModuleVisitor for Collector<'_, F> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.index += 1;
        if !(self.kept)(self.index - 1) {
            return;
        }
        let tensor = param.val();
        match tensor.grad_remove(self.gradients) {
            Some(gradient) => self.flat.extend(host_values(gradient)),
            // Not reached by this batch: the absent embedding of a slot in use, a frozen statistic.
            None => self
                .flat
                .extend(std::iter::repeat_n(0.0, tensor.shape().num_elements())),
        }
    }
}

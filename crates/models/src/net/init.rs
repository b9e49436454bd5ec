//! Creation of parameters: names, groups, shapes and initial values in one place.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use consilium_core::seed::{Seed, StreamKey, stream};
use consilium_core::{GroupName, TensorSpec};
use rand::{Rng, RngExt as _};

/// Initial values of a tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// One number.
    Constant(f32),
    /// Uniform within `sqrt(6 / (fan_in + fan_out))` (Glorot and Bengio 2010), with the fans of one filter:
    /// a grouped kernel counts its group only, a depthwise kernel its window only.
    Glorot { fan_in: usize, fan_out: usize },
    /// Normal within two standard deviations.
    TruncatedNormal(f32),
    /// Plus or minus this number.
    Sign(f32),
    /// Uniform between two numbers.
    Uniform(f32, f32),
}

/// Creates parameters one after another and records what it created.
///
/// Every tensor draws from a stream of its own name, so that a site that holds a part of the model starts
/// from the same numbers as the whole model.
pub(crate) struct Init<'a> {
    device: &'a Device,
    seed: Seed,
    study: &'a str,
    path: Vec<String>,
    group: GroupName,
    norm_group: Option<GroupName>,
    specs: Vec<TensorSpec>,
}

impl<'a> Init<'a> {
    /// Starts in the trunk.
    pub fn new(device: &'a Device, seed: Seed, study: &'a str) -> Self {
        let (path, specs) = (Vec::new(), Vec::new());
        Self {
            device,
            seed,
            study,
            path,
            group: GroupName::trunk(),
            norm_group: None,
            specs,
        }
    }

    /// Creates under a further path element.
    pub fn at<T>(&mut self, name: &str, create: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(name.to_owned());
        let made = create(self);
        self.path.pop();
        made
    }

    /// Creates in another group; tensors of BatchNorm layers go to `norm_group`, if there is one.
    pub fn in_group<T>(
        &mut self,
        group: GroupName,
        norm_group: Option<GroupName>,
        create: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let before = (
            std::mem::replace(&mut self.group, group),
            std::mem::replace(&mut self.norm_group, norm_group),
        );
        let made = create(self);
        (self.group, self.norm_group) = before;
        made
    }

    /// One parameter of the current group.
    pub fn tensor<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        start: Start,
    ) -> Param<Tensor<D>> {
        let group = self.group.clone();
        self.create(name, shape, start, group)
    }

    /// One parameter of a normalisation layer.
    pub fn norm_tensor(&mut self, name: &str, channels: usize, start: f32) -> Param<Tensor<1>> {
        let group = self
            .norm_group
            .clone()
            .unwrap_or_else(|| self.group.clone());
        self.create(name, [channels], Start::Constant(start), group)
    }

    /// What was created, in the order of creation, which is the order of the modules' fields.
    pub fn into_specs(self) -> Vec<TensorSpec> {
        self.specs
    }

    fn create<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        start: Start,
        group: GroupName,
    ) -> Param<Tensor<D>> {
        let mut full = self.path.join(".");
        if !full.is_empty() {
            full.push('.');
        }
        full.push_str(name);
        let values = draw(self.seed, self.study, &full, shape.iter().product(), start);
        self.specs.push(TensorSpec {
            name: full,
            group,
            shape: shape.to_vec(),
        });
        Param::from_tensor(Tensor::from_data(
            TensorData::new(values, shape),
            self.device,
        ))
    }
}

fn draw(seed: Seed, study: &str, name: &str, len: usize, start: Start) -> Vec<f32> {
    let key = StreamKey {
        study,
        purpose: "initial-weights",
        site: name,
        ..StreamKey::default()
    };
    let mut rng = stream(seed, &key);
    match start {
        Start::Constant(value) => vec![value; len],
        Start::Glorot { fan_in, fan_out } => {
            let limit = (6.0 / (fan_in + fan_out) as f32).sqrt();
            (0..len).map(|_| rng.random_range(-limit..=limit)).collect()
        }
        Start::TruncatedNormal(deviation) => (0..len)
            .map(|_| truncated_normal(&mut rng) * deviation)
            .collect(),
        Start::Sign(size) => (0..len)
            .map(|_| if rng.random::<bool>() { size } else { -size })
            .collect(),
        Start::Uniform(low, high) => (0..len).map(|_| rng.random_range(low..=high)).collect(),
    }
}

/// A standard normal value within two standard deviations (Box and Muller 1958, by rejection).
fn truncated_normal(rng: &mut impl Rng) -> f32 {
    loop {
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        let value = radius * (std::f64::consts::TAU * rng.random::<f64>()).cos();
        if value.abs() <= 2.0 {
            return value as f32;
        }
    }
}

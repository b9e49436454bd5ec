//! The networks and the steps that the benches share; the same as in `benches/opacus_step.py`.

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::{log_softmax, relu};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use dp_burn::{Grouping, Layers, Parameters, Plain, Units, gradient_descent, unit_gradients};
use dp_rs::adjacency::Adjacency;
use dp_rs::clipping::ClipRule;
use dp_rs::gradients::UnitGradients;
use dp_rs::noise::{NoiseLevel, RootKey};
use dp_rs::plan::{Clip, Plan, PlanSettings, Training, Unit};

const LEARNING_RATE: f64 = 0.01;

#[derive(Module, Debug)]
pub struct Cnn {
    first: Conv2d,
    second: Conv2d,
    third: Conv2d,
    head: Linear,
}

#[derive(Module, Debug)]
pub struct Mlp {
    first: Linear,
    second: Linear,
    head: Linear,
}

pub trait Net: Module {
    /// Logits `[rows, 10]` of flat inputs.
    fn logits(&self, layers: &mut impl Layers, x: Tensor<2>) -> Tensor<2>;
}

impl Net for Cnn {
    fn logits(&self, layers: &mut impl Layers, x: Tensor<2>) -> Tensor<2> {
        let [rows, _] = x.dims();
        let x = x.reshape([rows, 3, 64, 64]);
        let x = relu(layers.conv2d(&self.first, x));
        let x = relu(layers.conv2d(&self.second, x));
        let x = relu(layers.conv2d(&self.third, x));
        let x = x.mean_dim(3).mean_dim(2).reshape([rows, 128]);
        layers.linear(&self.head, x)
    }
}

impl Net for Mlp {
    fn logits(&self, layers: &mut impl Layers, x: Tensor<2>) -> Tensor<2> {
        let x = relu(layers.linear(&self.first, x));
        let x = relu(layers.linear(&self.second, x));
        layers.linear(&self.head, x)
    }
}

fn losses(logits: Tensor<2>, classes: &Tensor<2, Int>) -> Tensor<1> {
    let [rows, _] = logits.dims();
    log_softmax(logits, 1)
        .gather(1, classes.clone())
        .neg()
        .reshape([rows])
}

/// Gradient descent from automatic differentiation.
struct Descend(Gradients);

impl ModuleMapper for Descend {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = param.val().grad_remove(&mut self.0);
        let gradient = gradient.expect("every parameter is used");
        param.map(|value| {
            let value = value.inner() - gradient.mul_scalar(LEARNING_RATE);
            value.autodiff().require_grad()
        })
    }
}

pub fn plain<N: Net>(net: N, x: &Tensor<2>, classes: &Tensor<2, Int>) -> N {
    let losses = losses(net.logits(&mut Plain, x.clone()), classes);
    let gradients = losses.mean().backward();
    net.map(&mut Descend(gradients))
}

/// What a private step needs beside the network and the batch.
pub struct Private {
    training: Option<Training>,
    key: RootKey,
    units: Units,
    values: usize,
}

impl Private {
    /// All `rows` are drawn in every step and clipped to 1; `None` leaves the noise out.
    pub fn new<N: Net>(net: &N, rows: usize, noise: Option<NoiseLevel>) -> Self {
        let plan = |noise_level| {
            let plan = Plan::new(PlanSettings {
                unit: Unit::Record,
                adjacency: Adjacency::AddRemove,
                clip: Clip::Fixed(ClipRule::flat(1.0).expect("a clip")),
                noise_multiplier: 1.0,
                noise_level,
                sampling_rate: 1.0,
                expected_units: rows as f64,
                max_records: std::num::NonZeroU32::MIN,
            });
            plan.and_then(|plan| plan.begin()).expect("a plan")
        };
        Self {
            training: noise.map(plan),
            key: RootKey::simulation(1),
            units: Units::per_row(rows).expect("rows"),
            values: Parameters::of(net, Grouping::Flat)
                .expect("trainable")
                .values(),
        }
    }

    pub fn step<N: Net>(&mut self, net: N, x: &Tensor<2>, classes: &Tensor<2, Int>) -> N {
        let units = &self.units;
        let gradients = || {
            let book = unit_gradients(&net, units, |net, taps| {
                losses(net.logits(taps, x.clone()), classes)
            });
            book.expect("the benchmark's networks have a rule for every layer")
        };
        let mean = match &mut self.training {
            Some(training) => {
                let mut step = training.step(&self.key, &[], units.len());
                step.add(gradients()).expect("the drawn units");
                step.finish(self.values).expect("noise")
            }
            None => {
                let book = gradients();
                let rows = units.len() as f64;
                let norms = book.squared_norms();
                let factors: Vec<f64> = norms
                    .iter()
                    .map(|s| (1.0 / s.sqrt()).min(1.0) / rows)
                    .collect();
                book.weighted_sum(&factors)
            }
        };
        gradient_descent(net, &mean, LEARNING_RATE).expect("one value per parameter")
    }
}

pub fn cnn() -> Cnn {
    let device = Device::flex().autodiff();
    let conv = |channels: [usize; 2]| {
        Conv2dConfig::new(channels, [3, 3])
            .with_stride([2, 2])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .init(&device)
    };
    Cnn {
        first: conv([3, 32]),
        second: conv([32, 64]),
        third: conv([64, 128]),
        head: LinearConfig::new(128, 10).init(&device),
    }
}

pub fn mlp() -> Mlp {
    let device = Device::flex().autodiff();
    let linear = |inputs, outputs| LinearConfig::new(inputs, outputs).init(&device);
    Mlp {
        first: linear(256, 512),
        second: linear(512, 512),
        head: linear(512, 10),
    }
}

/// Inputs `[rows, inputs]` and classes `[rows, 1]`.
pub fn batch(rows: usize, inputs: usize) -> (Tensor<2>, Tensor<2, Int>) {
    let device = Device::flex();
    let value = |i: usize| ((i * 7919) % 1000) as f32 / 500.0 - 1.0;
    let x: Vec<f32> = (0..rows * inputs).map(value).collect();
    let classes: Vec<i64> = (0..rows as i64).map(|row| row % 10).collect();
    (
        Tensor::from_data(TensorData::new(x, [rows, inputs]), &device),
        Tensor::from_data(TensorData::new(classes, [rows, 1]), &device),
    )
}

//! Private steps on a GPU through WebGPU beside the same on the processor. A software Vulkan driver is enough; whoever
//! builds with the feature asks for the device, so its absence fails.
#![cfg(feature = "wgpu")]

mod common;

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{
    Embedding, EmbeddingConfig, GroupNorm, GroupNormConfig, LayerNorm, LayerNormConfig, Linear,
    LinearConfig, PaddingConfig2d,
};
use burn::tensor::activation::relu;
use burn::tensor::{DType, Device, DeviceKind, FloatDType, Int, Tensor, TensorData};
use common::{rows, set};
use dp_burn::{Layers, Units, gradient_descent, unit_gradients};
use dp_rs::adjacency::Adjacency;
use dp_rs::clipping::ClipRule;
use dp_rs::gradients::UnitGradients;
use dp_rs::noise::{NoiseLevel, RootKey};
use dp_rs::plan::{Clip, Plan, PlanSettings, Unit};

/// Six records of three patients.
const PATIENT_OF: [usize; 6] = [1, 0, 1, 2, 0, 1];

/// One layer of each kind of rule: products of positions, of windows, sums, a lookup.
#[derive(Module, Debug)]
struct Net {
    first: Conv2d,
    norm: GroupNorm,
    second: Conv2d,
    words: Embedding,
    last: LayerNorm,
    head: Linear,
}

impl Net {
    fn new() -> Self {
        let device = common::device();
        let conv = |channels, groups| {
            Conv2dConfig::new(channels, [3, 3])
                .with_stride([2, 2])
                .with_groups(groups)
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(&device)
        };
        let net = Self {
            first: conv([3, 8], 1),
            norm: GroupNormConfig::new(2, 8).init(&device),
            second: conv([8, 16], 2),
            words: EmbeddingConfig::new(5, 16).init(&device),
            last: LayerNormConfig::new(16).init(&device),
            head: LinearConfig::new(16, 3).init(&device),
        };
        set(net, FloatDType::F32)
    }

    fn losses(&self, layers: &mut impl Layers, device: &Device) -> Tensor<1> {
        let all = [0, 1, 2, 3, 4, 5];
        let on = |tensor: Tensor<4>| Tensor::<4>::from_data(tensor.into_data(), device);
        let x = on(rows(3, &all, [0, 3, 16, 16], DType::F32));
        let ids = TensorData::new(vec![0_i64, 3, 1, 1, 4, 2], [6, 1]);
        let ids = Tensor::<2, Int>::from_data(ids, device);
        let x = relu(layers.conv2d(&self.first, x));
        let x = relu(layers.group_norm(&self.norm, x));
        let x = relu(layers.conv2d(&self.second, x));
        let x = x.mean_dim(3).mean_dim(2).reshape([6, 16]);
        let x = x + layers.embedding(&self.words, ids).reshape([6, 16]);
        let x = layers.layer_norm(&self.last, x);
        let x = layers.linear(&self.head, x);
        x.powf_scalar(2.0).sum_dim(1).reshape([6])
    }
}

/// Takes the values to a device.
struct Place<'a>(&'a Device);

impl ModuleMapper for Place<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|value| {
            let value = Tensor::from_data(value.inner().into_data(), self.0);
            value.autodiff().require_grad()
        })
    }
}

/// Norms of the patients and the private mean of each of two steps.
fn steps(device: &Device) -> Vec<(Vec<f64>, Vec<f32>)> {
    let mut net = Net::new().map(&mut Place(device));
    let plan = Plan::new(PlanSettings {
        unit: Unit::Patient,
        adjacency: Adjacency::AddRemove,
        clip: Clip::Fixed(ClipRule::flat(0.5).unwrap()),
        noise_multiplier: 1e-3,
        noise_level: NoiseLevel::Hardened,
        sampling_rate: 1.0,
        expected_units: 3.0,
        max_records: 4.try_into().unwrap(),
    });
    let mut training = plan.unwrap().begin().unwrap();
    let units = Units::from_rows(PATIENT_OF.to_vec()).unwrap();
    let step = |round: u8| {
        let mut step = training.step(&RootKey::simulation(2), &[&[round]], units.len());
        let book = unit_gradients(&net, &units, |net, taps| net.losses(taps, device)).unwrap();
        let values = book.parameters().values();
        let norms = book.squared_norms().into_iter().map(f64::sqrt).collect();
        step.add(book).unwrap();
        let mean = step.finish(values).unwrap();
        net = gradient_descent(net.clone(), &mean, 0.05).unwrap();
        (norms, mean)
    };
    (0..2).map(step).collect()
}

#[test]
fn private_steps_agree_with_the_processor() {
    let found = steps(&Device::wgpu(DeviceKind::DefaultDevice));
    let expected = steps(&Device::flex());
    for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let worst = found
            .0
            .iter()
            .zip(&expected.0)
            .map(|(a, b)| (a - b).abs() / b)
            .fold(0.0, f64::max);
        let difference: Vec<f64> = found
            .1
            .iter()
            .zip(&expected.1)
            .map(|(a, b)| f64::from(a - b))
            .collect();
        let size: Vec<f64> = expected.1.iter().map(|&b| f64::from(b)).collect();
        let mean = common::norm(&difference) / common::norm(&size);
        println!("step {step}: norms within {worst:.1e}, private mean within {mean:.1e}");
        assert!(worst < 1e-5 && mean < 1e-5);
    }
}

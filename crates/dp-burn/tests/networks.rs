//! Whole networks, and laws that hold for every network.

mod common;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::{log_softmax, relu};
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use common::{Case, agrees, device, dtype_of, norm, recorded, rows, set};
use dp_burn::{Grouping, Layers, Parameters, Plain, Recorder, Refusal, Units, gradient_descent};
use dp_rs::gradients::UnitGradients;

#[derive(Module, Debug)]
struct Cnn {
    first: Conv2d,
    norm: GroupNorm,
    second: Conv2d,
    depthwise: Conv2d,
    head: Linear,
}

struct Images;

impl Case for Images {
    type Net = Cnn;

    fn net(&self, device: &Device) -> Cnn {
        let conv = |channels, stride, groups| {
            Conv2dConfig::new(channels, [3, 3])
                .with_stride([stride, stride])
                .with_groups(groups)
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device)
        };
        Cnn {
            first: conv([3, 8], 2, 1),
            norm: GroupNormConfig::new(4, 8).init(device),
            second: conv([8, 16], 2, 1),
            depthwise: conv([16, 16], 1, 16),
            head: LinearConfig::new(16, 5).init(device),
        }
    }

    fn losses(&self, net: &Cnn, layers: &mut impl Layers, of: &[usize]) -> Tensor<1> {
        let x = rows(1, of, [0, 3, 16, 16], dtype_of(net));
        let x = layers.conv2d(&net.first, x);
        let x = relu(layers.group_norm(&net.norm, x));
        let x = relu(layers.conv2d(&net.second, x));
        let x = x.clone() + layers.conv2d(&net.depthwise, x);
        let x = x.mean_dim(3).mean_dim(2).reshape([of.len(), 16]);
        cross_entropy(layers.linear(&net.head, x), of)
    }
}

#[derive(Module, Debug)]
struct Mlp {
    first: Linear,
    second: Linear,
    head: Linear,
}

struct Tables;

impl Case for Tables {
    type Net = Mlp;

    fn net(&self, device: &Device) -> Mlp {
        Mlp {
            first: LinearConfig::new(20, 30).init(device),
            second: LinearConfig::new(30, 30).init(device),
            head: LinearConfig::new(30, 5).init(device),
        }
    }

    fn losses(&self, net: &Mlp, layers: &mut impl Layers, of: &[usize]) -> Tensor<1> {
        let x = rows(1, of, [0, 20], dtype_of(net));
        let x = relu(layers.linear(&net.first, x));
        let x = relu(layers.linear(&net.second, x));
        cross_entropy(layers.linear(&net.head, x), of)
    }
}

fn cross_entropy(logits: Tensor<2>, of: &[usize]) -> Tensor<1> {
    let classes: Vec<i64> = of.iter().map(|&row| (row * 3 % 5) as i64).collect();
    let classes = TensorData::new(classes, [of.len(), 1]);
    let classes = Tensor::<2, Int>::from_data(classes, &Device::flex());
    log_softmax(logits, 1)
        .gather(1, classes)
        .neg()
        .reshape([of.len()])
}

#[test]
fn a_convolutional_network_agrees_with_batches_of_one() {
    agrees(&Images);
}

#[test]
fn a_multilayer_perceptron_agrees_with_batches_of_one() {
    agrees(&Tables);
}

/// The fast convolutions are Burn's convolutions: outputs, and all gradients.
#[test]
fn plain_layers_are_the_layers_of_burn() {
    let of = [0, 1, 2];
    for dtype in [FloatDType::F64, FloatDType::F32] {
        let tolerance = if dtype == FloatDType::F64 {
            1e-12
        } else {
            1e-5
        };
        for (stride, dilation, groups) in [(1, 1, 1), (2, 1, 2), (3, 2, 4)] {
            let conv = Conv2dConfig::new([4, 8], [3, 2])
                .with_stride([stride, 1])
                .with_dilation([1, dilation])
                .with_groups(groups)
                .with_padding(PaddingConfig2d::Explicit(1, 0, 2, 1))
                .init(&device());
            let conv = set(conv, dtype);
            let x = rows(1, &of, [0, 4, 9, 7], dtype.into())
                .autodiff()
                .require_grad();
            let run = |y: Tensor<4>| {
                let losses = common::losses(y.clone(), 2, &of);
                let gradients = losses.sum().backward();
                let mut all = common::flat(&conv, &gradients);
                all.extend(x.grad(&gradients).unwrap().into_data().iter::<f64>());
                all.extend(y.into_data().iter::<f64>());
                all
            };
            let ours = run(Plain.conv2d(&conv, x.clone()));
            let theirs = run(conv.forward(x.clone()));
            let difference: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| a - b).collect();
            assert!(
                norm(&difference) <= tolerance * norm(&theirs),
                "{dtype:?} {stride}"
            );
        }
    }
}

fn sum(rows: &[usize], factors: &[f64]) -> (Vec<f64>, Vec<f32>) {
    let net = set(Images.net(&device()), FloatDType::F32);
    let units = Units::per_row(rows.len()).unwrap();
    let book = Recorder::new()
        .gradients(&net, &units, |net, taps| Images.losses(net, taps, rows))
        .unwrap();
    (book.squared_norms(), book.weighted_sum(factors))
}

fn assert_close(a: &[f32], b: &[f32]) {
    let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| f64::from(a - b)).collect();
    let size: Vec<f64> = b.iter().map(|&b| f64::from(b)).collect();
    assert!(norm(&difference) <= 1e-6 * norm(&size));
}

#[test]
fn physical_batches_only_split_the_sum() {
    let factors = [0.5, 0.0, 2.0, 1.0, 0.25];
    let (norms, whole) = sum(&[0, 1, 2, 3, 4], &factors);
    let (first_norms, first) = sum(&[0, 1], &factors[..2]);
    let (rest_norms, rest) = sum(&[2, 3, 4], &factors[2..]);
    for (whole, part) in norms.iter().zip(first_norms.iter().chain(&rest_norms)) {
        assert!((whole - part).abs() <= 1e-5 * whole);
    }
    let parts: Vec<f32> = first.iter().zip(&rest).map(|(a, b)| a + b).collect();
    assert_close(&parts, &whole);
}

#[test]
fn the_order_of_the_units_changes_nothing() {
    let (norms, one) = sum(&[0, 1, 2, 3], &[0.5, 1.5, 2.0, 1.0]);
    let (moved_norms, moved) = sum(&[2, 0, 3, 1], &[2.0, 0.5, 1.0, 1.5]);
    for (index, from) in [2, 0, 3, 1].into_iter().enumerate() {
        assert!((moved_norms[index] - norms[from]).abs() <= 1e-5 * norms[from]);
    }
    assert_close(&moved, &one);
}

#[test]
fn frozen_parameters_contribute_neither_norm_nor_sum() {
    let net = set(Tables.net(&device()), FloatDType::F64);
    let units = Units::per_row(3).unwrap();
    let whole = recorded(&Tables, &net, &units, Recorder::new());
    let head = whole.parameters().as_slice()[4].clone();
    assert_eq!(head.path, "head.weight");
    let frozen = Mlp {
        first: net.first.clone().no_grad(),
        second: net.second.clone().no_grad(),
        head: net.head.clone(),
    };
    let part = recorded(&Tables, &frozen, &units, Recorder::new());
    let paths: Vec<_> = part
        .parameters()
        .as_slice()
        .iter()
        .map(|p| p.path.clone())
        .collect();
    assert_eq!(paths, ["head.weight", "head.bias"]);
    assert_eq!(part.squared_norms_of(0), whole.squared_norms_of(4));
    let factors = [1.0, 2.0, 0.5];
    let expected = whole.weighted_sum_f64(&factors)[head.offset..].to_vec();
    assert_eq!(part.weighted_sum_f64(&factors), expected);
}

#[test]
fn a_unit_that_is_not_finite_contributes_nothing_with_factor_0() {
    for recorder in [Recorder::new(), Recorder::new().with_generic_operations()] {
        let net = set(Images.net(&device()), FloatDType::F32);
        let units = Units::from_rows(vec![0, 1, 0, 2]).unwrap();
        let run = |bad: f64, factors: &[f64]| {
            let book = recorder.gradients(&net, &units, |net, taps| {
                let losses = Images.losses(net, taps, &[0, 1, 2, 3]);
                let scale = common::tensor(vec![1.0, bad, 1.0, 1.0], [4], losses.dtype());
                losses * scale
            });
            let book = book.unwrap();
            (book.squared_norms(), book.weighted_sum(factors))
        };
        let (norms, got) = run(f64::NAN, &[1.0, 0.0, 0.5]);
        assert!(!norms[1].is_finite() && norms[0].is_finite() && norms[2].is_finite());
        let (_, expected) = run(1.0, &[1.0, 0.0, 0.5]);
        assert_eq!(got, expected);
    }
}

/// Two views whose gradients nearly cancel: the norm of their sum is far below either, and single precision must
/// not lose it.
#[test]
fn views_that_cancel_keep_the_norm_of_their_sum() {
    for recorder in [Recorder::new(), Recorder::new().with_generic_operations()] {
        for apart in [1e-1, 1e-2, 1e-3] {
            let run = |dtype| {
                let net = set(Images.net(&device()), dtype);
                let units = Units::from_rows(vec![0, 0, 1]).unwrap();
                let book = recorder.gradients(&net, &units, |net, taps| {
                    let losses = Images.losses(net, taps, &[0, 0, 1]);
                    let scale = vec![1.0, apart - 1.0, 1.0];
                    losses.clone() * common::tensor(scale, [3], losses.dtype())
                });
                let book = book.unwrap();
                let count = book.parameters().as_slice().len();
                (0..count)
                    .map(|index| book.squared_norms_of(index)[0].sqrt())
                    .collect::<Vec<_>>()
            };
            let (single, double) = (run(FloatDType::F32), run(FloatDType::F64));
            for (single, double) in single.into_iter().zip(double) {
                // What is left of a sum is known to the precision of its terms, `1 / apart` times larger.
                let tolerance = 1e-6 / apart;
                assert!(
                    (single - double).abs() <= tolerance * double,
                    "{apart}: {single} {double}"
                );
            }
        }
    }
}

#[test]
fn groups_split_the_norms_and_the_factors() {
    let net = set(Tables.net(&device()), FloatDType::F64);
    let units = Units::per_row(3).unwrap();
    let flat = recorded(&Tables, &net, &units, Recorder::new());
    let recorder = Recorder::new().with_grouping(Grouping::PerLayer);
    let layers = recorded(&Tables, &net, &units, recorder);
    assert_eq!((flat.groups(), layers.groups()), (1, 3));
    for (unit, of_groups) in layers.squared_norms().chunks(3).enumerate() {
        let total = flat.squared_norms()[unit];
        assert!((of_groups.iter().sum::<f64>() - total).abs() <= 1e-12 * total);
    }
    // Only the last layer of the second unit.
    let mut factors = vec![0.0; 9];
    factors[5] = 2.0;
    let only = layers.weighted_sum_f64(&factors);
    let whole = flat.weighted_sum_f64(&[0.0, 2.0, 0.0]);
    let head = 20 * 30 + 30 + 30 * 30 + 30;
    assert!(only[..head].iter().all(|&v| v == 0.0));
    assert_eq!(only[head..], whole[head..]);
}

fn all_values(net: &Mlp) -> Vec<f64> {
    let params = [&net.first, &net.second, &net.head];
    let values = params.into_iter().flat_map(|layer| {
        let mut values: Vec<f64> = layer.weight.val().into_data().iter().collect();
        values.extend(layer.bias.as_ref().unwrap().val().into_data().iter::<f64>());
        values
    });
    values.collect()
}

#[test]
fn descent_moves_trainable_parameters_by_the_flat_gradient_and_no_others() {
    for dtype in [FloatDType::F32, FloatDType::F64] {
        let net = set(Tables.net(&device()), dtype);
        let net = Mlp {
            first: net.first.no_grad(),
            ..net
        };
        let before = all_values(&net);
        let parameters = Parameters::of(&net, Grouping::Flat).unwrap();
        let gradient: Vec<f32> = (0..parameters.values()).map(|i| i as f32).collect();
        let wrong = gradient_descent(net.clone(), &gradient[1..], 0.5).unwrap_err();
        assert!(matches!(wrong, Refusal::Length { .. }));
        let net = gradient_descent(net, &gradient, 0.5).unwrap();
        let frozen = 20 * 30 + 30;
        let moved = all_values(&net).into_iter().zip(before).enumerate();
        for (index, (after, before)) in moved {
            let expected = before - index.saturating_sub(frozen) as f64 * 0.5;
            assert!(
                (after - expected).abs() <= 1e-6 * expected.abs(),
                "{index}: {after} {expected}"
            );
        }
        assert_eq!(
            Parameters::of(&net, Grouping::Flat).unwrap().as_slice(),
            parameters.as_slice()
        );
    }
}

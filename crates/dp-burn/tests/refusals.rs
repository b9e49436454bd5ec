//! What is refused, by path and with a remedy.

mod common;

use burn::module::{Module, Param};
use burn::nn::attention::{MhaInput, MultiHeadAttention, MultiHeadAttentionConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use common::{device, rows};
use dp_burn::{
    Layers, Refusal, RowLosses, Taps, Units, group_norm_for, refusals, unit_gradients, verify,
};

#[derive(Module, Debug)]
struct Block {
    linear: Linear,
    norm: BatchNorm,
}

#[derive(Module, Debug)]
struct Deep {
    blocks: Vec<Block>,
}

fn batch(positions: usize, width: usize) -> Tensor<3> {
    rows(
        1,
        &[0, 1, 2],
        [0, positions, width],
        burn::tensor::DType::F32,
    )
}

fn per_row<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let [count, len] = [x.dims()[0], x.dims()[1..].iter().product()];
    x.powf_scalar(2.0)
        .reshape([count, len])
        .sum_dim(1)
        .reshape([count])
}

fn linear(inputs: usize, outputs: usize) -> Linear {
    LinearConfig::new(inputs, outputs).init(&device())
}

#[test]
fn batch_norm_is_refused_by_path_until_it_is_frozen() {
    let block = || Block {
        linear: linear(4, 4),
        norm: BatchNormConfig::new(4).init(&device()),
    };
    let net = Deep {
        blocks: vec![block(), block()],
    };
    let found = refusals(&net);
    assert_eq!(found.len(), 2);
    let text = found[1].to_string();
    assert!(text.starts_with("blocks.1.norm is a BatchNorm"), "{text}");
    assert!(text.contains("group_norm_for"), "{text}");
    assert_eq!(found[1].code(), "batch_coupling");
    let units = Units::per_row(3).unwrap();
    let refused = unit_gradients(&net, &units, |_, _| unreachable!("refused before it runs"));
    assert!(matches!(refused, Err(Refusal::BatchCoupling { .. })));

    let frozen = Deep {
        blocks: net
            .blocks
            .into_iter()
            .map(|block| Block {
                norm: block.norm.freeze(),
                ..block
            })
            .collect(),
    };
    assert_eq!(refusals(&frozen), []);
    let norm = group_norm_for(&BatchNormConfig::new(6).init(&device()), &device());
    assert_eq!((norm.num_groups, norm.num_channels), (2, 6));
}

#[derive(Module, Debug)]
struct Attention {
    embed: Linear,
    attention: MultiHeadAttention,
}

#[test]
fn a_parameter_without_a_tap_is_refused_by_path() {
    let net = Attention {
        embed: linear(4, 8),
        attention: MultiHeadAttentionConfig::new(8, 2).init(&device()),
    };
    let units = Units::per_row(3).unwrap();
    let run = |net: &Attention, taps: &mut Taps<'_>| {
        let x = taps.linear(&net.embed, batch(5, 4));
        per_row(net.attention.forward(MhaInput::self_attn(x)).context)
    };
    let refused = unit_gradients(&net, &units, run).unwrap_err();
    let text = refused.to_string();
    assert!(
        text.starts_with("attention.query.weight is trainable"),
        "{text}"
    );
    assert!(
        text.contains("MultiHeadAttention") && text.contains("one by one"),
        "{text}"
    );
    let frozen = Attention {
        attention: net.attention.no_grad(),
        ..net
    };
    assert!(unit_gradients(&frozen, &units, run).is_ok());
}

#[test]
fn shapes_that_are_not_rows_of_the_batch_are_refused() {
    let net = linear(4, 8);
    let units = Units::per_row(3).unwrap();
    let refused = |run: &dyn Fn(&Linear, &mut Taps<'_>) -> Tensor<1>| {
        unit_gradients(&net, &units, run).unwrap_err()
    };
    let folded = refused(&|net, taps| {
        let x = taps.linear(net, batch(5, 4).reshape([15, 4]));
        per_row(x.reshape([3, 40]))
    });
    assert!(matches!(
        folded,
        Refusal::Rows {
            got: 15,
            rows: 3,
            ..
        }
    ));
    let averaged = refused(&|net, taps| per_row(taps.linear(net, batch(5, 4))).mean());
    assert_eq!(averaged, Refusal::Losses { got: 1, rows: 3 });
    let constant = refused(&|net, taps| {
        let _ = taps.linear(net, batch(5, 4));
        Tensor::ones([3], &Device::flex())
    });
    assert_eq!(constant, Refusal::Constant);
    let frozen = unit_gradients(&net.clone().no_grad(), &units, |_, _| {
        unreachable!("refused before it runs")
    });
    assert_eq!(frozen.unwrap_err(), Refusal::NothingTrainable);
}

#[test]
fn half_precision_is_refused() {
    let net = linear(4, 8);
    let units = Units::per_row(3).unwrap();
    let refused = unit_gradients(&net, &units, |net, taps| {
        let x = batch(5, 4).cast(burn::tensor::FloatDType::F16);
        let mut half = net.clone();
        half.weight = half
            .weight
            .map(|w| w.inner().cast(burn::tensor::FloatDType::F16).autodiff());
        half.bias = None;
        per_row(taps.linear(&half, x)).cast(burn::tensor::FloatDType::F32)
    });
    assert!(matches!(
        refused,
        Err(Refusal::Precision { .. } | Refusal::NotCovered { .. })
    ));
}

#[derive(Module, Debug)]
struct Pair {
    linear: Linear,
    temperature: Param<Tensor<1>>,
}

/// How the batch is used.
enum Batch {
    Honest,
    /// The weight also enters outside a tapped call.
    Twice,
    /// Every row is compared with the next.
    Contrastive,
    /// Centred by the mean over the batch.
    Centred,
}

impl RowLosses<Pair> for Batch {
    fn losses(&self, net: &Pair, layers: &mut impl Layers) -> Tensor<1> {
        let x = layers.linear(&net.linear, batch(5, 4));
        let x = layers.scale(&net.temperature, x);
        match self {
            Self::Honest => per_row(x),
            Self::Twice => per_row(x) + net.linear.weight.val().sum(),
            Self::Contrastive => {
                let others = Tensor::cat(
                    vec![x.clone().narrow(0, 1, 2), x.clone().narrow(0, 0, 1)],
                    0,
                );
                per_row(x * others)
            }
            Self::Centred => per_row(x.clone() - x.mean_dim(0)),
        }
    }
}

#[test]
fn what_only_running_shows_is_found_by_verify() {
    let net = Pair {
        linear: linear(4, 8),
        temperature: Param::from_tensor(Tensor::ones([1], &device())),
    };
    let units = Units::from_rows(vec![0, 1, 2]).unwrap();
    let check = |batch| verify(&net, &units, &batch, 1e-3);
    assert_eq!(check(Batch::Honest), Ok(()));
    assert!(
        matches!(check(Batch::Twice), Err(Refusal::Differs { path, .. }) if path == "linear.weight")
    );
    for coupled in [Batch::Contrastive, Batch::Centred] {
        let found = check(coupled);
        assert!(
            matches!(found, Err(Refusal::MixesUnits { .. })),
            "{found:?}"
        );
    }
}

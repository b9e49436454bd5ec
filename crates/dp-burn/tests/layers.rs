//! Every kind of layer against the micro-batch loop.

#![allow(missing_docs)]

mod common;

use burn::module::{Module, Param};
use burn::nn::attention::{MhaInput, MultiHeadAttention, MultiHeadAttentionConfig};
use burn::nn::conv::{
    Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig,
};
use burn::nn::{
    Embedding, EmbeddingConfig, GroupNorm, GroupNormConfig, InstanceNorm, InstanceNormConfig,
    LayerNorm, LayerNormConfig, Linear, LinearConfig, PaddingConfig1d, PaddingConfig2d, RmsNorm,
    RmsNormConfig,
};
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use common::{Case, agrees, device, dtype_of, losses, rows};
use dp_burn::{AttentionInput, Layers, Plain, attention};

/// A case of one layer: its configuration, the shape of a row, and the call.
macro_rules! layer {
    ($test:ident, $layer:ty, $make:expr, $shape:expr, $call:ident) => {
        #[test]
        fn $test() {
            struct One;
            #[derive(Module, Debug)]
            struct Net {
                layer: $layer,
            }
            impl Case for One {
                type Net = Net;
                fn net(&self, device: &Device) -> Net {
                    Net {
                        layer: $make.init(device),
                    }
                }
                fn losses(&self, net: &Net, layers: &mut impl Layers, of: &[usize]) -> Tensor<1> {
                    let x = rows(1, of, $shape, dtype_of(net));
                    losses(layers.$call(&net.layer, x), 2, of)
                }
            }
            agrees(&One);
        }
    };
}

layer!(
    linear_of_vectors,
    Linear,
    LinearConfig::new(5, 7),
    [0, 5],
    linear
);
layer!(
    linear_without_bias,
    Linear,
    LinearConfig::new(5, 7).with_bias(false),
    [0, 5],
    linear
);
layer!(
    linear_of_short_sequences,
    Linear,
    LinearConfig::new(20, 30),
    [0, 3, 20],
    linear
);
layer!(
    linear_of_long_sequences,
    Linear,
    LinearConfig::new(3, 4),
    [0, 2, 11, 3],
    linear
);

fn conv2d(channels: [usize; 2], kernel: [usize; 2]) -> Conv2dConfig {
    Conv2dConfig::new(channels, kernel)
}

layer!(
    conv2d_with_more_weights_than_positions,
    Conv2d,
    conv2d([8, 16], [3, 3]),
    [0, 8, 5, 4],
    conv2d
);
layer!(
    conv2d_with_more_positions_than_weights,
    Conv2d,
    conv2d([2, 3], [3, 3]).with_padding(PaddingConfig2d::Same),
    [0, 2, 9, 8],
    conv2d
);
layer!(
    conv2d_with_stride_dilation_and_asymmetric_padding,
    Conv2d,
    conv2d([2, 4], [3, 2])
        .with_stride([2, 3])
        .with_dilation([2, 1])
        .with_padding(PaddingConfig2d::Explicit(1, 2, 3, 0)),
    [0, 2, 9, 10],
    conv2d
);
layer!(
    conv2d_with_unused_border,
    Conv2d,
    conv2d([1, 2], [2, 2]).with_stride([3, 3]).with_bias(false),
    [0, 1, 7, 6],
    conv2d
);
layer!(
    conv2d_in_groups,
    Conv2d,
    conv2d([6, 4], [3, 3])
        .with_groups(2)
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)),
    [0, 6, 5, 5],
    conv2d
);
layer!(
    conv2d_depthwise,
    Conv2d,
    conv2d([5, 10], [3, 3]).with_groups(5),
    [0, 5, 6, 6],
    conv2d
);
layer!(
    conv2d_pointwise,
    Conv2d,
    conv2d([5, 6], [1, 1]),
    [0, 5, 3, 3],
    conv2d
);
layer!(
    conv1d_in_groups,
    Conv1d,
    Conv1dConfig::new(4, 6, 3)
        .with_groups(2)
        .with_stride(2)
        .with_padding(PaddingConfig1d::Explicit(1, 2)),
    [0, 4, 11],
    conv1d
);
layer!(
    conv1d_with_dilation,
    Conv1d,
    Conv1dConfig::new(3, 4, 4)
        .with_dilation(2)
        .with_padding(PaddingConfig1d::Same),
    [0, 3, 12],
    conv1d
);
layer!(
    conv_transpose2d_with_output_padding,
    ConvTranspose2d,
    ConvTranspose2dConfig::new([3, 4], [3, 3])
        .with_stride([2, 2])
        .with_padding([1, 1])
        .with_padding_out([1, 1]),
    [0, 3, 3, 4],
    conv_transpose2d
);
layer!(
    conv_transpose2d_in_groups_with_dilation,
    ConvTranspose2d,
    ConvTranspose2dConfig::new([4, 6], [3, 2])
        .with_groups(2)
        .with_stride([2, 1])
        .with_dilation([1, 2]),
    [0, 4, 4, 3],
    conv_transpose2d
);
layer!(
    group_norm,
    GroupNorm,
    GroupNormConfig::new(2, 6),
    [0, 6, 4, 3],
    group_norm
);
layer!(
    instance_norm,
    InstanceNorm,
    InstanceNormConfig::new(4),
    [0, 4, 5],
    instance_norm
);
layer!(
    layer_norm,
    LayerNorm,
    LayerNormConfig::new(6),
    [0, 4, 6],
    layer_norm
);
layer!(
    layer_norm_without_beta,
    LayerNorm,
    LayerNormConfig::new(6).with_bias(false),
    [0, 6],
    layer_norm
);
layer!(
    rms_norm,
    RmsNorm,
    RmsNormConfig::new(6),
    [0, 4, 6],
    rms_norm
);

fn ids(of: &[usize], positions: usize, vectors: usize) -> Tensor<2, Int> {
    let ids: Vec<i64> = of
        .iter()
        .flat_map(|&row| (0..positions).map(move |t| ((row * 3 + t * t) % vectors) as i64))
        .collect();
    Tensor::from_data(TensorData::new(ids, [of.len(), positions]), &Device::flex())
}

#[test]
fn embedding_with_repeated_ids() {
    struct One;
    #[derive(Module, Debug)]
    struct Net {
        table: Embedding,
    }
    impl Case for One {
        type Net = Net;
        fn net(&self, device: &Device) -> Net {
            Net {
                table: EmbeddingConfig::new(7, 3).init(device),
            }
        }
        fn losses(&self, net: &Net, layers: &mut impl Layers, of: &[usize]) -> Tensor<1> {
            losses(layers.embedding(&net.table, ids(of, 6, 7)), 2, of)
        }
    }
    agrees(&One);
}

#[test]
fn embedding_tied_to_the_output() {
    struct One;
    #[derive(Module, Debug)]
    struct Net {
        table: Embedding,
        middle: Linear,
    }
    impl Case for One {
        type Net = Net;
        fn net(&self, device: &Device) -> Net {
            Net {
                table: EmbeddingConfig::new(40, 8).init(device),
                middle: LinearConfig::new(8, 8).init(device),
            }
        }
        fn losses(&self, net: &Net, layers: &mut impl Layers, of: &[usize]) -> Tensor<1> {
            let x = layers.embedding(&net.table, ids(of, 4, 40));
            let x = layers.linear(&net.middle, x).tanh();
            losses(layers.project(&net.table.weight, x), 2, of)
        }
    }
    agrees(&One);
}

#[test]
fn weights_shared_between_calls_and_between_fields() {
    struct One;
    #[derive(Module, Debug)]
    struct Net {
        first: Linear,
        second: Linear,
        conv: Conv2d,
    }
    impl Case for One {
        type Net = Net;
        fn net(&self, device: &Device) -> Net {
            let first = LinearConfig::new(6, 6).init(device);
            // The mapper that sets values walks fields: share the values again afterwards by cloning here.
            Net {
                second: first.clone(),
                first,
                conv: Conv2dConfig::new([2, 2], [3, 3])
                    .with_padding(PaddingConfig2d::Same)
                    .init(device),
            }
        }
        fn losses(&self, net: &Net, layers: &mut impl Layers, of: &[usize]) -> Tensor<1> {
            let x = rows(1, of, [0, 2, 6, 6], dtype_of(net));
            let x = layers.conv2d(&net.conv, x).tanh();
            let x = layers.conv2d(&net.conv, x.slice([0..of.len(), 0..2, 0..6, 0..4]).tanh());
            let x = x.reshape([of.len(), 8, 6]);
            let x = layers.linear(&net.first, x).tanh();
            let x = layers.linear(&net.first, x).tanh();
            losses(x, 2, of)
        }
    }
    agrees(&One);
}

#[test]
fn elementwise_parameters_of_every_shape() {
    struct One;
    #[derive(Module, Debug)]
    struct Net {
        scalar: Param<Tensor<1>>,
        channel: Param<Tensor<3>>,
        apart: Param<Tensor<3>>,
        position: Param<Tensor<2>>,
        free: Param<Tensor<1>>,
    }
    impl Case for One {
        type Net = Net;
        fn net(&self, device: &Device) -> Net {
            let one = |len| Tensor::<1>::ones([len], device);
            Net {
                scalar: Param::from_tensor(one(1)),
                channel: Param::from_tensor(one(3).reshape([3, 1, 1])),
                apart: Param::from_tensor(one(15).reshape([3, 1, 5])),
                position: Param::from_tensor(one(20).reshape([4, 5])),
                free: Param::from_tensor(one(2)),
            }
        }
        fn losses(&self, net: &Net, layers: &mut impl Layers, of: &[usize]) -> Tensor<1> {
            let x = rows(1, of, [0, 3, 4, 5], dtype_of(net));
            let x = layers.scale(&net.scalar, x);
            let x = layers.shift(&net.channel, x);
            let x = layers.scale(&net.apart, x).tanh();
            let x = layers.shift(&net.position, x);
            let free: Tensor<2> = layers.parameter(&net.free);
            let [count, _] = free.dims();
            let first = free
                .clone()
                .slice([0..count, 0..1])
                .exp()
                .reshape([count, 1, 1, 1]);
            let second = free.slice([0..count, 1..2]).reshape([count, 1, 1, 1]);
            losses(x * first + second, 2, of)
        }
    }
    agrees(&One);
}

#[test]
fn a_weight_that_is_also_used_elementwise() {
    struct One;
    #[derive(Module, Debug)]
    struct Net {
        layer: Linear,
    }
    impl Case for One {
        type Net = Net;
        fn net(&self, device: &Device) -> Net {
            Net {
                layer: LinearConfig::new(3, 4).with_bias(false).init(device),
            }
        }
        fn losses(&self, net: &Net, layers: &mut impl Layers, of: &[usize]) -> Tensor<1> {
            let x = rows(1, of, [0, 3, 3], dtype_of(net));
            let x = layers.linear(&net.layer, x);
            losses(layers.shift(&net.layer.weight, x), 2, of)
        }
    }
    agrees(&One);
}

#[derive(Module, Debug)]
struct Attending {
    layer: MultiHeadAttention,
}

/// Rows of four positions, the last of which is padding in every row.
fn padding(of: &[usize]) -> Tensor<2, Bool> {
    let padding: Vec<bool> = of
        .iter()
        .flat_map(|_| [false, false, false, true])
        .collect();
    Tensor::from_data(TensorData::new(padding, [of.len(), 4]), &Device::flex())
}

#[test]
fn attention_with_padding() {
    struct One;
    impl Case for One {
        type Net = Attending;
        fn net(&self, device: &Device) -> Attending {
            let config = MultiHeadAttentionConfig::new(6, 2).with_dropout(0.0);
            Attending {
                layer: config.init(device),
            }
        }
        fn losses(&self, net: &Attending, layers: &mut impl Layers, of: &[usize]) -> Tensor<1> {
            let mut input = AttentionInput::own(rows(1, of, [0, 4, 6], dtype_of(net)));
            input.padding = Some(padding(of));
            losses(attention(layers, &net.layer, input), 2, of)
        }
    }
    agrees(&One);

    let layer = One.net(&device()).layer;
    let of = [0, 1, 2];
    let x: Tensor<3> = rows(1, &of, [0, 4, 6], DType::F32);
    let mut input = AttentionInput::own(x.clone());
    input.padding = Some(padding(&of));
    let ours = attention(&mut Plain, &layer, input);
    let theirs = layer
        .forward(MhaInput::self_attn(x).mask_pad(padding(&of)))
        .context;
    let difference = (ours - theirs).abs().max().into_scalar::<f32>();
    assert!(difference < 1e-6, "{difference}");
}

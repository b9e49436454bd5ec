//! Burn's multi-head attention, call by call.

use burn::nn::attention::MultiHeadAttention;
use burn::tensor::activation::{quiet_softmax, softmax};
use burn::tensor::{Bool, Tensor};

use crate::Layers;

/// What attends to what.
#[derive(Clone, Debug)]
pub struct AttentionInput {
    /// `[rows, queries, size]`.
    pub query: Tensor<3>,
    /// `[rows, keys, size]`.
    pub key: Tensor<3>,
    /// `[rows, keys, size]`.
    pub value: Tensor<3>,
    /// Keys to leave out, `[rows, keys]`.
    pub padding: Option<Tensor<2, Bool>>,
    /// Pairs to leave out, `[rows, queries, keys]`.
    pub mask: Option<Tensor<3, Bool>>,
}

impl AttentionInput {
    /// `[rows, positions, size]` attends to itself.
    #[must_use]
    pub fn own(x: Tensor<3>) -> Self {
        Self {
            query: x.clone(),
            key: x.clone(),
            value: x,
            padding: None,
            mask: None,
        }
    }
}

/// The context of [`MultiHeadAttention`], `[rows, queries, size]`, with its four linear maps called through
/// `layers`: the same parameters and values as the layer's own forward pass.
pub fn attention(
    layers: &mut impl Layers,
    layer: &MultiHeadAttention,
    input: AttentionInput,
) -> Tensor<3> {
    let [rows, queries, size] = input.query.dims();
    let heads = |x: Tensor<3>| {
        let [rows, positions, _] = x.dims();
        let x = x.reshape([rows, positions, layer.n_heads, layer.d_k]);
        let x: Tensor<4> = x.swap_dims(1, 2);
        x
    };
    let query = heads(layers.linear(&layer.query, input.query));
    let key = heads(layers.linear(&layer.key, input.key));
    let value = heads(layers.linear(&layer.value, input.value));
    let mut scores = query
        .matmul(key.transpose())
        .div_scalar((layer.d_k as f64).sqrt());
    if let Some(padding) = input.padding {
        let [rows, keys] = padding.dims();
        scores = scores.mask_fill(padding.reshape([rows, 1, 1, keys]), layer.min_float);
    }
    if let Some(mask) = input.mask {
        let [rows, queries, keys] = mask.dims();
        scores = scores.mask_fill(mask.reshape([rows, 1, queries, keys]), layer.min_float);
    }
    let weights = if layer.quiet_softmax {
        quiet_softmax(scores, 3)
    } else {
        softmax(scores, 3)
    };
    let context = layer.dropout.forward(weights).matmul(value);
    let context = context.swap_dims(1, 2).reshape([rows, queries, size]);
    layers.linear(&layer.output, context)
}

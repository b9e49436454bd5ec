//! The layers a forward pass may call, with or without privacy.

use burn::module::Param;
use burn::nn::conv::{Conv1d, Conv2d, ConvTranspose2d};
use burn::nn::{Embedding, GroupNorm, InstanceNorm, LayerNorm, Linear, RmsNorm};
use burn::tensor::{Int, Tensor};

/// Calls of layers with trainable parameters.
///
/// Write a forward pass once, over `&mut impl Layers`. With [`Plain`](crate::Plain) it is an ordinary forward
/// pass; with [`Taps`](crate::Taps) it also records what per-unit gradients need. Everything without
/// trainable parameters (activations, pooling, dropout, residual sums, attention scores) is called as usual,
/// as long as it treats the rows of the batch apart from each other.
///
/// The first axis of every tensor is the batch: one entry per row, in the same order throughout. Positions (of
/// a sequence, of patches) come behind it.
///
/// ```
/// use burn::module::Module;
/// use burn::nn::{Linear, conv::Conv2d};
/// use burn::tensor::{Tensor, activation::relu};
/// use dp_burn::Layers;
///
/// #[derive(Module, Debug)]
/// struct Net {
///     conv: Conv2d,
///     head: Linear,
/// }
///
/// impl Net {
///     fn forward(&self, layers: &mut impl Layers, images: Tensor<4>) -> Tensor<2> {
///         let x = relu(layers.conv2d(&self.conv, images));
///         layers.linear(&self.head, x.flatten(1, 3))
///     }
/// }
/// ```
pub trait Layers {
    /// `x W + b` over the last axis: `[rows, ..., inputs]` to `[rows, ..., outputs]`.
    fn linear<const D: usize>(&mut self, layer: &Linear, x: Tensor<D>) -> Tensor<D>;

    /// `x W^T` over the last axis, for a weight `[outputs, inputs]` such as a tied embedding.
    fn project<const D: usize>(&mut self, weight: &Param<Tensor<2>>, x: Tensor<D>) -> Tensor<D>;

    /// Convolution of `[rows, channels, length]`.
    fn conv1d(&mut self, layer: &Conv1d, x: Tensor<3>) -> Tensor<3>;

    /// Convolution of `[rows, channels, height, width]`.
    fn conv2d(&mut self, layer: &Conv2d, x: Tensor<4>) -> Tensor<4>;

    /// Transposed convolution of `[rows, channels, height, width]`.
    fn conv_transpose2d(&mut self, layer: &ConvTranspose2d, x: Tensor<4>) -> Tensor<4>;

    /// Group normalisation of `[rows, channels, ...]`.
    fn group_norm<const D: usize>(&mut self, layer: &GroupNorm, x: Tensor<D>) -> Tensor<D>;

    /// Instance normalisation of `[rows, channels, ...]`.
    fn instance_norm<const D: usize>(&mut self, layer: &InstanceNorm, x: Tensor<D>) -> Tensor<D>;

    /// Layer normalisation over the last axis.
    fn layer_norm<const D: usize>(&mut self, layer: &LayerNorm, x: Tensor<D>) -> Tensor<D>;

    /// Root mean square normalisation over the last axis.
    fn rms_norm<const D: usize>(&mut self, layer: &RmsNorm, x: Tensor<D>) -> Tensor<D>;

    /// Vectors of `ids [rows, positions]` as `[rows, positions, size]`.
    fn embedding(&mut self, layer: &Embedding, ids: Tensor<2, Int>) -> Tensor<3>;

    /// `x * parameter`, broadcast as in NumPy: shapes are aligned at the last axis.
    ///
    /// The parameter may not extend over the batch axis.
    fn scale<const P: usize, const D: usize>(
        &mut self,
        parameter: &Param<Tensor<P>>,
        x: Tensor<D>,
    ) -> Tensor<D>;

    /// `x + parameter`, broadcast as [`scale`](Self::scale).
    fn shift<const P: usize, const D: usize>(
        &mut self,
        parameter: &Param<Tensor<P>>,
        x: Tensor<D>,
    ) -> Tensor<D>;

    /// The parameter with the batch in front, `[rows, ...]` (or `[1, ...]` without privacy; it broadcasts), for
    /// any use that the other calls do not cover. Private training then holds one copy per row: for small
    /// parameters.
    ///
    /// # Panics
    /// When `Q` is not `P + 1`.
    fn parameter<const P: usize, const Q: usize>(
        &mut self,
        parameter: &Param<Tensor<P>>,
    ) -> Tensor<Q>;
}

/// `parameter` with axes of length 1 in front, up to `D` axes.
///
/// # Panics
/// When it has more than `D` axes.
pub(crate) fn aligned<const P: usize, const D: usize>(parameter: &Param<Tensor<P>>) -> Tensor<D> {
    let value = parameter.val();
    let dims = value.dims();
    assert!(P <= D, "a parameter of {P} axes does not broadcast to {D}");
    let mut shape = [1; D];
    shape[D - P..].copy_from_slice(&dims);
    value.reshape(shape)
}

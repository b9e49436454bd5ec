//! Burn's layers as operations of the host: shapes, and the geometry of windows.

use burn::nn::conv::{Conv1d, Conv2d, ConvTranspose2d};
use burn::nn::{PaddingConfig1d, PaddingConfig2d};
use burn::tensor::Tensor;

use crate::geometry::{Windows, windows_along};
use crate::host::conv::Convolution;
use crate::host::linear::LinearMap;
use crate::host::op;

/// A convolution on the host, and with `tapped` a leaf for its gradient as `[rows, outputs, positions, 1]`;
/// nothing on other devices, for which Burn's own operation is the right one.
pub(crate) fn try_convolve(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    convolution: Convolution,
    tapped: bool,
) -> Option<(Tensor<4>, Option<Tensor<4>>)> {
    let [_, channels, _, _] = x.dims();
    let windows = convolution.windows;
    // Shapes that do not fit are for Burn to refuse, in its own words.
    let fits = channels == windows.channels && windows.output.iter().all(|&n| n > 0);
    if !fits || !(x.is_autodiff() || weight.is_autodiff()) {
        return None;
    }
    let positions = windows.positions();
    let shape = [convolution.rows, convolution.outputs, positions, 1];
    let layer = op::Layer::Convolution(convolution);
    op::apply(layer, x, weight, bias, tapped.then_some(shape))
}

/// A linear map over the last axis on the host, and with `tapped` a leaf for its gradient as
/// `[rows, positions, outputs, 1]`.
pub(crate) fn try_linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    tapped: bool,
) -> Option<(Tensor<D>, Option<Tensor<4>>)> {
    let dims = x.dims();
    let [inputs, outputs] = weight.dims();
    if D < 2 || dims[D - 1] != inputs || !(x.is_autodiff() || weight.is_autodiff()) {
        return None;
    }
    let positions = dims[1..D - 1].iter().product();
    let map = LinearMap {
        rows: dims[0] * positions,
        inputs,
        outputs,
    };
    let shape = [dims[0], positions, outputs, 1];
    op::apply(
        op::Layer::Linear(map),
        x,
        weight,
        bias,
        tapped.then_some(shape),
    )
}

pub(crate) fn of_conv2d(layer: &Conv2d, [rows, _, height, width]: [usize; 4]) -> Convolution {
    let (kernel, stride) = (layer.kernel_size, layer.stride);
    let padding = match layer.padding {
        PaddingConfig2d::Valid => [(0, 0); 2],
        PaddingConfig2d::Explicit(top, left, bottom, right) => [(top, bottom), (left, right)],
        PaddingConfig2d::Same => [
            same(kernel[0], stride[0], height),
            same(kernel[1], stride[1], width),
        ],
    };
    let [outputs, inputs, _, _] = layer.weight.dims();
    Convolution {
        windows: windows(
            inputs * layer.groups,
            layer.groups,
            [height, width],
            kernel,
            stride,
            layer.dilation,
            padding,
        ),
        outputs,
        rows,
    }
}

/// As a convolution over maps of height 1.
pub(crate) fn of_conv1d(layer: &Conv1d, [rows, _, length]: [usize; 3]) -> Convolution {
    let padding = match layer.padding {
        PaddingConfig1d::Valid => (0, 0),
        PaddingConfig1d::Explicit(left, right) => (left, right),
        PaddingConfig1d::Same => same(layer.kernel_size, layer.stride, length),
    };
    let [outputs, inputs, _] = layer.weight.dims();
    Convolution {
        windows: windows(
            inputs * layer.groups,
            layer.groups,
            [1, length],
            [1, layer.kernel_size],
            [1, layer.stride],
            [1, layer.dilation],
            [(0, 0), padding],
        ),
        outputs,
        rows,
    }
}

/// The windows over the *output* of a transposed convolution that the positions of its input spread to: the
/// layer is the adjoint of the convolution with these windows.
pub(crate) fn of_conv_transpose2d(
    layer: &ConvTranspose2d,
    input: [usize; 2],
    output: [usize; 2],
) -> Windows {
    let [_, outputs, _, _] = layer.weight.dims();
    Windows {
        channels: outputs * layer.groups,
        groups: layer.groups,
        input: output,
        output: input,
        kernel: layer.kernel_size,
        stride: layer.stride,
        dilation: layer.dilation,
        before: layer.padding,
    }
}

fn windows(
    channels: usize,
    groups: usize,
    input: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    padding: [(usize, usize); 2],
) -> Windows {
    let output = [0, 1].map(|axis| {
        let (before, after) = padding[axis];
        windows_along(
            input[axis],
            kernel[axis],
            stride[axis],
            dilation[axis],
            before + after,
        )
    });
    Windows {
        channels,
        groups,
        input,
        output,
        kernel,
        stride,
        dilation,
        before: padding.map(|(before, _)| before),
    }
}

/// Burn's `Same` padding: as many windows as input positions per stride, the odd one at the end.
fn same(kernel: usize, stride: usize, input: usize) -> (usize, usize) {
    let windows = input.div_ceil(stride);
    let needed = (windows.max(1) - 1) * stride + kernel;
    let total = if windows > 0 {
        needed.saturating_sub(input)
    } else {
        0
    };
    (total / 2, total - total / 2)
}

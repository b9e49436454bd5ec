//! Convolutions: 1x1 grouped, depthwise, ungrouped.

use burn::tensor::Tensor;
use burn::tensor::module::conv2d;

use super::host::{apply, operands};
use crate::kernel::dense::Dense;
use crate::kernel::depthwise::Depthwise;
use crate::kernel::pointwise::Product;
use crate::kernel::taps::Axis;

/// Grouped 1x1 convolution; weight `[out, in / groups]`.
pub(crate) fn pointwise(
    x: &Tensor<4>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<1>>,
    groups: usize,
) -> Tensor<4> {
    let [inputs, height, width, batch] = x.dims();
    let [outputs, inner] = weight.dims();
    debug_assert_eq!(inner * groups, inputs, "channels of a 1x1 convolution");
    let product = Product { inputs, outputs, groups, columns: height * width * batch };
    let shape = [outputs, height, width, batch];
    if let Some(bias) = bias {
        if let Some(operands) = operands!(x, weight, bias) {
            return apply(operands, shape, |[x, w, b]| {
                (product.forward(x, w, Some(b)), move |[x, w, _]: [&[f32]; 3], dy: &[f32], need: [bool; 3]| {
                    [
                        need[0].then(|| product.input_gradient(dy, w)),
                        need[1].then(|| product.weight_gradient(dy, x)),
                        need[2].then(|| product.bias_gradient(dy)),
                    ]
                })
            });
        }
    } else if let Some(operands) = operands!(x, weight) {
        return apply(operands, shape, |[x, w]| {
            (product.forward(x, w, None), move |[x, w]: [&[f32]; 2], dy: &[f32], need: [bool; 2]| {
                [
                    need[0].then(|| product.input_gradient(dy, w)),
                    need[1].then(|| product.weight_gradient(dy, x)),
                ]
            })
        });
    }
    let blocks = weight.clone().reshape([groups, outputs / groups, inner]);
    let y = blocks.matmul(x.clone().reshape([groups, inner, product.columns])).reshape(shape);
    match bias {
        Some(bias) => y + bias.clone().reshape([outputs, 1, 1, 1]),
        None => y,
    }
}

/// Depthwise convolution with "same" padding; weight `[channels, k, k]`.
pub(crate) fn depthwise(
    x: &Tensor<4>,
    weight: &Tensor<3>,
    bias: Option<&Tensor<1>>,
    stride: usize,
    dilation: usize,
) -> Tensor<4> {
    let [channels, height, width, batch] = x.dims();
    let kernel = weight.dims()[1];
    let axis = |input| Axis { input, kernel, stride, dilation };
    let shape = Depthwise { channels, rows: axis(height), cols: axis(width), batch };
    let out = [channels, shape.rows.output(), shape.cols.output(), batch];
    if let Some(bias) = bias {
        if let Some(operands) = operands!(x, weight, bias) {
            let columns = out[1] * out[2] * batch;
            return apply(operands, out, |[x, w, b]| {
                (shape.forward(x, w, Some(b)), move |[x, w, _]: [&[f32]; 3], dy: &[f32], need: [bool; 3]| {
                    [
                        need[0].then(|| shape.input_gradient(dy, w)),
                        need[1].then(|| shape.weight_gradient(dy, x)),
                        need[2].then(|| dy.chunks_exact(columns).map(crate::kernel::sum).collect()),
                    ]
                })
            });
        }
    } else if let Some(operands) = operands!(x, weight) {
        return apply(operands, out, |[x, w]| {
            (shape.forward(x, w, None), move |[x, w]: [&[f32]; 2], dy: &[f32], need: [bool; 2]| {
                [
                    need[0].then(|| shape.input_gradient(dy, w)),
                    need[1].then(|| shape.weight_gradient(dy, x)),
                ]
            })
        });
    }
    let weight = weight.clone().reshape([channels, 1, kernel, kernel]);
    same_conv(x, weight, bias, [stride, stride], [dilation, dilation], channels)
}

/// Ungrouped convolution with "same" padding; weight `[out, in, kh, kw]`, stride per axis.
pub(crate) fn dense_conv(
    x: &Tensor<4>,
    weight: &Tensor<4>,
    bias: &Tensor<1>,
    stride: [usize; 2],
) -> Tensor<4> {
    let [inputs, height, width, batch] = x.dims();
    let [outputs, _, kh, kw] = weight.dims();
    let axis = |input, kernel, stride| Axis { input, kernel, stride, dilation: 1 };
    let shape = Dense {
        inputs,
        outputs,
        rows: axis(height, kh, stride[0]),
        cols: axis(width, kw, stride[1]),
        batch,
    };
    let out = [outputs, shape.rows.output(), shape.cols.output(), batch];
    if let Some(operands) = operands!(x, weight, bias) {
        let columns = out[1] * out[2] * batch;
        return apply(operands, out, |[x, w, b]| {
            (shape.forward(x, w, Some(b)), move |[x, w, _]: [&[f32]; 3], dy: &[f32], need: [bool; 3]| {
                [
                    need[0].then(|| shape.input_gradient(dy, w)),
                    need[1].then(|| shape.weight_gradient(dy, x)),
                    need[2].then(|| dy.chunks_exact(columns).map(crate::kernel::sum).collect()),
                ]
            })
        });
    }
    same_conv(x, weight.clone(), Some(bias), stride, [1, 1], 1)
}

/// Burn's convolution with explicit "same" padding.
fn same_conv(
    x: &Tensor<4>,
    weight: Tensor<4>,
    bias: Option<&Tensor<1>>,
    stride: [usize; 2],
    dilation: [usize; 2],
    groups: usize,
) -> Tensor<4> {
    let [_, height, width, _] = x.dims();
    let [_, _, kh, kw] = weight.dims();
    let pad = |input, kernel, axis: usize| {
        Axis { input, kernel, stride: stride[axis], dilation: dilation[axis] }.padding()
    };
    let ((top, bottom), (left, right)) = (pad(height, kh, 0), pad(width, kw, 1));
    let x = x.clone().permute([3, 0, 1, 2]).pad((left, right, top, bottom), 0.0);
    let options = burn::tensor::ops::ConvOptions::new(stride, [0, 0], dilation, groups);
    conv2d(x, weight, bias.cloned(), options).permute([1, 2, 3, 0])
}


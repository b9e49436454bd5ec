//! Operations without weights.

use burn::tensor::activation::{gelu, relu};
use burn::tensor::{Int, Tensor, TensorData};

use super::host::{apply, operands};
use crate::Activation;
use crate::kernel::arrange as kernel;
use crate::kernel::taps::Axis;

/// Concatenates along the channels and shuffles in 8 groups: `out[j * 8 + g] = in[g * (n / 8) + j]`.
pub(crate) fn shuffle_concat<const N: usize>(maps: [&Tensor<4>; N]) -> Tensor<4> {
    let [_, height, width, batch] = maps[0].dims();
    let channels = maps.map(|map| map.dims()[0]);
    let total: usize = channels.iter().sum();
    let columns = height * width * batch;
    if let Some(operands) = all_operands(maps) {
        return apply(operands, [total, height, width, batch], move |maps| {
            (kernel::concat(&maps, columns, true), move |_: [&[f32]; N], dy: &[f32], _: [bool; N]| {
                let mut parts = kernel::split(dy, &channels, columns, true).into_iter();
                std::array::from_fn(|_| parts.next())
            })
        });
    }
    let order: Vec<i64> = (0..total).map(|out| kernel::shuffled(out, total) as i64).collect();
    let joined = Tensor::cat(maps.iter().map(|&map| map.clone()).collect(), 0);
    let order = Tensor::<1, Int>::from_data(TensorData::new(order, [total]), &joined.device());
    joined.select(0, order)
}

fn all_operands<const N: usize>(maps: [&Tensor<4>; N]) -> Option<[super::host::Operand; N]> {
    let found: Option<Vec<_>> = maps.iter().map(|map| super::host::Operand::of(map)).collect();
    found?.try_into().ok()
}

/// Pixels 0, 2, 4, ... of both axes: what a 1x1 convolution with stride 2 reads.
pub(crate) fn subsample(x: &Tensor<4>) -> Tensor<4> {
    let [channels, height, width, batch] = x.dims();
    let shape = [channels, height.div_ceil(2), width.div_ceil(2), batch];
    if let Some(operands) = operands!(x) {
        return apply(operands, shape, |[x]| {
            (
                kernel::subsample(x, height, width, batch),
                move |_: [&[f32]; 1], dy: &[f32], _: [bool; 1]| {
                    [Some(kernel::spread(dy, height, width, batch))]
                },
            )
        });
    }
    x.clone().slice(burn::tensor::s![.., 0..height as i32;2, 0..width as i32;2, ..])
}

/// 3x3 maximum, stride 2, "same" padding with minus infinity.
pub(crate) fn max_pool(x: &Tensor<4>) -> Tensor<4> {
    let [channels, height, width, batch] = x.dims();
    let axis = |input| Axis { input, kernel: 3, stride: 2, dilation: 1 };
    let (rows, cols) = (axis(height), axis(width));
    let shape = [channels, rows.output(), cols.output(), batch];
    if let Some(operands) = operands!(x) {
        return apply(operands, shape, |[x]| {
            let (y, winners) = kernel::max_pool(x, channels, rows, cols, batch);
            let inputs = x.len();
            (y, move |_: [&[f32]; 1], dy: &[f32], _: [bool; 1]| {
                [Some(kernel::max_unpool(dy, &winners, inputs))]
            })
        });
    }
    let ((top, bottom), (left, right)) = (rows.padding(), cols.padding());
    let padded =
        x.clone().permute([3, 0, 1, 2]).pad((left, right, top, bottom), f32::NEG_INFINITY);
    let mut options = burn::tensor::ops::MaxPoolOptions::new([3, 3]);
    options.stride = [2, 2];
    burn::tensor::module::max_pool2d(padded, options)
        .permute([1, 2, 3, 0])
}

/// Mean over the pixels of the map times an optional mask: `[channels, batch]`.
pub(crate) fn pixel_mean(x: &Tensor<4>, mask: Option<&Tensor<4>>) -> Tensor<2> {
    let [channels, height, width, batch] = x.dims();
    let pixels = height * width;
    let scale = 1.0 / pixels as f32;
    let sums = move |x: &[f32], mask: Option<&[f32]>| {
        let mut y = vec![0.0; channels * batch];
        kernel::pixel_sum(x, mask, pixels, batch, scale, &mut y);
        y
    };
    match mask {
        None => {
            if let Some(operands) = operands!(x) {
                return apply(operands, [channels, batch], |[x]| {
                    (sums(x, None), move |_: [&[f32]; 1], dy: &[f32], _: [bool; 1]| {
                        [Some(kernel::pixel_spread(dy, None, pixels, batch, scale))]
                    })
                });
            }
            x.clone().reshape([channels, pixels, batch]).mean_dim(1).reshape([channels, batch])
        }
        Some(mask) => {
            if let Some(operands) = operands!(x, mask) {
                return apply(operands, [channels, batch], |[x, mask]| {
                    (sums(x, Some(mask)), move |[_, mask]: [&[f32]; 2], dy: &[f32], _: [bool; 2]| {
                        [Some(kernel::pixel_spread(dy, Some(mask), pixels, batch, scale)), None]
                    })
                });
            }
            pixel_mean(&(x.clone() * mask.clone()), None)
        }
    }
}

/// `activation(a + b)`.
pub(crate) fn add_activate(a: &Tensor<4>, b: &Tensor<4>, activation: Activation) -> Tensor<4> {
    if let Some(operands) = operands!(a, b) {
        return apply(operands, a.dims(), |[a, b]| {
            (
                kernel::add_activate(a, b, activation),
                move |[a, b]: [&[f32]; 2], dy: &[f32], need: [bool; 2]| {
                    let grad = kernel::add_activate_gradient(a, b, dy, activation);
                    match need {
                        [true, true] => [Some(grad.clone()), Some(grad)],
                        [true, false] => [Some(grad), None],
                        [false, _] => [None, Some(grad)],
                    }
                },
            )
        });
    }
    let sum = a.clone() + b.clone();
    match activation {
        Activation::Relu => relu(sum),
        Activation::Gelu => gelu(sum),
    }
}

/// Late fusion: concatenation of two maps, each times a learned scalar `[1]` (section 3.5).
pub(crate) fn late_fusion(maps: [&Tensor<4>; 2], scales: [&Tensor<1>; 2]) -> Tensor<4> {
    let [channels, height, width, batch] = maps[0].dims();
    if let Some(operands) = operands!(maps[0], maps[1], scales[0], scales[1]) {
        return apply(operands, [2 * channels, height, width, batch], |[a, b, s, t]| {
            let y = a.iter().map(|a| a * s[0]).chain(b.iter().map(|b| b * t[0])).collect();
            (y, |[a, b, s, t]: [&[f32]; 4], dy: &[f32], _: [bool; 4]| {
                let (da, db) = dy.split_at(a.len());
                [
                    Some(da.iter().map(|d| d * s[0]).collect()),
                    Some(db.iter().map(|d| d * t[0]).collect()),
                    Some(vec![kernel::inner(a, da)]),
                    Some(vec![kernel::inner(b, db)]),
                ]
            })
        });
    }
    let scaled = |i: usize| maps[i].clone() * scales[i].clone().reshape([1, 1, 1, 1]);
    Tensor::cat(vec![scaled(0), scaled(1)], 0)
}

//! Normalisation layers.

use burn::tensor::Tensor;

use super::host::{apply, operands};
use crate::kernel::norm::GroupNorm;

/// GroupNorm with epsilon 1e-5, with or without a following ReLU.
pub(crate) fn group_norm(
    x: &Tensor<4>,
    gamma: &Tensor<1>,
    beta: &Tensor<1>,
    groups: usize,
    relu: bool,
) -> Tensor<4> {
    let [channels, height, width, batch] = x.dims();
    if let Some(operands) = operands!(x, gamma, beta) {
        let shape = GroupNorm { channels, groups, pixels: height * width, batch, epsilon: 1e-5, relu };
        return apply(operands, x.dims(), |[x, gamma, beta]| {
            let (y, moments) = shape.forward(x, gamma, beta);
            (y, move |[x, gamma, beta]: [&[f32]; 3], dy: &[f32], _: [bool; 3]| {
                let (dx, dgamma, dbeta) = shape.backward(x, gamma, beta, &moments, dy);
                [Some(dx), Some(dgamma), Some(dbeta)]
            })
        });
    }
    let rows = channels / groups * height * width;
    let grouped = x.clone().reshape([groups, rows, batch]);
    let centred = grouped.clone() - grouped.mean_dim(1);
    let variance = (centred.clone() * centred.clone()).mean_dim(1);
    let hat = (centred / (variance + 1e-5).sqrt()).reshape(x.dims());
    let y = affine(hat, gamma, beta);
    if relu { burn::tensor::activation::relu(y) } else { y }
}

/// `x * gamma + beta` per channel.
pub(crate) fn affine(x: Tensor<4>, gamma: &Tensor<1>, beta: &Tensor<1>) -> Tensor<4> {
    let channels = x.dims()[0];
    let column = |v: &Tensor<1>| v.clone().reshape([channels, 1, 1, 1]);
    x * column(gamma) + column(beta)
}

/// BatchNorm with epsilon 1e-3 from given moments, or from the batch's own when there are none.
pub(crate) fn batch_norm(
    x: &Tensor<4>,
    gamma: &Tensor<1>,
    beta: &Tensor<1>,
    moments: Option<(&Tensor<1>, &Tensor<1>)>,
) -> Tensor<4> {
    let channels = x.dims()[0];
    let epsilon = 1e-3;
    let column = |v: &Tensor<1>| v.clone().reshape([channels, 1, 1, 1]);
    let (mean, variance) = match moments {
        Some((mean, variance)) => (column(mean), column(variance)),
        None => {
            let flat = x.clone().reshape([channels as i32, -1]);
            let mean = flat.clone().mean_dim(1);
            let centred = flat - mean.clone();
            let variance = (centred.clone() * centred).mean_dim(1);
            (mean.reshape([channels, 1, 1, 1]), variance.reshape([channels, 1, 1, 1]))
        }
    };
    affine((x.clone() - mean) / (variance + epsilon).sqrt(), gamma, beta)
}

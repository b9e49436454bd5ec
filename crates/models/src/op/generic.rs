//! The operations in Burn's own terms, for every device and precision.

use burn::tensor::activation::{gelu, relu, sigmoid, softmax};
use burn::tensor::module::conv2d;
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Int, Tensor, TensorData};

use crate::Activation;
use crate::kernel::arrange::shuffled;
use crate::kernel::gates::{self, Formulas};
use crate::kernel::taps::Axis;

/// The tensors of one MACFusion unit, in the order of the kernel's unit.
#[derive(Clone, Debug)]
pub(crate) struct UnitTensors {
    pub psi: [Tensor<2>; 2],
    /// `S`, `curvature_log`, `lorentz_alpha`, `hyper_beta`, `hyper_gate`, `hyper_gate1`, `cross_gate`,
    /// `output_gate`.
    pub rest: [Tensor<1>; 8],
}

/// Grouped 1x1 convolution; weight `[out, in / groups]`.
pub(crate) fn pointwise(
    x: &Tensor<4>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<1>>,
    groups: usize,
) -> Tensor<4> {
    let [_, height, width, batch] = x.dims();
    let [outputs, inner] = weight.dims();
    let blocks = weight.clone().reshape([groups, outputs / groups, inner]);
    let columns = x.clone().reshape([groups, inner, height * width * batch]);
    let y = blocks
        .matmul(columns)
        .reshape([outputs, height, width, batch]);
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
    let [channels, kernel, _] = weight.dims();
    let weight = weight.clone().reshape([channels, 1, kernel, kernel]);
    same_conv(
        x,
        weight,
        bias,
        [stride, stride],
        [dilation, dilation],
        channels,
    )
}

/// Ungrouped convolution with "same" padding; weight `[out, in, kh, kw]`, stride per axis.
pub(crate) fn dense_conv(
    x: &Tensor<4>,
    weight: &Tensor<4>,
    bias: &Tensor<1>,
    stride: [usize; 2],
) -> Tensor<4> {
    same_conv(x, weight.clone(), Some(bias), stride, [1, 1], 1)
}

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
        Axis {
            input,
            kernel,
            stride: stride[axis],
            dilation: dilation[axis],
        }
        .padding()
    };
    let ((top, bottom), (left, right)) = (pad(height, kh, 0), pad(width, kw, 1));
    let x = x
        .clone()
        .permute([3, 0, 1, 2])
        .pad((left, right, top, bottom), 0.0);
    let options = ConvOptions::new(stride, [0, 0], dilation, groups);
    conv2d(x, weight, bias.cloned(), options).permute([1, 2, 3, 0])
}

/// GroupNorm with epsilon 1e-5.
pub(crate) fn group_norm(
    x: &Tensor<4>,
    gamma: &Tensor<1>,
    beta: &Tensor<1>,
    groups: usize,
) -> Tensor<4> {
    let [channels, height, width, batch] = x.dims();
    let rows = channels / groups * height * width;
    let grouped = x.clone().reshape([groups, rows, batch]);
    let centred = grouped.clone() - grouped.mean_dim(1);
    let variance = (centred.clone() * centred.clone()).mean_dim(1);
    let hat = (centred / (variance + 1e-5).sqrt()).reshape(x.dims());
    affine(hat, gamma, beta)
}

fn column(vector: &Tensor<1>) -> Tensor<4> {
    let channels = vector.dims()[0];
    vector.clone().reshape([channels, 1, 1, 1])
}

fn affine(x: Tensor<4>, gamma: &Tensor<1>, beta: &Tensor<1>) -> Tensor<4> {
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
    let (mean, variance) = match moments {
        Some((mean, variance)) => (column(mean), column(variance)),
        None => {
            let flat = x.clone().reshape([channels as i32, -1]);
            let mean = flat.clone().mean_dim(1);
            let centred = flat - mean.clone();
            let variance = (centred.clone() * centred).mean_dim(1);
            (
                mean.reshape([channels, 1, 1, 1]),
                variance.reshape([channels, 1, 1, 1]),
            )
        }
    };
    affine((x.clone() - mean) / (variance + 1e-3).sqrt(), gamma, beta)
}

/// Concatenation along the channels, shuffled in 8 groups.
pub(crate) fn shuffle_concat(maps: &[&Tensor<4>]) -> Tensor<4> {
    let joined = Tensor::cat(maps.iter().map(|&map| map.clone()).collect(), 0);
    let total = joined.dims()[0];
    let order: Vec<i64> = (0..total).map(|out| shuffled(out, total) as i64).collect();
    let order = Tensor::<1, Int>::from_data(TensorData::new(order, [total]), &joined.device());
    joined.select(0, order)
}

/// Pixels 0, 2, 4, ... of both axes.
pub(crate) fn subsample(x: &Tensor<4>) -> Tensor<4> {
    let [_, height, width, _] = x.dims();
    x.clone()
        .slice(burn::tensor::s![.., 0..height as i32;2, 0..width as i32;2, ..])
}

/// 3x3 maximum, stride 2, "same" padding with minus infinity.
pub(crate) fn max_pool(x: &Tensor<4>) -> Tensor<4> {
    let [_, height, width, _] = x.dims();
    let pad = |input| {
        Axis {
            input,
            kernel: 3,
            stride: 2,
            dilation: 1,
        }
        .padding()
    };
    let ((top, bottom), (left, right)) = (pad(height), pad(width));
    let padded = x
        .clone()
        .permute([3, 0, 1, 2])
        .pad((left, right, top, bottom), f32::NEG_INFINITY);
    let mut options = MaxPoolOptions::new([3, 3]);
    options.stride = [2, 2];
    burn::tensor::module::max_pool2d(padded, options).permute([1, 2, 3, 0])
}

/// Mean over the pixels of the map: `[channels, batch]`.
pub(crate) fn pixel_mean(x: &Tensor<4>) -> Tensor<2> {
    let [channels, height, width, batch] = x.dims();
    x.clone()
        .reshape([channels, height * width, batch])
        .mean_dim(1)
        .reshape([channels, batch])
}

/// Adaptive averaging of a map `[channels, 1, length, batch]` in time to `side * side` pixels.
pub(crate) fn resample(x: &Tensor<4>, side: usize) -> Tensor<4> {
    let [channels, _, length, batch] = x.dims();
    let pixels = side * side;
    let mut weights = vec![0.0_f32; pixels * length];
    for t in 0..pixels {
        let window = crate::kernel::arrange::window(t, length, pixels);
        let weight = 1.0 / window.len() as f32;
        weights[t * length..(t + 1) * length][window].fill(weight);
    }
    let weights = TensorData::new(weights, [1, pixels, length]);
    let weights = Tensor::<3>::from_data(weights, (&x.device(), x.dtype()));
    weights
        .expand([channels, pixels, length])
        .matmul(x.clone().reshape([channels, length, batch]))
        .reshape([channels, side, side, batch])
}

/// Nearest-neighbour upscaling of both axes.
pub(crate) fn upscale(x: &Tensor<4>, factor: usize) -> Tensor<4> {
    let [channels, height, width, batch] = x.dims();
    x.clone()
        .reshape([channels * height, 1, width, 1, batch])
        .expand([channels * height, factor, width, factor, batch])
        .reshape([channels, height * factor, width * factor, batch])
}

/// `activation(x)`.
pub(crate) fn activate(x: Tensor<4>, activation: Activation) -> Tensor<4> {
    match activation {
        Activation::Relu => relu(x),
        Activation::Gelu => gelu(x),
    }
}

/// One MACFusion unit (section 3.3, steps 1 to 10).
pub(crate) fn unit(x: [&Tensor<4>; 2], unit: &UnitTensors, formulas: Formulas) -> [Tensor<4>; 2] {
    let maps = unit_maps(x, unit, formulas);
    let [channels, _, _, batch] = x[0].dims();
    let open = unit.rest[6].clone() * unit.rest[7].clone();
    let gate = |i: usize| {
        let map = maps[1 - i].clone() * open.clone().reshape([channels, 1]);
        x[i].clone() * map.reshape([channels, 1, 1, batch])
    };
    [gate(0), gate(1)]
}

/// `A_i + h_i`, `[F, B]`, of both streams.
fn unit_maps(x: [&Tensor<4>; 2], unit: &UnitTensors, formulas: Formulas) -> [Tensor<2>; 2] {
    let [channels, _, _, batch] = x[0].dims();
    let device = x[0].device();
    let one = |t: &Tensor<1>| t.clone().reshape([1, 1]);
    let column = |t: &Tensor<1>| t.clone().reshape([channels, 1]);
    let [s, curvature, alpha, beta, gate, gate1, _, _] = &unit.rest;
    let dct = TensorData::new(gates::exact_dct_matrix(channels), [channels, channels]);
    let dct = Tensor::<2>::from_data(dct, (&device, x[0].dtype()));
    let s = if formulas.sigmoid_s {
        sigmoid(column(s)) + 1.0
    } else {
        column(s)
    };
    let c = one(curvature).exp().clamp(0.1, 10.0);
    let s_hat = s.clone() * sigmoid(c.clone());
    let c_hat = c * sigmoid(s).mean_dim(0);
    let root_c = c_hat.clone().sqrt();
    let rows = |t: Tensor<2>| t.sum_dim(0);
    let streams = x.map(|x| {
        let d = dct.clone().matmul(pixel_mean(x));
        let re = unit.psi[0].clone().transpose().matmul(d.clone());
        let im = unit.psi[1].clone().transpose().matmul(d.clone());
        let re2 = re.clone() * re;
        let r = (rows(re2.clone()) + formulas.guard_eps2).sqrt();
        let power = ((s_hat.clone() - 2.0) * r.log()).exp();
        let a = softmax((re2 + im.clone() * im) * power, 0);
        let q = unit.psi[0].clone().matmul(a.clone());
        let norm2 = rows(d.clone() * d.clone());
        let time = (c_hat.clone() * norm2.clone() + 1.0).sqrt() / c_hat.clone();
        (d, a, q, norm2, time)
    });
    let map = |i: usize| {
        let (d, a, q, norm2, _) = streams[i].clone();
        let time = streams[1 - i].4.clone();
        let sum = d.clone() + q;
        let space = rows(column(beta) * sum.clone() * sum);
        let lorentz = one(alpha) * (space - time.clone() * time);
        let norm = (norm2 + formulas.guard_eps2).sqrt();
        let cubic = rows(d.clone() * d.clone() * d);
        let poincare = (root_c.clone() * norm.clone()).tanh() / (norm + 1e-6) * cubic;
        let score = one(gate) * lorentz + one(gate1) * poincare;
        a + sigmoid(score * formulas.score_scale).expand([channels, batch])
    };
    [map(0), map(1)]
}

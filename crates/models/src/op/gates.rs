//! PCMFA on tensors.

use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{Tensor, TensorData};

use super::host::{Operand, apply, operands};
use crate::kernel::arrange as kernel;
use crate::kernel::gates::{self, Formulas, Unit};

/// The tensors of one MACFusion unit, in the order of the kernel's [`Unit`].
#[derive(Clone, Debug)]
pub(crate) struct UnitTensors {
    pub psi: [Tensor<2>; 2],
    /// `S`, `curvature_log`, `lorentz_alpha`, `hyper_beta`, `hyper_gate`, `hyper_gate1`, `cross_gate`,
    /// `output_gate`.
    pub rest: [Tensor<1>; 8],
}

impl UnitTensors {
    fn operands(&self) -> Option<Vec<Operand>> {
        let psi = self.psi.iter().map(Operand::of);
        psi.chain(self.rest.iter().map(Operand::of)).collect()
    }
}

/// Two units in series on both streams.
pub(crate) fn pcmfa(x: [&Tensor<4>; 2], units: [&UnitTensors; 2], formulas: Formulas) -> [Tensor<4>; 2] {
    let Some(gates) = fused_gates(x, units, formulas) else {
        let [a, b] = unit(x, units[0], formulas);
        return unit([&a, &b], units[1], formulas);
    };
    [apply_gate(x[0], &gates, 0), apply_gate(x[1], &gates, 1)]
}

fn fused_gates(x: [&Tensor<4>; 2], units: [&UnitTensors; 2], formulas: Formulas) -> Option<Tensor<2>> {
    operands!(x[0], x[1])?;
    let pooled = x.map(|x| super::pixel_mean(x, None));
    let [channels, batch] = pooled[0].dims();
    let mut list = vec![Operand::of(&pooled[0])?, Operand::of(&pooled[1])?];
    for unit in units {
        list.extend(unit.operands()?);
    }
    let list: [Operand; 2 + 2 * gates::TENSORS] = list.try_into().ok()?;
    const HALF: usize = 2 + gates::TENSORS;
    fn split<'a>(t: &[&'a [f32]; 22]) -> ([&'a [f32]; 2], [Unit<'a>; 2]) {
        ([t[0], t[1]], [Unit::from_slices(&t[2..HALF]), Unit::from_slices(&t[HALF..])])
    }
    Some(apply(list, [2 * channels, batch], |tensors| {
        let (a, units) = split(&tensors);
        let (y, saved) = gates::pcmfa_forward(a, units, batch, formulas);
        (y, move |tensors: [&[f32]; 22], dy: &[f32], _: [bool; 22]| {
            let (a, units) = split(&tensors);
            let (da, dunits) = gates::pcmfa_backward(a, units, &saved, batch, formulas, dy);
            let mut found = da.into_iter().chain(dunits.into_iter().flatten());
            std::array::from_fn(|_| found.next())
        })
    }))
}

/// The map times half `which` of the stacked gates `[2 F, B]`.
fn apply_gate(x: &Tensor<4>, gates: &Tensor<2>, which: usize) -> Tensor<4> {
    let [channels, height, width, batch] = x.dims();
    let (pixels, half) = (height * width, channels * batch);
    let Some(operands) = operands!(x, gates) else {
        let gate = gates.clone().slice([which * channels..(which + 1) * channels]);
        return x.clone() * gate.reshape([channels, 1, 1, batch]);
    };
    let range = which * half..(which + 1) * half;
    apply(operands, x.dims(), |[x, gates]| {
        let y = kernel::apply_gate(x, &gates[range.clone()], pixels, batch);
        (y, move |[x, gates]: [&[f32]; 2], dy: &[f32], _: [bool; 2]| {
            let dx = kernel::apply_gate(dy, &gates[range.clone()], pixels, batch);
            let mut dgates = vec![0.0; gates.len()];
            dgates[range.clone()].copy_from_slice(&kernel::gate_gradient(x, dy, pixels, batch));
            [Some(dx), Some(dgates)]
        })
    })
}

/// One unit in Burn's own operations (section 3.3, steps 1 to 10).
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
    let s = if formulas.sigmoid_s { sigmoid(column(s)) + 1.0 } else { column(s) };
    let c = one(curvature).exp().clamp(0.1, 10.0);
    let s_hat = s.clone() * sigmoid(c.clone());
    let c_hat = c * sigmoid(s).mean_dim(0);
    let root_c = c_hat.clone().sqrt();
    let rows = |t: Tensor<2>| t.sum_dim(0);
    let streams = x.map(|x| {
        let d = dct.clone().matmul(super::pixel_mean(x, None));
        let re = unit.psi[0].clone().transpose().matmul(d.clone());
        let im = unit.psi[1].clone().transpose().matmul(d.clone());
        let re2 = re.clone() * re.clone();
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

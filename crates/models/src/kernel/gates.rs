//! PCMFA on the CPU: both MACFusion units' gates from the pooled streams, forward and backward.
//!
//! Symbols as in `ehpal-net.md` section 3.3. A unit multiplies every pixel of a channel by one number, so
//! the pooled input of the second unit is the pooled input of the first times the first unit's gate, and
//! the whole of PCMFA is one gate per stream, channel and record.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

mod backward;

use super::pointwise::multiply;
#[cfg(test)]
pub(crate) use backward::backward;
pub(crate) use backward::{Gradients, OuterProduct, pcmfa_backward};

/// Which variant of the formulas a unit computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Formulas {
    /// Factor on both hyperbolic scores (section 6.3).
    pub score_scale: f32,
    /// Added under the square roots of `r` and of the norm of `d` (section 6.2).
    pub guard_eps2: f32,
    /// Whether `S = 1 + sigma(s)` (section 6.4).
    pub sigmoid_s: bool,
}

/// Parameters of one unit, or their gradients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit<'a> {
    pub psi_real: &'a [f32],
    pub psi_imag: &'a [f32],
    pub s: &'a [f32],
    pub curvature_log: &'a [f32],
    pub lorentz_alpha: &'a [f32],
    pub hyper_beta: &'a [f32],
    pub hyper_gate: &'a [f32],
    pub hyper_gate1: &'a [f32],
    pub cross_gate: &'a [f32],
    pub output_gate: &'a [f32],
}

/// Number of parameter tensors of a unit.
pub(crate) const TENSORS: usize = 10;

impl<'a> Unit<'a> {
    /// From the tensors in the order of the fields.
    pub fn from_slices(t: &[&'a [f32]]) -> Self {
        Self {
            psi_real: t[0],
            psi_imag: t[1],
            s: t[2],
            curvature_log: t[3],
            lorentz_alpha: t[4],
            hyper_beta: t[5],
            hyper_gate: t[6],
            hyper_gate1: t[7],
            cross_gate: t[8],
            output_gate: t[9],
        }
    }
}

/// What the forward pass of one stream leaves for the backward pass. Matrices `[F, B]` are in single
/// precision; sums over channels and the scores made of them, `[B]`, are in double precision, because the
/// hyperbolic scores are small differences of large terms and pass through a saturated sigmoid (section 6.3).
#[derive(Clone, Debug, Default)]
struct Stream {
    d: Vec<f32>,
    re: Vec<f32>,
    im: Vec<f32>,
    a: Vec<f32>,
    q: Vec<f32>,
    r: Vec<f64>,
    norm: Vec<f64>,
    norm2: Vec<f64>,
    cubic: Vec<f64>,
    time: Vec<f64>,
    minkowski: Vec<f64>,
    lorentz: Vec<f64>,
    poincare: Vec<f64>,
    h: Vec<f64>,
}

/// One unit's forward pass.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    streams: [Stream; 2],
    c: f64,
    c_hat: f64,
    /// `S` after reparametrisation, and `S^`.
    s: Vec<f64>,
    s_hat: Vec<f64>,
    /// Gates of streams 1 and 2, `[F, B]` each.
    pub gates: [Vec<f32>; 2],
}

#[cfg(test)]
impl Saved {
    /// `d`, `re`, `im`, `A`, `q` of stream `i`.
    pub fn maps(&self, i: usize) -> [&[f32]; 5] {
        let s = &self.streams[i];
        [&s.d, &s.re, &s.im, &s.a, &s.q]
    }

    /// `r`, `L`, `Q`, `h`, `t` of stream `i`.
    pub fn scores(&self, i: usize) -> [&[f64]; 5] {
        let s = &self.streams[i];
        [&s.r, &s.lorentz, &s.poincare, &s.h, &s.time]
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The orthonormal DCT-II matrix, `[k, n]` (step 2); made once for each length.
pub(crate) fn dct_matrix(len: usize) -> Arc<Vec<f32>> {
    static KNOWN: Mutex<BTreeMap<usize, Arc<Vec<f32>>>> = Mutex::new(BTreeMap::new());
    // A poisoned lock still holds whole matrices: an entry is inserted when it is finished.
    let mut known = KNOWN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let make = || {
        Arc::new(
            exact_dct_matrix(len)
                .into_iter()
                .map(|v| v as f32)
                .collect(),
        )
    };
    known.entry(len).or_insert_with(make).clone()
}

/// The matrix of [`dct_matrix`] in double precision.
pub(crate) fn exact_dct_matrix(len: usize) -> Vec<f64> {
    let mut matrix = Vec::with_capacity(len * len);
    for k in 0..len {
        let weight = if k == 0 {
            1.0 / len as f64
        } else {
            2.0 / len as f64
        }
        .sqrt();
        for n in 0..len {
            let phase = std::f64::consts::PI * ((2 * n + 1) * k) as f64 / (2 * len) as f64;
            matrix.push(weight * phase.cos());
        }
    }
    matrix
}

fn product(matrix: &[f32], transposed: bool, x: &[f32], f: usize, batch: usize) -> Vec<f32> {
    let mut y = vec![0.0; f * batch];
    let (row, col) = if transposed { (1, f) } else { (f, 1) };
    multiply(matrix, row, col, f, f, x, batch, &mut y, None);
    y
}

/// One unit's gates from the pooled streams `a_i`, `[F, B]`.
pub(crate) fn forward(
    a: [&[f32]; 2],
    unit: Unit<'_>,
    dct: &[f32],
    batch: usize,
    formulas: Formulas,
) -> Saved {
    let f = unit.s.len();
    let guard = f64::from(formulas.guard_eps2);
    let s: Vec<f64> = unit
        .s
        .iter()
        .map(|&s| {
            if formulas.sigmoid_s {
                1.0 + sigmoid(f64::from(s))
            } else {
                f64::from(s)
            }
        })
        .collect();
    let c = f64::from(unit.curvature_log[0]).exp().clamp(0.1, 10.0);
    let s_hat: Vec<f64> = s.iter().map(|s| s * sigmoid(c)).collect();
    let c_hat = c * (s.iter().map(|&s| sigmoid(s)).sum::<f64>() / f as f64);
    let root_c = c_hat.sqrt();
    let mut streams = [Stream::default(), Stream::default()];
    for (stream, a) in streams.iter_mut().zip(a) {
        stream.d = product(dct, false, a, f, batch);
        stream.re = product(unit.psi_real, true, &stream.d, f, batch);
        stream.im = product(unit.psi_imag, true, &stream.d, f, batch);
        stream.a = vec![0.0; f * batch];
        let mut scores = vec![0.0_f64; f];
        for b in 0..batch {
            let column = |values: &[f32], u: usize| f64::from(values[u * batch + b]);
            let re2: f64 = (0..f).map(|u| column(&stream.re, u).powi(2)).sum();
            let r = (re2 + guard).sqrt();
            let log_r = r.ln();
            let mut top = f64::NEG_INFINITY;
            for (u, s_hat) in s_hat.iter().enumerate() {
                let p = column(&stream.re, u).powi(2) + column(&stream.im, u).powi(2);
                scores[u] = p * ((s_hat - 2.0) * log_r).exp();
                top = top.max(scores[u]);
            }
            let mut total = 0.0;
            for score in &mut scores {
                *score = (*score - top).exp();
                total += *score;
            }
            for (u, score) in scores.iter().enumerate() {
                stream.a[u * batch + b] = (score / total) as f32;
            }
            let norm2: f64 = (0..f).map(|k| column(&stream.d, k).powi(2)).sum();
            stream.r.push(r);
            stream.norm2.push(norm2);
            stream.norm.push((norm2 + guard).sqrt());
            stream
                .cubic
                .push((0..f).map(|k| column(&stream.d, k).powi(3)).sum());
            stream.time.push(c_hat.mul_add(norm2, 1.0).sqrt() / c_hat);
        }
        stream.q = product(unit.psi_real, false, &stream.a, f, batch);
    }
    for i in 0..2 {
        let other_time = streams[1 - i].time.clone();
        let stream = &mut streams[i];
        for b in 0..batch {
            let space: f64 = (0..f)
                .map(|k| {
                    let sum =
                        f64::from(stream.d[k * batch + b]) + f64::from(stream.q[k * batch + b]);
                    f64::from(unit.hyper_beta[k]) * sum * sum
                })
                .sum();
            let minkowski = space - other_time[b] * other_time[b];
            let lorentz = f64::from(unit.lorentz_alpha[0]) * minkowski;
            let poincare =
                (root_c * stream.norm[b]).tanh() / (stream.norm[b] + 1e-6) * stream.cubic[b];
            let score =
                f64::from(unit.hyper_gate[0]) * lorentz + f64::from(unit.hyper_gate1[0]) * poincare;
            stream.minkowski.push(minkowski);
            stream.lorentz.push(lorentz);
            stream.poincare.push(poincare);
            stream
                .h
                .push(sigmoid(f64::from(formulas.score_scale) * score));
        }
    }
    let gates = std::array::from_fn(|i| {
        let other = &streams[1 - i];
        let mut gate = Vec::with_capacity(f * batch);
        for u in 0..f {
            let open = unit.cross_gate[u] * unit.output_gate[u];
            gate.extend((0..batch).map(|b| open * (other.a[u * batch + b] + other.h[b] as f32)));
        }
        gate
    });
    Saved {
        streams,
        c,
        c_hat,
        s,
        s_hat,
        gates,
    }
}

/// Both units' combined gates of streams 1 and 2, stacked: `[2 F, B]`.
pub(crate) fn pcmfa_forward(
    a: [&[f32]; 2],
    units: [Unit<'_>; 2],
    batch: usize,
    formulas: Formulas,
) -> (Vec<f32>, [Saved; 2]) {
    let dct = dct_matrix(units[0].s.len());
    let first = forward(a, units[0], &dct, batch, formulas);
    let between: [Vec<f32>; 2] = std::array::from_fn(|i| {
        a[i].iter()
            .zip(&first.gates[i])
            .map(|(a, g)| a * g)
            .collect()
    });
    let second = forward([&between[0], &between[1]], units[1], &dct, batch, formulas);
    let gates = (0..2)
        .flat_map(|i| {
            first.gates[i]
                .iter()
                .zip(&second.gates[i])
                .map(|(g, h)| g * h)
        })
        .collect();
    (gates, [first, second])
}

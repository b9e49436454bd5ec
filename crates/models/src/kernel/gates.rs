//! PCMFA on the CPU: both MACFusion units' gates from the pooled streams, forward and backward.
//!
//! Symbols as in `ehpal-net.md` section 3.3. A unit multiplies every pixel of a channel by one number, so
//! the pooled input of the second unit is the pooled input of the first times the first unit's gate, and
//! the whole of PCMFA is one gate per stream, channel and record.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::pointwise::{multiply, outer};

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

/// Gradients of the pooled streams and of the unit's tensors, in the order of [`Unit`], given those of
/// the gates.
pub(crate) fn backward(
    saved: &Saved,
    unit: Unit<'_>,
    dct: &[f32],
    batch: usize,
    formulas: Formulas,
    dgates: [&[f32]; 2],
) -> ([Vec<f32>; 2], [Vec<f32>; TENSORS]) {
    let f = unit.s.len();
    let Saved {
        streams,
        c,
        c_hat,
        s,
        s_hat,
        ..
    } = saved;
    let (c, c_hat) = (*c, *c_hat);
    let root_c = c_hat.sqrt();
    let [alpha, gate, gate1] = [
        unit.lorentz_alpha[0],
        unit.hyper_gate[0],
        unit.hyper_gate1[0],
    ]
    .map(f64::from);
    let mut dcross = vec![0.0; f];
    let mut doutput = vec![0.0; f];
    let mut dbeta = vec![0.0_f64; f];
    let mut ds_hat = vec![0.0_f64; f];
    let (mut dgate, mut dgate1, mut dalpha, mut dc_hat) = (0.0, 0.0, 0.0, 0.0);
    let mut dreal = vec![0.0; f * f];
    let mut dimag = vec![0.0; f * f];
    // Stream i's maps gate stream 1 - i.
    let mut da: [Vec<f32>; 2] = [vec![0.0; f * batch], vec![0.0; f * batch]];
    let mut dh = [vec![0.0_f64; batch], vec![0.0_f64; batch]];
    for i in 0..2 {
        let (dg, stream) = (dgates[1 - i], &streams[i]);
        for u in 0..f {
            let open = unit.cross_gate[u] * unit.output_gate[u];
            let mut dopen = 0.0_f64;
            for b in 0..batch {
                let dg = dg[u * batch + b];
                dopen += f64::from(dg) * (f64::from(stream.a[u * batch + b]) + stream.h[b]);
                da[i][u * batch + b] = open * dg;
                dh[i][b] += f64::from(open) * f64::from(dg);
            }
            dcross[u] += dopen as f32 * unit.output_gate[u];
            doutput[u] += dopen as f32 * unit.cross_gate[u];
        }
    }
    let mut dd: [Vec<f32>; 2] = [vec![0.0; f * batch], vec![0.0; f * batch]];
    let mut dtime = [vec![0.0_f64; batch], vec![0.0_f64; batch]];
    for i in 0..2 {
        let stream = &streams[i];
        let mut dq = vec![0.0; f * batch];
        for b in 0..batch {
            let h = stream.h[b];
            let dz = dh[i][b] * h * (1.0 - h) * f64::from(formulas.score_scale);
            dgate += dz * stream.lorentz[b];
            dgate1 += dz * stream.poincare[b];
            let dpoincare = dz * gate1;
            dalpha += dz * gate * stream.minkowski[b];
            let dmink = dz * gate * alpha;
            dtime[1 - i][b] -= 2.0 * dmink * streams[1 - i].time[b];
            let norm = stream.norm[b];
            let (away, tanh) = (norm + 1e-6, (root_c * norm).tanh());
            let slope = (1.0 - tanh * tanh) / away;
            let dcubic = dpoincare * tanh / away;
            let dnorm = dpoincare * stream.cubic[b] * (slope * root_c - tanh / (away * away));
            dc_hat += dpoincare * stream.cubic[b] * slope * norm / (2.0 * root_c);
            let radial = if norm > 0.0 { dnorm / norm } else { 0.0 };
            for k in 0..f {
                let at = k * batch + b;
                let d = f64::from(stream.d[at]);
                let sum = d + f64::from(stream.q[at]);
                dbeta[k] += dmink * sum * sum;
                let through = 2.0 * dmink * f64::from(unit.hyper_beta[k]) * sum;
                dq[at] = through as f32;
                dd[i][at] = (through + 3.0 * d * d * dcubic + d * radial) as f32;
            }
        }
        // q = Wr A.
        let through = product(unit.psi_real, true, &dq, f, batch);
        for (da, through) in da[i].iter_mut().zip(&through) {
            *da += through;
        }
        add_outer(&dq, &stream.a, f, batch, &mut dreal);
    }
    let mut dpooled: [Vec<f32>; 2] = [Vec::new(), Vec::new()];
    for i in 0..2 {
        let stream = &streams[i];
        let mut dre = vec![0.0; f * batch];
        let mut dim = vec![0.0; f * batch];
        for b in 0..batch {
            let column = |values: &[f32], u: usize| f64::from(values[u * batch + b]);
            let r = stream.r[b];
            let log_r = r.ln();
            let mean: f64 = (0..f)
                .map(|u| column(&stream.a, u) * column(&da[i], u))
                .sum();
            let mut dr = 0.0;
            for u in 0..f {
                let (re, im) = (column(&stream.re, u), column(&stream.im, u));
                let power = ((s_hat[u] - 2.0) * log_r).exp();
                let dscore = column(&stream.a, u) * (column(&da[i], u) - mean);
                let score = (re * re + im * im) * power;
                ds_hat[u] += dscore * score * log_r;
                dr += dscore * score * (s_hat[u] - 2.0) / r;
                dre[u * batch + b] = (2.0 * re * dscore * power) as f32;
                dim[u * batch + b] = (2.0 * im * dscore * power) as f32;
            }
            for u in 0..f {
                dre[u * batch + b] += (column(&stream.re, u) * dr / r) as f32;
            }
            // t = sqrt(1 + c^ n2) / c^.
            let root = c_hat * stream.time[b];
            let dt = dtime[i][b];
            dc_hat += dt * (stream.norm2[b] / (2.0 * root * c_hat) - root / (c_hat * c_hat));
            for k in 0..f {
                dd[i][k * batch + b] += (column(&stream.d, k) * dt / root) as f32;
            }
        }
        for (weight, dy) in [(unit.psi_real, &dre), (unit.psi_imag, &dim)] {
            for (dd, through) in dd[i].iter_mut().zip(product(weight, false, dy, f, batch)) {
                *dd += through;
            }
        }
        add_outer(&stream.d, &dre, f, batch, &mut dreal);
        add_outer(&stream.d, &dim, f, batch, &mut dimag);
        dpooled[i] = product(dct, true, &dd[i], f, batch);
    }
    let open = sigmoid(c);
    let mean_open = c_hat / c;
    let dc = dc_hat * mean_open
        + open * (1.0 - open) * ds_hat.iter().zip(s).map(|(d, s)| d * s).sum::<f64>();
    let raw = f64::from(unit.curvature_log[0]).exp();
    let dkappa = if (0.1..=10.0).contains(&raw) {
        dc * raw
    } else {
        0.0
    };
    let ds = (0..f)
        .map(|u| {
            let (slope, value) = (sigmoid(s[u]), sigmoid(f64::from(unit.s[u])));
            let ds = ds_hat[u] * open + dc_hat * c * slope * (1.0 - slope) / f as f64;
            (if formulas.sigmoid_s {
                ds * value * (1.0 - value)
            } else {
                ds
            }) as f32
        })
        .collect();
    let tensors = [
        dreal,
        dimag,
        ds,
        vec![dkappa as f32],
        vec![dalpha as f32],
        dbeta.into_iter().map(|d| d as f32).collect(),
        vec![dgate as f32],
        vec![dgate1 as f32],
        dcross,
        doutput,
    ];
    (dpooled, tensors)
}

/// `total[k, u] += sum_b a[k, b] b[u, b]`.
fn add_outer(a: &[f32], b: &[f32], f: usize, batch: usize, total: &mut [f32]) {
    let mut part = vec![0.0; f * f];
    outer(a, f, b, f, batch, &mut part);
    for (total, part) in total.iter_mut().zip(&part) {
        *total += part;
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

/// Gradients for [`pcmfa_forward`]: pooled streams, then the tensors of both units.
pub(crate) fn pcmfa_backward(
    a: [&[f32]; 2],
    units: [Unit<'_>; 2],
    saved: &[Saved; 2],
    batch: usize,
    formulas: Formulas,
    dgates: &[f32],
) -> ([Vec<f32>; 2], [[Vec<f32>; TENSORS]; 2]) {
    let dct = dct_matrix(units[0].s.len());
    let half = dgates.len() / 2;
    let multiplied =
        |x: &[f32], y: &[f32]| -> Vec<f32> { x.iter().zip(y).map(|(x, y)| x * y).collect() };
    let part = |i: usize| &dgates[i * half..(i + 1) * half];
    let dsecond: [Vec<f32>; 2] = std::array::from_fn(|i| multiplied(part(i), &saved[0].gates[i]));
    let (dbetween, tensors2) = backward(
        &saved[1],
        units[1],
        &dct,
        batch,
        formulas,
        [&dsecond[0], &dsecond[1]],
    );
    let dfirst: [Vec<f32>; 2] = std::array::from_fn(|i| {
        let direct = multiplied(part(i), &saved[1].gates[i]);
        direct
            .iter()
            .zip(multiplied(&dbetween[i], a[i]))
            .map(|(x, y)| x + y)
            .collect()
    });
    let (mut dpooled, tensors1) = backward(
        &saved[0],
        units[0],
        &dct,
        batch,
        formulas,
        [&dfirst[0], &dfirst[1]],
    );
    for i in 0..2 {
        for (da, through) in dpooled[i]
            .iter_mut()
            .zip(multiplied(&dbetween[i], &saved[0].gates[i]))
        {
            *da += through;
        }
    }
    (dpooled, [tensors1, tensors2])
}

//! The backward pass of PCMFA: gradients of every record apart.
//!
//! Both matrices of a unit see vectors, not maps: the gradient that one record leaves at `psi_real` is a sum of
//! four outer products, at `psi_imag` of two. They are kept as the vectors, so that sums over the batch and
//! norms of single patients come from the same pass.

use super::super::pointwise::outer;
use super::{Formulas, Saved, TENSORS, Unit, dct_matrix, product, sigmoid};

/// Vectors `left` and `right` of every record, `[F, B]` each; a record's part of the gradient is `left right'`.
#[derive(Clone, Debug)]
pub(crate) struct OuterProduct {
    pub left: Vec<f32>,
    pub right: Vec<f32>,
}

/// Gradients of one unit's tensors, record by record.
#[derive(Clone, Debug)]
pub(crate) struct Gradients {
    batch: usize,
    /// Of `psi_real` and `psi_imag`: sums of outer products.
    pub psi: [Vec<OuterProduct>; 2],
    /// Of the other tensors in the order of [`Unit`], `[values, B]` each.
    pub rest: [Vec<f32>; TENSORS - 2],
}

impl Gradients {
    /// The gradient of tensor `index`, in the order of [`Unit`], summed over the batch.
    pub fn total(&self, index: usize) -> Vec<f32> {
        let Some(products) = self.psi.get(index) else {
            let rows = self.rest[index - self.psi.len()].chunks_exact(self.batch);
            let sum = |row: &[f32]| row.iter().map(|&v| f64::from(v)).sum::<f64>() as f32;
            return rows.map(sum).collect();
        };
        let mut total = Vec::new();
        for OuterProduct { left, right } in products {
            let f = left.len() / self.batch;
            let mut part = vec![0.0; f * f];
            outer(left, f, right, f, self.batch, &mut part);
            if total.is_empty() {
                total = part;
            } else {
                for (total, part) in total.iter_mut().zip(&part) {
                    *total += part;
                }
            }
        }
        total
    }
}

/// Sums of one record that concern the whole unit.
#[derive(Clone, Copy, Debug, Default)]
struct Scalars {
    gate: f64,
    gate1: f64,
    alpha: f64,
    c_hat: f64,
}

/// Gradients of the pooled streams and of the unit's tensors, given those of the gates.
pub(crate) fn backward(
    saved: &Saved,
    unit: Unit<'_>,
    dct: &[f32],
    batch: usize,
    formulas: Formulas,
    dgates: [&[f32]; 2],
) -> ([Vec<f32>; 2], Gradients) {
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
    let mut dcross = vec![0.0; f * batch];
    let mut doutput = vec![0.0; f * batch];
    let mut dbeta = vec![0.0_f64; f * batch];
    let mut ds_hat = vec![0.0_f64; f * batch];
    let mut scalars = vec![Scalars::default(); batch];
    let mut psi = [Vec::new(), Vec::new()];
    // Stream i's maps gate stream 1 - i.
    let mut da: [Vec<f32>; 2] = [vec![0.0; f * batch], vec![0.0; f * batch]];
    let mut dh = [vec![0.0_f64; batch], vec![0.0_f64; batch]];
    for i in 0..2 {
        let (dg, stream) = (dgates[1 - i], &streams[i]);
        for u in 0..f {
            let open = unit.cross_gate[u] * unit.output_gate[u];
            for b in 0..batch {
                let at = u * batch + b;
                let dg = dg[at];
                let dopen = (f64::from(dg) * (f64::from(stream.a[at]) + stream.h[b])) as f32;
                dcross[at] += dopen * unit.output_gate[u];
                doutput[at] += dopen * unit.cross_gate[u];
                da[i][at] = open * dg;
                dh[i][b] += f64::from(open) * f64::from(dg);
            }
        }
    }
    let mut dd: [Vec<f32>; 2] = [vec![0.0; f * batch], vec![0.0; f * batch]];
    let mut dtime = [vec![0.0_f64; batch], vec![0.0_f64; batch]];
    for i in 0..2 {
        let stream = &streams[i];
        let mut dq = vec![0.0; f * batch];
        for (b, scalars) in scalars.iter_mut().enumerate() {
            let h = stream.h[b];
            let dz = dh[i][b] * h * (1.0 - h) * f64::from(formulas.score_scale);
            scalars.gate += dz * stream.lorentz[b];
            scalars.gate1 += dz * stream.poincare[b];
            let dpoincare = dz * gate1;
            scalars.alpha += dz * gate * stream.minkowski[b];
            let dmink = dz * gate * alpha;
            dtime[1 - i][b] -= 2.0 * dmink * streams[1 - i].time[b];
            let norm = stream.norm[b];
            let (away, tanh) = (norm + 1e-6, (root_c * norm).tanh());
            let slope = (1.0 - tanh * tanh) / away;
            let dcubic = dpoincare * tanh / away;
            let dnorm = dpoincare * stream.cubic[b] * (slope * root_c - tanh / (away * away));
            scalars.c_hat += dpoincare * stream.cubic[b] * slope * norm / (2.0 * root_c);
            let radial = if norm > 0.0 { dnorm / norm } else { 0.0 };
            for k in 0..f {
                let at = k * batch + b;
                let d = f64::from(stream.d[at]);
                let sum = d + f64::from(stream.q[at]);
                dbeta[at] += dmink * sum * sum;
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
        psi[0].push(OuterProduct {
            left: dq,
            right: stream.a.clone(),
        });
    }
    let mut dpooled: [Vec<f32>; 2] = [Vec::new(), Vec::new()];
    for i in 0..2 {
        let stream = &streams[i];
        let mut dre = vec![0.0; f * batch];
        let mut dim = vec![0.0; f * batch];
        for (b, scalars) in scalars.iter_mut().enumerate() {
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
                ds_hat[u * batch + b] += dscore * score * log_r;
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
            scalars.c_hat += dt * (stream.norm2[b] / (2.0 * root * c_hat) - root / (c_hat * c_hat));
            for k in 0..f {
                dd[i][k * batch + b] += (column(&stream.d, k) * dt / root) as f32;
            }
        }
        for (weight, dy) in [(unit.psi_real, &dre), (unit.psi_imag, &dim)] {
            for (dd, through) in dd[i].iter_mut().zip(product(weight, false, dy, f, batch)) {
                *dd += through;
            }
        }
        for (psi, right) in psi.iter_mut().zip([dre, dim]) {
            psi.push(OuterProduct {
                left: stream.d.clone(),
                right,
            });
        }
        dpooled[i] = product(dct, true, &dd[i], f, batch);
    }
    let (open, mean_open) = (sigmoid(c), c_hat / c);
    let raw = f64::from(unit.curvature_log[0]).exp();
    let mut dkappa = Vec::with_capacity(batch);
    for (b, scalars) in scalars.iter().enumerate() {
        let through_s: f64 = (0..f).map(|u| ds_hat[u * batch + b] * s[u]).sum();
        let dc = scalars.c_hat * mean_open + open * (1.0 - open) * through_s;
        // The curvature is clamped.
        let inside = (0.1..=10.0).contains(&raw);
        dkappa.push(if inside { (dc * raw) as f32 } else { 0.0 });
    }
    let mut ds = Vec::with_capacity(f * batch);
    for u in 0..f {
        let (slope, value) = (sigmoid(s[u]), sigmoid(f64::from(unit.s[u])));
        for (b, scalars) in scalars.iter().enumerate() {
            let through_c = scalars.c_hat * c * slope * (1.0 - slope) / f as f64;
            let ds_u = ds_hat[u * batch + b] * open + through_c;
            ds.push(if formulas.sigmoid_s {
                (ds_u * value * (1.0 - value)) as f32
            } else {
                ds_u as f32
            });
        }
    }
    let of_scalars = |one: fn(&Scalars) -> f64| scalars.iter().map(|s| one(s) as f32).collect();
    let rest = [
        ds,
        dkappa,
        of_scalars(|s| s.alpha),
        dbeta.into_iter().map(|d| d as f32).collect(),
        of_scalars(|s| s.gate),
        of_scalars(|s| s.gate1),
        dcross,
        doutput,
    ];
    (dpooled, Gradients { batch, psi, rest })
}

/// Gradients for [`pcmfa_forward`](super::pcmfa_forward): pooled streams, then the tensors of both units.
pub(crate) fn pcmfa_backward(
    a: [&[f32]; 2],
    units: [Unit<'_>; 2],
    saved: &[Saved; 2],
    batch: usize,
    formulas: Formulas,
    dgates: &[f32],
) -> ([Vec<f32>; 2], [Gradients; 2]) {
    let dct = dct_matrix(units[0].s.len());
    let half = dgates.len() / 2;
    let multiplied =
        |x: &[f32], y: &[f32]| -> Vec<f32> { x.iter().zip(y).map(|(x, y)| x * y).collect() };
    let part = |i: usize| &dgates[i * half..(i + 1) * half];
    let dsecond: [Vec<f32>; 2] = std::array::from_fn(|i| multiplied(part(i), &saved[0].gates[i]));
    let (dbetween, second) = backward(
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
    let (mut dpooled, first) = backward(
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
    (dpooled, [first, second])
}

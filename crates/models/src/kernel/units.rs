//! Gradients of weights per unit: what a layer's weight gradient would be if only one patient's records were
//! in the batch, for all patients at once.
//!
//! The batch is innermost, so a vector of records accumulates its gradients side by side, at the cost of the
//! ordinary weight gradient; the records of one unit are added at the end. Results have the layout
//! `[values of the weight][units]`.

use super::dense::Dense;
use super::depthwise::Depthwise;
use super::norm::GroupNorm;
use super::pointwise::Product;
use super::{for_lanes, lanes, vectorised};

/// Which unit every record of the batch belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Units<'a> {
    /// The unit of each record.
    pub of_record: &'a [usize],
    /// Number of units.
    pub count: usize,
}

/// Pixels summed in single precision before they enter the total, to keep long sums exact enough.
const BLOCK: usize = 64;

/// `total += part`, and `part = 0`.
#[inline(always)]
fn flush<const L: usize>(total: &mut [f32; L], part: &mut [f32; L]) {
    for l in 0..L {
        total[l] += part[l];
    }
    *part = [0.0; L];
}

impl Units<'_> {
    /// Adds the sums of neighbouring records to their units' values of one weight.
    #[inline(always)]
    fn add<const L: usize>(&self, row: &mut [f32], record: usize, sums: &[f32; L]) {
        for (unit, sum) in self.of_record[record..record + L].iter().zip(sums) {
            row[*unit] += sum;
        }
    }

    fn zeros(&self, weights: usize) -> Vec<f32> {
        vec![0.0; weights * self.count]
    }
}

/// Of a grouped 1x1 convolution.
pub(crate) fn of_product(shape: Product, dy: &[f32], x: &[f32], units: Units<'_>) -> Vec<f32> {
    let (ci, co) = (shape.inputs / shape.groups, shape.outputs / shape.groups);
    let n = shape.columns;
    let mut out = units.zeros(shape.outputs * ci);
    for g in 0..shape.groups {
        let dy = &dy[g * co * n..(g + 1) * co * n];
        let x = &x[g * ci * n..(g + 1) * ci * n];
        let out = &mut out[g * co * ci * units.count..(g + 1) * co * ci * units.count];
        product(dy, co, x, ci, n, units, out);
    }
    out
}

vectorised! {
    /// `out[i, j, u] = sum over the columns of u of a[i, n] b[j, n]`.
    fn product(
        a: &'a [f32], rows: usize, b: &'a [f32], cols: usize, n: usize, units: Units<'a>,
        out: &'a mut [f32],
    ) {
        let mut i = 0;
        while i < rows {
            if i + 4 <= rows {
                product_rows::<4>(a, i, b, cols, n, units, out);
                i += 4;
            } else {
                product_rows::<1>(a, i, b, cols, n, units, out);
                i += 1;
            }
        }
    }
}

#[inline(always)]
fn product_rows<const M: usize>(
    a: &[f32],
    i: usize,
    b: &[f32],
    cols: usize,
    n: usize,
    units: Units<'_>,
    out: &mut [f32],
) {
    let batch = units.of_record.len();
    let a: [&[f32]; M] = std::array::from_fn(|r| &a[(i + r) * n..][..n]);
    for j in 0..cols {
        let b = &b[j * n..][..n];
        for_lanes!(batch, lane, L => {
            let mut acc = [[0.0_f32; L]; M];
            let mut part = acc;
            let mut at = lane;
            while at < n {
                let end = n.min(at + BLOCK * batch);
                while at < end {
                    let b = lanes::<L>(b, at);
                    for r in 0..M {
                        let a = lanes::<L>(a[r], at);
                        for l in 0..L {
                            part[r][l] = a[l].mul_add(b[l], part[r][l]);
                        }
                    }
                    at += batch;
                }
                for r in 0..M {
                    flush(&mut acc[r], &mut part[r]);
                }
            }
            for (r, sums) in acc.iter().enumerate() {
                let row = ((i + r) * cols + j) * units.count;
                units.add(&mut out[row..row + units.count], lane, sums);
            }
        });
    }
}

/// Of a depthwise convolution.
pub(crate) fn of_depthwise(shape: Depthwise, dy: &[f32], x: &[f32], units: Units<'_>) -> Vec<f32> {
    let mut out = units.zeros(shape.channels * shape.rows.kernel * shape.cols.kernel);
    depthwise(shape, dy, x, units, &mut out);
    out
}

vectorised! {
    fn depthwise(
        shape: Depthwise, dy: &'a [f32], x: &'a [f32], units: Units<'a>, out: &'a mut [f32],
    ) {
        let batch = units.of_record.len();
        let (in_w, out_w) = (shape.cols.input, shape.cols.output());
        let (plane_in, plane_out) = (shape.rows.input * in_w * batch, shape.rows.output() * out_w * batch);
        let (rows, cols) = (shape.rows.valid(), shape.cols.valid());
        let mut weight = 0;
        for c in 0..shape.channels {
            let x = &x[c * plane_in..(c + 1) * plane_in];
            let dy = &dy[c * plane_out..(c + 1) * plane_out];
            for (ohs, first_ih) in &rows {
                for (ows, first_iw) in &cols {
                    let out = &mut out[weight * units.count..(weight + 1) * units.count];
                    for_lanes!(batch, lane, L => {
                        let mut acc = [0.0_f32; L];
                        let mut part = acc;
                        for (row, oh) in ohs.clone().enumerate() {
                            let ih = first_ih + row * shape.rows.stride;
                            for (col, ow) in ows.clone().enumerate() {
                                let iw = first_iw + col * shape.cols.stride;
                                let x = lanes::<L>(x, (ih * in_w + iw) * batch + lane);
                                let dy = lanes::<L>(dy, (oh * out_w + ow) * batch + lane);
                                for l in 0..L {
                                    part[l] = x[l].mul_add(dy[l], part[l]);
                                }
                            }
                            flush(&mut acc, &mut part);
                        }
                        units.add(out, lane, &acc);
                    });
                    weight += 1;
                }
            }
        }
    }
}

/// Of an ungrouped convolution.
pub(crate) fn of_dense(shape: Dense, dy: &[f32], x: &[f32], units: Units<'_>) -> Vec<f32> {
    let window = shape.rows.kernel * shape.cols.kernel;
    let mut out = units.zeros(shape.outputs * shape.inputs * window);
    dense(shape, dy, x, units, &mut out);
    out
}

vectorised! {
    fn dense(shape: Dense, dy: &'a [f32], x: &'a [f32], units: Units<'a>, out: &'a mut [f32]) {
        let mut o = 0;
        while o < shape.outputs {
            if o + 4 <= shape.outputs {
                dense_rows::<4>(shape, o, dy, x, units, out);
                o += 4;
            } else {
                dense_rows::<1>(shape, o, dy, x, units, out);
                o += 1;
            }
        }
    }
}

#[inline(always)]
fn dense_rows<const M: usize>(
    shape: Dense,
    o: usize,
    dy: &[f32],
    x: &[f32],
    units: Units<'_>,
    out: &mut [f32],
) {
    let batch = units.of_record.len();
    let (in_w, out_w) = (shape.cols.input, shape.cols.output());
    let plane_in = shape.rows.input * in_w * batch;
    let plane_out = shape.rows.output() * out_w * batch;
    let (kh, kw) = (shape.rows.kernel, shape.cols.kernel);
    let dy: [&[f32]; M] = std::array::from_fn(|r| &dy[(o + r) * plane_out..][..plane_out]);
    for i in 0..shape.inputs {
        let x = &x[i * plane_in..(i + 1) * plane_in];
        for (h, (ohs, first_ih)) in shape.rows.valid().iter().enumerate() {
            for (w, (ows, first_iw)) in shape.cols.valid().iter().enumerate() {
                for_lanes!(batch, lane, L => {
                    let mut acc = [[0.0_f32; L]; M];
                    let mut part = acc;
                    for (row, oh) in ohs.clone().enumerate() {
                        let ih = first_ih + row * shape.rows.stride;
                        for (col, ow) in ows.clone().enumerate() {
                            let iw = first_iw + col * shape.cols.stride;
                            let x = lanes::<L>(x, (ih * in_w + iw) * batch + lane);
                            for r in 0..M {
                                let dy = lanes::<L>(dy[r], (oh * out_w + ow) * batch + lane);
                                for l in 0..L {
                                    part[r][l] = x[l].mul_add(dy[l], part[r][l]);
                                }
                            }
                        }
                        for r in 0..M {
                            flush(&mut acc[r], &mut part[r]);
                        }
                    }
                    for (r, sums) in acc.iter().enumerate() {
                        let weight = (((o + r) * shape.inputs + i) * kh + h) * kw + w;
                        let row = weight * units.count;
                        units.add(&mut out[row..row + units.count], lane, sums);
                    }
                });
            }
        }
    }
}

/// Of a bias, or of a vector that is added to every pixel: sums of `rows` rows.
pub(crate) fn of_rows(dy: &[f32], rows: usize, units: Units<'_>) -> Vec<f32> {
    let mut out = units.zeros(rows);
    row_sums(dy, rows, units, &mut out);
    out
}

vectorised! {
    fn row_sums(dy: &'a [f32], rows: usize, units: Units<'a>, out: &'a mut [f32]) {
        let batch = units.of_record.len();
        let length = dy.len() / rows;
        for (dy, out) in dy.chunks_exact(length).zip(out.chunks_exact_mut(units.count)) {
            for_lanes!(batch, lane, L => {
                let mut acc = [0.0_f32; L];
                let mut part = acc;
                let mut at = lane;
                while at < length {
                    let end = length.min(at + BLOCK * batch);
                    while at < end {
                        let dy = lanes::<L>(dy, at);
                        for l in 0..L {
                            part[l] += dy[l];
                        }
                        at += batch;
                    }
                    flush(&mut acc, &mut part);
                }
                units.add(out, lane, &acc);
            });
        }
    }
}

/// Of a scalar that multiplies a whole map.
pub(crate) fn of_scale(x: &[f32], dy: &[f32], units: Units<'_>) -> Vec<f32> {
    let mut out = units.zeros(1);
    product(dy, 1, x, 1, x.len(), units, &mut out);
    out
}

/// Of the scale and the shift of a group normalisation.
pub(crate) fn of_group_norm(
    shape: GroupNorm,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    moments: &[f32],
    dy: &[f32],
    units: Units<'_>,
) -> [Vec<f32>; 2] {
    let mut dgamma = units.zeros(shape.channels);
    let mut dbeta = units.zeros(shape.channels);
    group_norm(
        shape,
        x,
        gamma,
        beta,
        moments,
        dy,
        units,
        &mut dgamma,
        &mut dbeta,
    );
    [dgamma, dbeta]
}

vectorised! {
    fn group_norm(
        shape: GroupNorm, x: &'a [f32], gamma: &'a [f32], beta: &'a [f32], moments: &'a [f32],
        dy: &'a [f32], units: Units<'a>, dgamma: &'a mut [f32], dbeta: &'a mut [f32],
    ) {
        let GroupNorm { channels, groups, pixels, batch, .. } = shape;
        let per = channels / groups;
        let floor = if shape.relu { 0.0 } else { f32::NEG_INFINITY };
        for c in 0..channels {
            let g = c / per;
            let (gain, shift) = (gamma[c], beta[c]);
            let row = c * units.count..(c + 1) * units.count;
            for_lanes!(batch, lane, L => {
                let mean = *lanes::<L>(moments, 2 * g * batch + lane);
                let inv = *lanes::<L>(moments, (2 * g + 1) * batch + lane);
                let mut sum_d = [0.0_f32; L];
                let mut sum_dx = [0.0_f32; L];
                let (mut part_d, mut part_dx) = (sum_d, sum_dx);
                let mut p = c * pixels;
                while p < (c + 1) * pixels {
                    let end = ((c + 1) * pixels).min(p + BLOCK);
                    while p < end {
                        let x = lanes::<L>(x, p * batch + lane);
                        let dy = lanes::<L>(dy, p * batch + lane);
                        for l in 0..L {
                            let hat = (x[l] - mean[l]) * inv[l];
                            let open = hat.mul_add(gain, shift) > floor;
                            let d = if open { dy[l] } else { 0.0 };
                            part_d[l] += d;
                            part_dx[l] = d.mul_add(hat, part_dx[l]);
                        }
                        p += 1;
                    }
                    flush(&mut sum_d, &mut part_d);
                    flush(&mut sum_dx, &mut part_dx);
                }
                units.add(&mut dgamma[row.clone()], lane, &sum_dx);
                units.add(&mut dbeta[row.clone()], lane, &sum_d);
            });
        }
    }
}

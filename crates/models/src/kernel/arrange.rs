//! Layers without weights: shuffle, subsampling, pooling, gates, residual sums.

use super::taps::Axis;
use super::{for_lanes, lanes, lanes_mut, sum, vectorised};

/// Source row of row `out` after concatenating and shuffling `n` channels in 8 groups:
/// `out[j * 8 + g] = in[g * (n / 8) + j]`.
#[inline(always)]
pub(crate) fn shuffled(out: usize, n: usize) -> usize {
    (out % 8) * (n / 8) + out / 8
}

/// Concatenates maps along the channels; with `shuffle` in the order of [`shuffled`].
pub(crate) fn concat(maps: &[&[f32]], columns: usize, shuffle: bool) -> Vec<f32> {
    let rows: Vec<&[f32]> = maps
        .iter()
        .flat_map(|map| map.chunks_exact(columns))
        .collect();
    let mut out = Vec::with_capacity(rows.len() * columns);
    for row in 0..rows.len() {
        out.extend_from_slice(
            rows[if shuffle {
                shuffled(row, rows.len())
            } else {
                row
            }],
        );
    }
    out
}

/// Splits a gradient of [`concat`] into parts of the given channel counts.
pub(crate) fn split(
    dy: &[f32],
    channels: &[usize],
    columns: usize,
    shuffle: bool,
) -> Vec<Vec<f32>> {
    let total: usize = channels.iter().sum();
    let mut parts: Vec<Vec<f32>> = channels
        .iter()
        .map(|&c| Vec::with_capacity(c * columns))
        .collect();
    let per = total / 8;
    let mut row = 0;
    for (part, &count) in parts.iter_mut().zip(channels) {
        for _ in 0..count {
            // Inverse of `shuffled`: source row g * per + j went to j * 8 + g.
            let at = if shuffle {
                (row % per) * 8 + row / per
            } else {
                row
            };
            part.extend_from_slice(&dy[at * columns..(at + 1) * columns]);
            row += 1;
        }
    }
    parts
}

/// Pixels 0, 2, 4, ... of both axes.
pub(crate) fn subsample(x: &[f32], height: usize, width: usize, batch: usize) -> Vec<f32> {
    let mut y = Vec::with_capacity(x.len() / 4 + batch);
    for plane in x.chunks_exact(height * width * batch) {
        for row in plane.chunks_exact(width * batch).step_by(2) {
            for pixel in row.chunks_exact(batch).step_by(2) {
                y.extend_from_slice(pixel);
            }
        }
    }
    y
}

/// Gradient of [`subsample`].
pub(crate) fn spread(dy: &[f32], height: usize, width: usize, batch: usize) -> Vec<f32> {
    let mut from = dy.chunks_exact(batch);
    let out = height.div_ceil(2) * width.div_ceil(2) * batch;
    let planes = dy.len() / out;
    let mut dx = vec![0.0; planes * height * width * batch];
    for plane in dx.chunks_exact_mut(height * width * batch) {
        for row in plane.chunks_exact_mut(width * batch).step_by(2) {
            for (pixel, from) in row.chunks_exact_mut(batch).step_by(2).zip(&mut from) {
                pixel.copy_from_slice(from);
            }
        }
    }
    dx
}

/// 3x3 maximum with stride 2 and, per output, the input position that won (the first of equals).
pub(crate) fn max_pool(
    x: &[f32],
    planes: usize,
    rows: Axis,
    cols: Axis,
    batch: usize,
) -> (Vec<f32>, Vec<u32>) {
    let plane = rows.input * cols.input * batch;
    let (height, width) = (rows.output(), cols.output());
    let mut y = vec![f32::NEG_INFINITY; planes * height * width * batch];
    let mut winners = vec![0_u32; y.len()];
    let (row_taps, col_taps) = (rows.forward(), cols.forward());
    let mut outputs = y
        .chunks_exact_mut(batch)
        .zip(winners.chunks_exact_mut(batch));
    for c in 0..planes {
        for oh in 0..height {
            for ow in 0..width {
                // One chunk per output pixel by construction.
                let Some((y, winners)) = outputs.next() else {
                    return (Vec::new(), Vec::new());
                };
                let mut first = true;
                for &(_, ih) in row_taps.at(oh) {
                    for &(_, iw) in col_taps.at(ow) {
                        let at = c * plane + (ih * cols.input + iw) * batch;
                        let x = &x[at..at + batch];
                        for l in 0..batch {
                            if first || x[l] > y[l] {
                                y[l] = x[l];
                                winners[l] = (at + l) as u32;
                            }
                        }
                        first = false;
                    }
                }
            }
        }
    }
    (y, winners)
}

/// Gradient of [`max_pool`].
pub(crate) fn max_unpool(dy: &[f32], winners: &[u32], inputs: usize) -> Vec<f32> {
    let mut dx = vec![0.0; inputs];
    for (&winner, &dy) in winners.iter().zip(dy) {
        dx[winner as usize] += dy;
    }
    dx
}

vectorised! {
    /// `y[c, b] = scale * sum_p x[c, p, b] * mask[c, p, b]` (mask optional).
    pub(crate) fn pixel_sum(
        x: &'a [f32], mask: Option<&'a [f32]>, pixels: usize, batch: usize, scale: f32, y: &'a mut [f32],
    ) {
        for c in 0..y.len() / batch {
            let x = &x[c * pixels * batch..(c + 1) * pixels * batch];
            let mask = mask.map(|mask| &mask[c * pixels * batch..(c + 1) * pixels * batch]);
            for_lanes!(batch, lane, L => {
                let mut total = [0.0_f32; L];
                let mut p = 0;
                while p < pixels {
                    let mut part = [0.0_f32; L];
                    for p in p..pixels.min(p + 64) {
                        let x = lanes::<L>(x, p * batch + lane);
                        if let Some(mask) = mask {
                            let mask = lanes::<L>(mask, p * batch + lane);
                            for l in 0..L { part[l] = x[l].mul_add(mask[l], part[l]); }
                        } else {
                            for l in 0..L { part[l] += x[l]; }
                        }
                    }
                    for l in 0..L { total[l] += part[l]; }
                    p += 64;
                }
                for l in 0..L { total[l] *= scale; }
                *lanes_mut::<L>(y, c * batch + lane) = total;
            });
        }
    }
}

/// Gradient of [`pixel_sum`] with respect to `x`.
pub(crate) fn pixel_spread(
    dy: &[f32],
    mask: Option<&[f32]>,
    pixels: usize,
    batch: usize,
    scale: f32,
) -> Vec<f32> {
    let mut dx = Vec::with_capacity(dy.len() * pixels);
    for row in dy.chunks_exact(batch) {
        for _ in 0..pixels {
            dx.extend(row.iter().map(|v| v * scale));
        }
    }
    if let Some(mask) = mask {
        for (dx, mask) in dx.iter_mut().zip(mask) {
            *dx *= mask;
        }
    }
    dx
}

/// `y[c, p, b] = x[c, p, b] * gate[c, b]`.
pub(crate) fn apply_gate(x: &[f32], gate: &[f32], pixels: usize, batch: usize) -> Vec<f32> {
    let mut y = Vec::with_capacity(x.len());
    for (plane, gate) in x.chunks_exact(pixels * batch).zip(gate.chunks_exact(batch)) {
        for pixel in plane.chunks_exact(batch) {
            y.extend(pixel.iter().zip(gate).map(|(x, gate)| x * gate));
        }
    }
    y
}

/// Gradient of [`apply_gate`] with respect to the gate: `sum_p dy * x`.
pub(crate) fn gate_gradient(x: &[f32], dy: &[f32], pixels: usize, batch: usize) -> Vec<f32> {
    let mut dgate = vec![0.0; x.len() / pixels];
    pixel_sum(x, Some(dy), pixels, batch, 1.0, &mut dgate);
    dgate
}

/// Samples that pixel `t` of `pixels` averages: from `floor(t length / pixels)` to
/// `ceil((t + 1) length / pixels)`.
pub(crate) fn window(t: usize, length: usize, pixels: usize) -> std::ops::Range<usize> {
    t * length / pixels..((t + 1) * length).div_ceil(pixels)
}

/// Adaptive averaging of `[channels, length, batch]` to `[channels, pixels, batch]`.
pub(crate) fn resample(x: &[f32], length: usize, pixels: usize, batch: usize) -> Vec<f32> {
    let mut y = vec![0.0; x.len() / length * pixels];
    for (x, y) in x
        .chunks_exact(length * batch)
        .zip(y.chunks_exact_mut(pixels * batch))
    {
        for (t, y) in y.chunks_exact_mut(batch).enumerate() {
            let window = window(t, length, pixels);
            let weight = 1.0 / window.len() as f32;
            for sample in window {
                for (y, x) in y.iter_mut().zip(&x[sample * batch..]) {
                    *y = weight.mul_add(*x, *y);
                }
            }
        }
    }
    y
}

/// Gradient of [`resample`].
pub(crate) fn resample_gradient(
    dy: &[f32],
    length: usize,
    pixels: usize,
    batch: usize,
) -> Vec<f32> {
    let mut dx = vec![0.0; dy.len() / pixels * length];
    for (dx, dy) in dx
        .chunks_exact_mut(length * batch)
        .zip(dy.chunks_exact(pixels * batch))
    {
        for (t, dy) in dy.chunks_exact(batch).enumerate() {
            let window = window(t, length, pixels);
            let weight = 1.0 / window.len() as f32;
            for sample in window {
                for (dx, dy) in dx[sample * batch..].iter_mut().zip(dy) {
                    *dx = weight.mul_add(*dy, *dx);
                }
            }
        }
    }
    dx
}

/// Nearest-neighbour upscaling of rows of `width` pixels in both axes.
pub(crate) fn upscale(x: &[f32], width: usize, batch: usize, factor: usize) -> Vec<f32> {
    let mut y = Vec::with_capacity(x.len() * factor * factor);
    for row in x.chunks_exact(width * batch) {
        for _ in 0..factor {
            for pixel in row.chunks_exact(batch) {
                for _ in 0..factor {
                    y.extend_from_slice(pixel);
                }
            }
        }
    }
    y
}

/// Gradient of [`upscale`].
pub(crate) fn upscale_gradient(dy: &[f32], width: usize, batch: usize, factor: usize) -> Vec<f32> {
    let mut dx = vec![0.0; dy.len() / (factor * factor)];
    let blocks = dy.chunks_exact(width * batch * factor * factor);
    for (dx, dy) in dx.chunks_exact_mut(width * batch).zip(blocks) {
        for row in dy.chunks_exact(width * batch * factor) {
            for (dx, dy) in dx
                .chunks_exact_mut(batch)
                .zip(row.chunks_exact(batch * factor))
            {
                for dy in dy.chunks_exact(batch) {
                    for (dx, dy) in dx.iter_mut().zip(dy) {
                        *dx += dy;
                    }
                }
            }
        }
    }
    dx
}

/// What follows a residual sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// `max(x, 0)` (V1).
    Relu,
    /// `x * 0.5 * (1 + erf(x / sqrt 2))` (V2).
    Gelu,
}

/// `activation(a + b)`.
pub(crate) fn add_activate(a: &[f32], b: &[f32], activation: Activation) -> Vec<f32> {
    let sums = a.iter().zip(b).map(|(a, b)| a + b);
    match activation {
        Activation::Relu => sums.map(|v| if v < 0.0 { 0.0 } else { v }).collect(),
        Activation::Gelu => sums.map(gelu).collect(),
    }
}

/// Gradient of [`add_activate`] with respect to either term.
pub(crate) fn add_activate_gradient(
    a: &[f32],
    b: &[f32],
    dy: &[f32],
    activation: Activation,
) -> Vec<f32> {
    let sums = a.iter().zip(b).map(|(a, b)| a + b).zip(dy);
    match activation {
        Activation::Relu => sums
            .map(|(v, dy)| if v > 0.0 { *dy } else { 0.0 })
            .collect(),
        Activation::Gelu => sums.map(|(v, dy)| dy * gelu_slope(v)).collect(),
    }
}

/// Sum of the products of two slices.
pub(crate) fn inner(a: &[f32], b: &[f32]) -> f32 {
    let products: Vec<f32> = a.iter().zip(b).map(|(a, b)| a * b).collect();
    sum(&products)
}

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

fn gelu_slope(x: f32) -> f32 {
    let density = (-0.5 * x * x).exp() * 0.398_942_3;
    0.5f32.mul_add(
        1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2),
        x * density,
    )
}

//! Depthwise convolutions: weight `[channels, k, k]`, map `[channels, height, width, batch]`.

use super::taps::{Axis, Taps};
use super::{for_lanes, lanes, lanes_mut, vectorised};

/// Geometry of a depthwise convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Depthwise {
    /// Channels of input and output.
    pub channels: usize,
    /// Vertical geometry.
    pub rows: Axis,
    /// Horizontal geometry; same kernel.
    pub cols: Axis,
    /// Records.
    pub batch: usize,
}

impl Depthwise {
    /// Output map.
    pub fn forward(self, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let (rows, cols) = (self.rows.forward(), self.cols.forward());
        let mut y = vec![0.0; self.channels * rows.len() * cols.len() * self.batch];
        let from = self.rows.input * self.cols.input * self.batch;
        gather(
            x,
            from,
            self.cols.input,
            w,
            self.rows.kernel,
            bias,
            &rows,
            &cols,
            self.batch,
            &mut y,
        );
        y
    }

    /// Gradient of the input map.
    pub fn input_gradient(self, dy: &[f32], w: &[f32]) -> Vec<f32> {
        let (rows, cols) = (self.rows.backward(), self.cols.backward());
        let mut dx = vec![0.0; self.channels * rows.len() * cols.len() * self.batch];
        let (height, width) = (self.rows.output(), self.cols.output());
        let from = height * width * self.batch;
        gather(
            dy,
            from,
            width,
            w,
            self.rows.kernel,
            None,
            &rows,
            &cols,
            self.batch,
            &mut dx,
        );
        dx
    }

    /// Gradient of the weight.
    pub fn weight_gradient(self, dy: &[f32], x: &[f32]) -> Vec<f32> {
        let mut dw = vec![0.0; self.channels * self.rows.kernel * self.cols.kernel];
        correlate(x, dy, self, &mut dw);
        dw
    }
}

vectorised! {
    fn gather(
        from: &'a [f32], plane: usize, width: usize, w: &'a [f32], k: usize,
        bias: Option<&'a [f32]>, rows: &'a Taps, cols: &'a Taps, batch: usize, to: &'a mut [f32],
    ) {
        let out = rows.len() * cols.len() * batch;
        for (c, to) in to.chunks_exact_mut(out).enumerate() {
            let from = &from[c * plane..(c + 1) * plane];
            let w = &w[c * k * k..(c + 1) * k * k];
            let init = bias.map_or(0.0, |bias| bias[c]);
            for oh in 0..rows.len() {
                for ow in 0..cols.len() {
                    let at = (oh * cols.len() + ow) * batch;
                    for_lanes!(batch, lane, L => {
                        let mut acc = [init; L];
                        for &(kh, ih) in rows.at(oh) {
                            for &(kw, iw) in cols.at(ow) {
                                let weight = w[kh * k + kw];
                                let values = lanes::<L>(from, (ih * width + iw) * batch + lane);
                                for l in 0..L {
                                    acc[l] = weight.mul_add(values[l], acc[l]);
                                }
                            }
                        }
                        *lanes_mut::<L>(to, at + lane) = acc;
                    });
                }
            }
        }
    }
}

vectorised! {
    fn correlate(x: &'a [f32], dy: &'a [f32], shape: Depthwise, dw: &'a mut [f32]) {
        let (k, batch, stride) = (shape.rows.kernel, shape.batch, shape.cols.stride);
        let (in_w, out_w) = (shape.cols.input, shape.cols.output());
        let (plane_in, plane_out) = (shape.rows.input * in_w * batch, shape.rows.output() * out_w * batch);
        let (rows, cols) = (shape.rows.valid(), shape.cols.valid());
        for c in 0..shape.channels {
            let x = &x[c * plane_in..(c + 1) * plane_in];
            let dy = &dy[c * plane_out..(c + 1) * plane_out];
            for (kh, (ohs, first_ih)) in rows.iter().enumerate() {
                for (kw, (ows, first_iw)) in cols.iter().enumerate() {
                    let mut acc = [[0.0_f32; 8]; 4];
                    let mut rest = 0.0_f32;
                    for (row, oh) in ohs.clone().enumerate() {
                        let ih = first_ih + row * stride;
                        let x = &x[(ih * in_w + first_iw) * batch..];
                        let dy = &dy[(oh * out_w + ows.start) * batch..][..ows.len() * batch];
                        if stride == 1 {
                            dot(&x[..dy.len()], dy, &mut acc, &mut rest);
                        } else {
                            for (pixel, dy) in dy.chunks_exact(batch).enumerate() {
                                let x = &x[pixel * stride * batch..][..batch];
                                dot(x, dy, &mut acc, &mut rest);
                            }
                        }
                    }
                    let total: f32 = acc.iter().map(|lanes| lanes.iter().sum::<f32>()).sum();
                    dw[(c * k + kh) * k + kw] = total + rest;
                }
            }
        }
    }
}

/// Adds `x . y` to the accumulators.
#[inline(always)]
pub(super) fn dot(x: &[f32], y: &[f32], acc: &mut [[f32; 8]; 4], rest: &mut f32) {
    let (xs, x) = x.as_chunks::<32>();
    let (ys, y) = y.as_chunks::<32>();
    for (x, y) in xs.iter().zip(ys) {
        for r in 0..4 {
            for l in 0..8 {
                acc[r][l] = x[r * 8 + l].mul_add(y[r * 8 + l], acc[r][l]);
            }
        }
    }
    let (xs, x) = x.as_chunks::<8>();
    let (ys, y) = y.as_chunks::<8>();
    for (r, (x, y)) in xs.iter().zip(ys).enumerate() {
        for l in 0..8 {
            acc[r][l] = x[l].mul_add(y[l], acc[r][l]);
        }
    }
    for (x, y) in x.iter().zip(y) {
        *rest = x.mul_add(*y, *rest);
    }
}

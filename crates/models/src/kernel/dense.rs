//! Ungrouped convolutions of the stems: weight `[out, in, kh, kw]`, map `[in, height, width, batch]`.

use super::taps::{Axis, Taps};
use super::{for_lanes, lanes, lanes_mut, vectorised};

/// Geometry of an ungrouped convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dense {
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Vertical geometry.
    pub rows: Axis,
    /// Horizontal geometry.
    pub cols: Axis,
    /// Records.
    pub batch: usize,
}

impl Dense {
    fn window(self) -> usize {
        self.rows.kernel * self.cols.kernel
    }

    /// Output map.
    pub fn forward(self, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let (rows, cols) = (self.rows.forward(), self.cols.forward());
        let mut y = vec![0.0; self.outputs * rows.len() * cols.len() * self.batch];
        let shape = Gather {
            from: self.inputs,
            to: self.outputs,
            width: self.cols.input,
            plane: self.rows.input * self.cols.input * self.batch,
            window: (self.rows.kernel, self.cols.kernel),
            weight: (self.inputs * self.window(), self.window()),
            batch: self.batch,
        };
        gather(x, w, bias, &rows, &cols, shape, &mut y);
        y
    }

    /// Gradient of the input map.
    pub fn input_gradient(self, dy: &[f32], w: &[f32]) -> Vec<f32> {
        let (rows, cols) = (self.rows.backward(), self.cols.backward());
        let mut dx = vec![0.0; self.inputs * rows.len() * cols.len() * self.batch];
        let shape = Gather {
            from: self.outputs,
            to: self.inputs,
            width: self.cols.output(),
            plane: self.rows.output() * self.cols.output() * self.batch,
            window: (self.rows.kernel, self.cols.kernel),
            weight: (self.window(), self.inputs * self.window()),
            batch: self.batch,
        };
        gather(dy, w, None, &rows, &cols, shape, &mut dx);
        dx
    }

    /// Gradient of the weight.
    pub fn weight_gradient(self, dy: &[f32], x: &[f32]) -> Vec<f32> {
        let mut dw = vec![0.0; self.outputs * self.inputs * self.window()];
        correlate(x, dy, self, &mut dw);
        dw
    }
}

#[derive(Clone, Copy)]
struct Gather {
    from: usize,
    to: usize,
    width: usize,
    plane: usize,
    window: (usize, usize),
    /// Distance in the weight between two target and two source channels.
    weight: (usize, usize),
    batch: usize,
}

vectorised! {
    fn gather(
        from: &'a [f32], w: &'a [f32], bias: Option<&'a [f32]>, rows: &'a Taps, cols: &'a Taps,
        shape: Gather, to: &'a mut [f32],
    ) {
        let mut channel = 0;
        while channel < shape.to {
            if channel + 4 <= shape.to {
                gather_block::<4>(from, w, bias, rows, cols, shape, channel, to);
                channel += 4;
            } else {
                gather_block::<1>(from, w, bias, rows, cols, shape, channel, to);
                channel += 1;
            }
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn gather_block<const M: usize>(
    from: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    rows: &Taps,
    cols: &Taps,
    shape: Gather,
    channel: usize,
    to: &mut [f32],
) {
    // The block's weights, one array of `M` per source channel and window element.
    let window = shape.window.0 * shape.window.1;
    let mut weights = Vec::with_capacity(shape.from * window);
    for source in 0..shape.from {
        for element in 0..window {
            weights.push(std::array::from_fn::<f32, M, _>(|r| {
                w[(channel + r) * shape.weight.0 + source * shape.weight.1 + element]
            }));
        }
    }
    let out = rows.len() * cols.len() * shape.batch;
    for oh in 0..rows.len() {
        for ow in 0..cols.len() {
            let at = (oh * cols.len() + ow) * shape.batch;
            for_lanes!(shape.batch, lane, L => {
                let mut acc: [[f32; L]; M] =
                    std::array::from_fn(|r| [bias.map_or(0.0, |bias| bias[channel + r]); L]);
                for source in 0..shape.from {
                    let plane = &from[source * shape.plane..(source + 1) * shape.plane];
                    for &(kh, ih) in rows.at(oh) {
                        let weights = &weights[source * window + kh * shape.window.1..][..shape.window.1];
                        for &(kw, iw) in cols.at(ow) {
                            let values = lanes::<L>(plane, (ih * shape.width + iw) * shape.batch + lane);
                            let weight = &weights[kw];
                            for r in 0..M {
                                for l in 0..L {
                                    acc[r][l] = weight[r].mul_add(values[l], acc[r][l]);
                                }
                            }
                        }
                    }
                }
                for r in 0..M {
                    *lanes_mut::<L>(to, (channel + r) * out + at + lane) = acc[r];
                }
            });
        }
    }
}

vectorised! {
    fn correlate(x: &'a [f32], dy: &'a [f32], shape: Dense, dw: &'a mut [f32]) {
        let mut channel = 0;
        while channel < shape.outputs {
            if channel + 4 <= shape.outputs {
                correlate_block::<4>(x, dy, shape, channel, dw);
                channel += 4;
            } else {
                correlate_block::<1>(x, dy, shape, channel, dw);
                channel += 1;
            }
        }
    }
}

#[inline(always)]
fn correlate_block<const M: usize>(
    x: &[f32],
    dy: &[f32],
    shape: Dense,
    channel: usize,
    dw: &mut [f32],
) {
    let batch = shape.batch;
    let (in_w, out_w) = (shape.cols.input, shape.cols.output());
    let (plane_in, plane_out) = (
        shape.rows.input * in_w * batch,
        shape.rows.output() * out_w * batch,
    );
    let window = shape.rows.kernel * shape.cols.kernel;
    let (rows, cols) = (shape.rows.valid(), shape.cols.valid());
    let dy: [&[f32]; M] = std::array::from_fn(|r| &dy[(channel + r) * plane_out..][..plane_out]);
    for source in 0..shape.inputs {
        let x = &x[source * plane_in..(source + 1) * plane_in];
        for (kh, (ohs, first_ih)) in rows.iter().enumerate() {
            for (kw, (ows, first_iw)) in cols.iter().enumerate() {
                let mut acc = [[0.0_f32; 16]; M];
                let mut rest = [0.0_f32; M];
                for (row, oh) in ohs.clone().enumerate() {
                    let ih = first_ih + row * shape.rows.stride;
                    for (pixel, ow) in ows.clone().enumerate() {
                        let from = (ih * in_w + first_iw + pixel * shape.cols.stride) * batch;
                        let at = (oh * out_w + ow) * batch;
                        let mut lane = 0;
                        while lane + 16 <= batch {
                            let x = lanes::<16>(x, from + lane);
                            for r in 0..M {
                                let dy = lanes::<16>(dy[r], at + lane);
                                for l in 0..16 {
                                    acc[r][l] = x[l].mul_add(dy[l], acc[r][l]);
                                }
                            }
                            lane += 16;
                        }
                        while lane < batch {
                            for r in 0..M {
                                rest[r] = x[from + lane].mul_add(dy[r][at + lane], rest[r]);
                            }
                            lane += 1;
                        }
                    }
                }
                for r in 0..M {
                    let total = acc[r].iter().sum::<f32>() + rest[r];
                    dw[((channel + r) * shape.inputs + source) * window
                        + kh * shape.cols.kernel
                        + kw] = total;
                }
            }
        }
    }
}

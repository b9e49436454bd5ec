//! Group normalisation (Wu and He 2018), optionally followed by ReLU, on `[channels, n, batch]`.

use super::{for_lanes, lanes, lanes_mut, vectorised};

/// Sizes of a group normalisation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupNorm {
    /// Channels.
    pub channels: usize,
    /// Groups; divide the channels.
    pub groups: usize,
    /// Pixels: height x width.
    pub pixels: usize,
    /// Records.
    pub batch: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// Whether ReLU follows.
    pub relu: bool,
}

/// Rows summed in single precision before they enter the total, to keep long sums exact enough.
const BLOCK: usize = 64;

impl GroupNorm {
    /// Output map and, per group and record, mean and reciprocal standard deviation.
    pub fn forward(self, x: &[f32], gamma: &[f32], beta: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let mut y = vec![0.0; x.len()];
        let mut moments = vec![0.0; 2 * self.groups * self.batch];
        forward(x, gamma, beta, self, &mut y, &mut moments);
        (y, moments)
    }

    /// Gradients of the input, the scale and the shift.
    pub fn backward(
        self,
        x: &[f32],
        gamma: &[f32],
        beta: &[f32],
        moments: &[f32],
        dy: &[f32],
    ) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let mut dx = vec![0.0; x.len()];
        let mut dgamma = vec![0.0; self.channels];
        let mut dbeta = vec![0.0; self.channels];
        backward(
            x,
            gamma,
            beta,
            moments,
            dy,
            self,
            &mut dx,
            &mut dgamma,
            &mut dbeta,
        );
        (dx, dgamma, dbeta)
    }
}

vectorised! {
    fn forward(
        x: &'a [f32], gamma: &'a [f32], beta: &'a [f32], shape: GroupNorm,
        y: &'a mut [f32], moments: &'a mut [f32],
    ) {
        let GroupNorm { channels, groups, pixels, batch, .. } = shape;
        let per = channels / groups;
        let rows = per * pixels;
        let scale = 1.0 / rows as f32;
        let floor = if shape.relu { 0.0 } else { f32::NEG_INFINITY };
        for g in 0..groups {
            let x = &x[g * rows * batch..(g + 1) * rows * batch];
            let y = &mut y[g * rows * batch..(g + 1) * rows * batch];
            for_lanes!(batch, lane, L => {
                let mut mean = [0.0_f32; L];
                let mut row = 0;
                while row < rows {
                    let mut part = [0.0_f32; L];
                    for r in row..rows.min(row + BLOCK) {
                        let x = lanes::<L>(x, r * batch + lane);
                        for l in 0..L { part[l] += x[l]; }
                    }
                    for l in 0..L { mean[l] += part[l]; }
                    row += BLOCK;
                }
                for l in 0..L { mean[l] *= scale; }
                let mut inv = [0.0_f32; L];
                let mut row = 0;
                while row < rows {
                    let mut part = [0.0_f32; L];
                    for r in row..rows.min(row + BLOCK) {
                        let x = lanes::<L>(x, r * batch + lane);
                        for l in 0..L {
                            let d = x[l] - mean[l];
                            part[l] = d.mul_add(d, part[l]);
                        }
                    }
                    for l in 0..L { inv[l] += part[l]; }
                    row += BLOCK;
                }
                for l in 0..L { inv[l] = 1.0 / inv[l].mul_add(scale, shape.epsilon).sqrt(); }
                *lanes_mut::<L>(moments, 2 * g * batch + lane) = mean;
                *lanes_mut::<L>(moments, (2 * g + 1) * batch + lane) = inv;
                for c in 0..per {
                    let mut a = [0.0_f32; L];
                    let mut b = [0.0_f32; L];
                    for l in 0..L {
                        a[l] = inv[l] * gamma[g * per + c];
                        b[l] = (-mean[l]).mul_add(a[l], beta[g * per + c]);
                    }
                    for p in c * pixels..(c + 1) * pixels {
                        let x = lanes::<L>(x, p * batch + lane);
                        let y = lanes_mut::<L>(y, p * batch + lane);
                        for l in 0..L {
                            let v = x[l].mul_add(a[l], b[l]);
                            y[l] = if v < floor { floor } else { v };
                        }
                    }
                }
            });
        }
    }
}

vectorised! {
    fn backward(
        x: &'a [f32], gamma: &'a [f32], beta: &'a [f32], moments: &'a [f32], dy: &'a [f32],
        shape: GroupNorm, dx: &'a mut [f32], dgamma: &'a mut [f32], dbeta: &'a mut [f32],
    ) {
        let GroupNorm { channels, groups, pixels, batch, .. } = shape;
        let per = channels / groups;
        let rows = per * pixels;
        let scale = 1.0 / rows as f32;
        let floor = if shape.relu { 0.0 } else { f32::NEG_INFINITY };
        for g in 0..groups {
            let x = &x[g * rows * batch..(g + 1) * rows * batch];
            let dy = &dy[g * rows * batch..(g + 1) * rows * batch];
            let dx = &mut dx[g * rows * batch..(g + 1) * rows * batch];
            for_lanes!(batch, lane, L => {
                let mean = *lanes::<L>(moments, 2 * g * batch + lane);
                let inv = *lanes::<L>(moments, (2 * g + 1) * batch + lane);
                // Sums over the group of dxhat and dxhat * xhat.
                let mut sum_d = [0.0_f32; L];
                let mut sum_dx = [0.0_f32; L];
                for c in 0..per {
                    let (gain, shift) = (gamma[g * per + c], beta[g * per + c]);
                    let mut row_d = [0.0_f32; L];
                    let mut row_dx = [0.0_f32; L];
                    let mut p = c * pixels;
                    while p < (c + 1) * pixels {
                        let mut part_d = [0.0_f32; L];
                        let mut part_dx = [0.0_f32; L];
                        for p in p..((c + 1) * pixels).min(p + BLOCK) {
                            let x = lanes::<L>(x, p * batch + lane);
                            let dy = lanes::<L>(dy, p * batch + lane);
                            for l in 0..L {
                                let hat = (x[l] - mean[l]) * inv[l];
                                let open = hat.mul_add(gain, shift) > floor;
                                let d = if open { dy[l] } else { 0.0 };
                                part_d[l] += d;
                                part_dx[l] = d.mul_add(hat, part_dx[l]);
                            }
                        }
                        for l in 0..L {
                            row_d[l] += part_d[l];
                            row_dx[l] += part_dx[l];
                        }
                        p += BLOCK;
                    }
                    dbeta[g * per + c] += row_d.iter().sum::<f32>();
                    dgamma[g * per + c] += row_dx.iter().sum::<f32>();
                    for l in 0..L {
                        sum_d[l] = gain.mul_add(row_d[l], sum_d[l]);
                        sum_dx[l] = gain.mul_add(row_dx[l], sum_dx[l]);
                    }
                }
                for l in 0..L {
                    sum_d[l] *= scale;
                    sum_dx[l] *= scale;
                }
                for c in 0..per {
                    let (gain, shift) = (gamma[g * per + c], beta[g * per + c]);
                    for p in c * pixels..(c + 1) * pixels {
                        let x = lanes::<L>(x, p * batch + lane);
                        let dy = lanes::<L>(dy, p * batch + lane);
                        let dx = lanes_mut::<L>(dx, p * batch + lane);
                        for l in 0..L {
                            let hat = (x[l] - mean[l]) * inv[l];
                            let open = hat.mul_add(gain, shift) > floor;
                            let d = if open { dy[l] * gain } else { 0.0 };
                            dx[l] = inv[l] * ((-hat).mul_add(sum_dx[l], d - sum_d[l]));
                        }
                    }
                }
            });
        }
    }
}

//! 1x1 convolutions as block-diagonal matrix products: weight `[out, in / groups]`, map `[in, n]`.

use super::{lanes, lanes_mut, sum, vectorised};

/// Sizes of a grouped product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Groups; divide both.
    pub groups: usize,
    /// Columns: height x width x batch.
    pub columns: usize,
}

impl Product {
    fn inner(self) -> usize {
        self.inputs / self.groups
    }

    fn outer(self) -> usize {
        self.outputs / self.groups
    }

    /// `y = w x + bias`.
    pub fn forward(self, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let mut y = vec![0.0; self.outputs * self.columns];
        let (ci, co, n) = (self.inner(), self.outer(), self.columns);
        for g in 0..self.groups {
            let x = &x[g * ci * n..(g + 1) * ci * n];
            let w = &w[g * co * ci..(g + 1) * co * ci];
            let bias = bias.map(|bias| &bias[g * co..(g + 1) * co]);
            multiply(
                w,
                ci,
                1,
                co,
                ci,
                x,
                n,
                &mut y[g * co * n..(g + 1) * co * n],
                bias,
            );
        }
        y
    }

    /// `dx = w' dy`.
    pub fn input_gradient(self, dy: &[f32], w: &[f32]) -> Vec<f32> {
        let mut dx = vec![0.0; self.inputs * self.columns];
        let (ci, co, n) = (self.inner(), self.outer(), self.columns);
        for g in 0..self.groups {
            let dy = &dy[g * co * n..(g + 1) * co * n];
            let w = &w[g * co * ci..(g + 1) * co * ci];
            multiply(
                w,
                1,
                ci,
                ci,
                co,
                dy,
                n,
                &mut dx[g * ci * n..(g + 1) * ci * n],
                None,
            );
        }
        dx
    }

    /// `dw = dy x'`.
    pub fn weight_gradient(self, dy: &[f32], x: &[f32]) -> Vec<f32> {
        let (ci, co, n) = (self.inner(), self.outer(), self.columns);
        let mut dw = vec![0.0; self.outputs * ci];
        for g in 0..self.groups {
            let dy = &dy[g * co * n..(g + 1) * co * n];
            let x = &x[g * ci * n..(g + 1) * ci * n];
            outer(dy, co, x, ci, n, &mut dw[g * co * ci..(g + 1) * co * ci]);
        }
        dw
    }

    /// Sum of every row of `dy`.
    pub fn bias_gradient(self, dy: &[f32]) -> Vec<f32> {
        dy.chunks_exact(self.columns).map(sum).collect()
    }
}

vectorised! {
    /// `y[m, n] = sum_k a(m, k) x[k, n] + bias[m]` with `a(m, k) = a[m * row + k * col]`.
    pub(crate) fn multiply(
        a: &'a [f32], row: usize, col: usize, m: usize, k: usize,
        x: &'a [f32], n: usize, y: &'a mut [f32], bias: Option<&'a [f32]>,
    ) {
        // Rows of `a` are copied in tiles of four, so that the inner loop reads them in order.
        let tiles = m / 4;
        let mut fours = Vec::with_capacity(tiles * k);
        for tile in 0..tiles {
            for kk in 0..k {
                fours.push(std::array::from_fn::<f32, 4, _>(|r| a[(tile * 4 + r) * row + kk * col]));
            }
        }
        let mut ones = Vec::with_capacity((m - tiles * 4) * k);
        for r in tiles * 4..m {
            for kk in 0..k {
                ones.push([a[r * row + kk * col]]);
            }
        }
        // A panel of columns is copied when it is read often, because rows whose distance is a power
        // of two would otherwise throw each other out of the cache.
        let copy = k > 8 && m >= 4;
        let mut panel = vec![[0.0_f32; 16]; if copy { k } else { 0 }];
        let mut start = 0;
        while start + 16 <= n {
            if copy {
                for (kk, to) in panel.iter_mut().enumerate() {
                    *to = *lanes::<16>(x, kk * n + start);
                }
            }
            for tile in 0..tiles {
                let weights = &fours[tile * k..(tile + 1) * k];
                let init = std::array::from_fn(|r| bias.map_or(0.0, |b| b[tile * 4 + r]));
                let acc = if copy {
                    accumulate(weights, panel.iter(), init)
                } else {
                    accumulate(weights, (0..k).map(|kk| lanes::<16>(x, kk * n + start)), init)
                };
                for (r, acc) in acc.iter().enumerate() {
                    *lanes_mut(y, (tile * 4 + r) * n + start) = *acc;
                }
            }
            for (r, weights) in ones.chunks_exact(k).enumerate() {
                let r = tiles * 4 + r;
                let init = [bias.map_or(0.0, |b| b[r])];
                let rows = (0..k).map(|kk| lanes::<16>(x, kk * n + start));
                *lanes_mut(y, r * n + start) = accumulate(weights, rows, init)[0];
            }
            start += 16;
        }
        while start < n {
            for tile in 0..tiles {
                let weights = &fours[tile * k..(tile + 1) * k];
                let init = std::array::from_fn(|r| bias.map_or(0.0, |b| b[tile * 4 + r]));
                let rows = (0..k).map(|kk| lanes::<1>(x, kk * n + start));
                for (r, acc) in accumulate(weights, rows, init).iter().enumerate() {
                    y[(tile * 4 + r) * n + start] = acc[0];
                }
            }
            for (r, weights) in ones.chunks_exact(k).enumerate() {
                let r = tiles * 4 + r;
                let init = [bias.map_or(0.0, |b| b[r])];
                let rows = (0..k).map(|kk| lanes::<1>(x, kk * n + start));
                y[r * n + start] = accumulate(weights, rows, init)[0][0];
            }
            start += 1;
        }
    }
}

#[inline(always)]
fn accumulate<'x, const M: usize, const L: usize>(
    weights: &[[f32; M]],
    rows: impl Iterator<Item = &'x [f32; L]>,
    init: [f32; M],
) -> [[f32; L]; M] {
    let mut acc: [[f32; L]; M] = init.map(|value| [value; L]);
    for (weight, row) in weights.iter().zip(rows) {
        for r in 0..M {
            for l in 0..L {
                acc[r][l] = weight[r].mul_add(row[l], acc[r][l]);
            }
        }
    }
    acc
}

vectorised! {
    /// `out[i, j] = sum_n a[i, n] b[j, n]`.
    pub(crate) fn outer(
        a: &'a [f32], rows: usize, b: &'a [f32], cols: usize, n: usize, out: &'a mut [f32],
    ) {
        let mut i = 0;
        while i < rows {
            if i + 4 <= rows {
                outer_rows::<4>(a, i, b, cols, n, out);
                i += 4;
            } else if i + 2 <= rows {
                outer_rows::<2>(a, i, b, cols, n, out);
                i += 2;
            } else {
                outer_rows::<1>(a, i, b, cols, n, out);
                i += 1;
            }
        }
    }
}

#[inline(always)]
fn outer_rows<const M: usize>(
    a: &[f32],
    i: usize,
    b: &[f32],
    cols: usize,
    n: usize,
    out: &mut [f32],
) {
    let mut j = 0;
    while j < cols {
        if j + 2 <= cols {
            outer_tile::<M, 2>(a, i, b, j, cols, n, out);
            j += 2;
        } else {
            outer_tile::<M, 1>(a, i, b, j, cols, n, out);
            j += 1;
        }
    }
}

#[inline(always)]
fn outer_tile<const M: usize, const N: usize>(
    a: &[f32],
    i: usize,
    b: &[f32],
    j: usize,
    cols: usize,
    n: usize,
    out: &mut [f32],
) {
    let a: [&[f32]; M] = std::array::from_fn(|r| &a[(i + r) * n..][..n]);
    let b: [&[f32]; N] = std::array::from_fn(|c| &b[(j + c) * n..][..n]);
    let mut acc = [[[0.0_f32; 8]; N]; M];
    let whole = n - n % 8;
    let mut start = 0;
    while start < whole {
        let b: [&[f32; 8]; N] = std::array::from_fn(|c| lanes::<8>(b[c], start));
        for r in 0..M {
            let a = lanes::<8>(a[r], start);
            for c in 0..N {
                for l in 0..8 {
                    acc[r][c][l] = a[l].mul_add(b[c][l], acc[r][c][l]);
                }
            }
        }
        start += 8;
    }
    for r in 0..M {
        for c in 0..N {
            let mut total: f32 = acc[r][c].iter().sum();
            for at in whole..n {
                total = a[r][at].mul_add(b[c][at], total);
            }
            out[(i + r) * cols + j + c] = total;
        }
    }
}

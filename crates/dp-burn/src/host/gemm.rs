//! Products of single-precision matrices with the machine's widest vectors.
//!
//! A panel of `b`, two vectors wide, stays in the first-level cache while eight rows of `a` at a time pass over
//! it (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008). It exists because the
//! products here are narrow and come in thousands: general libraries reach half of this on them. Sums run in an
//! order that depends on shapes only.

use std::cell::RefCell;
use std::sync::LazyLock;

use pulp::{Arch, Simd, WithSimd};

/// The instruction set found on this machine.
pub(crate) static ARCH: LazyLock<Arch> = LazyLock::new(Arch::new);

/// Rows of `a` that are multiplied at a time.
const ROWS: usize = 8;

/// Longest stretch of the inner dimension; a panel of `b` of this length fits the first-level cache.
const DEPTH: usize = 256;

/// With fewer rows than this a block of eight would be mostly zeros.
const THIN: usize = 4;

/// From this inner dimension on, operands that are both contiguous along it are not packed.
const LONG: usize = 128;

/// A matrix with any strides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strided<'a> {
    pub values: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    /// Distance between rows and between columns.
    pub strides: [usize; 2],
}

/// A left operand, packed once for many products.
#[derive(Debug)]
pub(crate) struct Left<'a> {
    a: Strided<'a>,
    /// Blocks of eight rows, stretch by stretch of the inner dimension.
    packed: Vec<f32>,
}

thread_local! {
    /// One panel of the right operand, kept from call to call.
    static PANEL: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl<'a> Left<'a> {
    pub fn new(a: Strided<'a>) -> Self {
        let mut packed = Vec::new();
        if a.rows < THIN {
            return Self { a, packed };
        }
        for start in (0..a.cols).step_by(DEPTH) {
            pack_left(a, start, DEPTH.min(a.cols - start), &mut packed);
        }
        Self { a, packed }
    }

    /// `c = a b + keep c` with `c` row by row.
    pub fn multiply(&self, b: Strided<'_>, keep: bool, c: &mut [f32]) {
        run(self.a, Some(&self.packed), b, keep, c);
    }
}

/// `c = a b + keep c` with `c` row by row.
pub(crate) fn multiply(a: Strided<'_>, b: Strided<'_>, keep: bool, c: &mut [f32]) {
    let both_along = a.strides[1] == 1 && b.strides[0] == 1 && a.cols >= LONG;
    if a.rows < THIN || both_along {
        run(a, None, b, keep, c);
    } else {
        Left::new(a).multiply(b, keep, c);
    }
}

fn run(a: Strided<'_>, packed: Option<&[f32]>, b: Strided<'_>, keep: bool, c: &mut [f32]) {
    if b.cols == 0 || a.rows == 0 {
        return;
    }
    if !keep {
        c.fill(0.0);
    }
    PANEL.with_borrow_mut(|panel| {
        ARCH.dispatch(Multiply {
            a,
            packed,
            b,
            c,
            panel,
        });
    });
}

struct Multiply<'a> {
    a: Strided<'a>,
    packed: Option<&'a [f32]>,
    b: Strided<'a>,
    c: &'a mut [f32],
    panel: &'a mut Vec<f32>,
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            a,
            packed,
            b,
            c,
            panel,
        } = self;
        if a.rows < THIN {
            return thin(a, b, c);
        }
        let Some(packed) = packed else {
            return inner_products(simd, a, b, c);
        };
        let cols = b.cols;
        let wide = 2 * S::F32_LANES;
        let height = a.rows.div_ceil(ROWS) * ROWS;
        for start in (0..a.cols).step_by(DEPTH) {
            let depth = DEPTH.min(a.cols - start);
            let left = &packed[start * height..(start + depth) * height];
            if panel.len() < depth * wide {
                panel.resize(depth * wide, 0.0);
            }
            let panel = &mut panel[..depth * wide];
            for first in (0..cols).step_by(wide) {
                let width = wide.min(cols - first);
                pack_right(b, start, depth, first, width, wide, panel);
                let (right, _) = S::as_simd_f32s(panel);
                let (right, _) = right.as_chunks::<2>();
                for (block, left) in left.chunks_exact(depth * ROWS).enumerate() {
                    let (left, _) = left.as_chunks::<ROWS>();
                    let product = tile(simd, left, right);
                    let rows = ROWS.min(a.rows - block * ROWS);
                    for (row, product) in product.iter().enumerate().take(rows) {
                        let from = (block * ROWS + row) * cols + first;
                        let to = &mut c[from..from + width];
                        if width == wide {
                            let (to, _) = S::as_mut_simd_f32s(to);
                            to[0] = simd.add_f32s(to[0], product[0]);
                            to[1] = simd.add_f32s(to[1], product[1]);
                        } else {
                            let product: &[f32] = pulp::bytemuck::cast_slice(product);
                            for (to, &value) in to.iter_mut().zip(product) {
                                *to += value;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A few rows at a time, as sums of rows of `b` or as inner products with its columns.
#[inline(always)]
fn thin(a: Strided<'_>, b: Strided<'_>, c: &mut [f32]) {
    let [down, across] = b.strides;
    for (row, c) in c.chunks_exact_mut(b.cols).enumerate() {
        let from = a.values[row * a.strides[0]..].iter().step_by(a.strides[1]);
        if across == 1 {
            for (inner, &value) in from.take(a.cols).enumerate() {
                let b = &b.values[inner * down..inner * down + b.cols];
                for (to, &b) in c.iter_mut().zip(b) {
                    *to += value * b;
                }
            }
        } else if down == 1 && a.strides[1] == 1 {
            let a = &a.values[row * a.strides[0]..][..a.cols];
            for (column, to) in c.iter_mut().enumerate() {
                let b = &b.values[column * across..][..a.len()];
                *to += inner_product(a, b);
            }
        } else {
            for (column, to) in c.iter_mut().enumerate() {
                let b = b.values[column * across..].iter().step_by(down);
                *to += from
                    .clone()
                    .take(a.cols)
                    .zip(b)
                    .map(|(a, b)| a * b)
                    .sum::<f32>();
            }
        }
    }
}

/// Rows of `a` with columns of `b`, four by four: no packing, one reduction per element of `c`.
#[inline(always)]
fn inner_products<S: Simd>(simd: S, a: Strided<'_>, b: Strided<'_>, c: &mut [f32]) {
    const STRETCH: usize = 4 * DEPTH;
    const SIDE: usize = 4;
    for start in (0..a.cols).step_by(STRETCH) {
        let depth = STRETCH.min(a.cols - start);
        for first in (0..b.cols).step_by(SIDE) {
            // Past the edge the last one is repeated, and its products are dropped.
            let mut columns: [&[f32]; SIDE] = [&[]; SIDE];
            for (j, column) in columns.iter_mut().enumerate() {
                let from = (first + j).min(b.cols - 1) * b.strides[1] + start;
                *column = &b.values[from..from + depth];
            }
            for top in (0..a.rows).step_by(SIDE) {
                let mut rows: [&[f32]; SIDE] = [&[]; SIDE];
                for (i, row) in rows.iter_mut().enumerate() {
                    let from = (top + i).min(a.rows - 1) * a.strides[0] + start;
                    *row = &a.values[from..from + depth];
                }
                let products = square(simd, rows, columns);
                for (row, products) in products.iter().enumerate().take(a.rows - top) {
                    let to = &mut c[(top + row) * b.cols + first..];
                    for (to, &product) in to.iter_mut().zip(products).take(b.cols - first) {
                        *to += product;
                    }
                }
            }
        }
    }
}

/// Four rows with four columns of one length.
// Plain loops and functions only, here and in `tile`: a closure is a function of its own, and one that is not
// inlined is compiled without the instruction set that was dispatched for.
#[inline(always)]
fn square<S: Simd>(simd: S, rows: [&[f32]; 4], columns: [&[f32]; 4]) -> [[f32; 4]; 4] {
    let (r0, t0) = S::as_simd_f32s(rows[0]);
    let (r1, t1) = S::as_simd_f32s(rows[1]);
    let (r2, t2) = S::as_simd_f32s(rows[2]);
    let (r3, t3) = S::as_simd_f32s(rows[3]);
    let (c0, u0) = S::as_simd_f32s(columns[0]);
    let (c1, u1) = S::as_simd_f32s(columns[1]);
    let (c2, u2) = S::as_simd_f32s(columns[2]);
    let (c3, u3) = S::as_simd_f32s(columns[3]);
    let mut sums = [[simd.splat_f32s(0.0); 4]; 4];
    let left = r0.iter().zip(r1).zip(r2).zip(r3);
    let right = c0.iter().zip(c1).zip(c2).zip(c3);
    for ((((r0, r1), r2), r3), (((c0, c1), c2), c3)) in left.zip(right) {
        sums = accumulate(simd, sums, [*r0, *r1, *r2, *r3], [*c0, *c1, *c2, *c3]);
    }
    if !t0.is_empty() {
        let rows = [
            simd.partial_load_f32s(t0),
            simd.partial_load_f32s(t1),
            simd.partial_load_f32s(t2),
            simd.partial_load_f32s(t3),
        ];
        let columns = [
            simd.partial_load_f32s(u0),
            simd.partial_load_f32s(u1),
            simd.partial_load_f32s(u2),
            simd.partial_load_f32s(u3),
        ];
        sums = accumulate(simd, sums, rows, columns);
    }
    let mut products = [[0.0; 4]; 4];
    for i in 0..4 {
        for j in 0..4 {
            products[i][j] = simd.reduce_sum_f32s(sums[i][j]);
        }
    }
    products
}

#[inline(always)]
fn accumulate<S: Simd>(
    simd: S,
    mut sums: [[S::f32s; 4]; 4],
    rows: [S::f32s; 4],
    columns: [S::f32s; 4],
) -> [[S::f32s; 4]; 4] {
    for i in 0..4 {
        for j in 0..4 {
            sums[i][j] = simd.mul_add_f32s(rows[i], columns[j], sums[i][j]);
        }
    }
    sums
}

#[inline(always)]
fn inner_product(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    let mut lanes = [0.0; 16];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..16 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

/// Eight rows times two vectors of columns.
#[inline(always)]
fn tile<S: Simd>(simd: S, left: &[[f32; ROWS]], right: &[[S::f32s; 2]]) -> [[S::f32s; 2]; ROWS] {
    let zero = simd.splat_f32s(0.0);
    let mut sums = [[zero; 2]; ROWS];
    for (left, right) in left.iter().zip(right) {
        for row in 0..ROWS {
            let value = simd.splat_f32s(left[row]);
            sums[row][0] = simd.mul_add_f32s(value, right[0], sums[row][0]);
            sums[row][1] = simd.mul_add_f32s(value, right[1], sums[row][1]);
        }
    }
    sums
}

/// Appends blocks of eight rows, `[block][inner][row]`, with zeros for missing rows.
fn pack_left(a: Strided<'_>, start: usize, depth: usize, to: &mut Vec<f32>) {
    let blocks = a.rows.div_ceil(ROWS);
    let before = to.len();
    to.resize(before + blocks * depth * ROWS, 0.0);
    let [down, across] = a.strides;
    for (block, to) in to[before..].chunks_exact_mut(depth * ROWS).enumerate() {
        let rows = ROWS.min(a.rows - block * ROWS);
        let (to, _) = to.as_chunks_mut::<ROWS>();
        let base = block * ROWS * down + start * across;
        if down == 1 && rows == ROWS {
            for (inner, to) in to.iter_mut().enumerate() {
                let from = base + inner * across;
                to.copy_from_slice(&a.values[from..from + ROWS]);
            }
        } else {
            for row in 0..rows {
                let from = a.values[base + row * down..].iter().step_by(across);
                for (to, &from) in to.iter_mut().zip(from) {
                    to[row] = from;
                }
            }
        }
    }
}

/// One panel of columns, `[inner][column]`, with zeros for missing columns.
#[inline(always)]
fn pack_right(
    b: Strided<'_>,
    start: usize,
    depth: usize,
    first: usize,
    width: usize,
    wide: usize,
    to: &mut [f32],
) {
    let [down, across] = b.strides;
    let base = start * down + first * across;
    if width < wide {
        to.fill(0.0);
    }
    if across == 1 {
        for (inner, to) in to.chunks_exact_mut(wide).take(depth).enumerate() {
            let from = base + inner * down;
            to[..width].copy_from_slice(&b.values[from..from + width]);
        }
    } else {
        // The columns are what is contiguous: read along them.
        for column in 0..width {
            let from = b.values[base + column * across..].iter().step_by(down);
            for (to, &from) in to[column..].iter_mut().step_by(wide).zip(from).take(depth) {
                *to = from;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers, so that every order of summation gives the same.
    fn numbers(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7) % 11) as f32 - 5.0).collect()
    }

    fn strided(values: &[f32], rows: usize, cols: usize, transposed: bool) -> Strided<'_> {
        let strides = if transposed { [1, rows] } else { [cols, 1] };
        Strided {
            values,
            rows,
            cols,
            strides,
        }
    }

    #[test]
    fn products_are_exact_for_every_shape_and_order() {
        let shapes = [
            (1, 9, 40),
            (3, 5, 7),
            (4, 1, 33),
            (8, 300, 32),
            (13, 27, 65),
            (33, 520, 5),
        ];
        for (rows, inner, cols) in shapes {
            let (left, right) = (numbers(rows * inner), numbers(inner * cols));
            for (transpose_a, transpose_b) in
                [(false, false), (true, false), (false, true), (true, true)]
            {
                let a = strided(&left, rows, inner, transpose_a);
                let b = strided(&right, inner, cols, transpose_b);
                let at = |m: Strided<'_>, i: usize, j: usize| {
                    m.values[i * m.strides[0] + j * m.strides[1]]
                };
                for keep in [false, true] {
                    let mut c = vec![1.0; rows * cols];
                    multiply(a, b, keep, &mut c);
                    for (index, &got) in c.iter().enumerate() {
                        let (i, j) = (index / cols, index % cols);
                        let product: f32 = (0..inner).map(|k| at(a, i, k) * at(b, k, j)).sum();
                        let expected = product + if keep { 1.0 } else { 0.0 };
                        assert_eq!(got, expected, "{rows}x{inner}x{cols} at {i}, {j}");
                    }
                }
            }
        }
    }
}

//! The two precisions of the host's arithmetic.

use std::fmt::Debug;
use std::ops::{AddAssign, MulAssign};

use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Shape};
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, LinalgScalar};

use super::gemm::{self, Left, Strided};

/// `f32` or `f64`.
pub(crate) trait Real:
    LinalgScalar + AddAssign + MulAssign + Default + Debug + Send + Sync + 'static
{
    fn from_f64(value: f64) -> Self;
    fn to_f64(self) -> f64;
    /// The values of a contiguous tensor of this precision.
    fn values(tensor: &FlexTensor) -> &[Self];
    /// A tensor of these values.
    fn tensor(values: Vec<Self>, shape: Shape) -> FlexTensor;
    /// A left operand, made ready for many products.
    type Left<'a>;
    /// Makes it ready.
    fn left<'a>(a: &'a ArrayView2<'_, Self>) -> Self::Left<'a>;
    /// `c = left b + keep c`, with `c` row by row.
    fn times(left: &Self::Left<'_>, b: &ArrayView2<'_, Self>, keep: bool, c: &mut [Self]);
    /// `c = a b + keep c`, with `c` row by row.
    fn multiply(a: &ArrayView2<'_, Self>, b: &ArrayView2<'_, Self>, keep: bool, c: &mut [Self]);
}

macro_rules! real {
    ($float:ty, $dtype:expr, $multiply:expr, $left:ty, $make:expr, $times:expr) => {
        impl Real for $float {
            fn from_f64(value: f64) -> Self {
                value as $float
            }

            fn to_f64(self) -> f64 {
                f64::from(self)
            }

            fn values(tensor: &FlexTensor) -> &[Self] {
                // Tensors are made contiguous, and their precision is checked, before they come here.
                tensor.as_slice::<$float>().expect("a contiguous tensor")
            }

            fn tensor(values: Vec<Self>, shape: Shape) -> FlexTensor {
                FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape), $dtype)
            }

            type Left<'a> = $left;

            fn left<'a>(a: &'a ArrayView2<'_, Self>) -> Self::Left<'a> {
                $make(a)
            }

            fn times(left: &Self::Left<'_>, b: &ArrayView2<'_, Self>, keep: bool, c: &mut [Self]) {
                $times(left, b, keep, c);
            }

            fn multiply(
                a: &ArrayView2<'_, Self>,
                b: &ArrayView2<'_, Self>,
                keep: bool,
                c: &mut [Self],
            ) {
                $multiply(a, b, keep, c);
            }
        }
    };
}

real!(
    f32,
    DType::F32,
    single,
    Single<'a>,
    Single::new,
    Single::times
);
real!(
    f64,
    DType::F64,
    with_ndarray,
    ArrayView2<'a, f64>,
    view,
    with_ndarray
);

fn view<'a>(a: &'a ArrayView2<'_, f64>) -> ArrayView2<'a, f64> {
    a.view()
}

/// A packed left operand; the view itself where it is not in one piece.
pub(crate) struct Single<'a> {
    packed: Option<Left<'a>>,
    view: ArrayView2<'a, f32>,
}

impl<'a> Single<'a> {
    fn new(a: &'a ArrayView2<'_, f32>) -> Self {
        Self {
            packed: strided(a).map(Left::new),
            view: a.view(),
        }
    }

    fn times(&self, b: &ArrayView2<'_, f32>, keep: bool, c: &mut [f32]) {
        match (&self.packed, strided(b)) {
            (Some(left), Some(b)) => left.multiply(b, keep, c),
            _ => with_ndarray(&self.view, b, keep, c),
        }
    }
}

fn single(a: &ArrayView2<'_, f32>, b: &ArrayView2<'_, f32>, keep: bool, c: &mut [f32]) {
    match (strided(a), strided(b)) {
        (Some(a), Some(b)) => gemm::multiply(a, b, keep, c),
        _ => with_ndarray(a, b, keep, c),
    }
}

/// A view as the single-precision product takes it; nothing when its values are not in one piece.
fn strided<'a>(view: &'a ArrayView2<'_, f32>) -> Option<Strided<'a>> {
    let (rows, cols) = view.dim();
    let strides = [view.strides()[0], view.strides()[1]];
    let [Ok(down), Ok(across)] = strides.map(usize::try_from) else {
        return None;
    };
    Some(Strided {
        values: view.as_slice_memory_order()?,
        rows,
        cols,
        // An axis of length 1 may have any stride.
        strides: [down.max(1), across.max(1)],
    })
}

fn with_ndarray<E: Real>(a: &ArrayView2<'_, E>, b: &ArrayView2<'_, E>, keep: bool, c: &mut [E]) {
    let beta = if keep { E::one() } else { E::zero() };
    let mut c = matrix_mut(c, a.nrows(), b.ncols());
    general_mat_mul(E::one(), a, b, beta, &mut c);
}

/// A matrix over a slice, row by row.
pub(crate) fn matrix<E>(values: &[E], rows: usize, cols: usize) -> ArrayView2<'_, E> {
    ArrayView2::from_shape((rows, cols), values).expect("rows times columns values")
}

/// As [`matrix`], to write to.
fn matrix_mut<E>(values: &mut [E], rows: usize, cols: usize) -> ArrayViewMut2<'_, E> {
    ArrayViewMut2::from_shape((rows, cols), values).expect("rows times columns values")
}

/// Sum of squares: in this precision within a block, in `f64` over blocks.
pub(crate) fn squares<E: Real>(values: &[E]) -> f64 {
    dot(values, values)
}

/// Inner product of slices of one length: in this precision within a block, in `f64` over blocks.
pub(crate) fn dot<E: Real>(a: &[E], b: &[E]) -> f64 {
    const LANES: usize = 16;
    assert_eq!(a.len(), b.len(), "slices of one length");
    let mut total = 0.0;
    for (a, b) in a.chunks(512).zip(b.chunks(512)) {
        let mut lanes = [E::zero(); LANES];
        let (a, a_rest) = a.as_chunks::<LANES>();
        let (b, b_rest) = b.as_chunks::<LANES>();
        for (a, b) in a.iter().zip(b) {
            for lane in 0..LANES {
                lanes[lane] += a[lane] * b[lane];
            }
        }
        total += lanes.iter().map(|lane| lane.to_f64()).sum::<f64>();
        for (&a, &b) in a_rest.iter().zip(b_rest) {
            total += a.to_f64() * b.to_f64();
        }
    }
    total
}

/// `to += factor from`.
pub(crate) fn add_scaled<E: Real>(to: &mut [E], factor: E, from: &[E]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to += factor * from;
    }
}

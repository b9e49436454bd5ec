//! The two precisions of the host's arithmetic.

use std::fmt::Debug;
use std::ops::{AddAssign, MulAssign};

use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Shape};
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, LinalgScalar};

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
}

macro_rules! real {
    ($float:ty, $dtype:expr) => {
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
        }
    };
}

real!(f32, DType::F32);
real!(f64, DType::F64);

/// `c = a b + keep c`.
pub(crate) fn multiply<E: Real>(
    a: &ArrayView2<'_, E>,
    b: &ArrayView2<'_, E>,
    keep: bool,
    c: &mut ArrayViewMut2<'_, E>,
) {
    let beta = if keep { E::one() } else { E::zero() };
    general_mat_mul(E::one(), a, b, beta, c);
}

/// A matrix over a slice, rows of length `cols` every `stride` values.
pub(crate) fn matrix<E>(values: &[E], rows: usize, cols: usize) -> ArrayView2<'_, E> {
    ArrayView2::from_shape((rows, cols), values).expect("rows times columns values")
}

/// As [`matrix`], to write to.
pub(crate) fn matrix_mut<E>(values: &mut [E], rows: usize, cols: usize) -> ArrayViewMut2<'_, E> {
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

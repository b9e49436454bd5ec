//! CPU kernels of the network's layers, forward and backward, on plain slices.
//!
//! Every map has the layout `[channels, height, width, batch]` (C order): the batch is innermost, so that
//! all layers, also depthwise convolutions on 1x1 maps, work on whole vectors of records. The loops are
//! compiled for the machine's widest instruction set by `pulp`; sums run in an order that depends on
//! shapes only, so that results repeat bit for bit on one platform and with any number of threads.

pub(crate) mod arrange;
pub(crate) mod dense;
pub(crate) mod depthwise;
pub(crate) mod gates;
pub(crate) mod norm;
pub(crate) mod pointwise;
pub(crate) mod taps;
pub(crate) mod units;

use std::sync::LazyLock;

/// The instruction set found on this machine.
pub(crate) static ARCH: LazyLock<pulp::Arch> = LazyLock::new(pulp::Arch::new);

/// Defines a function whose body is compiled once per instruction set and chosen at run time.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name<'a>($($arg: $ty),*) {
            struct Kernel<'a> {
                $($arg: $ty,)*
                lifetime: std::marker::PhantomData<&'a ()>,
            }
            impl<'a> pulp::WithSimd for Kernel<'a> {
                type Output = ();
                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _simd: S) {
                    let Self { $($arg,)* lifetime: _ } = self;
                    $body
                }
            }
            $crate::kernel::ARCH.dispatch(Kernel { $($arg,)* lifetime: std::marker::PhantomData })
        }
    };
}
pub(crate) use vectorised;

/// Runs `$call::<LANES>(start)` over `0..$len` in blocks of 16, 8, 4 and 1 lanes.
macro_rules! for_lanes {
    ($len:expr, $start:ident, $lanes:ident => $body:expr) => {{
        let len = $len;
        let mut $start = 0;
        while $start + 16 <= len {
            const $lanes: usize = 16;
            $body;
            $start += 16;
        }
        while $start + 8 <= len {
            const $lanes: usize = 8;
            $body;
            $start += 8;
        }
        while $start + 4 <= len {
            const $lanes: usize = 4;
            $body;
            $start += 4;
        }
        while $start < len {
            const $lanes: usize = 1;
            $body;
            $start += 1;
        }
    }};
}
pub(crate) use for_lanes;

/// `L` values of `slice` from `start`.
#[inline(always)]
pub(crate) fn lanes<const L: usize>(slice: &[f32], start: usize) -> &[f32; L] {
    slice[start..]
        .first_chunk()
        .expect("kernel shapes were checked by the operation")
}

/// `L` mutable values of `slice` from `start`.
#[inline(always)]
pub(crate) fn lanes_mut<const L: usize>(slice: &mut [f32], start: usize) -> &mut [f32; L] {
    slice[start..]
        .first_chunk_mut()
        .expect("kernel shapes were checked by the operation")
}

/// Sum of the values, in a fixed tree order.
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f32 {
    let (blocks, rest) = values.as_chunks::<8>();
    let mut total = 0.0_f64;
    for part in blocks.chunks(64) {
        let mut acc = [0.0_f32; 8];
        for block in part {
            for lane in 0..8 {
                acc[lane] += block[lane];
            }
        }
        total += acc.iter().map(|&v| f64::from(v)).sum::<f64>();
    }
    (total + rest.iter().map(|&v| f64::from(v)).sum::<f64>()) as f32
}

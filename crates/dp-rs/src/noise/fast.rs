//! Single-precision Gaussians: Box-Muller over ChaCha8.
//!
//! 32 bits of the stream per value. The radius takes 31 bits, so that its largest value is
//! sqrt(2 · 32 · ln 2) = 6.66 standard deviations, which a Gaussian exceeds once in 3.6e10 draws.

use super::keystream::{self, Key, LANES, ROUNDS_FAST, Tile};
use super::vector::TILE;

/// Adds `std` times the Gaussians of one tile.
#[inline(always)]
pub(super) fn add_tile(key: &Key, nonce: u64, index: u64, std: f32, values: &mut [f32; TILE]) {
    let mut words = Tile::default();
    keystream::fill::<ROUNDS_FAST>(key, nonce, index, &mut words);
    // By rows of fixed length: slices of half a tile leave the compiler a scalar remainder.
    let (rows, _) = values.as_chunks_mut::<LANES>();
    let (first, second) = rows.split_at_mut(TILE / LANES / 2);
    for row in 0..TILE / LANES / 2 {
        for lane in 0..LANES {
            let (x, y) = box_muller(words[row][lane], words[8 + row][lane]);
            first[row][lane] += std * x;
            second[row][lane] += std * y;
        }
    }
}

/// Two independent Gaussians from 64 bits.
#[inline(always)]
fn box_muller(radius: u32, angle: u32) -> (f32, f32) {
    // Signed conversions only: unsigned ones have no vector instruction before AVX-512.
    let uniform = ((radius >> 1) as i32 as f32 + 0.5) * (1.0 / 2_147_483_648.0);
    let r = (-2.0 * ln(uniform)).sqrt();
    // A quarter turn from 30 bits; the other two bits choose one of four.
    let (sin, cos) =
        sin_cos((angle << 2) as i32 as f32 * (std::f32::consts::FRAC_PI_4 / 2_147_483_648.0));
    let (x, y) = if angle >> 31 == 0 {
        (cos, sin)
    } else {
        (sin, cos)
    };
    let r = f32::from_bits(r.to_bits() | ((angle << 1) & 0x8000_0000));
    (r * x, r * y)
}

/// Natural logarithm within 1e-7 relative, for positive normal numbers (polynomial of the Cephes library).
#[inline(always)]
fn ln(x: f32) -> f32 {
    const SQRT_HALF: u32 = 0x3f35_04f3;
    // x = 2^exponent (1 + f), 1 + f within [sqrt 1/2, sqrt 2)
    let exponent = (x.to_bits().wrapping_sub(SQRT_HALF) as i32) >> 23;
    let f = f32::from_bits(x.to_bits().wrapping_sub((exponent as u32) << 23)) - 1.0;
    let exponent = exponent as f32;
    let mut p = 7.037_683_6e-2_f32;
    p = p * f - 1.151_461e-1;
    p = p * f + 1.167_699_9e-1;
    p = p * f - 1.242_014_1e-1;
    p = p * f + 1.424_932_3e-1;
    p = p * f - 1.666_805_8e-1;
    p = p * f + 2.000_071_5e-1;
    p = p * f - 2.499_999_4e-1;
    p = p * f + 3.333_333e-1;
    let square = f * f;
    // ln 2 in two parts, the larger one exact in products with the exponent.
    let tail = p * f * square - exponent * 2.121_944_4e-4 - 0.5 * square;
    f + tail + exponent * 0.693_359_4
}

/// Sine and cosine within 1e-7, for angles up to a quarter of pi (polynomials of the Cephes library).
#[inline(always)]
fn sin_cos(x: f32) -> (f32, f32) {
    let z = x * x;
    let sin = ((-1.951_529_6e-4 * z + 8.332_161e-3) * z - 1.666_665_5e-1) * z * x + x;
    let cos = ((2.443_315_7e-5 * z - 1.388_731_6e-3) * z + 4.166_664_6e-2) * z * z - 0.5 * z + 1.0;
    (sin, cos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_right_to_single_precision() {
        for i in 1..200_000_u32 {
            let x = (i as f32) / 200_000.0;
            let exact = f64::from(x).ln();
            assert!(
                (f64::from(ln(x)) - exact).abs() <= 1.5e-7 * exact.abs(),
                "{x}"
            );
        }
        for exponent in 1..=32 {
            let exact = -f64::from(exponent) * std::f64::consts::LN_2;
            let got = f64::from(ln(2.0_f32.powi(-exponent)));
            assert!((got - exact).abs() < 1e-7 * exact.abs());
        }
    }

    #[test]
    fn sine_and_cosine_are_right_to_single_precision() {
        for i in -100_000..=100_000 {
            let x = i as f32 / 100_000.0 * std::f32::consts::FRAC_PI_4;
            let (sin, cos) = sin_cos(x);
            assert!((f64::from(sin) - f64::from(x).sin()).abs() < 1e-7);
            assert!((f64::from(cos) - f64::from(x).cos()).abs() < 1.2e-7);
        }
    }

    #[test]
    fn the_largest_value_is_beyond_six_and_a_half_standard_deviations() {
        let (x, _) = box_muller(0, 0);
        assert!((x - 6.66).abs() < 0.01);
        let (x, y) = box_muller(u32::MAX, 0);
        assert!(x.abs() < 1e-3 && y.abs() < 1e-3);
    }
}

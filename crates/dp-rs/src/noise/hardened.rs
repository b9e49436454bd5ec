//! Double-precision Gaussians over ChaCha20, four summed for each value, on a fixed grid.
//!
//! 256 bits of the stream per value. The radius takes 53 bits: one Gaussian reaches 8.57 standard
//! deviations, half the sum of four 17.1.

use super::keystream::{self, Key, LANES, ROUNDS_SAFE, Tile};
use super::vector::TILE;

/// Values from one group of key stream blocks: 16 blocks give 128 Gaussians.
const VALUES: usize = 2 * LANES;
/// Groups of blocks in a tile.
const GROUPS: u64 = (TILE / VALUES) as u64;
/// Largest grid step, in standard deviations: 2^-20.
const STEP: f64 = 1.0 / (1 << 20) as f64;
/// 2^52, the first number from which doubles are integers.
const TWO_52: f64 = 4_503_599_627_370_496.0;

/// The largest power of two that is at most 2^-20 standard deviations.
pub(super) fn grid_step(std: f64) -> f64 {
    let bits = (std * STEP).to_bits();
    // Without its mantissa a positive normal number is a power of two.
    f64::from_bits(bits & !((1 << 52) - 1))
}

/// Adds `std` times the Gaussians of one tile and rounds to multiples of `step`, a power of two.
#[inline(always)]
pub(super) fn add_tile(
    key: &Key,
    nonce: u64,
    index: u64,
    std: f64,
    step: f64,
    values: &mut [f32; TILE],
) {
    let (parts, _) = values.as_chunks_mut::<VALUES>();
    for (part, group) in parts.iter_mut().zip(0..GROUPS) {
        // The first group of the stream is the draw that is discarded.
        add_group(key, nonce, 1 + index * GROUPS + group, std, step, part);
    }
}

#[inline(always)]
#[expect(
    clippy::needless_range_loop,
    reason = "index loops over lanes are what is vectorised"
)]
fn add_group(key: &Key, nonce: u64, group: u64, std: f64, step: f64, values: &mut [f32; VALUES]) {
    let mut words = Tile::default();
    keystream::fill::<ROUNDS_SAFE>(key, nonce, group, &mut words);
    let mut sums = [[0.0_f64; LANES]; 2];
    for pair in 0..4 {
        for lane in 0..LANES {
            let (x, y) = box_muller(long(&words, pair, lane), long(&words, 4 + pair, lane));
            sums[0][lane] += x;
            sums[1][lane] += y;
        }
    }
    // Half the sum of four is a standard Gaussian.
    let half = 0.5 * std;
    let per_step = 1.0 / step;
    for (value, sum) in values.iter_mut().zip(sums.as_flattened()) {
        let noisy = f64::from(*value) + half * sum;
        // Powers of two: only the rounding to an integer rounds.
        *value = ((noisy * per_step).round_ties_even() * step) as f32;
    }
}

#[inline(always)]
fn long(words: &Tile, number: usize, lane: usize) -> u64 {
    u64::from(words[2 * number][lane]) | u64::from(words[2 * number + 1][lane]) << 32
}

/// Two independent Gaussians from 128 bits.
#[inline(always)]
fn box_muller(radius: u64, angle: u64) -> (f64, f64) {
    // In (0, 1): 52 bits, in the middle of their interval. The difference is exact.
    let uniform = one_to_two(radius >> 12) - (1.0 - f64::EPSILON / 2.0);
    let r = (-2.0 * ln(uniform)).sqrt();
    // A quarter turn from 52 bits; two other bits choose one of four.
    let turn = one_to_two(angle & (u64::MAX >> 12)) - (1.5 - f64::EPSILON / 2.0);
    let (sin, cos) = sin_cos(turn * std::f64::consts::FRAC_PI_2);
    let (x, y) = if angle >> 63 == 0 {
        (cos, sin)
    } else {
        (sin, cos)
    };
    let r = f64::from_bits(r.to_bits() | ((angle << 1) & (1 << 63)));
    (r * x, r * y)
}

/// `1 + bits 2^-52`. Vector units before AVX-512 cannot convert 64-bit integers.
#[inline(always)]
fn one_to_two(bits: u64) -> f64 {
    f64::from_bits(1.0_f64.to_bits() | bits)
}

/// Natural logarithm within 1 ulp, for positive normal numbers (polynomial of FreeBSD's `e_log.c`).
#[inline(always)]
fn ln(x: f64) -> f64 {
    const SQRT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
    // x = 2^exponent (1 + f), 1 + f within [sqrt 1/2, sqrt 2). Sums that wrap, because one that is checked for
    // overflow is not vectorised; none of them does.
    let shifted = x.to_bits().wrapping_add(1.0_f64.to_bits() - SQRT_HALF);
    let exponent = f64::from_bits(TWO_52.to_bits() | shifted >> 52) - (TWO_52 + 1023.0);
    let f = f64::from_bits((shifted & (u64::MAX >> 12)).wrapping_add(SQRT_HALF)) - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let mut p = 1.479_819_860_511_658_6e-1;
    p = p * z + 1.531_383_769_920_937_3e-1;
    p = p * z + 1.818_357_216_161_805e-1;
    p = p * z + 2.222_219_843_214_978_4e-1;
    p = p * z + 2.857_142_874_366_239e-1;
    p = p * z + 3.999_999_999_940_942e-1;
    p = p * z + 6.666_666_666_666_735e-1;
    let half_square = 0.5 * f * f;
    let tail = s * (half_square + p * z) + exponent * 1.908_214_929_270_587_7e-10;
    exponent * 6.931_471_803_691_238e-1 - (half_square - tail - f)
}

/// Sine and cosine within 1 ulp, up to a quarter of pi (polynomials of FreeBSD's `k_sin.c`, `k_cos.c`).
#[inline(always)]
fn sin_cos(x: f64) -> (f64, f64) {
    let z = x * x;
    let mut p = 1.589_690_995_211_55e-10;
    p = p * z - 2.505_076_025_340_686_3e-8;
    p = p * z + 2.755_731_370_707_006_8e-6;
    p = p * z - 1.984_126_982_985_795e-4;
    p = p * z + 8.333_333_333_322_49e-3;
    p = p * z - 1.666_666_666_666_663_2e-1;
    let sin = x + x * z * p;
    let mut p = -1.135_964_755_778_819_5e-11;
    p = p * z + 2.087_572_321_298_175e-9;
    p = p * z - 2.755_731_435_139_066_3e-7;
    p = p * z + 2.480_158_728_947_673e-5;
    p = p * z - 1.388_888_888_887_411e-3;
    p = p * z + 4.166_666_666_666_66e-2;
    let cos = 1.0 - (0.5 * z - z * z * p);
    (sin, cos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_are_right_to_double_precision() {
        for i in 1..=100_000 {
            let x = f64::from(i) / 100_000.0;
            assert!((ln(x) - x.ln()).abs() <= 3e-16 * x.ln().abs(), "{x}");
            let angle = (x - 0.5) * std::f64::consts::FRAC_PI_2;
            let (sin, cos) = sin_cos(angle);
            assert!((sin - angle.sin()).abs() < 2.3e-16 && (cos - angle.cos()).abs() < 2.3e-16);
        }
        let smallest = f64::EPSILON / 2.0;
        assert!((ln(smallest) - smallest.ln()).abs() < 1e-14);
    }

    #[test]
    fn the_radius_reaches_eight_and_a_half_standard_deviations() {
        let (x, y) = box_muller(0, 0);
        assert!((x.hypot(y) - 8.57).abs() < 0.01);
        let (x, y) = box_muller(u64::MAX, 0);
        assert!(x.hypot(y) < 2e-8);
    }

    #[test]
    fn the_grid_step_is_a_power_of_two_below_its_bound() {
        for std in [1e-9, 0.1, 1.0, 1.5, 3.0e7] {
            let step = grid_step(std);
            assert!(step <= std * STEP && step > std * STEP / 2.0);
            assert_eq!(step.to_bits() & (u64::MAX >> 12), 0);
        }
    }
}

//! The Gaussians are Gaussian. All streams are seeded, so that no test flakes; the stated false-alarm rates are
//! those of a new seed.

use std::num::NonZeroUsize;

use dp_rs::noise::{NoiseError, NoiseLevel, NoiseVector, Purpose, RootKey, Stream, add_noise};

const LEVELS: [NoiseLevel; 2] = [NoiseLevel::Fast, NoiseLevel::Hardened];
const N: usize = 1 << 20;

fn stream(seed: u64) -> Stream {
    RootKey::simulation(seed).stream(Purpose::GradientNoise, &[])
}

fn draw(level: NoiseLevel, std: f64, n: usize, seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; n];
    add_noise(level, &mut values, std, &mut stream(seed)).unwrap();
    values
}

fn normal_cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x / std::f64::consts::SQRT_2)
}

#[test]
fn the_distribution_function_is_the_normal_one() {
    // Kolmogorov-Smirnov: sqrt(N) D exceeds 2.2 with probability 2 exp(-2 · 2.2^2) = 1.3e-4, for each level.
    for level in LEVELS {
        let mut values = draw(level, 2.5, N, 1);
        values.sort_by(f32::total_cmp);
        let distance = values
            .iter()
            .enumerate()
            .map(|(i, &v)| {
                let p = normal_cdf(f64::from(v) / 2.5);
                (p - i as f64 / N as f64).max((i + 1) as f64 / N as f64 - p)
            })
            .fold(0.0, f64::max);
        let statistic = distance * (N as f64).sqrt();
        assert!(statistic < 2.2, "{level:?}: {statistic}");
    }
}

#[test]
fn the_moments_are_those_of_a_normal() {
    // Four standard errors each: false alarm 6.3e-5 for each of the four moments.
    let n = N as f64;
    for level in LEVELS {
        let values = draw(level, 1.0, N, 2);
        let moment = |k| values.iter().map(|&v| f64::from(v).powi(k)).sum::<f64>() / n;
        assert!(moment(1).abs() < 4.0 * (1.0 / n).sqrt());
        assert!((moment(2) - 1.0).abs() < 4.0 * (2.0 / n).sqrt());
        assert!(moment(3).abs() < 4.0 * (15.0 / n).sqrt());
        assert!((moment(4) - 3.0).abs() < 4.0 * (96.0 / n).sqrt());
    }
}

#[test]
fn tails_and_signs_have_their_probability() {
    // Binomial counts within four standard deviations: about 6e-5 for each of the 16 counts.
    for level in LEVELS {
        let values = draw(level, 1.0, 4 * N, 3);
        let within = |name: &str, p: f64, holds: &dyn Fn(f32) -> bool| {
            let n = values.len() as f64;
            let found = values.iter().filter(|&&v| holds(v)).count() as f64;
            let deviation = (found - n * p) / (n * p * (1.0 - p)).sqrt();
            assert!(deviation.abs() < 4.0, "{level:?}, {name}: {deviation}");
        };
        within("positive", 0.5, &|v| v > 0.0);
        for sigma in [1.0_f32, 3.0, 4.0, 4.5] {
            let tail = normal_cdf(f64::from(-sigma));
            within("above", tail, &|v| v > sigma);
            within("below", tail, &|v| v < -sigma);
        }
        // 2.4 expected beyond five: none at all, or more than twelve, with probability 0.09.
        let far = values.iter().filter(|v| v.abs() > 5.0).count();
        assert!((1..=12).contains(&far), "{level:?}: {far}");
    }
}

#[test]
fn neighbours_and_partners_are_uncorrelated() {
    // Normal with standard deviation 1/sqrt(N); 4.5 deviations for 24 correlations: 1.6e-4 in all. The lags include
    // those between values from the same 64 or 128 bits, between lanes and between tiles. Squares as well:
    // partners share their radius, in hardened through the sums.
    for level in LEVELS {
        let values = draw(level, 1.0, N, 4);
        for lag in [1, 2, 8, 16, 128, 256] {
            let pairs = || {
                values
                    .iter()
                    .zip(&values[lag..])
                    .map(|(&a, &b)| (f64::from(a), f64::from(b)))
            };
            let n = (N - lag) as f64;
            let plain = pairs().map(|(a, b)| a * b).sum::<f64>() / n;
            // The variance of x^2 - 1 is 2.
            let squares = pairs()
                .map(|(a, b)| (a * a - 1.0) * (b * b - 1.0) / 2.0)
                .sum::<f64>()
                / n;
            for found in [plain, squares] {
                assert!(
                    found.abs() < 4.5 / n.sqrt(),
                    "{level:?}, lag {lag}: {found}"
                );
            }
        }
    }
}

#[test]
fn pieces_and_threads_do_not_change_a_bit() {
    for level in LEVELS {
        let whole = draw(level, 0.3, 5000, 5);
        for pieces in [
            vec![1, 255, 256, 257, 4231],
            vec![5000],
            vec![100; 50],
            vec![700, 0, 4300],
        ] {
            let mut stream = stream(5);
            let mut noise = NoiseVector::new(level, 0.3, &mut stream).unwrap();
            let mut values = vec![0.0_f32; 5000];
            let mut rest = values.as_mut_slice();
            for length in pieces {
                let (piece, after) = rest.split_at_mut(length);
                noise.add_to(piece);
                rest = after;
            }
            assert_eq!(values, whole);
        }
        for threads in [1, 2, 3, 8, 64] {
            let mut noise = NoiseVector::new(level, 0.3, &mut stream(5)).unwrap();
            let mut values = vec![0.0_f32; 5000];
            let (first, rest) = values.split_at_mut(77);
            noise.add_to(first);
            noise.add_to_parallel(rest, NonZeroUsize::new(threads).unwrap());
            assert_eq!(values, whole);
        }
    }
}

#[test]
fn hardened_values_lie_on_a_grid_that_does_not_depend_on_the_data() {
    let std = 0.7;
    // The largest power of two at most std 2^-20.
    let step = 2.0_f64.powi(-21);
    for base in [0.0_f32, 1e-12, 0.123_456_79, -5.000_000_5] {
        let mut values = vec![base; 10_000];
        add_noise(NoiseLevel::Hardened, &mut values, std, &mut stream(6)).unwrap();
        for value in values {
            let steps = f64::from(value) / step;
            // Beyond 2^24 steps single precision itself is the coarser grid, a multiple of this one.
            assert_eq!(steps, steps.round(), "{value}");
        }
    }
}

#[test]
fn noise_is_added_to_what_is_there() {
    for level in LEVELS {
        let zero = draw(level, 1.0, 1000, 7);
        let mut values = vec![8.0_f32; 1000];
        add_noise(level, &mut values, 1.0, &mut stream(7)).unwrap();
        assert!(
            values
                .iter()
                .zip(&zero)
                .all(|(v, z)| (v - z - 8.0).abs() < 2e-6)
        );
    }
}

#[test]
fn a_second_call_on_a_stream_draws_new_noise() {
    for level in LEVELS {
        let mut stream = stream(8);
        let (mut a, mut b) = ([0.0_f32; 100], [0.0_f32; 100]);
        add_noise(level, &mut a, 1.0, &mut stream).unwrap();
        add_noise(level, &mut b, 1.0, &mut stream).unwrap();
        // Two of hundred thousand million grid points in the same place.
        assert!(a.iter().zip(&b).all(|(a, b)| a != b));
    }
}

#[test]
fn no_standard_deviation_without_meaning_is_accepted() {
    for std in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-60, 1e60] {
        let refused = add_noise(NoiseLevel::Fast, &mut [0.0], std, &mut stream(9)).unwrap_err();
        assert_eq!(refused.code(), "noise_invalid_std");
    }
    let refused = add_noise(NoiseLevel::Exact, &mut [0.0], 1.0, &mut stream(9)).unwrap_err();
    assert!(matches!(refused, NoiseError::ExactNeedsIntegers));
}

#[test]
fn the_stamp_names_level_size_and_source() {
    let stamp = add_noise(NoiseLevel::Fast, &mut [0.0], 0.5, &mut stream(10)).unwrap();
    assert_eq!(
        serde_json::to_string(&stamp).unwrap(),
        r#"{"level":"fast","std":0.5,"randomness":"simulation-seeded"}"#
    );
}

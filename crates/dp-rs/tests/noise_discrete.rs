//! The integer samplers have exactly their distribution. Seeded: no test flakes; rates are those of a new seed.

use std::collections::BTreeMap;

use dp_rs::noise::{
    ConditionalRounding, DiscreteGaussian, DiscreteLaplace, ExactSum, Grid, Purpose, RootKey,
    Stream, bernoulli_exp, nearest_sensitivity, round_to_nearest, uniform_below,
};
use proptest::prelude::*;
use statrs::distribution::{ChiSquared, ContinuousCDF as _};

fn stream(seed: u64) -> Stream {
    RootKey::simulation(seed).stream(Purpose::CountNoise, &[])
}

/// Chi-square against a probability mass function on the integers; cells with fewer than ten expected draws are
/// merged into one. Fails with probability 1e-4.
fn assert_distribution(name: &str, draws: &[i64], mass: impl Fn(i64) -> f64) {
    let n = draws.len() as f64;
    let mut counts = BTreeMap::new();
    for &draw in draws {
        *counts.entry(draw).or_insert(0.0) += 1.0;
    }
    let (mut statistic, mut cells) = (0.0, 0.0);
    let (mut rest_found, mut rest_expected) = (n, n);
    for x in -10_000..=10_000 {
        let expected = n * mass(x);
        if expected < 10.0 {
            continue;
        }
        let found = counts.get(&x).copied().unwrap_or(0.0);
        statistic += (found - expected).powi(2) / expected;
        cells += 1.0;
        rest_found -= found;
        rest_expected -= expected;
    }
    if rest_expected > 1.0 {
        statistic += (rest_found - rest_expected).powi(2) / rest_expected;
        cells += 1.0;
    }
    let p = ChiSquared::new(cells - 1.0).unwrap().sf(statistic);
    assert!(p > 1e-4, "{name}: p = {p}");
}

fn normalised(weight: impl Fn(f64) -> f64) -> impl Fn(i64) -> f64 {
    let total: f64 = (-10_000..=10_000).map(|x| weight(f64::from(x))).sum();
    move |x| weight(x as f64) / total
}

#[test]
fn the_discrete_gaussian_has_its_mass_function() {
    for (seed, (a, b)) in [(1, 10), (1, 2), (1, 1), (7, 3), (100, 1), (10_000, 1)]
        .into_iter()
        .enumerate()
    {
        let gaussian = DiscreteGaussian::new(a, b).unwrap();
        let mut stream = stream(seed as u64);
        let draws: Vec<i64> = (0..150_000).map(|_| gaussian.sample(&mut stream)).collect();
        let variance = a as f64 / b as f64;
        let mass = normalised(|x| (-x * x / (2.0 * variance)).exp());
        assert_distribution(&format!("variance {a}/{b}"), &draws, &mass);
        let n = draws.len() as f64;
        let exact: f64 = (-10_000..=10_000)
            .map(|x: i64| (x * x) as f64 * mass(x))
            .sum();
        let fourth: f64 = (-10_000..=10_000)
            .map(|x: i64| (x as f64).powi(4) * mass(x))
            .sum();
        let found = draws.iter().map(|&x| (x * x) as f64).sum::<f64>() / n;
        // Four standard errors: 6e-5 for each of the six.
        assert!((found - exact).abs() <= 4.0 * ((fourth - exact * exact) / n).sqrt());
        // Signs balance: again four standard deviations.
        let sign = draws.iter().map(|x| x.signum()).sum::<i64>() as f64;
        let signed = draws.iter().filter(|&&x| x != 0).count() as f64;
        assert!(sign.abs() <= 4.0 * signed.sqrt());
    }
}

#[test]
fn a_wide_discrete_gaussian_is_a_normal() {
    // Up to the widest: sqrt(N) D of Kolmogorov-Smirnov above 2.2 with probability 1.3e-4 each.
    for variance in [1 << 40, 1 << 52] {
        let gaussian = DiscreteGaussian::new(variance, 1).unwrap();
        let mut stream = stream(20);
        let n = 50_000;
        let mut draws: Vec<i64> = (0..n).map(|_| gaussian.sample(&mut stream)).collect();
        draws.sort_unstable();
        let std = (variance as f64).sqrt();
        let distance = draws
            .iter()
            .enumerate()
            .map(|(i, &x)| {
                let p = 0.5 * libm::erfc(-(x as f64) / std / std::f64::consts::SQRT_2);
                (p - i as f64 / f64::from(n)).abs()
            })
            .fold(0.0, f64::max);
        assert!(distance * f64::from(n).sqrt() < 2.2);
    }
}

#[test]
fn the_discrete_laplace_has_its_mass_function() {
    for (seed, (t, s)) in [(1, 1), (1, 3), (5, 2), (20, 1)].into_iter().enumerate() {
        let laplace = DiscreteLaplace::new(t, s).unwrap();
        let mut stream = stream(30 + seed as u64);
        let draws: Vec<i64> = (0..100_000).map(|_| laplace.sample(&mut stream)).collect();
        let scale = t as f64 / s as f64;
        assert_distribution(
            &format!("scale {t}/{s}"),
            &draws,
            normalised(|x| (-x.abs() / scale).exp()),
        );
    }
}

#[test]
fn an_exponential_coin_lands_with_its_probability() {
    // Four standard deviations: 6e-5 each.
    for (a, b) in [
        (0_u128, 1_u128),
        (1, 3),
        (1, 1),
        (5, 2),
        (1 << 100, 1 << 101),
    ] {
        let mut stream = stream(40);
        let n = 50_000;
        let found = (0..n).filter(|_| bernoulli_exp(a, b, &mut stream)).count() as f64;
        let (n, p) = (f64::from(n), (-(a as f64) / b as f64).exp());
        assert!(
            (found - n * p).abs() <= 4.0 * (n * p * (1.0 - p)).sqrt(),
            "exp(-{a}/{b})"
        );
    }
}

#[test]
fn uniform_integers_have_no_favourites() {
    let mut stream = stream(50);
    let draws: Vec<i64> = (0..50_000)
        .map(|_| uniform_below(7, &mut stream) as i64)
        .collect();
    assert_distribution("below 7", &draws, |x| {
        if (0..7).contains(&x) { 1.0 / 7.0 } else { 0.0 }
    });
    assert_eq!(uniform_below(1, &mut stream), 0);
    let bound = (1_u128 << 100) + 1;
    let above_half = (0..10_000)
        .filter(|_| uniform_below(bound, &mut stream) > bound / 2)
        .count();
    // Four standard deviations of 50.
    assert!(above_half.abs_diff(5000) < 200);
}

#[test]
fn parameters_outside_the_safe_range_are_refused() {
    for (a, b) in [(0, 1), (1, 0), ((1 << 52) + 1, 1), (1, u64::MAX)] {
        assert!(DiscreteGaussian::new(a, b).is_err());
        assert!(DiscreteLaplace::new(a, b).is_err());
    }
    // The corners work.
    for (a, b) in [
        (1 << 52, 1),
        (1, 1 << 52),
        (1 << 52, 1 << 52),
        (1 << 52, (1 << 52) - 1),
    ] {
        let _ = DiscreteGaussian::new(a, b).unwrap().sample(&mut stream(60));
    }
}

proptest! {
    #[test]
    fn a_quantised_contribution_never_exceeds_the_radius(
        values in prop::collection::vec(prop_oneof![-10.0_f32..10.0, -1e30_f32..1e30, Just(0.0)], 1..60),
        clip_norm in 1e-3_f64..1e3,
        bits in 1_u32..=40,
    ) {
        let grid = Grid::new(clip_norm, bits).unwrap();
        let square: u128 =
            grid.quantise(&values).iter().map(|&s| u128::from(s.unsigned_abs()).pow(2)).sum();
        prop_assert!(square <= u128::from(grid.radius()).pow(2));
        prop_assert!(grid.radius() as f64 * grid.step() <= clip_norm);
    }

    #[test]
    fn a_small_contribution_is_only_rounded(values in prop::collection::vec(-0.1_f32..0.1, 1..50)) {
        let grid = Grid::new(1.0, 20).unwrap();
        for (step, value) in grid.quantise(&values).iter().zip(&values) {
            prop_assert!((*step as f64 * grid.step() - f64::from(*value)).abs() <= grid.step() / 2.0);
        }
    }

    #[test]
    fn conditional_rounding_keeps_its_bound(
        values in prop::collection::vec(-0.1_f32..0.1, 1..50), scale in 1.0_f64..1e4, seed: u64,
    ) {
        let rounding = ConditionalRounding::new(scale, 1.0, (-0.5_f64).exp()).unwrap();
        let steps = rounding.round(&values, &mut stream(seed)).unwrap();
        let norm = steps.iter().map(|&s| (s as f64).powi(2)).sum::<f64>().sqrt();
        prop_assert!(norm <= rounding.sensitivity(values.len()) * (1.0 + 1e-12));
        prop_assert!(steps.iter().zip(&values).all(|(&s, &v)| (s as f64 - f64::from(v) * scale).abs() < 1.0));
        let nearest = round_to_nearest(&values, scale);
        let norm = nearest.iter().map(|&s| (s as f64).powi(2)).sum::<f64>().sqrt();
        prop_assert!(norm <= nearest_sensitivity(scale, 1.0, values.len()));
    }
}

#[test]
fn conditional_rounding_ends_for_a_vector_beyond_the_clip_norm() {
    let rounding = ConditionalRounding::new(1e9, 1.0, (-0.5_f64).exp()).unwrap();
    let steps = rounding.round(&[3.0, 4.0], &mut stream(71)).unwrap();
    assert!(steps[0].abs_diff(600_000_000) <= 1 && steps[1].abs_diff(800_000_000) <= 1);
    assert!(rounding.round(&[f32::NAN], &mut stream(71)).is_err());
}

#[test]
fn conditional_rounding_is_unbiased_within_its_condition() {
    // Values well inside the bound, so that the condition hardly ever bites: four standard errors of at most
    // 1/2 / sqrt(n), 6e-5.
    let rounding = ConditionalRounding::new(10.0, 1.0, (-0.5_f64).exp()).unwrap();
    let mut stream = stream(70);
    let n = 20_000;
    let sum: i64 = (0..n)
        .map(|_| rounding.round(&[0.033], &mut stream).unwrap()[0])
        .sum();
    assert!((sum as f64 / f64::from(n) - 0.33).abs() < 4.0 * 0.5 / f64::from(n).sqrt());
}

#[test]
fn an_exact_sum_clips_drops_and_adds_noise_of_the_stated_size() {
    let grid = Grid::new(2.0, 20).unwrap();
    let dimension = 20_000;
    let mut sum = ExactSum::new(grid, dimension);
    let mut contribution = vec![0.0_f32; dimension];
    contribution[0] = 1000.0;
    sum.add(&contribution).unwrap();
    contribution[1] = f32::NAN;
    sum.add(&contribution).unwrap();
    assert!(sum.add(&[1.0]).is_err());
    let (values, stamp) = sum.release(0.5, &mut stream(80)).unwrap();
    assert_eq!((stamp.std, stamp.simulation()), (1.0, true));
    assert!(values.iter().all(|v| v.is_finite()));
    // The clipped contribution is 2 in the first coordinate; its noise is within six standard deviations.
    assert!((values[0] - 2.0).abs() < 6.0);
    let variance = values[1..]
        .iter()
        .map(|&v| f64::from(v).powi(2))
        .sum::<f64>()
        / (dimension - 1) as f64;
    // Four standard errors: 6e-5.
    assert!((variance - 1.0).abs() < 4.0 * (2.0 / dimension as f64).sqrt());
}

#[test]
fn an_exact_sum_refuses_noise_without_meaning() {
    for multiplier in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
        let sum = ExactSum::new(Grid::new(1.0, 20).unwrap(), 1);
        assert!(sum.release(multiplier, &mut stream(90)).is_err());
    }
    for (clip_norm, bits) in [
        (0.0, 20),
        (f64::NAN, 20),
        (1.0, 0),
        (1.0, 41),
        (f64::INFINITY, 20),
    ] {
        assert!(Grid::new(clip_norm, bits).is_err());
    }
}

//! Samplers have the law that the account assumes. Seeded; false-alarm rates are those of a new seed.

use std::num::NonZeroUsize;

use dp_rs::noise::{Purpose, RootKey, Stream};
use dp_rs::sampling::{FixedBatchSampler, PoissonSampler, RecordChooser};
use statrs::distribution::{ChiSquared, ContinuousCDF as _};

fn stream(step: u32) -> Stream {
    RootKey::simulation(1).stream(Purpose::Sampling, &[&step.to_le_bytes()])
}

fn size(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

#[test]
fn every_unit_is_included_with_the_rate_and_independently() {
    let (rate, units, steps) = (0.03, 200, 20_000);
    let sampler = PoissonSampler::new(rate).unwrap();
    let mut counts = vec![0.0_f64; units];
    let (mut sizes, mut squares, mut neighbours) = (0.0, 0.0, 0.0);
    let mut stream = stream(0);
    for _ in 0..steps {
        let batch = sampler.sample(units, &mut stream);
        let n = batch.units().len() as f64;
        sizes += n;
        squares += n * n;
        for &unit in batch.units() {
            counts[unit] += 1.0;
        }
        neighbours += batch
            .units()
            .windows(2)
            .filter(|w| w[1] == w[0] + 1)
            .count() as f64;
    }
    let steps = f64::from(steps);
    // Chi-square over units: false alarm 1e-4 on each side.
    let variance = steps * rate * (1.0 - rate);
    let statistic: f64 = counts
        .iter()
        .map(|c| (c - steps * rate).powi(2) / variance)
        .sum();
    let p = ChiSquared::new(units as f64).unwrap().cdf(statistic);
    assert!((1e-4..1.0 - 1e-4).contains(&p), "{p}");
    // The size is binomial: its variance within four standard errors (sqrt(2/steps), nearly normal), 6e-5.
    let exact = units as f64 * rate * (1.0 - rate);
    let found = squares / steps - (sizes / steps).powi(2);
    assert!(
        (found / exact - 1.0).abs() < 4.0 * (2.2 / steps).sqrt(),
        "{found} for {exact}"
    );
    // Neighbours together with the square of the rate: four standard deviations, 6e-5.
    let pairs = steps * (units - 1) as f64 * rate * rate;
    assert!((neighbours - pairs).abs() < 4.0 * (pairs * (1.0 + 2.0 * rate)).sqrt());
}

#[test]
fn certain_rates_are_certain() {
    let all = PoissonSampler::new(1.0)
        .unwrap()
        .sample(1000, &mut stream(1));
    assert_eq!(all.units(), (0..1000).collect::<Vec<_>>());
    let none = PoissonSampler::new(0.0)
        .unwrap()
        .sample(1000, &mut stream(1));
    assert!(none.units().is_empty());
    assert_eq!(none.physical(size(10)).len(), 0);
}

#[test]
fn a_rate_that_is_no_probability_is_refused() {
    for rate in [-0.1, 1.1, f64::NAN, f64::INFINITY, 1e-30] {
        assert_eq!(
            PoissonSampler::new(rate).unwrap_err().code(),
            "sampling_invalid_rate"
        );
    }
    assert!(PoissonSampler::new(2.0_f64.powi(-64)).is_ok());
}

#[test]
fn physical_parts_contain_every_unit_once_whatever_the_size() {
    let batch = PoissonSampler::new(0.5)
        .unwrap()
        .sample(1000, &mut stream(2));
    for part_size in [1, 7, 64, 5000] {
        let parts: Vec<_> = batch.physical(size(part_size)).collect();
        assert!(parts.iter().all(|p| p.len() <= part_size));
        assert_eq!(parts.concat(), batch.units());
    }
}

#[test]
fn steps_differ_and_a_batch_does_not_print_its_units() {
    let sampler = PoissonSampler::new(0.5).unwrap();
    let (a, b) = (
        sampler.sample(200, &mut stream(3)),
        sampler.sample(200, &mut stream(4)),
    );
    assert_ne!(a.units(), b.units());
    assert!(a.simulation());
    assert_eq!(
        format!("{a:?}"),
        "Batch { randomness: SimulationSeeded, .. }"
    );
}

#[test]
fn a_fixed_batch_has_its_size_and_no_favourites() {
    let (batch, units, steps) = (5, 20, 20_000_u32);
    let sampler = FixedBatchSampler::new(batch);
    let mut counts = vec![0.0_f64; units];
    let mut stream = stream(5);
    for _ in 0..steps {
        let drawn = sampler.sample(units, &mut stream).unwrap();
        assert_eq!(drawn.units().len(), batch);
        assert!(drawn.units().windows(2).all(|w| w[0] < w[1]));
        for &unit in drawn.units() {
            counts[unit] += 1.0;
        }
    }
    // The counts of a step are negatively correlated: the statistic below is chi-square with units - 1 degrees.
    // False alarm 1e-4 on each side.
    let (n, p) = (f64::from(steps), batch as f64 / units as f64);
    let statistic: f64 = counts.iter().map(|c| (c - n * p).powi(2)).sum::<f64>()
        / (n * p * (1.0 - p))
        * (units - 1) as f64
        / units as f64;
    let p = ChiSquared::new((units - 1) as f64).unwrap().cdf(statistic);
    assert!((1e-4..1.0 - 1e-4).contains(&p), "{p}");
    assert!(sampler.sample(4, &mut stream).is_err());
    assert_eq!(
        sampler.sample(5, &mut stream).unwrap().units(),
        [0, 1, 2, 3, 4]
    );
}

fn chooser(step: u32) -> RecordChooser {
    let stream = RootKey::simulation(2).stream(Purpose::RecordChoice, &[&step.to_le_bytes()]);
    RecordChooser::new(size(4), stream)
}

#[test]
fn the_records_of_a_patient_do_not_depend_on_the_other_patients() {
    let (forward, backward) = (chooser(0), chooser(0));
    let ahead: Vec<_> = (0..50).map(|p| forward.choose(p, 9)).collect();
    let mut behind: Vec<_> = (0..50).rev().map(|p| backward.choose(p, 9)).collect();
    behind.reverse();
    assert_eq!(ahead, behind);
    assert!(
        ahead.iter().any(|c| *c != ahead[0]),
        "patients share their choice"
    );
    assert!(
        (0..50).any(|p| chooser(1).choose(p, 9) != ahead[p as usize]),
        "steps share their choice"
    );
}

#[test]
fn at_most_the_allowed_records_are_chosen_uniformly() {
    assert_eq!(chooser(0).choose(1, 3), [0, 1, 2]);
    assert!(chooser(0).choose(1, 0).is_empty());
    let mut counts = [0.0_f64; 10];
    let chooser = chooser(7);
    let patients = 20_000;
    for patient in 0..patients {
        let records = chooser.choose(patient, 10);
        assert_eq!(records.len(), 4);
        for record in records {
            counts[record] += 1.0;
        }
    }
    // As for the fixed batch: chi-square with 9 degrees, 1e-4 on each side.
    let n = patients as f64;
    let statistic: f64 =
        counts.iter().map(|c| (c - n * 0.4).powi(2)).sum::<f64>() / (n * 0.4 * 0.6) * 0.9;
    let p = ChiSquared::new(9.0).unwrap().cdf(statistic);
    assert!((1e-4..1.0 - 1e-4).contains(&p), "{p}");
}

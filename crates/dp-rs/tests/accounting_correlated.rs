//! Correlated noise: sensitivities against enumeration, streams against the inverse matrix.

use dp_rs::correlated::{Blt, Participation, Toeplitz, tree};
use proptest::prelude::*;

/// Largest norm over every allowed pattern of participation.
fn by_enumeration(coefficients: &[f64], run: Participation) -> f64 {
    let at = |row: usize, column: usize| {
        let index = row.checked_sub(column);
        index
            .and_then(|i| coefficients.get(i))
            .copied()
            .unwrap_or(0.0)
    };
    (0_u32..1 << run.steps)
        .filter_map(|mask| {
            let steps: Vec<_> = (0..run.steps)
                .filter(|step| mask >> step & 1 == 1)
                .collect();
            let apart = steps.windows(2).all(|w| w[1] - w[0] >= run.min_separation);
            (steps.len() <= run.max_participations && apart).then_some(steps)
        })
        .map(|steps| {
            let row = |row| steps.iter().map(|step| at(row, *step)).sum::<f64>();
            (0..run.steps).map(|r| row(r) * row(r)).sum::<f64>().sqrt()
        })
        .fold(0.0, f64::max)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sensitivity_is_that_of_the_worst_pattern(
        mut coefficients in proptest::collection::vec(0.01..1.0_f64, 1..8),
        steps in 1_usize..11, min_separation in 1_usize..5, max_participations in 1_usize..5,
    ) {
        coefficients.sort_by(|a, b| b.total_cmp(a));
        let run = Participation { steps, min_separation, max_participations };
        let expected = by_enumeration(&coefficients, run);
        let got = Toeplitz::new(coefficients).unwrap().sensitivity(run);
        prop_assert!((got - expected).abs() <= 1e-12 * expected, "{} {}", got, expected);
    }

    #[test]
    fn the_stream_is_the_inverse_of_the_strategy(
        decays in proptest::collection::vec(0.0..0.99_f64, 1..4),
        noise in proptest::collection::vec(-3.0..3.0_f64, 1..20),
    ) {
        let scales = vec![0.9 / decays.len() as f64; decays.len()];
        let strategy = Blt::new(decays, scales).unwrap();
        let coefficients = strategy.coefficients(noise.len());
        let banded = Toeplitz::new(coefficients.clone()).unwrap();
        let (mut buffered, mut direct) = (strategy.stream(1), banded.stream(1));
        let mut correlated = Vec::new();
        for value in &noise {
            let (mut a, mut b) = ([*value], [*value]);
            buffered.correlate(&mut a);
            direct.correlate(&mut b);
            prop_assert!((a[0] - b[0]).abs() < 1e-9);
            correlated.push(a[0]);
        }
        // C times the result is the independent noise again.
        for (step, value) in noise.iter().enumerate() {
            let back: f64 = (0..=step).map(|j| coefficients[step - j] * correlated[j]).sum();
            prop_assert!((back - value).abs() < 1e-9);
        }
    }
}

#[test]
fn a_tree_is_as_deep_as_its_leaves_need() {
    let expected = [
        (1, 1),
        (2, 2),
        (3, 2),
        (4, 3),
        (255, 8),
        (256, 9),
        (2000, 11),
    ];
    for (steps, depth) in expected {
        assert_eq!(tree::depth(steps), depth, "{steps}");
    }
}

#[test]
fn strategies_with_an_unknown_worst_pattern_are_refused() {
    for coefficients in [
        vec![],
        vec![0.0],
        vec![0.5, 0.6],
        vec![1.0, -0.5],
        vec![f64::NAN],
    ] {
        assert!(Toeplitz::new(coefficients).is_err());
    }
    assert!(Blt::new(vec![0.9], vec![0.5, 0.1]).is_err());
    assert!(Blt::new(vec![1.0], vec![0.5]).is_err());
    assert!(Blt::new(vec![0.9, 0.5], vec![0.8, 0.8]).is_err());
}

//! What a private step promises, checked on its output alone, and every mistake caught by a check.

use super::{Fault, INJECTED};
use crate::adjacency::Adjacency;
use crate::agreement::Agreement;
use crate::clipping::ClipRule;
use crate::gradients::UnitGradients;
use crate::ledger::Account;
use crate::noise::{NoiseLevel, RootKey};
use crate::plan::{Clip, Plan, PlanSettings, Unit};

const PARAMETERS: usize = 2000;
const CLIP: f64 = 0.5;
const MULTIPLIER: f64 = 1.5;
const EXPECTED: f64 = 10.0;

struct Gradients(Vec<Vec<f32>>);

impl UnitGradients for Gradients {
    fn units(&self) -> usize {
        self.0.len()
    }

    fn groups(&self) -> usize {
        1
    }

    fn squared_norms(&self) -> Vec<f64> {
        let square = |g: &Vec<f32>| g.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        self.0.iter().map(square).collect()
    }

    fn weighted_sum(self, factors: &[f64]) -> Vec<f32> {
        let mut sum = vec![0.0; PARAMETERS];
        for (gradient, factor) in self.0.iter().zip(factors) {
            for (sum, value) in sum.iter_mut().zip(gradient) {
                *sum += *factor as f32 * value;
            }
        }
        sum
    }
}

fn plan(rate: f64, multiplier: f64) -> Plan {
    plan_under(Adjacency::AddRemove, rate, multiplier)
}

fn plan_under(adjacency: Adjacency, rate: f64, multiplier: f64) -> Plan {
    Plan::new(PlanSettings {
        unit: Unit::Patient,
        adjacency,
        clip: Clip::Fixed(ClipRule::flat(CLIP).unwrap()),
        noise_multiplier: multiplier,
        noise_level: NoiseLevel::Fast,
        sampling_rate: rate,
        expected_units: EXPECTED,
        max_records: 4.try_into().unwrap(),
    })
    .unwrap()
}

/// The mean gradient and the units of step `step` of `units` units that all have the gradient `value` in
/// their first coordinate.
fn step(plan: &Plan, step: u8, units: usize, value: f32) -> (Vec<f32>, Vec<usize>) {
    let mut training = plan.begin().unwrap();
    let mut drawn = training.step(&RootKey::simulation(11), &[&[step]], units);
    let chunks = drawn.chunks(64.try_into().unwrap());
    for chunk in &chunks {
        let mut gradient = vec![0.0; PARAMETERS];
        gradient[0] = value;
        drawn.add(Gradients(vec![gradient; chunk.len()])).unwrap();
    }
    (drawn.finish(PARAMETERS).unwrap(), chunks.concat())
}

fn std_of(values: &[f32]) -> f64 {
    (values
        .iter()
        .map(|&v| f64::from(v) * f64::from(v))
        .sum::<f64>()
        / values.len() as f64)
        .sqrt()
}

/// One unit moves the sum by at most the clip norm.
fn one_unit_moves_the_sum_by_the_clip_norm_at_most() -> bool {
    let plan = plan(1.0, 1e-9);
    let [few, many] = [20, 21].map(|units| f64::from(step(&plan, 0, units, 3.0).0[0]));
    ((many - few) * EXPECTED - CLIP).abs() < 1e-5
}

/// The standard deviation of the mean is multiplier * clip / expected units; a fair sample of 2000 leaves the
/// interval of 10 % with probability below 1e-9.
fn noise_is_what_is_accounted_for() -> bool {
    let noise = std_of(&step(&plan(0.1, MULTIPLIER), 0, 100, 0.0).0);
    (noise / (MULTIPLIER * CLIP / EXPECTED) - 1.0).abs() < 0.1
}

/// Two steps have independent noise: their difference has twice the variance.
fn steps_have_noise_of_their_own() -> bool {
    let [a, b] = [0, 1].map(|index| step(&plan(0.1, MULTIPLIER), index, 100, 0.0).0);
    let difference: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
    std_of(&difference) > 1.2 * std_of(&a)
}

/// A step that draws nobody is released as any other.
fn an_empty_step_is_noise() -> bool {
    std_of(&step(&plan(1e-9, MULTIPLIER), 0, 100, 1.0).0) > 0.0
}

/// Twice the units, twice the sum: the divisor does not follow the data.
fn the_divisor_is_declared() -> bool {
    let plan = plan(1.0, 1e-9);
    let [some, twice] = [20, 40].map(|units| step(&plan, 0, units, 0.1).0[0]);
    (twice / some - 2.0).abs() < 1e-4
}

/// Over 200 steps of 100 units at rate 0.1 every unit is drawn, and the size of the batch varies as a
/// binomial variable does (variance 9; below 4 with probability under 1e-9).
fn every_unit_is_drawn_by_chance() -> bool {
    let plan = plan(0.1, MULTIPLIER);
    let mut seen = [false; 100];
    let mut sizes = Vec::new();
    for index in 0..200 {
        let drawn = step(&plan, index, 100, 0.0).1;
        sizes.push(drawn.len() as f64);
        for unit in drawn {
            seen[unit] = true;
        }
    }
    let mean = sizes.iter().sum::<f64>() / 200.0;
    let variance = sizes.iter().map(|size| (size - mean).powi(2)).sum::<f64>() / 199.0;
    !seen.contains(&false) && variance > 4.0
}

/// 1,000 steps at rate 1 % and multiplier 1 cost epsilon 1.83 when a unit comes or goes and 2.84 when it is
/// exchanged (as in tests/accounting.rs); one step with everybody costs what a Gaussian release of that
/// sensitivity costs (Balle and Wang, arXiv 1805.06530, theorem 8).
fn every_adjacency_costs_what_it_costs() -> bool {
    let epsilon = |adjacency, rate, multiplier, steps| {
        let guarantee = plan_under(adjacency, rate, multiplier).guarantee(steps, 1e-5);
        guarantee.map_or(f64::NAN, |guarantee| guarantee.epsilon)
    };
    let delta = |epsilon: f64, mu: f64| {
        let below = |x: f64| 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
        below(mu / 2.0 - epsilon / mu) - epsilon.exp() * below(-mu / 2.0 - epsilon / mu)
    };
    [
        (Adjacency::AddRemove, 1.83, 1.0),
        (Adjacency::ReplaceOne, 2.84, 2.0),
    ]
    .into_iter()
    .all(|(adjacency, many, clip_norms)| {
        let once = epsilon(adjacency, 1.0, MULTIPLIER, 1);
        (epsilon(adjacency, 0.01, 1.0, 1000) - many).abs() < 0.01
            && (delta(once, clip_norms / MULTIPLIER) / 1e-5 - 1.0).abs() < 1e-2
    })
}

/// A unit whose gradient turns round moves the sum by as much as replace-one is accounted for.
fn an_exchange_moves_the_sum_by_its_sensitivity() -> bool {
    let plan = plan_under(Adjacency::ReplaceOne, 1.0, 1e-9);
    let [one, other] = [3.0, -3.0].map(|value| f64::from(step(&plan, 0, 1, value).0[0]));
    let accounted = Adjacency::ReplaceOne.sensitivity_in_clip_norms() * CLIP;
    ((one - other) * EXPECTED - accounted).abs() < 1e-5
}

/// The agreement ends with its last step, whatever is left of epsilon.
fn no_step_beyond_the_agreement() -> bool {
    let agreement = Agreement {
        plan: crate::agreement::AgreedPlan::Steps(plan(0.01, MULTIPLIER)),
        steps: 3,
        delta: 1e-5,
        epsilon: 8.0,
    };
    let nothing = Account::default();
    let admits = |steps| {
        let events = agreement.plan.events(steps);
        agreement.admit(&nothing, &events).is_ok()
    };
    let mut training = agreement.begin(&nothing).unwrap();
    let key = RootKey::simulation(11);
    let taken = (0..5_u8).filter(|index| {
        let drawn = training.step(&key, &[&[*index]], 0);
        drawn.finish(PARAMETERS).is_ok()
    });
    taken.count() == 3 && admits(3) && !admits(4)
}

/// What is promised, and whether it holds.
type Check = (&'static str, fn() -> bool);

const CHECKS: [Check; 9] = [
    (
        "one unit moves the sum by the clip norm at most",
        one_unit_moves_the_sum_by_the_clip_norm_at_most,
    ),
    (
        "noise is what is accounted for",
        noise_is_what_is_accounted_for,
    ),
    (
        "steps have noise of their own",
        steps_have_noise_of_their_own,
    ),
    ("an empty step is noise", an_empty_step_is_noise),
    ("the divisor is declared", the_divisor_is_declared),
    (
        "every unit is drawn by chance",
        every_unit_is_drawn_by_chance,
    ),
    (
        "every adjacency costs what it costs",
        every_adjacency_costs_what_it_costs,
    ),
    (
        "an exchange moves the sum by its sensitivity",
        an_exchange_moves_the_sum_by_its_sensitivity,
    ),
    ("no step beyond the agreement", no_step_beyond_the_agreement),
];

#[test]
fn a_step_keeps_every_promise() {
    for (name, check) in CHECKS {
        assert!(check(), "{name}");
    }
}

#[test]
fn every_mistake_breaks_a_promise() {
    for fault in [
        Fault::NoClip,
        Fault::NoiseHalved,
        Fault::NoiseReused,
        Fault::RealisedDivisor,
        Fault::NoNoiseOnEmpty,
        Fault::FixedBatchAsPoisson,
        Fault::AdjacencyConfused,
        Fault::ExchangeMovesOneClip,
        Fault::StepsBeyondAgreement,
    ] {
        INJECTED.set(Some(fault));
        let caught: Vec<&str> = CHECKS
            .iter()
            .filter(|(_, check)| !check())
            .map(|(name, _)| *name)
            .collect();
        INJECTED.set(None);
        assert!(!caught.is_empty(), "nothing notices {fault:?}");
    }
}

#[test]
fn a_step_refuses_parts_that_are_missing_or_doubled() {
    let plan = plan(1.0, MULTIPLIER);
    let mut training = plan.begin().unwrap();
    let step = training.step(&RootKey::simulation(1), &[], 3);
    let error = step.finish(PARAMETERS).unwrap_err();
    assert_eq!(error.code(), "plan_other_units");
    let mut step = training.step(&RootKey::simulation(1), &[], 3);
    let three = || Gradients(vec![vec![0.0; PARAMETERS]; 3]);
    step.add(three()).unwrap();
    assert_eq!(step.add(three()).unwrap_err().code(), "plan_other_units");
    // Both count: they were drawn.
    assert_eq!(training.transcript().events.count, 2);
}

#[test]
fn a_gradient_that_is_not_finite_adds_nothing_and_is_counted() {
    let plan = plan(1.0, 1e-9);
    let mut training = plan.begin().unwrap();
    let mut step = training.step(&RootKey::simulation(1), &[], 2);
    struct Spoilt;
    impl UnitGradients for Spoilt {
        fn units(&self) -> usize {
            2
        }
        fn groups(&self) -> usize {
            1
        }
        fn squared_norms(&self) -> Vec<f64> {
            vec![f64::NAN, 0.04]
        }
        fn weighted_sum(self, factors: &[f64]) -> Vec<f32> {
            assert_eq!(factors, [0.0, 1.0]);
            vec![0.2]
        }
    }
    step.add(Spoilt).unwrap();
    let mean = step.finish(1).unwrap();
    assert!((mean[0] - 0.02).abs() < 1e-6);
    assert_eq!(training.not_finite(), 1);
}

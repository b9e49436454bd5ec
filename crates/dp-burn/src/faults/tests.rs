//! What per-unit gradients promise, checked on what a step releases, and every mistake caught by a check.

use burn::module::Module;
use burn::nn::{BatchNorm, BatchNormConfig, Linear};
use burn::tensor::{Device, Tensor, TensorData};
use dp_rs::adjacency::Adjacency;
use dp_rs::clipping::ClipRule;
use dp_rs::gradients::UnitGradients;
use dp_rs::noise::{NoiseLevel, RootKey};
use dp_rs::plan::{Clip, Plan, PlanSettings, Unit};

use super::{Fault, INJECTED};
use crate::{Layers, Plain, Refusal, RowLosses, Units, refusals, unit_gradients, verify};

const CLIP: f64 = 0.5;
const INPUTS: usize = 3;

fn device() -> Device {
    Device::flex().autodiff()
}

fn rows(values: &[f32]) -> Tensor<2> {
    let values: Vec<f32> = values.iter().flat_map(|&v| [v, 0.5 - v, v * v]).collect();
    let count = values.len() / INPUTS;
    Tensor::from_data(TensorData::new(values, [count, INPUTS]), &Device::flex())
}

fn losses(output: Tensor<2>) -> Tensor<1> {
    let [count, _] = output.dims();
    output.powf_scalar(2.0).sum_dim(1).reshape([count])
}

/// The sum that a step releases for records with these values, of these patients; its noise is negligible.
fn released(values: &[f32], patient_of: &[usize]) -> Vec<f64> {
    let net = Linear {
        weight: burn::module::Param::from_tensor(Tensor::ones([INPUTS, 2], &device())),
        bias: None,
    };
    let x = rows(values);
    let units = Units::from_rows(patient_of.to_vec()).unwrap();
    let gradients = unit_gradients(&net, &units, |net, taps| {
        losses(taps.linear(net, x.clone()))
    })
    .unwrap();
    let plan = Plan::new(PlanSettings {
        unit: Unit::Patient,
        adjacency: Adjacency::AddRemove,
        clip: Clip::Fixed(ClipRule::flat(CLIP).unwrap()),
        noise_multiplier: 1e-9,
        noise_level: NoiseLevel::Fast,
        sampling_rate: 1.0,
        expected_units: 1.0,
        max_records: 4.try_into().unwrap(),
    });
    let mut training = plan.unwrap().begin().unwrap();
    // Whoever took records for units would draw records.
    let mut step = training.step(&RootKey::simulation(5), &[], gradients.units());
    step.add(gradients).unwrap();
    let sum = step.finish(2 * INPUTS).unwrap();
    sum.into_iter().map(f64::from).collect()
}

/// A patient with three records moves the sum by the clip norm, as one with a single record does.
fn one_patient_moves_the_sum_by_the_clip_norm_at_most() -> bool {
    let without = released(&[2.0, -1.5], &[0, 1]);
    let moved = |values: &[f32], patient_of: &[usize]| {
        let with = released(values, patient_of);
        let squares = with.iter().zip(&without).map(|(a, b)| (a - b).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let one = moved(&[2.0, -1.5, 3.0], &[0, 1, 2]);
    let three = moved(&[2.0, 3.0, -1.5, 3.1, 2.9], &[0, 2, 1, 2, 2]);
    [one, three].iter().all(|moved| (moved - CLIP).abs() < 1e-5)
}

#[derive(Module, Debug)]
struct Normed {
    linear: Linear,
    norm: BatchNorm,
}

struct Batch(Tensor<2>);

impl RowLosses<Normed> for Batch {
    fn losses(&self, net: &Normed, layers: &mut impl Layers) -> Tensor<1> {
        let hidden = layers.linear(&net.linear, self.0.clone());
        losses(net.norm.forward(hidden).add_scalar(0.7))
    }
}

/// A normalisation without trainable parameters, which takes its statistics from the batch: no parameter lacks a
/// tap, and only the look at the structure tells.
fn normed() -> Normed {
    let weight = rows(&[0.3, -0.8]).transpose();
    Normed {
        linear: Linear {
            weight: burn::module::Param::from_tensor(weight.autodiff().require_grad()),
            bias: None,
        },
        norm: BatchNormConfig::new(2).init(&device()).no_grad(),
    }
}

/// Squared norm of the first record's gradient beside another one; nothing when the network is refused.
fn beside(other: f32) -> Option<f64> {
    let batch = Batch(rows(&[1.0, other]));
    let units = Units::per_row(2).unwrap();
    let found = unit_gradients(&normed(), &units, |net, taps| batch.losses(net, taps));
    match found {
        Err(Refusal::BatchCoupling { .. }) => None,
        found => Some(found.unwrap().squared_norms()[0]),
    }
}

/// Nobody's gradient depends on who else is in the batch.
fn a_gradient_is_the_same_in_any_company() -> bool {
    match [beside(-1.0), beside(4.0)] {
        [None, None] => true,
        [Some(one), Some(other)] => (one - other).abs() < 1e-6 * one,
        _ => false,
    }
}

/// What is promised, and whether it holds.
type Check = (&'static str, fn() -> bool);

const CHECKS: [Check; 2] = [
    (
        "one patient moves the sum by the clip norm at most",
        one_patient_moves_the_sum_by_the_clip_norm_at_most,
    ),
    (
        "a gradient is the same in any company",
        a_gradient_is_the_same_in_any_company,
    ),
];

#[test]
fn per_unit_gradients_keep_every_promise() {
    for (name, check) in CHECKS {
        assert!(check(), "{name}");
    }
}

#[test]
fn every_mistake_breaks_its_promise() {
    let mistakes = [Fault::RecordsAsUnits, Fault::BatchCouplingUnchecked];
    for (fault, (name, check)) in mistakes.into_iter().zip(CHECKS) {
        INJECTED.set(Some(fault));
        let kept = check();
        INJECTED.set(None);
        assert!(!kept, "{name} does not notice {fault:?}");
    }
}

/// The second line: running a batch shows what the look at the structure missed.
#[test]
fn an_unchecked_batch_norm_is_found_by_running_it() {
    assert_eq!(refusals(&normed()).len(), 1);
    let units = Units::per_row(3).unwrap();
    let batch = Batch(rows(&[1.0, -1.0, 0.4]));
    INJECTED.set(Some(Fault::BatchCouplingUnchecked));
    let structure = refusals(&normed());
    let found = verify(&normed(), &units, &batch, 1e-3);
    INJECTED.set(None);
    assert_eq!(structure, []);
    let mixes = matches!(found, Err(Refusal::MixesUnits { .. }));
    assert!(mixes, "{found:?}");
    assert_eq!(batch.losses(&normed(), &mut Plain).dims(), [3]);
}

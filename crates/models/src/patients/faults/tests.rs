//! What gradients per patient promise, checked on what a step releases, and every mistake caught by a check.

use burn::tensor::Device;
use consilium_core::{ModalityKey, Seed, StreamKey, TaskKey, seed::stream};
use dp_rs::adjacency::Adjacency;
use dp_rs::clipping::ClipRule;
use dp_rs::gradients::UnitGradients as _;
use dp_rs::noise::{NoiseLevel, RootKey};
use dp_rs::plan::{Clip, Plan, PlanSettings, Unit};
use serde_json::json;

use super::{Fault, with};
use crate::net::blocks::Settings;
use crate::net::layers::NormRule;
use crate::{
    Array, Batch, ClipGroups, EhpalNet, ModelError, OptimiserRule, SiteNetwork, Targets, Trainer,
    View,
};

const CLIP: f64 = 0.5;
const PIXELS: usize = 32 * 32;

fn network(norm: &str) -> SiteNetwork {
    let spec = EhpalNet::from_json(&json!({
        "width": 8,
        "side": 32,
        "norm": norm,
        "dropout": 0.0,
        "modalities": {"image": {"kind": "image", "slot": 1, "channels": 1}},
        "tasks": {"label": {"kind": "labels", "n": 1}},
    }));
    let spec = spec.unwrap();
    let settings = Settings::of(&spec);
    let norm = match settings.norm {
        NormRule::Batch => NormRule::BatchStatistics,
        other => other,
    };
    let device = Device::flex().autodiff();
    SiteNetwork::with_settings(&spec, Settings { norm, ..settings }, &device)
}

/// Images that differ by their phases.
fn images(phases: &[f32]) -> Array {
    let values = phases
        .iter()
        .flat_map(|phase| (0..PIXELS).map(move |i| (i as f32 * 0.37 + phase).sin()));
    Array::new(vec![phases.len(), 1, 32, 32], values.collect()).unwrap()
}

/// Hands a batch of images with these phases, all of one class, to `work`.
fn batch<R>(phases: &[f32], work: impl FnOnce(&Batch<'_>) -> R) -> R {
    let (modality, task): (ModalityKey, TaskKey) =
        ("image".parse().unwrap(), "label".parse().unwrap());
    let images = images(phases);
    let targets = Targets::Labels(vec![1.0; phases.len()]);
    let views = [View {
        modality: &modality,
        a: &images,
        b: None,
    }];
    work(&Batch {
        views: &views,
        absent: [false; 4],
        task: &task,
        targets: &targets,
        mask: None,
    })
}

fn gradients(
    network: &SiteNetwork,
    batch: &Batch<'_>,
    patient_of: &[usize],
) -> Result<crate::PatientGradients, ModelError> {
    let mut dropout = stream(Seed(1), &StreamKey::default());
    network.patient_gradients(batch, patient_of, |_| true, ClipGroups::All, &mut dropout)
}

/// The sum that a step releases; its noise is negligible.
fn released(phases: &[f32], patient_of: &[usize]) -> Vec<f64> {
    let network = network("group");
    let found = batch(phases, |batch| gradients(&network, batch, patient_of)).unwrap();
    let smallest = found
        .squared_norms()
        .into_iter()
        .fold(f64::INFINITY, f64::min);
    assert!(
        smallest > CLIP * CLIP,
        "{smallest}: nothing would be clipped"
    );
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
    // Whoever took records for patients would draw records.
    let mut step = training.step(&RootKey::simulation(5), &[], found.units());
    step.add(found).unwrap();
    let values = network.tensor_specs().iter().map(|spec| spec.len()).sum();
    let sum = step.finish(values).unwrap();
    sum.into_iter().map(f64::from).collect()
}

/// A patient with three records moves the sum by the clip norm, as one with a single record does.
fn one_patient_moves_the_sum_by_the_clip_norm_at_most() -> bool {
    let without = released(&[0.0], &[0]);
    let moved = |phases: &[f32], patient_of: &[usize]| {
        let with = released(phases, patient_of);
        let squares = with.iter().zip(&without).map(|(a, b)| (a - b).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let one = moved(&[0.0, 1.0], &[0, 1]);
    let three = moved(&[0.0, 1.0, 1.05, 0.95], &[0, 1, 1, 1]);
    [one, three]
        .iter()
        .all(|moved| (moved / CLIP - 1.0).abs() < 1e-4)
}

/// The gradients of all patients are those of the batch, or there are none.
fn patients_add_up_to_the_batch() -> bool {
    ["group", "batch"].into_iter().all(|norm| {
        let network = network(norm);
        let (found, whole) = batch(&[0.0, 1.0, 2.5], |batch| {
            let found = gradients(&network, batch, &[0, 1, 2]);
            let rule = OptimiserRule::Sgd {
                rate: 0.1,
                weight_decay: 0.0,
            };
            let trainer = Trainer::new(network, rule).unwrap();
            let mut dropout = stream(Seed(1), &StreamKey::default());
            (found, trainer.gradient(batch, &mut dropout).unwrap().0)
        });
        let sum = match found {
            Err(ModelError::NotPrivate { .. }) => return norm == "batch",
            found => found.unwrap().weighted_sum(&[1.0 / 3.0; 3]),
        };
        let square = |values: &mut dyn Iterator<Item = f32>| -> f64 {
            values.map(|v| f64::from(v) * f64::from(v)).sum()
        };
        let difference = square(&mut sum.iter().zip(&whole).map(|(a, b)| a - b));
        difference < 1e-8 * square(&mut whole.iter().copied())
    })
}

/// What is promised, and whether it holds.
type Check = (&'static str, fn() -> bool);

const CHECKS: [Check; 2] = [
    (
        "one patient moves the sum by the clip norm at most",
        one_patient_moves_the_sum_by_the_clip_norm_at_most,
    ),
    (
        "the gradients of the patients add up to that of the batch",
        patients_add_up_to_the_batch,
    ),
];

#[test]
fn gradients_per_patient_keep_every_promise() {
    for (name, check) in CHECKS {
        assert!(check(), "{name}");
    }
}

#[test]
fn every_mistake_breaks_its_promise() {
    let mistakes = [Fault::RecordsAsPatients, Fault::BatchNormUnchecked];
    for (fault, (name, check)) in mistakes.into_iter().zip(CHECKS) {
        assert!(!with(fault, check), "{name}: does not notice {fault:?}");
    }
}

//! Gradients per patient, beside one backward pass for each patient alone.

mod sites;

use burn::tensor::Device;
use consilium_core::TaskKey;
use consilium_models::{
    Array, Batch, ClipGroups, EhpalNet, OptimiserRule, PatientGradients, Targets, Trainer, View,
};
use dp_rs::gradients::UnitGradients as _;
use serde_json::json;
use sites::{RECORDS, Site, random};

/// Eight records of four patients; patients' records lie together, so that dropout draws the same numbers
/// for a patient alone.
const PATIENT_OF: [usize; RECORDS] = [0, 0, 1, 2, 2, 2, 3, 3];

fn spec(width: usize, side: usize, dropout: f32) -> EhpalNet {
    EhpalNet::from_json(&json!({
        "width": width,
        "side": side,
        "dropout": dropout,
        "modalities": {
            "image": {"kind": "image", "slot": 1, "channels": 1},
            "row": {"kind": "table", "slot": 2, "features": 40},
            "pixels": {"kind": "table", "slot": 2, "features": 40, "conversion": "image"},
            "signal": {"kind": "signal", "slot": 3, "channels": 2, "length": 96},
        },
        "tasks": {
            "classes": {"kind": "classes", "n": 3},
            "labels": {"kind": "labels", "n": 2},
            "hazards": {"kind": "hazards", "cut_points": [1.0, 2.0, 3.0]},
            "survival": {"kind": "cox"},
        },
    }))
    .unwrap()
}

fn site(modality: &str, task: &str, shape: &[usize]) -> Site {
    use rand::RngExt as _;
    let targets = match task {
        "classes" => Targets::Classes(vec![0, 2, 1, 1, 0, 2, 2, 0]),
        "labels" => Targets::Labels((0..2 * RECORDS).map(|i| (i * i % 3 % 2) as f32).collect()),
        "hazards" => Targets::Hazards {
            bin: vec![0, 1, 2, 0, 1, 2, 0, 1],
            event: vec![true, true, false, true, true, false, true, true],
        },
        _ => Targets::Survival {
            time: vec![3.0, 1.0, 4.0, 2.0, 8.0, 6.0, 7.0, 5.0],
            event: vec![true; RECORDS],
        },
    };
    Site {
        modality: modality.parse().unwrap(),
        task: task.parse().unwrap(),
        views: [1, 2].map(|step| {
            let mut shape = shape.to_vec();
            shape.insert(0, RECORDS);
            let mut random = random("view", step);
            let values = (0..shape.iter().product()).map(|_| random.random_range(-1.7_f32..1.7));
            Array::new(shape.clone(), values.collect()).unwrap()
        }),
        targets,
    }
}

fn rule() -> OptimiserRule {
    OptimiserRule::Sgd {
        rate: 0.1,
        weight_decay: 0.0,
    }
}

fn gradients(trainer: &Trainer, batch: &Batch<'_>, groups: ClipGroups) -> PatientGradients {
    trainer
        .network()
        .patient_gradients(
            batch,
            &PATIENT_OF,
            |_| true,
            groups,
            &mut random("dropout", 0),
        )
        .unwrap()
}

/// The gradient of each patient alone, by the ordinary backward pass.
fn alone(site: &Site, trainer: &Trainer) -> Vec<Vec<f32>> {
    let mut dropout = random("dropout", 0);
    (0..4)
        .map(|patient| {
            let records: Vec<usize> = (0..RECORDS).filter(|&r| PATIENT_OF[r] == patient).collect();
            let pick = |array: &Array| {
                let per = array.values().len() / RECORDS;
                let values = records
                    .iter()
                    .flat_map(|r| &array.values()[r * per..(r + 1) * per]);
                let mut shape = array.shape().to_vec();
                shape[0] = records.len();
                Array::new(shape, values.copied().collect()).unwrap()
            };
            let targets = match &site.targets {
                Targets::Classes(all) => {
                    Targets::Classes(records.iter().map(|&r| all[r]).collect())
                }
                Targets::Labels(all) => Targets::Labels(
                    records
                        .iter()
                        .flat_map(|&r| &all[2 * r..2 * r + 2])
                        .copied()
                        .collect(),
                ),
                Targets::Hazards { bin, event } => Targets::Hazards {
                    bin: records.iter().map(|&r| bin[r]).collect(),
                    event: records.iter().map(|&r| event[r]).collect(),
                },
                Targets::Survival { .. } => unreachable!("no gradient per patient"),
            };
            let [a, b] = [0, 1].map(|view| pick(&site.views[view]));
            let views = [View {
                modality: &site.modality,
                a: &a,
                b: Some(&b),
            }];
            let batch = Batch {
                views: &views,
                absent: [false, false, false, true],
                task: &site.task,
                targets: &targets,
                mask: None,
            };
            trainer.gradient(&batch, &mut dropout).unwrap().0
        })
        .collect()
}

fn square(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v) * f64::from(v)).sum()
}

#[test]
fn norms_and_clipped_sums_are_those_of_each_patient_alone() {
    for (width, side, modality, task, shape) in [
        (8, 32, "image", "labels", vec![1, 32, 32]),
        (8, 64, "image", "classes", vec![1, 64, 64]),
        (16, 32, "row", "hazards", vec![40]),
        (8, 32, "pixels", "labels", vec![40]),
        (8, 32, "signal", "classes", vec![2, 96]),
    ] {
        let name = format!("{modality}, {task}, width {width}, side {side}");
        let site = site(modality, task, &shape);
        let trainer = site.trainer(&spec(width, side, 0.2), rule(), &Device::flex());
        let expected = alone(&site, &trainer);
        let views = site.views();
        let found = gradients(&trainer, &site.batch(&views), ClipGroups::All);
        assert_eq!((found.units(), found.groups()), (4, 1), "{name}");
        let norms = found.squared_norms();
        for (patient, (norm, expected)) in norms.iter().zip(&expected).enumerate() {
            let (norm, expected) = (norm.sqrt(), square(expected).sqrt());
            assert!(
                (norm - expected).abs() < 1e-5 * expected,
                "{name}: patient {patient} has norm {norm}, alone {expected}"
            );
        }
        let factors = [0.7, 0.0, 1.0, 0.3];
        let sum = found.weighted_sum(&factors);
        let mut total = vec![0.0_f64; sum.len()];
        for (gradient, factor) in expected.iter().zip(factors) {
            for (total, value) in total.iter_mut().zip(gradient) {
                *total += factor * f64::from(*value);
            }
        }
        let rms = (total.iter().map(|v| v * v).sum::<f64>() / total.len() as f64).sqrt();
        let worst = sum
            .iter()
            .zip(&total)
            .map(|(a, b)| (f64::from(*a) - b).abs())
            .fold(0.0, f64::max);
        assert!(worst < 1e-4 * rms, "{name}: {worst} beside rms {rms}");
    }
}

#[test]
fn clipping_by_group_splits_the_norm() {
    let site = site("row", "classes", &[40]);
    let trainer = site.trainer(&spec(8, 32, 0.0), rule(), &Device::flex());
    let views = site.views();
    let flat = gradients(&trainer, &site.batch(&views), ClipGroups::All);
    let split = gradients(&trainer, &site.batch(&views), ClipGroups::ParameterGroups);
    assert_eq!(split.groups(), 3, "stem, trunk, head");
    for (whole, parts) in flat
        .squared_norms()
        .iter()
        .zip(split.squared_norms().chunks(3))
    {
        assert!(parts.iter().all(|part| *part > 0.0));
        assert!((whole - parts.iter().sum::<f64>()).abs() < 1e-9 * whole);
    }
    // One group alone, by its factors.
    let manifest = trainer.network().manifest().clone();
    let factors: Vec<f64> = (0..4).flat_map(|_| [0.0, 1.0, 0.0]).collect();
    let mut sum = split.weighted_sum(&factors).into_iter();
    let groups: Vec<_> = manifest
        .tensors
        .iter()
        .map(|t| (t.group.clone(), t.len()))
        .collect();
    let mut order: Vec<_> = groups.iter().map(|(group, _)| group.clone()).collect();
    order.dedup();
    for (group, len) in groups {
        let values: Vec<f32> = sum.by_ref().take(len).collect();
        assert!(
            group == order[1] || values.iter().all(|v| *v == 0.0),
            "{group}"
        );
    }
}

#[test]
fn a_patient_with_values_that_overflow_is_left_out_exactly() {
    let mut site = site("image", "classes", &[1, 32, 32]);
    let spec = spec(8, 32, 0.0);
    let trainer = site.trainer(&spec, rule(), &Device::flex());
    let clean = {
        let views = site.views();
        gradients(&trainer, &site.batch(&views), ClipGroups::All)
            .weighted_sum(&[1.0, 0.0, 1.0, 1.0])
    };
    let per = 32 * 32;
    for view in &mut site.views {
        view.values_mut()[2 * per..3 * per].fill(f32::MAX);
    }
    let views = site.views();
    let found = gradients(&trainer, &site.batch(&views), ClipGroups::All);
    let norms = found.squared_norms();
    assert!(
        !norms[1].is_finite() && [0, 2, 3].iter().all(|&p| norms[p].is_finite()),
        "{norms:?}"
    );
    assert_eq!(found.weighted_sum(&[1.0, 0.0, 1.0, 1.0]), clean);
}

#[test]
fn frozen_tensors_have_neither_norm_nor_sum() {
    let site = site("signal", "classes", &[2, 96]);
    let trainer = site.trainer(&spec(8, 32, 0.0), rule(), &Device::flex());
    let views = site.views();
    let head = |spec: &consilium_core::TensorSpec| spec.name.starts_with("head.");
    let found = trainer
        .network()
        .patient_gradients(
            &site.batch(&views),
            &PATIENT_OF,
            head,
            ClipGroups::All,
            &mut random("dropout", 0),
        )
        .unwrap();
    let tensors = &trainer.network().manifest().tensors;
    let mut expected = vec![0.0; 4];
    for (expected, gradient) in expected.iter_mut().zip(alone(&site, &trainer)) {
        let mut start = 0;
        for tensor in tensors {
            if head(tensor) {
                *expected += square(&gradient[start..start + tensor.len()]);
            }
            start += tensor.len();
        }
    }
    for (norm, expected) in found.squared_norms().iter().zip(expected) {
        assert!(
            (norm - expected).abs() < 2e-5 * expected,
            "{norm} {expected}"
        );
    }
    let trained: usize = tensors.iter().filter(|t| head(t)).map(|t| t.len()).sum();
    assert_eq!(found.weighted_sum(&[1.0; 4]).len(), trained);
}

#[test]
fn what_couples_patients_is_refused_by_name() {
    let refused = |spec: &EhpalNet, task: &str| {
        let site = site("row", task, &[40]);
        let trainer = site.trainer(spec, rule(), &Device::flex());
        let task: TaskKey = task.parse().unwrap();
        trainer.network().check_private(&task).unwrap_err()
    };
    let group = spec(8, 32, 0.0);
    let error = refused(&group, "survival");
    assert_eq!(error.code(), "model_not_private");
    assert!(error.to_string().contains("hazards"), "{error}");
    let batch = EhpalNet {
        norm: consilium_models::NormKind::Batch,
        ..group
    };
    let error = refused(&batch, "classes").to_string();
    assert!(
        error.contains("stem.row") && error.contains("norm = \"group\""),
        "{error}"
    );
}

#[test]
fn a_step_moves_what_is_trained_and_nothing_else_whatever_the_decay() {
    let site = site("row", "labels", &[40]);
    let decaying = OptimiserRule::Adam {
        rate: 0.1,
        weight_decay: 0.5,
    };
    let head = |spec: &consilium_core::TensorSpec| spec.name.starts_with("head.");
    let mut trainer = site.trainer(&spec(8, 32, 0.0), decaying, &Device::flex());
    let before = trainer.network().groups();
    let tensors = trainer.network().manifest().tensors.clone();
    let lengths = tensors.iter().filter(|tensor| head(tensor));
    let gradient = vec![1.0; lengths.map(|tensor| tensor.len()).sum()];
    let too_long = vec![1.0; gradient.len() + 1];
    assert!(trainer.apply(&too_long, head, 1.0).is_err());
    assert_eq!(trainer.network().groups(), before);
    trainer.apply(&gradient, head, 1.0).unwrap();
    for (group, values) in trainer.network().groups().0 {
        let old = &before.0[&group];
        if group.as_str().starts_with("head/") {
            // Decay by 0.1 * 0.5, then a first step of Adam: the rate against the sign.
            for (new, old) in values.iter().zip(old) {
                assert!((new - (old * 0.95 - 0.1)).abs() < 1e-5, "{new} {old}");
            }
        } else {
            assert!(values == *old, "{group} moved");
        }
    }
}

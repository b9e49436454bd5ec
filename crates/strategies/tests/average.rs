//! The average of small studies, against hand computation.

use std::collections::BTreeMap;

use consilium_core::study::{
    Aggregation, ModelChoice, PROTOCOL_VERSION, Participant, Randomness, Schedule, WeightRule,
};
use consilium_core::{
    Digest, GroupName, ModelManifest, ModelVector, Seed, SiteId, Study, TensorSpec,
};
use consilium_strategies::{average, weights};

/// Three X-ray sites and one intensive-care site.
fn study(rule: WeightRule) -> Study {
    let tensor = |name: &str, group: &str| TensorSpec {
        name: name.into(),
        group: group.parse().unwrap(),
        shape: vec![2],
    };
    let site = |site: &str, kind: &str, declared_patients| Participant {
        site: site.parse().unwrap(),
        modality: kind.parse().unwrap(),
        task: kind.parse().unwrap(),
        declared_patients,
        privacy: None,
    };
    let study = Study {
        protocol_version: PROTOCOL_VERSION,
        name: "hand".parse().unwrap(),
        randomness: Randomness::SimulationSeeded { seed: Seed(1) },
        model: ModelChoice {
            name: "none".into(),
            settings: serde_json::Value::Null,
        },
        manifest: ModelManifest {
            tensors: vec![
                tensor("t", "trunk"),
                tensor("sx", "stem/xray"),
                tensor("hx", "head/xray"),
                tensor("si", "stem/icu"),
                tensor("hi", "head/icu"),
            ],
        },
        initial_model_sha256: Digest::of(b""),
        sites: vec![
            site("icu-a", "icu", 50),
            site("xray-a", "xray", 100),
            site("xray-b", "xray", 200),
            site("xray-c", "xray", 100),
        ],
        schedule: Schedule {
            rounds: 1,
            retry_rounds: 1,
            quorum: 1,
            deadline_seconds: 60,
        },
        training: serde_json::Value::Null,
        privacy: consilium_core::study::PrivacyMode::NoneSimulationOnly,
        aggregation: Aggregation {
            weights: rule,
            minimum_holders: 3,
        },
    };
    study.check().unwrap();
    study
}

fn names(sites: &[&str]) -> Vec<SiteId> {
    sites.iter().map(|site| site.parse().unwrap()).collect()
}

#[test]
fn equal_modality_gives_each_class_the_same_and_declared_patients_decide_inside() {
    let all = names(&["icu-a", "xray-a", "xray-b", "xray-c"]);
    let got: Vec<f64> = weights(&study(WeightRule::EqualModality), &all)
        .into_values()
        .collect();
    assert_eq!(got, [0.5, 0.125, 0.25, 0.125]);
    let got: Vec<f64> = weights(&study(WeightRule::EqualSite), &all)
        .into_values()
        .collect();
    assert_eq!(got, [0.25; 4]);
    let got: Vec<f64> = weights(&study(WeightRule::DeclaredPatients), &all)
        .into_values()
        .collect();
    assert_eq!(
        got,
        [50.0 / 450.0, 100.0 / 450.0, 200.0 / 450.0, 100.0 / 450.0]
    );
}

fn update(values: &[(&str, [f32; 2])]) -> ModelVector {
    let groups = values
        .iter()
        .map(|(group, values)| (group.parse().unwrap(), values.to_vec()));
    ModelVector(groups.collect())
}

#[test]
fn two_modalities_share_the_trunk_and_leave_each_others_stems_alone() {
    let study = study(WeightRule::EqualModality);
    let global = update(&[
        ("trunk", [1.0, 1.0]),
        ("stem/xray", [0.0, 0.0]),
        ("head/xray", [0.0, 0.0]),
    ]);
    let xray = |t: f32| {
        update(&[
            ("trunk", [t, 0.0]),
            ("stem/xray", [t, 4.0]),
            ("head/xray", [0.0, 0.0]),
        ])
    };
    let updates = BTreeMap::from([
        ("icu-a".parse().unwrap(), update(&[("trunk", [8.0, 2.0])])),
        ("xray-a".parse().unwrap(), xray(1.0)),
        ("xray-b".parse().unwrap(), xray(2.0)),
        ("xray-c".parse().unwrap(), xray(3.0)),
    ]);
    let next = average(&study, &global, &updates).unwrap();
    // trunk: 1 + 0.5*8 + 0.125*1 + 0.25*2 + 0.125*3; stem: among X-ray sites only.
    assert_eq!(next.0[&GroupName::trunk()], [6.0, 2.0]);
    assert_eq!(
        next.0[&"stem/xray".parse().unwrap()],
        [0.25 + 1.0 + 0.75, 4.0]
    );
}

#[test]
fn a_group_whose_realised_holders_fall_below_the_minimum_keeps_its_values() {
    let study = study(WeightRule::EqualModality);
    let global = update(&[("trunk", [1.0, 1.0]), ("stem/xray", [5.0, 5.0])]);
    let xray = update(&[("trunk", [1.0, 0.0]), ("stem/xray", [9.0, 9.0])]);
    let updates = BTreeMap::from([
        ("icu-a".parse().unwrap(), update(&[("trunk", [1.0, 0.0])])),
        ("xray-a".parse().unwrap(), xray.clone()),
        ("xray-b".parse().unwrap(), xray),
    ]);
    let next = average(&study, &global, &updates).unwrap();
    assert_eq!(next.0[&"stem/xray".parse().unwrap()], [5.0, 5.0]);
    assert_eq!(next.0[&GroupName::trunk()], [2.0, 1.0]);
}

#[test]
fn equal_updates_are_returned_unchanged() {
    let study = study(WeightRule::EqualSite);
    let global = update(&[("trunk", [0.0, 0.0])]);
    let same = update(&[("trunk", [0.5, -2.0])]);
    let updates = study
        .sites
        .iter()
        .map(|p| (p.site.clone(), same.clone()))
        .collect();
    assert_eq!(average(&study, &global, &updates).unwrap(), same);
}

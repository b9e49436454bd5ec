//! Each limit of the policy, just kept and just exceeded.

use std::num::NonZeroU32;

use consilium_core::Seed;
use consilium_core::study::{
    Aggregation, ModelChoice, PROTOCOL_VERSION, PrivacyMode, Randomness, Schedule, WeightRule,
};
use consilium_core::{ModelManifest, TensorSpec};
use consilium_ops::units::Bytes;
use dp_rs::adjacency::Adjacency;
use dp_rs::clipping::{ClipRule, QuantileClipConfig};
use dp_rs::noise::NoiseLevel;
use dp_rs::plan::{Clip, Plan, PlanSettings, Unit};

use super::*;

fn agreement(change: impl FnOnce(&mut PlanSettings)) -> Agreement {
    let mut settings = PlanSettings {
        unit: Unit::Patient,
        adjacency: Adjacency::AddRemove,
        clip: Clip::Fixed(ClipRule::flat(1.0).unwrap()),
        noise_multiplier: 1.0,
        noise_level: NoiseLevel::Fast,
        sampling_rate: 0.1,
        expected_units: 10.0,
        max_records: NonZeroU32::MIN,
    };
    change(&mut settings);
    let plan = Plan::new(settings).unwrap();
    Agreement {
        epsilon: 4.0,
        delta: 1e-6,
        steps: 10,
        plan: dp_rs::agreement::AgreedPlan::Steps(plan),
    }
}

fn study(agreement: &Agreement) -> Study {
    let tensor = |group: &str| TensorSpec {
        name: group.into(),
        group: group.parse().unwrap(),
        shape: vec![25],
    };
    let participant = |name: &str| Participant {
        site: name.parse().unwrap(),
        modality: "m".parse().unwrap(),
        task: "t".parse().unwrap(),
        declared_patients: 100,
        privacy: Some(serde_json::to_value(agreement).unwrap()),
    };
    Study {
        protocol_version: PROTOCOL_VERSION,
        name: "hearts".parse().unwrap(),
        randomness: Randomness::SimulationSeeded { seed: Seed(1) },
        model: ModelChoice {
            name: "ehpal-net".into(),
            settings: serde_json::Value::Null,
        },
        manifest: ModelManifest {
            tensors: ["trunk", "head/t", "stem/m"].map(tensor).into(),
        },
        initial_model_sha256: consilium_core::Digest::of(b""),
        sites: ["a", "b", "c"].map(participant).into(),
        schedule: Schedule {
            rounds: 2,
            retry_rounds: 1,
            quorum: 3,
            deadline_seconds: 60,
        },
        training: serde_json::Value::Null,
        aggregation: Aggregation {
            weights: WeightRule::EqualSite,
            minimum_holders: 3,
        },
        privacy: PrivacyMode::PrivateSteps,
    }
}

/// Codes of what `policy` forbids in `study`.
fn forbidden(policy: &Policy, study: &Study) -> Vec<&'static str> {
    match policy.judge(study, &study.sites[0]) {
        Ok(()) => Vec::new(),
        Err(forbidden) => forbidden.violations().iter().map(Violation::code).collect(),
    }
}

fn permitting() -> (Policy, Study) {
    let study = study(&agreement(|_| ()));
    study.check().unwrap();
    let policy = Policy::exactly(&study, &study.sites[0], None);
    assert_eq!(forbidden(&policy, &study), [""; 0]);
    (policy, study)
}

#[test]
fn what_is_not_named_is_forbidden() {
    let changed = |change: fn(&mut Policy)| {
        let (mut policy, study) = permitting();
        change(&mut policy);
        forbidden(&policy, &study)
    };
    assert_eq!(changed(|policy| policy.studies.clear()), ["policy_study"]);
    assert_eq!(changed(|policy| policy.models.clear()), ["policy_model"]);
    assert_eq!(changed(|policy| policy.tasks.clear()), ["policy_task"]);
    let groups = |policy: &mut Policy| policy.groups.retain(|group| group.as_str() != "trunk");
    assert_eq!(changed(groups), ["policy_group"]);
    let secure = |policy: &mut Policy| policy.secure_aggregation = SecureAggregation::Required;
    assert_eq!(changed(secure), ["policy_secure_aggregation"]);
    assert_eq!(changed(|policy| policy.units.clear()), ["policy_unit"]);
}

#[test]
fn every_limit_binds_just_beyond_its_value_and_all_violations_are_named_together() {
    let (mut policy, study) = permitting();
    policy.each_study = EachStudy {
        epsilon: Some(4.0),
        delta: Some(1e-6),
        clip_norm: Some(1.0),
        noise_multiplier: Some(1.0),
    };
    // 3 groups of 25 values, 4 bytes each.
    policy.transfer.bytes_a_day = Some(Bytes(300));
    assert_eq!(forbidden(&policy, &study), [""; 0]);
    policy.each_study = EachStudy {
        epsilon: Some(4.0_f64.next_down()),
        delta: Some(1e-6_f64.next_down()),
        clip_norm: Some(1.0_f64.next_down()),
        noise_multiplier: Some(1.0_f64.next_up()),
    };
    policy.transfer.bytes_a_day = Some(Bytes(299));
    policy.minimum_holders = 4;
    policy.minimum_participants = 4;
    let all = [
        "policy_minimum_holders",
        "policy_minimum_participants",
        "policy_epsilon",
        "policy_delta",
        "policy_clip_norm",
        "policy_noise_multiplier",
        "policy_bytes_a_day",
    ];
    assert_eq!(forbidden(&policy, &study), all);
}

#[test]
fn a_clip_norm_that_may_grow_counts_with_the_largest_it_can_reach() {
    let grows = agreement(|settings| {
        let mut quantile = QuantileClipConfig::new(settings.noise_multiplier, 100.0);
        quantile.maximum = 5.0;
        settings.clip = Clip::Quantile(quantile);
    });
    let norms = agreement(|settings| {
        settings.clip = Clip::Fixed(ClipRule::per_group(vec![3.0, 4.0]).unwrap());
    });
    for agreement in [grows, norms] {
        let study = study(&agreement);
        let mut policy = Policy::exactly(&study, &study.sites[0], None);
        policy.each_study.clip_norm = Some(5.0);
        assert_eq!(forbidden(&policy, &study), [""; 0]);
        policy.each_study.clip_norm = Some(4.99);
        assert_eq!(forbidden(&policy, &study), ["policy_clip_norm"]);
    }
}

#[test]
fn a_policy_that_protects_nobody_is_refused_when_it_is_read() {
    let (policy, _) = permitting();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Policy::read(&path)
    };
    let good = toml::to_string(&policy).unwrap();
    assert_eq!(read(&good).unwrap(), policy);
    for (from, to) in [
        ("minimum_holders = 3", "minimum_holders = 1"),
        ("minimum_participants = 3", "minimum_participants = 0"),
        ("metrics = []", "metrics = [\"auroc\"]"),
        ("[each_study]", "[each_study]\nclip_norm = inf"),
        ("[each_study]", "[each_study]\nnoise_multiplier = 0.0"),
        ("[transfer]", "[transfer]\nhours = \"all day\""),
    ] {
        assert!(good.contains(from), "{from} is not in {good}");
        let error = read(&good.replace(from, to)).unwrap_err();
        assert_eq!(
            (error.code.as_str(), error.exit as i32),
            ("config_wrong_value", 3),
            "{to}"
        );
    }
    assert_eq!(read("studies = []").unwrap_err().code, "config_missing_key");
}

#[test]
fn the_annotated_sample_says_in_words_what_it_permits() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/policy.toml");
    let words = explain(&Policy::read(&sample).unwrap()).join("\n");
    for part in [
        "Studies: two-clinics.",
        "trunk, head/mortality. All others stay.",
        "at least 3 sites hold it",
        "epsilon at most 8, delta at most 1e-5, clip norm at most 1, noise multiplier at least 0.5",
        "may spend epsilon 8 at delta 1e-6",
        "within 19:00-07:00 UTC only",
        "at most 2GiB of updates a day",
    ] {
        assert!(words.contains(part), "{part} is not in\n{words}");
    }
}

//! `consilium privacy`, as a program.

use std::process::{Command, Output};

use serde_json::Value;

fn consilium(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_consilium"))
        .args(arguments.split_whitespace())
        .output()
        .unwrap()
}

fn data(arguments: &str) -> Value {
    let output = consilium(&format!("--format json privacy {arguments}"));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["status"], "ok");
    object["data"].clone()
}

fn error(arguments: &str) -> (Option<i32>, Value) {
    let output = consilium(&format!("--format json privacy {arguments}"));
    let object: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), object["error"]["code"].clone())
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is not a number"))
}

const PLAN: &str = "--noise-multiplier 1 --sampling-rate 0.02 --steps 500 --delta 1e-5";

#[test]
fn epsilon_is_answered_by_both_accountants() {
    let data = data(&format!("epsilon {PLAN}"));
    assert!((number(&data["pld"]["epsilon"]) - 2.7734).abs() < 1e-3);
    assert!((number(&data["rdp"]["epsilon"]) - 3.1443).abs() < 1e-3);
    assert_eq!(number(&data["rdp"]["order"]), 5.9);
    assert_eq!(data["adjacency"], "add-remove");
    assert_eq!(data["unit"], "patient");
    assert_eq!(number(&data["delta"]), 1e-5);
}

#[test]
fn adjacency_accountant_and_records_are_options() {
    let replaced = data(&format!(
        "epsilon {PLAN} --adjacency replace-one --accountant pld"
    ));
    assert!(number(&replaced["pld"]["epsilon"]) > 4.0);
    assert!(replaced["rdp"].is_null());
    let several = data(&format!(
        "epsilon {PLAN} --records-per-patient 3 --accountant pld"
    ));
    assert!(number(&several["pld"]["epsilon"]) > 7.0);
}

#[test]
fn a_file_of_events_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.json");
    let entry = |sigma: f64, steps: u64| {
        serde_json::json!({
            "event": {"mechanism": "poisson-gaussian", "noise_multiplier": sigma, "sampling_rate": 0.02},
            "count": steps, "adjacency": "zero-out",
        })
    };
    let ledger = serde_json::json!([entry(1.5, 300), entry(1.0, 300)]);
    std::fs::write(&file, ledger.to_string()).unwrap();
    let found = data(&format!("epsilon --delta 1e-5 --events {}", file.display()));
    assert!((number(&found["pld"]["epsilon"]) - 2.4351).abs() < 1e-3);
    assert_eq!(found["adjacency"], "zero-out");
    let other = format!(
        "epsilon --delta 1e-5 --adjacency replace-one --events {}",
        file.display()
    );
    assert_eq!(error(&other), (Some(3), "privacy_not_accountable".into()));
    std::fs::write(&file, "[{\"event\": {\"mechanism\": \"magic\"}}]").unwrap();
    let unknown = format!("epsilon --delta 1e-5 --events {}", file.display());
    assert_eq!(
        error(&unknown),
        (Some(3), "privacy_events_unreadable".into())
    );
}

#[test]
fn calibration_solves_for_whatever_is_left_out() {
    let noise = data("calibrate --epsilon 2 --delta 1e-5 --sampling-rate 0.02 --steps 500");
    assert!((number(&noise["noise_multiplier"]) - 1.18536).abs() < 1e-4);
    assert!(number(&noise["pld"]["epsilon"]) <= 2.0);
    let steps =
        data("calibrate --epsilon 2 --delta 1e-5 --sampling-rate 0.02 --noise-multiplier 1.1855");
    assert_eq!(steps["solved_for"], "steps");
    assert_eq!(number(&steps["steps"]), 500.0);
    let rate = data("calibrate --epsilon 2 --delta 1e-5 --steps 500 --noise-multiplier 1.1855");
    assert!((number(&rate["sampling_rate"]) - 0.02).abs() < 1e-4);
}

#[test]
fn wrong_numbers_end_with_the_right_code() {
    let range = "epsilon --noise-multiplier 1 --sampling-rate 2 --steps 5 --delta 1e-5";
    assert_eq!(error(range), (Some(2), "privacy_out_of_range".into()));
    let both = "calibrate --epsilon 2 --delta 1e-5 --steps 5";
    assert_eq!(error(both), (Some(2), "privacy_calibrate_one".into()));
    let unreachable =
        "calibrate --epsilon 0.01 --delta 1e-9 --noise-multiplier 0.3 --sampling-rate 0.9";
    assert_eq!(
        error(unreachable),
        (Some(5), "privacy_target_unreachable".into())
    );
    assert_eq!(error("epsilon --delta 1e-5").0, Some(2));
}

#[test]
fn the_text_says_everything_that_belongs_beside_an_epsilon() {
    let output = consilium(&format!("privacy epsilon {PLAN}"));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "(eps, delta) = (2.773",
        "1e-5)",
        "unit patient",
        "adjacency add-remove",
        "Poisson-subsampled Gaussian, q = 0.02, sigma = 1, T = 500",
        "connect-the-dots",
        "RDP cross-check 3.14",
        "not covered",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

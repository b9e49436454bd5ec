//! A run in one process: what it leaves behind, and that nothing is left where it is refused.

use std::path::Path;

use consilium::outcome::Outcome;
use consilium::scenario::{CohortChoice, Loaded};
use consilium::simulate::{Options, simulate};
use consilium_models::DeviceChoice;
use consilium_ops::OperatorError;

fn small() -> Loaded {
    Loaded::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/small.toml")).unwrap()
}

fn run(loaded: &Loaded, out: &Path, threads: usize) -> Result<Outcome, OperatorError> {
    let options = Options {
        out: out.to_owned(),
        threads,
        device: DeviceChoice::Cpu,
    };
    simulate(loaded, &options)
}

#[test]
fn a_run_folder_explains_itself_and_threads_change_no_byte_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let [one, three] = ["one", "three"].map(|name| folder.path().join(name));
    let outcome = run(&small(), &one, 1).unwrap();
    let again = run(&small(), &three, 3).unwrap();
    assert_eq!(outcome.final_model_sha256, again.final_model_sha256);
    for name in [
        "scenario.toml",
        "study.json",
        "manifest.json",
        "metrics.csv",
        "communication.csv",
        "privacy.csv",
        "events.jsonl",
        "model.safetensors",
        "plots/comparison.svg",
        "report.html",
    ] {
        let size = std::fs::metadata(one.join(name)).map(|file| file.len());
        assert!(size.is_ok_and(|size| size > 0), "{name}");
    }
    for name in [
        "metrics.csv",
        "communication.csv",
        "privacy.csv",
        "model.safetensors",
    ] {
        let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
        assert_eq!(read(&one), read(&three), "{name}");
    }
    // The written scenario is complete: it runs again, to the same bytes.
    let resolved = Loaded::read(&one.join("scenario.toml").display().to_string()).unwrap();
    assert_eq!(resolved.study.digest(), small().study.digest());
    let text = outcome.to_text();
    assert!(text.contains("simulated") && text.contains(&outcome.final_model_sha256.to_string()));
}

#[test]
fn a_private_run_spends_what_was_agreed_and_says_what_it_spent() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = small();
    let outcome = run(&loaded, &folder.path().join("run"), 2).unwrap();
    let agreements = loaded.agreements();
    assert_eq!(agreements.len(), 3);
    for row in &outcome.sites {
        let (spent, agreed) = (row.privacy.as_ref().unwrap(), &agreements[&row.site]);
        // The agreement covers one round more, for a failed attempt.
        assert_eq!((spent.steps, agreed.steps), (4, 6));
        assert!(
            agreed.epsilon <= 8.0 && agreed.epsilon > 7.99,
            "{}",
            agreed.epsilon
        );
        assert!(spent.epsilon > 4.0 && spent.epsilon < agreed.epsilon);
        assert!(spent.rdp_epsilon >= spent.epsilon);
        assert!(spent.delta <= 1e-5);
        assert!(row.unprotected.is_some());
    }
    let text = outcome.to_text();
    for said in ["\u{3b5}", "unit patient", "add-remove", "PLD", "SIMULATION"] {
        assert!(text.contains(said), "{said} is missing in:\n{text}");
    }
    let mut open = loaded.scenario.clone();
    open.privacy.mode = consilium_core::study::PrivacyMode::NoneSimulationOnly;
    let open = Loaded::resolve(open, folder.path().to_owned()).unwrap();
    let other = run(&open, &folder.path().join("open"), 2).unwrap();
    assert!(other.to_text().contains("NOT PRIVATE"));
    assert_ne!(other.final_model_sha256, outcome.final_model_sha256);
}

#[test]
fn a_finished_run_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    run(&small(), &out, 2).unwrap();
    let before = std::fs::read(out.join("manifest.json")).unwrap();
    let error = run(&small(), &out, 2).unwrap_err();
    assert_eq!(error.code, "file_exists");
    assert_eq!(std::fs::read(out.join("manifest.json")).unwrap(), before);
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_that_is_not_there_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        out: folder.path().join("run"),
        threads: 1,
        device: DeviceChoice::Cuda,
    };
    let error = simulate(&small(), &options).unwrap_err();
    assert_eq!(error.code, "model_device_unavailable");
    assert_eq!(error.exit, consilium_ops::ExitCode::Configuration);
    assert!(!options.out.exists());
}

#[test]
fn a_cohort_that_is_not_there_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut scenario = small().scenario;
    let site = scenario.sites.values_mut().next().unwrap();
    site.cohort = CohortChoice::Manifest("nowhere/cohort.toml".into());
    let loaded = Loaded::resolve(scenario, folder.path().to_owned()).unwrap();
    let error = run(&loaded, &out, 2).unwrap_err();
    assert!(error.location.is_some_and(|place| place.contains("icu-a")));
    assert!(!out.exists());
}

#[test]
fn a_contradiction_names_the_scenario_that_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.toml");
    let text = include_str!("small.toml").replace("local_steps = 2", "local_steps = 4294967295");
    std::fs::write(&path, text).unwrap();
    let error = Loaded::read(&path.display().to_string()).err().unwrap();
    assert_eq!(error.code, "scenario_contradiction");
    assert!(error.message.contains("local_steps"));
    assert_eq!(error.location, Some(path.display().to_string()));
}

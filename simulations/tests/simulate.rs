//! A run in one process: what it leaves behind, and that nothing is left where it is refused.

use std::path::{Path, PathBuf};

use consilium::outcome::Outcome;
use consilium::privacy_section::{AgainstChoice, ClipChoice};
use consilium::scenario::{CohortChoice, Loaded, Scenario};
use consilium::simulate::{Options, simulate};
use consilium_core::study::{PrivacyMode, WeightRule};
use consilium_models::DeviceChoice;
use consilium_ops::OperatorError;
use consilium_site::training::TrainedPart;
use dp_rs::agreement::AgreedPlan;
use dp_rs::noise::{NoiseLevel, Randomness};
use dp_rs::plan::Clip;

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
    let report = std::fs::read_to_string(one.join("report.html")).unwrap();
    let epsilon = outcome.sites[0].privacy.as_ref().unwrap().epsilon;
    for said in ["<th>not private</th>", &format!(">{epsilon:.2}</td>")] {
        assert!(report.contains(said), "{said}");
    }
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
    open.privacy.mode = PrivacyMode::NoneSimulationOnly;
    let open = Loaded::resolve(open, folder.path().to_owned()).unwrap();
    let other = run(&open, &folder.path().join("open"), 2).unwrap();
    assert!(other.to_text().contains("NOT PRIVATE"));
    assert_ne!(other.final_model_sha256, outcome.final_model_sha256);
}

/// The small scenario with other words about privacy and aggregation.
fn variant(change: impl Fn(&mut Scenario)) -> Result<Loaded, OperatorError> {
    let mut scenario = small().scenario;
    change(&mut scenario);
    Loaded::resolve(scenario, PathBuf::new())
}

fn whole_sites(scenario: &mut Scenario) {
    scenario.privacy.mode = PrivacyMode::SiteUpdates;
    scenario.privacy.clip_norm = Some(0.5);
}

#[test]
fn public_constants_take_the_stamp_away_where_they_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let public = |sites: &'static [&str]| {
        let loaded = variant(|scenario| {
            for (site, section) in &mut scenario.sites {
                if let CohortChoice::Generated(spec) = &mut section.cohort {
                    spec.public_constants = sites.contains(&site.as_str());
                }
            }
        });
        let out = folder.path().join(sites.len().to_string());
        run(&loaded.unwrap(), &out, 2).unwrap().to_text()
    };
    assert!(public(&[]).contains("Conditional on preprocessing: "));
    let some = public(&["icu-a", "icu-c"]);
    assert!(
        some.contains("Conditional on preprocessing at icu-b: "),
        "{some}"
    );
    let all = public(&["icu-a", "icu-b", "icu-c"]);
    assert!(!all.contains("Conditional on preprocessing"), "{all}");
}

#[test]
fn whole_sites_are_hidden_and_no_patient_is_claimed_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = variant(whole_sites).unwrap();
    let one = folder.path().join("one");
    let outcome = run(&loaded, &one, 1).unwrap();
    let again = run(&loaded, &folder.path().join("again"), 3).unwrap();
    assert_eq!(outcome.final_model_sha256, again.final_model_sha256);
    for row in &outcome.sites {
        let spent = row.privacy.as_ref().unwrap();
        // Two rounds of three that are agreed, each in full.
        assert_eq!((spent.round, spent.steps, spent.sampling_rate), (2, 2, 1.0));
        assert_eq!(
            (spent.unit.as_str(), spent.adjacency.as_str()),
            ("site", "zero-out")
        );
        assert_eq!(spent.against, "everybody");
        assert!(
            spent.epsilon > 4.0 && spent.epsilon < 8.0,
            "{}",
            spent.epsilon
        );
        assert!(spent.rdp_epsilon >= spent.epsilon);
        assert!(!spent.conditional_on_preprocessing);
    }
    let text = outcome.to_text();
    for said in [
        "unit site",
        "NOT a claim about single patients",
        "no amplification",
        "the server, the other sites",
        "WARNING: 3 sites are few",
        "SIMULATION",
    ] {
        assert!(text.contains(said), "{said} is missing in:\n{text}");
    }
    assert!(!text.contains("unit patient"), "{text}");
    let csv = std::fs::read_to_string(one.join("privacy.csv")).unwrap();
    assert!(
        csv.contains(",site,zero-out,") && !csv.contains("patient"),
        "{csv}"
    );
    let report = std::fs::read_to_string(one.join("report.html")).unwrap();
    assert!(report.contains("unit site") && !report.contains("No differential privacy"));
    // Another norm is another study.
    let larger = variant(|scenario| {
        whole_sites(scenario);
        scenario.privacy.clip_norm = Some(1.0);
    });
    let larger = run(&larger.unwrap(), &folder.path().join("larger"), 2).unwrap();
    assert_ne!(larger.final_model_sha256, outcome.final_model_sha256);
}

#[test]
fn noise_in_shares_claims_nothing_against_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let shares = |scenario: &mut Scenario| {
        whole_sites(scenario);
        scenario.privacy.against = Some(AgainstChoice::OtherSites);
        scenario.aggregation.weights = WeightRule::EqualSite;
    };
    let outcome = run(&variant(shares).unwrap(), &folder.path().join("run"), 2).unwrap();
    let text = outcome.to_text();
    assert!(text.contains("NOT against the server"), "{text}");
    for (change, words) in [
        (
            Box::new(|s: &mut Scenario| s.aggregation.weights = WeightRule::EqualModality)
                as Box<dyn Fn(&mut Scenario)>,
            "equal_site",
        ),
        (Box::new(|s| s.privacy.clip_norm = None), "clip_norm"),
        (
            Box::new(|s| s.privacy.noise_level = Some(NoiseLevel::Exact)),
            "exact",
        ),
        (
            Box::new(|s| s.privacy.mode = PrivacyMode::PrivateSteps),
            "site-updates",
        ),
    ] {
        let refused = variant(|scenario| {
            shares(scenario);
            change(scenario);
        });
        let error = refused.map(|_| ()).unwrap_err();
        assert_eq!(error.code, "scenario_privacy");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn exact_noise_is_for_whole_updates_and_refused_for_gradients() {
    let folder = tempfile::tempdir().unwrap();
    let exact = variant(|scenario| {
        whole_sites(scenario);
        scenario.privacy.noise_level = Some(NoiseLevel::Exact);
    });
    let outcome = run(&exact.unwrap(), &folder.path().join("run"), 2).unwrap();
    let spent = outcome.sites[0].privacy.as_ref().unwrap();
    assert_eq!(
        (spent.noise_level, spent.accountant.as_str()),
        (NoiseLevel::Exact, "rdp")
    );
    assert!(
        spent.epsilon > 4.0 && spent.epsilon < 8.0,
        "{}",
        spent.epsilon
    );
    let gradients = variant(|scenario| scenario.privacy.noise_level = Some(NoiseLevel::Exact));
    let error = gradients.map(|_| ()).unwrap_err();
    assert_eq!(error.code, "scenario_privacy");
    assert!(error.to_string().contains("hardened"), "{error}");
}

#[test]
fn groups_are_clipped_on_their_own_whichever_are_trained() {
    for (trained, groups) in [(None, 1), (Some(["stem", "head"]), 2)] {
        let loaded = variant(|scenario| {
            scenario.privacy.clip = ClipChoice::PerGroup;
            for training in scenario.training.values_mut() {
                let parts = trained.map(|parts| parts.map(|part| TrainedPart(part.into())).into());
                training.private.trained = parts;
            }
        })
        .unwrap();
        for agreement in loaded.agreements().values() {
            let AgreedPlan::Steps(plan) = &agreement.plan else {
                panic!("steps were agreed to");
            };
            let Clip::Fixed(rule) = &plan.settings().clip else {
                panic!("the clip is fixed");
            };
            assert_eq!(rule.groups(), groups);
        }
        let folder = tempfile::tempdir().unwrap();
        run(&loaded, &folder.path().join("run"), 2).unwrap();
    }
}

#[test]
fn a_study_that_cannot_be_repeated_is_not_simulated() {
    let folder = tempfile::tempdir().unwrap();
    let real = |scenario: &mut Scenario| scenario.privacy.randomness = Randomness::OperatingSystem;
    let out = folder.path().join("run");
    let error = run(&variant(real).unwrap(), &out, 1).unwrap_err();
    assert_eq!(error.code, "scenario_not_simulation");
    assert!(!out.exists());
    // Noise of simulations, and none at all, are for simulations.
    let fast = variant(|scenario| {
        real(scenario);
        scenario.privacy.noise_level = Some(NoiseLevel::Fast);
    });
    assert!(
        fast.map(|_| ())
            .unwrap_err()
            .to_string()
            .contains("hardened")
    );
    let open = variant(|scenario| {
        real(scenario);
        scenario.privacy.mode = PrivacyMode::NoneSimulationOnly;
    });
    let error = open.map(|_| ()).unwrap_err();
    assert_eq!(error.code, "study_unprotected_outside_simulation");
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

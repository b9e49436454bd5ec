//! Patients who are taken out: they leave no trace in later rounds, and nobody else moves.

mod consortium;

use std::collections::BTreeSet;
use std::process::Command;

use consilium_core::clock::Timestamp;
use consilium_core::{ModelVector, RoundPlan, Study};
use consilium_data::Part;
use consilium_models::DeviceChoice;
use consilium_site::training::{SiteRecords, SiteTraining};
use consilium_site::work::LocalWork as _;
use consortium::real::{Real, study};
use consortium::site;

/// What one round at site `a` sends, with or without `out`, whose records hold other values if `garbled`.
fn update(real: &Real, study: &Study, out: Option<&str>, garbled: Option<&str>) -> ModelVector {
    let cohort = real.cohort("a");
    let mut records = SiteRecords::of_parts(&cohort).unwrap();
    let width: usize = records.examples.shape.iter().product();
    for record in 0..cohort.records() {
        if cohort.id_of(record) == garbled {
            records.examples.values[record * width..(record + 1) * width].fill(3.0);
        }
    }
    let participant = study.participant(&site("a")).unwrap();
    let mut training =
        SiteTraining::new(study, participant, &cohort, records, DeviceChoice::Cpu).unwrap();
    let out: BTreeSet<String> = out.into_iter().map(str::to_owned).collect();
    training.exclude(&out).unwrap();
    let plan = RoundPlan {
        study: study.digest(),
        round: 1,
        attempt: 1,
        model: study.initial_model_sha256,
        deadline: Timestamp(0),
    };
    let (global, local) = (study_initial(study), training.initial_local());
    let trained = training.train(&plan, &global, &local, &mut |_| ());
    trained.unwrap().update
}

fn study_initial(study: &Study) -> ModelVector {
    let (_, initial) = consortium::real::study();
    assert_eq!(initial.sha256(), study.initial_model_sha256);
    initial
}

#[test]
fn whoever_is_excluded_leaves_no_trace_in_an_update_and_nobody_else_changes_parts() {
    let real = Real::new();
    let cohort = real.cohort("a");
    let [train, validation, test] =
        [Part::Train, Part::Validation, Part::Test].map(|part| cohort.records_in(part));
    let (study, _) = study();
    // Somebody who is drawn in this round: their records count as long as they are in, and not at all afterwards.
    let with = update(&real, &study, None, None);
    let drawn = |out: &&str| update(&real, &study, None, Some(out)) != with;
    let mut ids = train.iter().filter_map(|&record| cohort.id_of(record));
    let out = ids.find(drawn).unwrap();
    let without = update(&real, &study, Some(out), None);
    assert!(without == update(&real, &study, Some(out), Some(out)));
    assert!(without != with);

    let records = SiteRecords::of_parts(&cohort).unwrap();
    let participant = study.participant(&site("a")).unwrap();
    let mut training =
        SiteTraining::new(&study, participant, &cohort, records, DeviceChoice::Cpu).unwrap();
    training.exclude(&BTreeSet::from([out.to_owned()])).unwrap();
    let stay: Vec<usize> = (train.iter().copied())
        .filter(|&record| cohort.id_of(record) != Some(out))
        .collect();
    assert_eq!(training.records().train, stay);
    assert_eq!(training.records().validation, validation);
    assert_eq!(training.records().test, test);
    // Taken back in, everything is as it was.
    training.exclude(&BTreeSet::new()).unwrap();
    assert_eq!(training.records().train, train);

    let everybody = (0..cohort.records()).filter_map(|record| cohort.id_of(record));
    let everybody = everybody.map(str::to_owned).collect();
    let error = training.exclude(&everybody).unwrap_err();
    assert_eq!(error.code, "patients_all_excluded");
}

#[tokio::test]
async fn the_command_counts_and_never_names_them() {
    let real = Real::new();
    let cohort = real.cohort("a");
    let out = cohort.id_of(cohort.records_in(Part::Train)[0]).unwrap();
    let file = real.folder().join("withdrawn.txt");
    std::fs::write(&file, format!("{out}\n\n  nobody-here  \n")).unwrap();
    let exclude = || {
        let output = Command::new(env!("CARGO_BIN_EXE_consilium-site"))
            .args(["patients", "exclude"])
            .arg(&file)
            .arg("--config")
            .arg(real.config("a"))
            .args(["--format", "json"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(
            !format!("{text}{log}").contains("nobody-here"),
            "{text}{log}"
        );
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let data = serde_json::json!({"in_cohort": 1, "not_in_cohort": 1, "new": 2, "in_all": 2});
    assert_eq!(exclude()["data"], data);
    assert_eq!(exclude()["data"]["new"], 0);
    let stored = real.store("a").await.excluded().await.unwrap();
    assert!(stored.contains(out) && stored.contains("nobody-here"));
    std::fs::write(&file, "\n").unwrap();
    assert_eq!(exclude()["error"]["code"], "patients_none");
}

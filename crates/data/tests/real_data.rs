//! The real cohorts give the counts of their READMEs. Skipped, with the reason, where the data are not.

mod regression;

use std::collections::HashSet;
use std::io::Write as _;
use std::path::PathBuf;

use consilium_data::{Cohort, Examples, Part, Targets, Unit, describe};
use regression::{auroc, fit, plain, rows};

/// Reads one of the manifests that ship with the scenarios, or says why not.
fn read(name: &str, folder: &str) -> Option<Cohort> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let asked = std::env::var_os("CONSILIUM_DATA");
    // A relative folder starts at the workspace, where `cargo test` is typed, not at this crate.
    let data = root.join(asked.clone().unwrap_or("../shared/data".into()));
    let cohort = data.join(folder);
    if !cohort.is_dir() {
        assert!(asked.is_none(), "{} is absent", cohort.display());
        // Straight to the descriptor: the test harness keeps what passing tests print to itself.
        let mut out = std::io::stderr();
        let _ = writeln!(
            out,
            "skipped: {} is absent; set CONSILIUM_DATA",
            cohort.display()
        );
        return None;
    }
    let manifest = root.join(format!("simulations/cohorts/{name}.toml"));
    match Cohort::read(&manifest) {
        Ok(cohort) => Some(cohort),
        Err(refusal) => panic!("{refusal}"),
    }
}

fn counts(cohort: &Cohort) -> Vec<(usize, Vec<usize>)> {
    let parts = describe(cohort).parts;
    (parts.iter())
        .map(|part| (part.records, part.targets.iter().map(|t| t.1).collect()))
        .collect()
}

/// Every patient is in one fold, every record is tested once, and no fold shares a patient with its training.
fn folds_are_patient_wise(cohort: &Cohort) {
    let mut tested = 0;
    for fold in cohort.folds(5) {
        let patients = |records: &[usize]| -> HashSet<u32> {
            records.iter().map(|&r| cohort.patient()[r]).collect()
        };
        assert!(!fold.test.is_empty());
        assert!(patients(&fold.train).is_disjoint(&patients(&fold.test)));
        assert_eq!(fold.train.len() + fold.test.len(), cohort.records());
        tested += fold.test.len();
    }
    assert_eq!(tested, cohort.records());
}

/// Training records are standardised, and nothing that training sees is unusual.
fn prepares(cohort: &Cohort, shape: &[usize]) {
    let train = cohort.records_in(Part::Train);
    let prepared = cohort.prepare(&train).unwrap();
    assert_eq!(prepared.examples().shape, shape);
    assert!(
        prepared
            .examples()
            .values
            .iter()
            .all(|value| value.is_finite())
    );
    let first = prepared.examples().select(&train).unwrap();
    let group = first.width() / shape[0];
    let values: Vec<f64> = (first.values.chunks_exact(first.width()))
        .flat_map(|record| &record[..group])
        .map(|&value| f64::from(value))
        .collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    assert!(mean.abs() < 0.05, "mean {mean}");
}

#[test]
fn pneumonia_xrays_have_the_published_counts_without_the_eight_shared_images() {
    let Some(cohort) = read("xray-pneumoniamnist", "pneumoniamnist") else {
        return;
    };
    assert_eq!(cohort.unit(), Unit::Record);
    // 389 validation images with pneumonia, of which 8 are also in training.
    assert_eq!(
        counts(&cohort),
        [
            (4708, vec![1214, 3494]),
            (516, vec![135, 381]),
            (624, vec![234, 390])
        ]
    );
    let note = cohort.notes()[0].problem.to_string();
    assert!(note.starts_with("8 validation records") && note.matches("val_images[").count() == 8);
    // 18 duplicates inside training are one record each, so that no fold separates them.
    assert_eq!(4708 - cohort.patients_in(Part::Train), 18);
    folds_are_patient_wise(&cohort);
    prepares(&cohort, &[1, 32, 32]);
}

#[test]
fn kidney_tumours_have_260_patients_of_whom_40_died() {
    let Some(cohort) = read("omics-kirp", "tcga-omics") else {
        return;
    };
    assert_eq!(
        (cohort.unit(), cohort.records(), cohort.patients()),
        (Unit::Patient, 260, 260)
    );
    let Targets::Survival { event, .. } = cohort.targets() else {
        panic!("KIRP has survival targets");
    };
    assert_eq!(event.iter().filter(|&&event| event).count(), 40);
    // 1557 genes, 20 mutations, age, sex, and whether age is missing.
    prepares(&cohort, &[1580]);
    folds_are_patient_wise(&cohort);
}

#[test]
fn intensive_care_stays_are_1367_with_70_deaths() {
    let Some(cohort) = read("icu-eicu", "icu-mortality24") else {
        return;
    };
    assert_eq!(
        (cohort.unit(), cohort.records(), cohort.patients()),
        (Unit::Record, 1367, 1367)
    );
    let deaths = cohort.targets().labels().unwrap().iter().sum::<u32>();
    assert_eq!(deaths, 70);
    // 48 concepts with 5 summaries, age, height, weight, two sexes, 51 indicators.
    prepares(&cohort, &[48 * 5 + 3 + 2 + 51]);
    folds_are_patient_wise(&cohort);
}

#[test]
fn smartwatch_series_of_ten_people_give_2229_complete_windows() {
    let Some(cohort) = read("signal-smartwatch", "smartwatch-rehab") else {
        return;
    };
    // The README says 2228: its loop stops before a last window that ends with the last sample, which
    // one series (2300 samples) has. That window is complete, so it is a record here.
    assert_eq!((cohort.records(), cohort.patients()), (2229, 10));
    assert_eq!(Part::ALL.map(|part| cohort.patients_in(part)), [6, 2, 2]);
    assert!(
        describe(&cohort)
            .fold_patients
            .iter()
            .all(|&people| people == 2)
    );
    prepares(&cohort, &[6, 200]);
    folds_are_patient_wise(&cohort);
}

#[test]
fn describing_a_cohort_serialises_and_prints() {
    let Some(cohort) = read("signal-smartwatch", "smartwatch-rehab") else {
        return;
    };
    let description = describe(&cohort);
    assert!(description.to_string().contains("2229 of 10 patients"));
    let json = serde_json::to_value(&description).unwrap();
    assert_eq!(json["parts"][0]["part"], "train");
}

/// Means of 4 by 4 pixels.
fn coarse_pixels(examples: &Examples, record: usize) -> Vec<f64> {
    let pixels = plain(examples, record);
    let cell = |at: usize| -> f64 {
        let (row, column) = (at / 8 * 4, at % 8 * 4);
        let rows = (row..row + 4).map(|r| &pixels[r * 32 + column..r * 32 + column + 4]);
        rows.flatten().sum::<f64>() / 16.0
    };
    (0..64).map(cell).collect()
}

#[test]
fn a_regression_on_coarse_pixels_comes_near_the_published_one() {
    let Some(cohort) = read("xray-pneumoniamnist", "pneumoniamnist") else {
        return;
    };
    let [train, test] = [Part::Train, Part::Test].map(|part| cohort.records_in(part));
    let [train, test] = rows(&cohort, [&train, &test], 1, coarse_pixels);
    let score = auroc(&fit(&train, 0.001), &test);
    println!("test AUROC {score:.3}, README 0.917 on all pixels");
    assert!(score > 0.87, "{score}");
}

#[test]
fn a_regression_on_intensive_care_folds_comes_near_the_published_one() {
    let Some(cohort) = read("icu-eicu", "icu-mortality24") else {
        return;
    };
    let scores: Vec<f64> = (cohort.folds(5).iter())
        .map(|fold| {
            let [train, test] = rows(&cohort, [&fold.train, &fold.test], 1, plain);
            auroc(&fit(&train, 0.05), &test)
        })
        .collect();
    let mean = scores.iter().sum::<f64>() / 5.0;
    println!("AUROC of five folds {scores:.3?}, mean {mean:.3}, README 0.75");
    assert!(mean > 0.70, "{scores:?}");
}

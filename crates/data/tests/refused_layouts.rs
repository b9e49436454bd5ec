//! What is refused in arrays, series and intensive-care tables.

mod folder;

use std::fs;
use std::path::PathBuf;

use consilium_core::Seed;
use consilium_data::generated::{GeneratedKind, cohort, quickstart, write};
use consilium_data::{Cohort, check};
use folder::Folder;
use tempfile::TempDir;

/// A generated X-ray or signal cohort on disk.
fn on_disk(kind: GeneratedKind) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = (quickstart().into_iter())
        .find(|spec| spec.kind == kind)
        .unwrap();
    (spec.train, spec.validation, spec.test) = (20, 5, 5);
    let manifest = write(&cohort(&spec, Seed(1)).unwrap(), folder.path()).unwrap();
    (folder, manifest)
}

#[test]
fn every_truncation_of_an_npz_is_an_error_and_none_a_panic() {
    let (folder, manifest) = on_disk(GeneratedKind::Xray);
    let path = folder.path().join("images.npz");
    let bytes = fs::read(&path).unwrap();
    for end in (0..bytes.len()).step_by(bytes.len() / 150) {
        fs::write(&path, &bytes[..end]).unwrap();
        assert_eq!(check(&manifest)[0].code, "file_damaged", "cut at {end}");
    }
    for at in (0..bytes.len()).step_by(bytes.len() / 300) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x41;
        fs::write(&path, &changed).unwrap();
        // Bytes that no checksum covers may change without harm; nothing may panic.
        let _ = check(&manifest);
    }
}

#[test]
fn a_folder_of_npy_files_is_read_like_the_archive_and_a_missing_one_is_named() {
    let (folder, manifest) = on_disk(GeneratedKind::Xray);
    let archive = fs::File::open(folder.path().join("images.npz")).unwrap();
    let unpacked = folder.path().join("arrays");
    zip::ZipArchive::new(archive)
        .unwrap()
        .extract(&unpacked)
        .unwrap();
    let packed = Cohort::read(&manifest).unwrap();
    let text = fs::read_to_string(&manifest).unwrap();
    let changed = text.replace("images.npz", "arrays");
    assert_ne!(text, changed);
    fs::write(&manifest, changed).unwrap();
    let read = Cohort::read(&manifest).unwrap();
    assert_eq!(read.records(), packed.records());
    let all: Vec<usize> = (0..read.records()).collect();
    let values = |cohort: &Cohort| cohort.prepare(&all).unwrap().examples().clone();
    assert!(values(&read) == values(&packed));

    fs::remove_file(unpacked.join("val_labels.npy")).unwrap();
    let problems = check(&manifest);
    assert_eq!(problems[0].code, "array_missing");
    fs::write(unpacked.join("val_labels.npy"), b"\x93NUMPY").unwrap();
    assert_eq!(check(&manifest)[0].code, "file_damaged");
}

#[test]
fn arrays_with_the_wrong_name_shape_or_type_are_refused() {
    let (_folder, manifest) = on_disk(GeneratedKind::Xray);
    let text = fs::read_to_string(&manifest).unwrap();
    for (from, to, code) in [
        ("{part}_images", "{part}_pictures", "array_missing"),
        (
            "images = \"{part}_images\"",
            "images = \"{part}_labels\"",
            "array_shape",
        ),
        (
            "label = \"{part}_labels\"",
            "label = \"{part}_images\"",
            "array_shape",
        ),
        (
            "values = [\"0\", \"1\"]",
            "values = [\"0\", \"2\"]",
            "label_undeclared",
        ),
    ] {
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(&manifest, text.replace(from, to)).unwrap();
        let findings = check(&manifest);
        assert_eq!(findings[0].code, code, "{findings:?}");
        assert!(findings[0].column.is_some());
    }
}

#[test]
fn images_shared_by_train_and_test_are_refused_and_shared_validation_is_dropped_on_request() {
    let (_folder, manifest) = on_disk(GeneratedKind::Xray);
    let text = fs::read_to_string(&manifest).unwrap();
    let record = text
        .replace(
            "patient_id = \"{part}_patients\"",
            "unit = \"record\"\nreason = \"test\"",
        )
        .replace("validation = \"val\"", "validation = \"train\"");
    fs::write(&manifest, &record).unwrap();
    let refused = check(&manifest);
    assert_eq!(refused[0].code, "patient_in_two_splits");
    assert!(refused[0].problem.contains("the same record"));
    let drop = record.replace(
        "drop_shared_validation = false",
        "drop_shared_validation = true",
    );
    fs::write(&manifest, &drop).unwrap();
    let cohort = Cohort::read(&manifest).unwrap();
    assert_eq!(cohort.records(), 25);
    assert_eq!(cohort.notes()[0].problem.code(), "shared_records_dropped");
    let shared_test = drop.replace("test = \"test\"", "test = \"train\"");
    fs::write(&manifest, shared_test).unwrap();
    assert_eq!(check(&manifest)[0].code, "shared_records_dropped");
    assert!(
        check(&manifest)
            .iter()
            .any(|f| f.code == "patient_in_two_splits")
    );
}

#[test]
fn series_that_do_not_fit_their_index_are_refused() {
    let (folder, manifest) = on_disk(GeneratedKind::Signal);
    let path = folder.path().join("series.csv");
    let index = fs::read_to_string(&path).unwrap();
    let rewrite = |text: String| {
        fs::write(&path, text).unwrap();
        check(&manifest)
    };
    assert_eq!(
        rewrite(index.replacen(",128\n", ",127\n", 1))[0].code,
        "series_length"
    );
    let first = index.lines().nth(1).unwrap().to_owned();
    assert_eq!(rewrite(format!("{index}{first}\n"))[0].code, "id_repeated");
    assert_eq!(
        rewrite(index.replace(&format!("{first}\n"), ""))[0].code,
        "id_unknown"
    );
    let findings = rewrite(format!("{index}9999,0,train,walk,128\n"));
    assert!(
        findings.iter().any(|f| f.code == "series_length"),
        "{findings:?}"
    );
    assert_eq!(rewrite(index), []);
}

const ICU: &str = r#"
name = "stays"
origin = "public"
unit = "record"
reason = "stays cannot be joined"
[modality]
key = "icu.v1"
kind = "icu"
[task]
key = "binary.died.v1"
kind = "binary"
label = "label"
classes = ["0", "1"]
[source.icu]
dynamic = "dyn.csv"
static = "sta.csv"
outcome = "outc.csv"
id = "stay"
time = "hour"
hours = 24.0
[splits]
key = "k"
fractions = { train = 1.0, validation = 0.0, test = 0.0 }
[[features]]
columns = ["hr", "lact"]
missing_indicator = true
[[features]]
columns = ["age"]
"#;

/// A small intensive-care cohort, with its three tables.
fn stays(dynamic: &str, fixed: &str, outcome: &str) -> Folder {
    let folder = Folder::new(ICU, "");
    for (name, text) in [
        ("dyn.csv", dynamic),
        ("sta.csv", fixed),
        ("outc.csv", outcome),
    ] {
        fs::write(folder.0.path().join(name), text).unwrap();
    }
    folder
}

const DYNAMIC: &str = "stay,hour,hr,lact\n1,2,90,\n1,0,80,\n1,25,500,9\n2,0,70,2.5\n";
const STATIC: &str = "stay,age\n1,60\n2,70\n";
const OUTCOME: &str = "stay,label\n1,0\n2,1\n";

#[test]
fn a_stay_becomes_mean_minimum_maximum_last_and_count_of_the_first_hours() {
    let folder = stays(DYNAMIC, STATIC, OUTCOME);
    assert_eq!(folder.check(), []);
    let cohort = Cohort::read(&folder.manifest()).unwrap();
    let names: Vec<&str> = cohort.features().iter().map(|f| f.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "hr.mean",
            "hr.min",
            "hr.max",
            "hr.last",
            "hr.count",
            "lact.mean",
            "lact.min",
            "lact.max",
            "lact.last",
            "lact.count",
            "age"
        ]
    );
    let raw = consilium_data::Scaling {
        mean: vec![0.0; 11],
        standard_deviation: vec![1.0; 11],
        ..Default::default()
    };
    let prepared = cohort.prepare_with(&raw).unwrap();
    // Hour 25 does not count; the last value is the latest, not the last row; lactate is missing.
    assert_eq!(
        prepared.examples().record(0).unwrap(),
        [
            85.0, 80.0, 90.0, 90.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 60.0, 0.0, 1.0
        ]
    );
}

#[test]
fn stays_that_do_not_fit_together_are_refused() {
    let code = |dynamic: &str, fixed: &str, outcome: &str| {
        let findings = stays(dynamic, fixed, outcome).check();
        (findings[0].code, findings[0].line)
    };
    let outcome = |outcome: &str| code(DYNAMIC, STATIC, outcome);
    assert_eq!(
        outcome("stay,label\n1,0\n1,1\n2,1\n"),
        ("id_repeated", Some(3))
    );
    assert_eq!(
        outcome("stay,label\n1,0\n2,2\n"),
        ("label_undeclared", Some(3))
    );
    assert_eq!(outcome("stay,label\n2,1\n"), ("id_unknown", Some(2)));
    assert_eq!(
        code(DYNAMIC, "stay,age\n1,60\n", OUTCOME),
        ("id_without_rows", Some(3))
    );
    let text = DYNAMIC.replace("70,2.5", "fast,2.5");
    assert_eq!(code(&text, STATIC, OUTCOME), ("number_is_text", Some(5)));
    let text = DYNAMIC.replace("2,0,70", "2,,70");
    assert_eq!(code(&text, STATIC, OUTCOME), ("cell_empty", Some(5)));
}

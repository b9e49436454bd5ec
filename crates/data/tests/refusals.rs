//! What is refused in a manifest and in a table: by code, place and remedy.

mod folder;

use std::fs;
use std::io::Write as _;
use std::path::Path;

use consilium_data::generated::write;
use consilium_data::{Cohort, Finding, LISTED_PER_CODE, Severity, check};
use flate2::Compression;
use flate2::write::GzEncoder;
use folder::Folder;

const MANIFEST: &str = r#"
name = "small"
origin = "public"
patient_id = "patient"

[modality]
key = "tab.v1"
kind = "table"

[task]
key = "binary.died.v1"
kind = "binary"
label = "died"
classes = ["no", "yes"]
values = ["0", "1"]

[source.table]
file = "records.csv"

[splits]
key = "k"

[splits.fixed]
column = "part"

[[features]]
columns = ["age", "weight"]
missing_indicator = true

[[features]]
columns = ["sex"]
categories = ["f", "m"]
"#;

const TABLE: &str = "patient,part,died,age,weight,sex
p1,train,0,50,70.5,f
p2,train,1,61,,m
p3,validation,0,44,80,f
p4,test,1,70,66,
";

/// Checks a small cohort in which `from` is replaced by `to` in the manifest.
fn manifest_with(from: &str, to: &str) -> Vec<Finding> {
    assert!(MANIFEST.contains(from), "{from:?} is not in the manifest");
    Folder::new(&MANIFEST.replacen(from, to, 1), TABLE).check()
}

/// Checks a small cohort in which `from` is replaced by `to` in the table.
fn table_with(from: &str, to: &str) -> Vec<Finding> {
    assert!(TABLE.contains(from), "{from:?} is not in the table");
    Folder::new(MANIFEST, &TABLE.replacen(from, to, 1)).check()
}

/// Code, line and column of the only finding.
fn only(findings: &[Finding]) -> (&str, Option<u64>, Option<&str>) {
    assert_eq!(findings.len(), 1, "{findings:#?}");
    let finding = &findings[0];
    (finding.code, finding.line, finding.column.as_deref())
}

fn line_of(text: &str, part: &str) -> Option<u64> {
    text.lines()
        .position(|line| line.contains(part))
        .map(|at| at as u64 + 1)
}

#[test]
fn the_small_cohort_is_clean_and_missing_values_become_zero_with_an_indicator() {
    let folder = Folder::new(MANIFEST, TABLE);
    assert_eq!(folder.check(), []);
    let cohort = Cohort::read(&folder.manifest()).unwrap();
    let prepared = cohort.prepare(&[0, 1]).unwrap();
    assert_eq!(
        prepared.features(),
        [
            "age",
            "weight",
            "sex=f",
            "sex=m",
            "missing:age",
            "missing:weight"
        ]
    );
    let examples = prepared.examples();
    assert_eq!(examples.record(1).unwrap()[1], 0.0);
    assert_eq!(examples.record(1).unwrap()[4..], [0.0, 1.0]);
    // Mean 55.5 and standard deviation 5.5 come from the two training records only.
    assert_eq!(examples.record(0).unwrap()[0], -1.0);
    assert_eq!(examples.record(3).unwrap()[0], (70.0 - 55.5) / 5.5);
    let other = cohort.prepare(&[0, 1, 2]).unwrap();
    assert_ne!(other.scaling(), prepared.scaling());
}

#[test]
fn a_mistyped_key_is_named_with_its_line_and_a_suggestion() {
    let findings = manifest_with(
        "patient_id = \"patient\"",
        "patientid = \"patient\"\nunit = \"record\"\nreason = \"r\"",
    );
    let text = MANIFEST;
    assert_eq!(
        only(&findings),
        (
            "manifest_unknown_key",
            line_of(text, "patient_id"),
            Some("column 1")
        )
    );
    assert!(
        findings[0].problem.contains("did you mean `patient_id`"),
        "{}",
        findings[0].problem
    );
}

#[test]
fn all_unknown_keys_are_named_in_one_run_also_in_nested_tables() {
    let text = MANIFEST
        .replace("[splits.fixed]", "colour = 1\n[splits.fixed]")
        .replace("label = ", "lable = 2\nlabel = ")
        .replace("categories = ", "categorys = 3\ncategories = ");
    let findings = Folder::new(&text, TABLE).check();
    let lines: Vec<_> = findings.iter().map(|f| (f.code, f.line)).collect();
    assert_eq!(lines.len(), 3, "{findings:#?}");
    for key in ["colour", "lable", "categorys"] {
        assert!(
            lines.contains(&("manifest_unknown_key", line_of(&text, key))),
            "{key}: {lines:?}"
        );
    }
    assert!(
        findings
            .iter()
            .any(|f| f.problem.contains("did you mean `categories`"))
    );
}

#[test]
fn every_truncation_of_a_manifest_is_an_error_until_it_is_whole_and_none_a_panic() {
    // A manifest that ends after the first block of features is whole.
    let whole = MANIFEST.find("missing_indicator").unwrap();
    for end in 0..MANIFEST.len() {
        let findings = Folder::new(&MANIFEST[..end], TABLE).check();
        assert!(end >= whole - 1 || !findings.is_empty(), "cut at {end}");
    }
}

#[test]
fn an_unknown_word_is_named_with_the_allowed_ones() {
    let findings = manifest_with("kind = \"binary\"", "kind = \"binry\"");
    assert_eq!(only(&findings).0, "manifest_unknown_word");
    assert!(findings[0].problem.contains("did you mean `binary`"));
    let findings = manifest_with("[source.table]", "[source.tabel]");
    assert_eq!(only(&findings).0, "manifest_unknown_word");
    assert_eq!(
        only(&manifest_with("origin = \"public\"", "")).0,
        "manifest_missing_key"
    );
    assert_eq!(
        only(&manifest_with("origin = ", "origin ")).0,
        "manifest_syntax"
    );
    assert_eq!(
        only(&manifest_with("\"tab.v1\"", "\"Tab V1\"")).0,
        "manifest_invalid_value"
    );
}

#[test]
fn a_cohort_needs_a_patient_id_or_a_declared_unit_with_a_reason() {
    let id = "patient_id = \"patient\"";
    assert_eq!(only(&manifest_with(id, "")).0, "unit_undeclared");
    assert_eq!(
        only(&manifest_with(id, "unit = \"record\"")).0,
        "unit_reason_missing"
    );
    let both = format!("{id}\nunit = \"record\"\nreason = \"r\"");
    assert_eq!(only(&manifest_with(id, &both)).0, "unit_declared_twice");
}

#[test]
fn the_split_key_of_a_real_cohort_is_not_written_in_the_manifest() {
    let findings = manifest_with("origin = \"public\"", "origin = \"real\"");
    assert_eq!(only(&findings).0, "split_key_in_clear");
    assert_eq!(findings[0].line, line_of(MANIFEST, "key = \"k\""));
    let folder = Folder::new(
        &MANIFEST
            .replace("origin = \"public\"", "origin = \"real\"")
            .replace("key = \"k\"", "key_file = \"split.key\""),
        TABLE,
    );
    assert_eq!(only(&folder.check()).0, "file_missing");
    fs::write(folder.0.path().join("split.key"), "secret\n").unwrap();
    assert_eq!(folder.check(), []);
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    for (from, to) in [
        (
            "classes = [\"no\", \"yes\"]",
            "classes = [\"no\", \"yes\", \"maybe\"]",
        ),
        ("values = [\"0\", \"1\"]", "values = [\"0\"]"),
        ("label = \"died\"", "time = \"age\""),
        ("kind = \"table\"", "kind = \"image\""),
        ("[splits.fixed]\ncolumn = \"part\"", "[splits.fixed]"),
        (
            "[splits.fixed]\ncolumn = \"part\"",
            "[splits.fractions]\ntrain = 0.5\nvalidation = 0.5\ntest = 0.5",
        ),
        ("key = \"k\"", ""),
        ("missing_indicator = true", "clip = [3.0, 1.0]"),
        ("[\"age\", \"weight\"]", "[\"age\", \"died\"]"),
        ("[\"age\", \"weight\"]", "[\"age\", \"age\"]"),
        ("[\"age\", \"weight\"]", "[\"age\", \"*_rnaseq\"]"),
        (
            "[[features]]\ncolumns = [\"age\"",
            "[preprocessing]\nwindow = 3\n[[features]]\ncolumns = [\"age\"",
        ),
    ] {
        let findings = manifest_with(from, to);
        assert!(
            findings.iter().any(|f| f.code == "manifest_invalid_value"),
            "{to:?}: {findings:#?}"
        );
    }
}

#[test]
fn a_modality_key_with_another_schema_hash_is_refused() {
    let folder = Folder::new(MANIFEST, TABLE);
    let hash = Cohort::read(&folder.manifest())
        .unwrap()
        .schema_hash()
        .to_string();
    let right = format!("\"tab.v1.{}\"", &hash[..6]);
    assert_eq!(manifest_with("\"tab.v1\"", &right), []);
    assert_eq!(
        only(&manifest_with("\"tab.v1\"", "\"tab.v1.00000\"")).0,
        "schema_differs"
    );
}

#[test]
fn the_schema_hash_sees_units_category_order_and_column_order() {
    let hash = |from: &str, to: &str| {
        let folder = Folder::new(&MANIFEST.replacen(from, to, 1), TABLE);
        Cohort::read(&folder.manifest()).unwrap().schema_hash()
    };
    let same = hash("name = \"small\"", "name = \"other\"");
    assert_eq!(same, hash("key = \"k\"", "key = \"another\""));
    assert_ne!(same, hash("[\"age\", \"weight\"]", "[\"weight\", \"age\"]"));
    assert_ne!(same, hash("[\"f\", \"m\"]", "[\"m\", \"f\"]"));
    assert_ne!(
        same,
        hash("[[features]]", "[units]\nage = \"years\"\n[[features]]")
    );
}

#[test]
fn a_missing_file_or_variable_is_named() {
    let findings = manifest_with("\"records.csv\"", "\"no/such.csv\"");
    assert_eq!(only(&findings).0, "file_missing");
    assert!(findings[0].file.ends_with("no/such.csv"));
    let findings = manifest_with("\"records.csv\"", "\"${CONSILIUM_NO_SUCH_VARIABLE}/x.csv\"");
    assert_eq!(only(&findings).0, "path_variable_unset");
    assert_eq!(
        only(&check(Path::new("no/such/cohort.toml"))).0,
        "file_missing"
    );
}

#[test]
fn text_nan_and_infinity_in_a_numeric_column_are_named_by_line_and_column() {
    assert_eq!(
        only(&table_with("50,70.5", "old,70.5")),
        ("number_is_text", Some(2), Some("age"))
    );
    for bad in ["NaN", "nan", "inf", "-inf", "1e99"] {
        let findings = table_with("61,", &format!("61,{bad}"));
        assert_eq!(
            only(&findings),
            ("number_not_finite", Some(3), Some("weight"))
        );
    }
    // The cell itself is a patient's value and is not repeated.
    assert!(
        !table_with("50,70.5", "secret,70.5")[0]
            .problem
            .contains("secret")
    );
}

#[test]
fn labels_categories_and_parts_outside_the_declared_ones_are_refused() {
    assert_eq!(
        only(&table_with("p1,train,0", "p1,train,2")),
        ("label_undeclared", Some(2), Some("died"))
    );
    assert_eq!(
        only(&table_with("p1,train,0", "p1,train,")),
        ("cell_empty", Some(2), Some("died"))
    );
    assert_eq!(
        only(&table_with("70.5,f", "70.5,x")),
        ("category_undeclared", Some(2), Some("sex"))
    );
    assert_eq!(
        only(&table_with("p3,validation", "p3,valid")),
        ("part_undeclared", Some(4), Some("part"))
    );
}

#[test]
fn a_patient_in_two_splits_is_refused_without_naming_the_patient() {
    let findings = table_with("p4,test", "p1,test");
    assert_eq!(only(&findings), ("patient_in_two_splits", Some(5), None));
    assert!(
        findings[0].problem.contains("line 2"),
        "{}",
        findings[0].problem
    );
    assert!(!findings[0].problem.contains("p1"));
}

#[test]
fn damaged_tables_are_refused() {
    assert_eq!(
        only(&table_with("50,70.5,f", "50,70.5")),
        ("row_length", Some(2), None)
    );
    let findings = table_with("patient,part,died,age", "patient,part,died,agee");
    assert_eq!(only(&findings), ("column_missing", Some(1), None));
    assert!(findings[0].problem.contains("did you mean `agee`"));
    let twice = table_with("age,weight,sex", "age,weight,weight");
    assert!(twice.iter().any(|f| f.code == "column_repeated"));
    let folder = Folder::new(MANIFEST, TABLE);
    let mut bytes = TABLE.as_bytes().to_vec();
    bytes.extend(b"p5,train,0,\xff,1,f\n");
    fs::write(folder.0.path().join("records.csv"), bytes).unwrap();
    assert_eq!(only(&folder.check()).0, "table_unreadable");
}

#[test]
fn a_gzip_table_reads_the_same_and_a_cut_one_is_refused() {
    let folder = Folder::new(&MANIFEST.replace("records.csv", "records.csv.gz"), TABLE);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(TABLE.as_bytes()).unwrap();
    let bytes = encoder.finish().unwrap();
    let path = folder.0.path().join("records.csv.gz");
    fs::write(&path, &bytes).unwrap();
    assert_eq!(folder.check(), []);
    let plain = Folder::new(MANIFEST, TABLE);
    let hash = |folder: &Folder| Cohort::read(&folder.manifest()).unwrap().data_hash();
    assert_eq!(hash(&folder), hash(&plain));
    for end in [5, bytes.len() / 2, bytes.len() - 4] {
        fs::write(&path, &bytes[..end]).unwrap();
        let findings = folder.check();
        assert!(
            findings.iter().any(|f| f.code == "file_damaged"),
            "cut at {end}: {findings:?}"
        );
    }
    fs::write(&path, TABLE).unwrap();
    assert_eq!(only(&folder.check()).0, "file_damaged");
}

#[test]
fn all_problems_are_collected_and_long_lists_are_cut() {
    let mut table = TABLE.to_owned();
    for row in 0..30 {
        table.push_str(&format!("q{row},train,7,old,NaN,f\n"));
    }
    let findings = Folder::new(MANIFEST, &table).check();
    for code in ["label_undeclared", "number_is_text", "number_not_finite"] {
        let listed: Vec<_> = findings.iter().filter(|f| f.code == code).collect();
        assert_eq!(listed.len(), LISTED_PER_CODE + 1);
        assert_eq!(listed[LISTED_PER_CODE].problem, "20 more of this kind");
    }
    assert!(findings.iter().all(|f| f.severity == Severity::Error));
}

#[test]
fn an_empty_training_part_is_refused_and_an_empty_class_is_a_warning() {
    let table = TABLE.replace("train", "test");
    assert_eq!(only(&Folder::new(MANIFEST, &table).check()).0, "part_empty");
    let findings = table_with("p2,train,1", "p2,train,0");
    assert_eq!(only(&findings).0, "class_empty");
    assert_eq!(findings[0].severity, Severity::Warning);
}

#[test]
fn rows_of_one_patient_are_reduced_to_one_and_must_agree() {
    let manifest = MANIFEST.replace(
        "\"records.csv\"",
        "\"records.csv\"\none_row_per_patient = true",
    );
    let table = format!("{TABLE}p1,train,0,50,70.5,f\n");
    let folder = Folder::new(&manifest, &table);
    assert_eq!(Cohort::read(&folder.manifest()).unwrap().records(), 4);
    let table = format!("{TABLE}p1,train,0,51,70.5,f\n");
    let findings = Folder::new(&manifest, &table).check();
    assert_eq!(only(&findings), ("patient_rows_differ", Some(6), None));
}

#[test]
fn only_generated_cohorts_are_written() {
    let folder = Folder::new(MANIFEST, TABLE);
    let cohort = Cohort::read(&folder.manifest()).unwrap();
    let error = write(&cohort, folder.0.path()).unwrap_err();
    assert_eq!(error.code(), "cohort_not_simulated");
}

#[test]
fn records_are_not_printable() {
    let folder = Folder::new(MANIFEST, TABLE);
    let cohort = Cohort::read(&folder.manifest()).unwrap();
    let prepared = cohort.prepare(&[0, 1]).unwrap();
    let text = format!(
        "{cohort:?} {:?} {:?}",
        prepared.examples(),
        cohort.targets()
    );
    assert_eq!(
        text,
        "Cohort(small, 4 records) Examples(4 of [6]) Classes(4 of [\"no\", \"yes\"])"
    );
    assert_eq!(
        cohort.prepare(&[]).unwrap_err().code(),
        "training_records_empty"
    );
    assert_eq!(cohort.prepare(&[9]).unwrap_err().code(), "record_unknown");
    assert_eq!(
        prepared.examples().select(&[4]).unwrap_err().code(),
        "record_unknown"
    );
}

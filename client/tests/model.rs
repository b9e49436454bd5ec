//! What a hospital takes home: the model of a committed round as files, and predictions for its patients.

mod consortium;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use consilium_core::ModelVector;
use consilium_data::Part;
use consilium_models::DeviceChoice;
use consilium_site::export;
use consilium_site::training::Predictor;
use consilium_store::site::SiteStore;
use consortium::real::{PASSES, Real, study};
use consortium::{ROUNDS, SITES, ServerState};

/// How the program ended: exit code, and its answer.
fn command(real: &Real, site: &str, words: &[&str]) -> (i32, serde_json::Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_consilium-site"))
        .args(words)
        .arg("--config")
        .arg(real.config(site))
        .args(["--format", "json"])
        .current_dir(real.folder())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{log}"));
    (output.status.code().unwrap(), json)
}

fn done(real: &Real, site: &str, words: &[&str]) -> serde_json::Value {
    let (exit, json) = command(real, site, words);
    assert_eq!(exit, 0, "{json}");
    json["data"].clone()
}

/// Exit code and stable code of a refusal; each one says where and what to do next.
fn refused(real: &Real, site: &str, words: &[&str]) -> (i32, String) {
    let (exit, json) = command(real, site, words);
    let error = &json["error"];
    for field in ["message", "hint", "where"] {
        let text = error[field].as_str().unwrap_or_default();
        assert!(!text.is_empty(), "no {field}: {json}");
    }
    (exit, error["code"].as_str().unwrap().to_owned())
}

fn columns(csv: &str) -> Vec<&str> {
    csv.lines().next().unwrap().split(',').collect()
}

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_model_predicts_bit_for_bit_what_the_network_in_memory_did() {
    let real = Real::new();
    let ended = real.run().await;
    for (name, (outcome, seen)) in SITES.into_iter().zip(ended) {
        let out = real.folder().join("models").join(name);
        let told = done(
            &real,
            name,
            &["model", "export", "--out", out.to_str().unwrap()],
        );
        assert_eq!(told["round"], ROUNDS);
        let path = out.join(format!("real-round{ROUNDS}.json"));
        let (document, model) = export::read(&path).unwrap();
        assert_eq!(document.global_model_sha256, outcome.final_model_sha256);
        let own = model.restricted_to(&document.local_groups);
        assert_eq!(own.sha256(), outcome.local_groups_sha256);
        assert_eq!(document.local_groups.len(), 2);
        assert_eq!(document.local_round, Some(ROUNDS));
        #[cfg(unix)]
        for end in ["json", "safetensors"] {
            assert_eq!(mode(&path.with_extension(end)), 0o600);
        }
        // Everything that is needed is in the files: network, values, scaling.
        let mut rebuilt = study().0;
        rebuilt.model = document.model;
        let participant = &document.participant;
        let predictor = Predictor::new(&rebuilt, participant, &model, DeviceChoice::Cpu).unwrap();
        let cohort = real.cohort(name);
        let prepared = cohort.prepare_with(&document.preparation.scaling).unwrap();
        let records = cohort.records_in(Part::Test);
        for (passes, expected) in [(0, &seen.plain), (PASSES, &seen.dropout)] {
            let predictions = predictor
                .predict(prepared.examples(), &records, passes, &mut |_| ())
                .unwrap();
            // More than one batch of records: their streams must follow each other too.
            assert!(predictions.len() > 64);
            assert_eq!(&predictions, expected, "{name}, {passes} passes");
        }
        let values: f32 = seen.dropout.iter().map(|p| p.variance).sum();
        assert!(values > 0.0, "dropout changes nothing");
        assert_ne!(seen.plain, seen.dropout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn predictions_are_the_same_bytes_again_and_carry_the_metrics_of_the_study() {
    let real = Real::new();
    let ended = real.run().await;
    for (name, (outcome, seen)) in SITES.into_iter().zip(&ended) {
        let cohort = real.cohort(name);
        let test = cohort.records_in(Part::Test);
        let predict = |file: &str, more: &[&str]| {
            let mut words = vec!["model", "predict", "--out", file];
            words.extend(more);
            let told = done(&real, name, &words);
            let text = std::fs::read_to_string(real.folder().join(file)).unwrap();
            (told, text)
        };
        let (told, first) = predict("first.csv", &[]);
        let (_, second) = predict("second.csv", &[]);
        assert_eq!(first, second);
        assert_eq!(told["passes"], 20);
        assert_eq!(told["records"], test.len());
        assert_eq!(first.lines().count(), test.len() + 1);
        #[cfg(unix)]
        assert_eq!(mode(&real.folder().join("first.csv")), 0o600);

        // Without dropout: the study's own metrics, and exactly the values of the network in memory.
        let (told, plain) = predict("plain.csv", &["--passes", "0"]);
        let expected: Vec<_> = (outcome.metrics.iter())
            .filter(|value| value.split == "test")
            .collect();
        assert_eq!(told["metrics"], serde_json::to_value(&expected).unwrap());
        assert!(!expected.is_empty() && plain != first);
        let outputs = seen.plain[0].outputs.len();
        for (line, prediction) in plain.lines().skip(1).zip(&seen.plain) {
            let cells: Vec<&str> = line.split(',').collect();
            let values: Vec<f32> = cells[2..2 + outputs]
                .iter()
                .map(|cell| cell.parse().unwrap())
                .collect();
            assert_eq!(values, prediction.outputs);
            assert_eq!(cells[2 + outputs], "", "a spread of one pass");
        }
        let ids: Vec<&str> = plain
            .lines()
            .skip(1)
            .map(|line| line.split(',').next().unwrap())
            .collect();
        let expected: Vec<&str> = test.iter().map(|&r| cohort.id_of(r).unwrap()).collect();
        assert_eq!(ids, expected);

        let (train, _) = predict("train.csv", &["--part", "train", "--passes", "2"]);
        assert_eq!(train["records"], cohort.records_in(Part::Train).len());
    }
    let header = |name: &str, site: &str| {
        done(&real, site, &["model", "predict", "--out", name]);
        let text = std::fs::read_to_string(real.folder().join(name)).unwrap();
        columns(&text).join(" ")
    };
    assert_eq!(
        header("a.csv", "a"),
        "patient row log_risk standard_deviation"
    );
    assert_eq!(
        header("b.csv", "b"),
        "patient row probability_died standard_deviation predictive_entropy mutual_information"
    );
    assert_eq!(
        columns(&std::fs::read_to_string(real.folder().join("first.csv")).unwrap()).len(),
        9
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn other_patients_are_predicted_with_the_scaling_of_the_study() {
    let real = Real::new();
    let ended = real.run().await;
    // The site's own records given as others: the same values for the test part.
    let words = ["model", "predict", "--passes", "0", "--out", "all.csv"];
    let told = done(
        &real,
        "a",
        &[&words[..], &["--records", "a/cohort.toml"]].concat(),
    );
    assert_eq!(told["records"], 98);
    assert_eq!(told["metrics"][0]["split"], "records");
    let text = std::fs::read_to_string(real.folder().join("all.csv")).unwrap();
    let cohort = real.cohort("a");
    let lines: Vec<&str> = text.lines().skip(1).collect();
    for (&record, prediction) in cohort.records_in(Part::Test).iter().zip(&ended[0].1.plain) {
        let value: f32 = lines[record].split(',').nth(2).unwrap().parse().unwrap();
        // In another batch, a record may differ in the last bits.
        assert!((value - prediction.outputs[0]).abs() < 1e-5);
    }
    real.write_cohort("a", 2, &real.folder().join("new"));
    let told = done(
        &real,
        "a",
        &[&words[..], &["--records", "new/cohort.toml"]].concat(),
    );
    assert_eq!(told["records"], 98);
    let other = std::fs::read_to_string(real.folder().join("all.csv")).unwrap();
    assert_ne!(other, text);
    // The same patients, of whom nobody knows how long they live: the same table, and no metrics.
    let manifest = real.folder().join("new/cohort.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let kept = (text.lines()).filter(|l| !l.starts_with("time =") && !l.starts_with("event ="));
    let text = kept.collect::<Vec<_>>().join("\n");
    let unlabelled = text.replace("kind = \"survival\"", "kind = \"unlabelled\"");
    assert_ne!(unlabelled, text);
    std::fs::write(&manifest, unlabelled).unwrap();
    let told = done(
        &real,
        "a",
        &[&words[..], &["--records", "new/cohort.toml"]].concat(),
    );
    assert_eq!(told["metrics"], serde_json::json!([]));
    let again = std::fs::read_to_string(real.folder().join("all.csv")).unwrap();
    assert_eq!(again, other);
    assert_eq!(
        refused(
            &real,
            "a",
            &[&words[..], &["--records", "b/cohort.toml"]].concat()
        ),
        (3, "records_other_schema".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_or_a_cohort_that_is_not_the_one_asked_for_is_refused_and_nothing_is_written() {
    let real = Real::new();
    let out = ["--out", "nothing.csv"];
    let predict = |more: &[&str]| {
        let words = [&["model", "predict"], &out[..], more].concat();
        let refusal = refused(&real, "a", &words);
        assert!(!real.folder().join("nothing.csv").exists());
        refusal
    };
    assert_eq!(predict(&[]), (3, "store_missing".into()));
    real.run().await;
    assert_eq!(predict(&["--study", "other"]), (3, "study_unknown".into()));
    assert_eq!(predict(&["--round", "1"]), (1, "round_not_kept".into()));
    assert_eq!(predict(&["--round", "9"]), (1, "round_not_received".into()));

    let config = std::fs::read_to_string(real.config("a")).unwrap();
    let absent = config.replacen("[server]", "device = \"cuda\"\n[server]", 1);
    std::fs::write(real.config("a"), absent).unwrap();
    assert_eq!(predict(&[]), (3, "model_device_unavailable".into()));
    std::fs::write(real.config("a"), config).unwrap();

    real.write_cohort("a", 2, &real.folder().join("a"));
    assert_eq!(predict(&[]), (3, "cohort_changed".into()));
    // The model does not depend on the records that lie here now.
    done(&real, "a", &["model", "export", "--out", "m.safetensors"]);
    assert_eq!(
        refused(&real, "a", &["model", "export", "--out", "m.safetensors"]),
        (1, "file_exists".into())
    );
    std::fs::remove_file(real.folder().join("m.safetensors")).unwrap();
    assert_eq!(
        refused(&real, "a", &["model", "export", "--out", "m.safetensors"]),
        (1, "file_exists".into())
    );
    assert!(!real.folder().join("m.safetensors").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_was_changed_or_cut_is_refused_when_it_is_read() {
    let real = Real::new();
    real.run().await;
    done(&real, "b", &["model", "export", "--out", "m.safetensors"]);
    let (values, document) = ["m.safetensors", "m.json"]
        .map(|n| real.folder().join(n))
        .into();
    let whole = std::fs::read(&values).unwrap();
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    for wrong in [&changed[..], &whole[..whole.len() - 4]] {
        std::fs::write(&values, wrong).unwrap();
        assert_eq!(export::read(&document).unwrap_err().code, "export_changed");
    }
    std::fs::write(&values, &whole).unwrap();
    export::read(&document).unwrap();
    let text = std::fs::read_to_string(&document).unwrap();
    std::fs::write(
        &document,
        text.replacen("\"schema_version\": 1", "\"schema_version\": 2", 1),
    )
    .unwrap();
    assert_eq!(
        export::read(&document).unwrap_err().code,
        "export_unreadable"
    );
}

#[tokio::test]
async fn before_the_first_committed_round_there_is_no_model() {
    let real = Real::new();
    let (study, initial) = study();
    let store: SiteStore = real.store("a").await;
    let document = serde_json::to_vec(&study).unwrap();
    let note = consilium_transparency::Entry {
        at: consilium_core::clock::Timestamp(0),
        event: consilium_transparency::Event::StudyAccepted {
            site: consortium::site("a"),
            study: study.digest(),
        },
    };
    let accepted = store
        .accept(&study, &document, &ModelVector::default(), None, &note)
        .await;
    accepted.unwrap();
    let words = ["model", "export", "--out", "m"];
    assert_eq!(
        refused(&real, "a", &words),
        (1, "round_none_committed".into())
    );
    // The initial model is here, but no round has been committed.
    let version = consilium_store::site::Version {
        round: 0,
        groups: initial.clone(),
    };
    store
        .receive(&study.name, initial.sha256(), &version)
        .await
        .unwrap();
    assert_eq!(
        refused(&real, "a", &words),
        (1, "round_none_committed".into())
    );
    assert!(!real.folder().join("m").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_does_not_go_on_with_other_records_than_it_began_with() {
    let real = Real::new();
    let (study, initial) = study();
    let server = real.consortium.serve(ServerState::of(study, initial)).await;
    let seen = Arc::default();
    for _ in 0..2 {
        let peer = real.consortium.peer("a", &server.address);
        assert!(real.join("a", peer, &seen).await.is_ok());
    }
    real.write_cohort("a", 2, &real.folder().join("a"));
    let peer = real.consortium.peer("a", &server.address);
    let Err(error) = real.join("a", peer, &seen).await else {
        panic!("other records were accepted");
    };
    assert_eq!(error.code(), "cohort_changed");
}

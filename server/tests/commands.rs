//! What the program says of a study while its server runs, and what it refuses.

mod consortium;

use std::path::Path;
use std::process::{Command, Output};

use consilium_core::{Digest, ModelVector};
use consortium::{Consortium, TRUNK, initial};

fn server(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_consilium-server"))
        .args(arguments)
        .args(["--config", "server.toml", "--format", "json"])
        .current_dir(folder)
        .output()
        .unwrap()
}

/// The data of a command that succeeds.
fn data(arguments: &[&str], folder: &Path) -> serde_json::Value {
    let output = server(arguments, folder);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{json}");
    json["data"].clone()
}

/// Exit code and error code of a command that fails.
fn refused(arguments: &[&str], folder: &Path) -> (Option<i32>, String) {
    let output = server(arguments, folder);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let code = json["error"]["code"].as_str().unwrap().to_owned();
    assert!(!json["error"]["hint"].as_str().unwrap().is_empty());
    (output.status.code(), code)
}

const EXPORT: [&str; 4] = ["model", "export", "--out", "model.safetensors"];

#[test]
fn nothing_is_said_or_made_where_no_study_has_run() {
    let folder = tempfile::tempdir().unwrap();
    let text = "state = \"state\"\nstudy = \"a\"\ninitial_model = \"b\"\n[identity]\n\
         certificate = \"c\"\nkey = \"d\"\nauthority = \"e\"\n";
    std::fs::write(folder.path().join("server.toml"), text).unwrap();
    for arguments in [&["study", "show"][..], &["round", "list"], &EXPORT] {
        let code = refused(arguments, folder.path());
        assert_eq!(code, (Some(1), "study_not_started".into()));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_is_shown_site_by_site_while_it_runs() {
    let consortium = Consortium::new().await;
    let folder = consortium.folder.path();
    consortium.give("a", 0.5).await.unwrap();
    let shown = data(&["study", "show"], folder);
    assert_eq!(shown["state"], "training");
    assert_eq!((&shown["round"], &shown["attempt"]), (&1.into(), &1.into()));
    assert_eq!(
        (&shown["committed"], &shown["rounds"]),
        (&0.into(), &2.into())
    );
    assert_eq!(shown["deadline"], 60_000);
    let digest = |digest: Digest| serde_json::Value::from(digest.to_string());
    assert_eq!(shown["study_sha256"], digest(consortium.study.digest()));
    assert_eq!(shown["model_sha256"], digest(initial().sha256()));
    let delivered: Vec<_> = shown["sites"]
        .as_array()
        .unwrap()
        .iter()
        .map(|site| (site["site"].as_str().unwrap(), site["delivered"] == true))
        .collect();
    assert_eq!(delivered, [("a", true), ("b", false), ("c", false)]);
    let code = refused(&EXPORT, folder);
    assert_eq!(code, (Some(1), "model_not_committed".into()));
    assert!(!folder.join("model.safetensors").exists());
    for site in ["b", "c"] {
        consortium.give(site, 0.5).await.unwrap();
    }
    consortium
        .until(|state| state.committed_rounds() == 1)
        .await;
    let shown = data(&["study", "show"], folder);
    assert_eq!(
        (&shown["round"], &shown["committed"]),
        (&2.into(), &1.into())
    );
    assert_eq!(shown["sites"][2]["rounds_used"], 1);
    assert_eq!(shown["sites"][2]["delivered"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_model_is_exported_once_whole_and_only_when_it_is_what_its_name_says() {
    let consortium = Consortium::new().await;
    let folder = consortium.folder.path();
    for site in ["a", "b", "c"] {
        consortium.give(site, 0.5).await.unwrap();
    }
    consortium
        .until(|state| state.committed_rounds() == 1)
        .await;
    let exported = data(&EXPORT, folder);
    assert_eq!(exported["round"], 1);
    let file = folder.join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(exported["file_sha256"], Digest::of(&bytes).to_string());
    let study = &consortium.study;
    let groups = study.federated_groups();
    let model = ModelVector::from_safetensors(&bytes, &study.manifest, &groups).unwrap();
    assert_eq!(exported["model_sha256"], model.sha256().to_string());
    assert_eq!(model.0[&"trunk".parse().unwrap()], [0.5; TRUNK]);
    assert_eq!(refused(&EXPORT, folder), (Some(1), "file_exists".into()));
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
    std::fs::remove_file(&file).unwrap();
    let blob = consortium.blob(&model.sha256());
    std::fs::write(blob, vec![0; 4 * model.len()]).unwrap();
    assert_eq!(refused(&EXPORT, folder), (Some(1), "store_corrupt".into()));
    assert!(!file.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_that_is_watched_is_shown_at_every_change_until_it_ends() {
    let mut study = consortium::study();
    study.schedule.rounds = 1;
    let consortium = Consortium::with(study, |blobs| blobs).await;
    let watching = Command::new(env!("CARGO_BIN_EXE_consilium-server"))
        .args(["study", "show", "--watch", "--config", "server.toml"])
        .args(["--format", "json"])
        .current_dir(consortium.folder.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    for site in ["a", "b", "c"] {
        consortium.give(site, 0.5).await.unwrap();
    }
    let ended = tokio::task::spawn_blocking(|| watching.wait_with_output());
    let output = ended.await.unwrap().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let shown: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // Each once, the end last.
    assert!(shown.windows(2).all(|pair| pair[0] != pair[1]), "{text}");
    assert_eq!(shown.last().unwrap()["data"]["state"], "finished");
}

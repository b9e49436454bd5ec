//! The program as its operator meets it: refusals with code, place and remedy, before anything is touched.

mod consortium;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use consortium::{Consortium, study};

fn server(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_consilium-server"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

#[test]
fn a_mistyped_key_is_refused_with_line_and_suggestion() {
    let folder = tempfile::tempdir().unwrap();
    let text = "state = \"s\"\nstudy = \"a\"\ninitial_modell = \"b\"\n";
    std::fs::write(folder.path().join("server.toml"), text).unwrap();
    let output = server(
        &["--format", "json", "serve", "--config", "server.toml"],
        folder.path(),
    );
    assert_eq!(output.status.code(), Some(3));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["error"]["code"], "config_unknown_key");
    assert_eq!(json["error"]["hint"], "did you mean `initial_model`?");
    assert!(
        json["error"]["where"]
            .as_str()
            .unwrap()
            .starts_with("server.toml:3:1")
    );
    assert!(!folder.path().join("s").exists(), "something was touched");
}

#[test]
fn the_sample_configuration_is_read() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/server.toml");
    consilium_server::config::ServerConfig::read(Path::new(sample)).unwrap();
}

/// A prepared folder in which a server has run, and runs no more.
async fn left(deadline_seconds: u64) -> Consortium {
    let mut study = study();
    study.schedule.deadline_seconds = deadline_seconds;
    study.schedule.retry_rounds = 0;
    let mut consortium = Consortium::with(study, |blobs| blobs).await;
    consortium.running.take().unwrap().stop().await;
    consortium
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_that_missed_its_quorum_ends_the_server_with_exit_code_6_and_the_reason() {
    let consortium = left(1).await;
    let serve = [
        "--format",
        "json",
        "serve",
        "--config",
        "server.toml",
        "--exit-when-finished",
    ];
    // The first process closes the round; one that is started again finds it closed.
    for _ in 0..2 {
        let output = server(&serve, consortium.folder.path());
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(6), "{log}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["error"]["code"], "study_failed");
        let message = json["error"]["message"].as_str().unwrap();
        assert!(message.contains("missed its quorum of 3"), "{message}");
        assert!(!json["error"]["hint"].as_str().unwrap().is_empty());
        assert!(log.contains("\"message\":\"study failed\""), "{log}");
        assert!(!log.contains("study finished"), "{log}");
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_ends_the_server_with_exit_code_0_and_the_keyboard_with_130() {
    let consortium = left(3600).await;
    for (signal, exit) in [("-TERM", 0), ("-INT", 130)] {
        let mut process = Command::new(env!("CARGO_BIN_EXE_consilium-server"))
            .args(["serve", "--config", "server.toml"])
            .current_dir(consortium.folder.path())
            .env("RUST_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        assert!(log.any(|line| line.unwrap().contains("listening")));
        let id = process.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &id])
                .status()
                .unwrap()
                .success()
        );
        let rest: Vec<String> = log.map_while(Result::ok).collect();
        assert_eq!(process.wait().unwrap().code(), Some(exit), "{rest:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_a_server_in_order_and_names_the_layer_that_is_not() {
    let consortium = left(60).await;
    let doctor = || {
        let words = ["--format", "json", "doctor", "--config", "server.toml"];
        let output = server(&words, consortium.folder.path());
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), json)
    };
    let (exit, json) = doctor();
    assert_eq!(exit, 0, "{json}");
    let checks = json["data"]["checks"].as_array().unwrap();
    assert!(
        checks.iter().all(|check| check["found"] == "good"),
        "{json}"
    );
    let config = consortium.folder.path().join("server.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    for (from, to, layer, code) in [
        ("study =", "studdy =", "configuration", "config_unknown_key"),
        ("study.json", "none.json", "study", "file_missing"),
        ("server.key", "none.key", "certificate", "certificate_file"),
    ] {
        assert!(good.contains(from), "{from} is not in {good}");
        std::fs::write(&config, good.replace(from, to)).unwrap();
        let (exit, json) = doctor();
        assert_ne!(exit, 0);
        let error = &json["error"];
        let found = [&error["details"]["layer"], &error["code"]];
        assert_eq!(found, [layer, code], "{json}");
    }
}

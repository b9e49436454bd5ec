//! The program as its operator meets it: refusals with code, place and remedy, before anything is touched.

use std::path::Path;
use std::process::{Command, Output};

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

#[test]
fn an_authority_is_made_once_and_issues_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let init = ["certs", "init", "--dir", "c", "--consortium", "test"];
    assert!(server(&init, folder.path()).status.success());
    assert_eq!(server(&init, folder.path()).status.code(), Some(3));
    assert!(
        server(
            &["certs", "issue-site", "--dir", "c", "site-a"],
            folder.path()
        )
        .status
        .success()
    );
    assert!(folder.path().join("c/site-a.key").is_file());
    let bad = server(
        &["certs", "issue-site", "--dir", "c", "Not A Name"],
        folder.path(),
    );
    assert_eq!(bad.status.code(), Some(2));
}

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

#[test]
fn an_authority_is_made_once_and_issues_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let init = [
        "certs",
        "init",
        "--dir",
        "c",
        "--consortium",
        "test",
        "--unencrypted-key-for-a-throw-away-consortium",
    ];
    assert!(server(&init, folder.path()).status.success());
    assert_eq!(server(&init, folder.path()).status.code(), Some(3));
    let issue = |site| server(&["certs", "issue-site", "--dir", "c", site], folder.path());
    assert!(issue("site-a").status.success());
    assert!(folder.path().join("c/site-a.key").is_file());
    assert_eq!(issue("Not A Name").status.code(), Some(2));
}

/// Exit code and error code of a command that prints JSON, and its data.
fn told(arguments: &[&str], folder: &Path) -> (i32, String, serde_json::Value) {
    let output = server(&[&["--format", "json"], arguments].concat(), folder);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let code = json["error"]["code"].as_str().unwrap_or("none").to_owned();
    (output.status.code().unwrap(), code, json["data"].clone())
}

/// A file that nobody else can read.
fn secret(path: &Path, text: &str) {
    consilium_certs::write_private(path, text).unwrap();
}

#[test]
fn an_authoritys_key_lies_encrypted_and_signs_only_with_its_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let init = ["certs", "init", "--dir", "c", "--consortium", "test"];
    // Nobody sits at a terminal here.
    assert_eq!(told(&init, at).1, "passphrase_needed");
    assert!(!at.join("c").exists());
    secret(&at.join("short"), "too short\n");
    let with = |file| [&init[..], &["--passphrase-file", file]].concat();
    assert_eq!(told(&with("short"), at).1, "passphrase_too_short");
    secret(&at.join("phrase"), "correct horse battery staple\n");
    let (exit, _, made) = told(&with("phrase"), at);
    assert_eq!(exit, 0);
    let root = consilium_certs::read_certificates(&at.join("c/authority.pem")).unwrap();
    let fingerprint = consilium_certs::Fingerprint::of(&root[0]).to_string();
    assert_eq!(made["fingerprint"], fingerprint);
    let key = std::fs::read_to_string(at.join("c/authority.key")).unwrap();
    assert!(key.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    let issue = ["certs", "issue-server", "--dir", "c", "--name", "localhost"];
    let with = |file| [&issue[..], &["--passphrase-file", file]].concat();
    assert_eq!(told(&issue, at).1, "passphrase_needed");
    secret(&at.join("wrong"), "incorrect horse battery staple\n");
    assert_eq!(told(&with("wrong"), at).1, "passphrase_wrong");
    assert!(!at.join("c/server.pem").exists());
    assert_eq!(told(&with("phrase"), at).0, 0);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(at.join("phrase"), open).unwrap();
        assert_eq!(told(&with("phrase"), at).1, "key_permissions");
    }
}

#[test]
fn a_request_in_a_file_is_shown_and_approved_without_the_server() {
    use consilium_certs::{Role, SigningRequest, make_key, write_public};
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    consilium_certs::Authority::create_with_unencrypted_key(&at.join("c"), "test").unwrap();
    make_key(&at.join("site.key")).unwrap();
    let site = "clinic-a".parse().unwrap();
    let request = SigningRequest::make(&site, Role::Site, &at.join("site.key")).unwrap();
    write_public(&at.join("a.csr"), &request.pem()).unwrap();
    let (_, _, shown) = told(&["certs", "show", "--request", "a.csr"], at);
    assert_eq!(shown["site"], "clinic-a");
    assert_eq!(shown["role"], "site");
    assert_eq!(shown["valid_days"], 90);
    assert_eq!(shown["key"], request.fingerprint().to_string());
    let approve = [
        "certs",
        "approve",
        "--request",
        "a.csr",
        "--dir",
        "c",
        "--out",
        "a.pem",
    ];
    let (exit, code, issued) = told(&approve, at);
    assert_eq!((exit, code.as_str()), (0, "none"));
    assert_eq!(issued[0]["name"], "clinic-a");
    let chain = consilium_certs::read_certificates(&at.join("a.pem")).unwrap();
    request.answered_by(&chain[0], &chain[1]).unwrap();
    // Once is enough.
    assert_eq!(told(&approve, at).1, "file_exists");
    let (_, _, all) = told(&["certs", "issued", "--dir", "c"], at);
    assert_eq!(all.as_array().unwrap().len(), 1);
    let (exit, _, revoked) = told(&["certs", "revoke", "clinic-a", "--dir", "c"], at);
    assert_eq!((exit, &revoked[0]["serial"]), (0, &issued[0]["serial"]));
    let nobody = told(&["certs", "revoke", "clinic-b", "--dir", "c"], at);
    assert_eq!(nobody.1, "certificate_not_issued");
    let (_, _, list) = told(&["certs", "crl", "--dir", "c"], at);
    assert_eq!(
        (&list["number"], &list["revoked"][0]),
        (&3.into(), &issued[0]["serial"])
    );
}

#[test]
fn the_version_names_the_provider_of_tls() {
    let output = server(&["--version"], Path::new("."));
    let text = String::from_utf8(output.stdout).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!("consilium-server {version} (TLS: rustls with aws-lc-rs");
    assert!(text.starts_with(&expected), "{text}");
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

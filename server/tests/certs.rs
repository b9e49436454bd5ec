//! The authority as its operator meets it. A file of its own: a lock that a server in the same process holds would pass to
//! the programs that are started here, for a moment.

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

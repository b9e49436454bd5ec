//! The program itself: exit codes, envelopes, and what it says before it touches anything.

mod consortium;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use consilium_core::Seed;
use consilium_data::generated;
use consortium::{Consortium, ServerState, silent_address};

/// A site folder as an operator has it: configuration, certificates, a generated cohort.
struct Site {
    consortium: Consortium,
    config: PathBuf,
}

impl Site {
    fn new(address: &str) -> Self {
        let consortium = Consortium::new();
        let folder = consortium.folder.path();
        let spec = &generated::quickstart()[6];
        let cohort = generated::cohort(spec, Seed(1)).unwrap();
        generated::write(&cohort, &folder.join("cohort")).unwrap();
        let config = folder.join("site.toml");
        let text = format!(
            "site = \"a\"\nstudy = \"toy\"\ncohort = \"cohort/cohort.toml\"\nstate = \"state\"\npolicy = \"a.policy.toml\"\n\
             [server]\naddress = \"{address}\"\nname = \"localhost\"\npatience = \"1s\"\n\
             [identity]\ncertificate = \"certs/a.pem\"\nkey = \"certs/a.key\"\n\
             authority = \"authority/authority.pem\"\n"
        );
        std::fs::write(&config, text).unwrap();
        consortium.write_policy("a", &consortium::study(), None);
        Self { consortium, config }
    }

    fn folder(&self) -> &Path {
        self.consortium.folder.path()
    }

    /// The same with another text in its configuration.
    fn with(self, from: &str, to: &str) -> Self {
        let text = std::fs::read_to_string(&self.config).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        std::fs::write(&self.config, text.replace(from, to)).unwrap();
        self
    }

    fn command(&self, words: &[&str]) -> Ended {
        let output = Command::new(env!("CARGO_BIN_EXE_consilium-site"))
            .args(words)
            .arg("--config")
            .arg(&self.config)
            .args(["--format", "json"])
            .output()
            .unwrap();
        Ended::of(output)
    }
}

struct Ended {
    exit: i32,
    json: serde_json::Value,
    log: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        let log = String::from_utf8(output.stderr).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        Self {
            exit: output.status.code().unwrap(),
            json: serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}\n{log}")),
            log,
        }
    }

    fn code(&self) -> &str {
        self.json["error"]["code"].as_str().unwrap_or("none")
    }
}

#[test]
fn a_good_configuration_is_checked_without_a_server() {
    let site = Site::new("localhost:7443");
    let ended = site.command(&["config", "check"]);
    assert_eq!((ended.exit, ended.code()), (0, "none"), "{}", ended.log);
    assert_eq!(ended.json["data"]["site"], "a");
    assert!(ended.json["data"]["patients"].as_u64().unwrap() > 0);
    assert!(!site.folder().join("state").exists());
}

#[test]
fn all_problems_of_a_configuration_are_told_at_once() {
    let site = Site::new("localhost:7443")
        .with("certs/a.pem", "certs/none.pem")
        .with("cohort/cohort.toml", "cohort/none.toml");
    let ended = site.command(&["config", "check"]);
    assert_eq!((ended.exit, ended.code()), (3, "config_not_acceptable"));
    let message = ended.json["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("none.pem") && message.contains("none.toml"),
        "{message}"
    );
}

#[test]
fn what_is_configured_wrongly_is_refused_with_exit_code_3_before_anything_is_touched() {
    let refused = |from: &str, to: &str| {
        let site = Site::new("localhost:7443").with(from, to);
        let ended = site.command(&["run"]);
        assert_eq!(ended.exit, 3, "{}", ended.log);
        assert!(!site.folder().join("state").exists());
        ended.code().to_owned()
    };
    assert_eq!(
        refused("site = \"a\"", "site = \"b\""),
        "certificate_other_site"
    );
    assert_eq!(
        refused("certs/a.pem", "certs/server.pem"),
        "certificate_wrong_role"
    );
    assert_eq!(refused("certs/a.pem", "certs/none.pem"), "certificate_file");
    assert_eq!(refused("patience", "patiense"), "config_unknown_key");
    assert_eq!(
        refused("name = \"localhost\"", "name = \"not a name\""),
        "config_wrong_value"
    );
    for budget in [
        "epsilon = inf",
        "epsilon = 0",
        "epsilon = -1.0",
        "epsilon = 1.0\ndelta = 1.0",
    ] {
        let site = Site::new("localhost:7443");
        let policy = site.folder().join("a.policy.toml");
        let text = std::fs::read_to_string(&policy).unwrap();
        std::fs::write(&policy, format!("{text}[privacy]\n{budget}\n")).unwrap();
        let ended = site.command(&["run"]);
        assert_eq!((ended.exit, ended.code()), (3, "config_wrong_value"));
    }
}

#[test]
fn an_unreachable_server_ends_with_exit_code_4_and_says_so() {
    let (_socket, silent) = silent_address();
    let ended = Site::new(&silent).command(&["run", "--exit-when-finished"]);
    assert_eq!(
        (ended.exit, ended.code()),
        (4, "server_unreachable"),
        "{}",
        ended.log
    );
    assert!(
        ended.log.contains("\"message\":\"server unreachable\""),
        "{}",
        ended.log
    );
    assert!(!ended.json["error"]["hint"].as_str().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_consortium_ends_with_exit_code_4_and_the_reason() {
    let server_side = Consortium::new();
    let server = server_side.serve(ServerState::new()).await;
    // This site trusts the server, but its own certificate comes from somewhere else.
    let other = Site::new(&server.address);
    let authority = other.folder().join("authority/authority.pem");
    std::fs::copy(server_side.authority.certificate(), &authority).unwrap();
    std::fs::remove_file(authority.with_extension("crl")).unwrap();
    let ended = other.command(&["run", "--exit-when-finished"]);
    assert_eq!(
        (ended.exit, ended.code()),
        (4, "certificate_refused"),
        "{}",
        ended.log
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_that_this_cohort_does_not_fit_is_refused_by_the_work() {
    let site = Site::new("localhost:1");
    let server = site.consortium.serve(ServerState::new()).await;
    let site = site.with("localhost:1", &server.address);
    let shown = site.command(&["study", "show"]);
    assert_eq!(
        (shown.exit, &shown.json["data"]["answer"]),
        (0, &"not accepted".into())
    );
    assert_eq!(site.command(&["study", "accept"]).exit, 0);
    let ended = site.command(&["run", "--exit-when-finished"]);
    // The toy study has no network that this program could build.
    assert_eq!(ended.exit, 1, "{}", ended.log);
    assert_eq!(ended.code(), "model_specification_invalid");
}

#[test]
fn status_says_where_the_state_folder_is_missing() {
    let ended = Site::new("localhost:7443").command(&["status"]);
    assert_eq!(
        (ended.exit, ended.code()),
        (3, "store_missing"),
        "{}",
        ended.log
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_rounds_and_versions_of_a_finished_study() {
    let site_a = Site::new("localhost:7443");
    let consortium = &site_a.consortium;
    let server = consortium.serve(ServerState::new()).await;
    let outcome = consortium
        .run_all(&consortium::SITES, &server.address)
        .await
        .remove(0);
    let state = site_a.folder().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::copy(site_a.folder().join("a.sqlite"), state.join("site.sqlite")).unwrap();
    let ended = site_a.command(&["status"]);
    let study = &ended.json["data"][0];
    assert_eq!(study["rounds_used"], consortium::ROUNDS);
    assert_eq!(study["local_versions"], serde_json::json!([2, 3]));
    assert_eq!(study["received_round"], consortium::ROUNDS);
    assert_eq!(
        study["final_model_sha256"],
        outcome.final_model_sha256.to_string()
    );
    assert_eq!(study["sealed"], serde_json::Value::Null);
}

#[test]
fn two_agents_on_one_state_folder_are_refused() {
    let (_socket, silent) = silent_address();
    let site = Site::new(&silent);
    let state = site.folder().join("state");
    std::fs::create_dir(&state).unwrap();
    let lock = std::fs::File::create(state.join("agent.lock")).unwrap();
    lock.lock().unwrap();
    let ended = site.command(&["run"]);
    assert_eq!(
        (ended.exit, ended.code()),
        (1, "state_in_use"),
        "{}",
        ended.log
    );
}

#[test]
fn help_names_every_command() {
    let output = Command::new(env!("CARGO_BIN_EXE_consilium-site"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for word in ["run", "status", "privacy", "config", "Example:"] {
        assert!(help.contains(word), "{help}");
    }
}

//! A private study with the real network and the real program: what is spent, shown, and refused in the end.

mod consortium;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use consilium_site::agent::{AgentError, Joined};
use consilium_site::config::SiteConfig;
use consilium_site::privacy::SiteBudget;
use consortium::real::{Real, private_study};
use consortium::{SITES, ServerState, join_all};
use dp_rs::agreement::Agreement;
use dp_rs::event::Repeated;
use dp_rs::ledger::{Entry, Ledger, Moment};
use serde_json::{Value, json};

/// Local steps of a round of [`private_study`].
const STEPS: u64 = 2;
const DELTA: f64 = 1e-3;

/// For `rounds` rounds, to the last bit.
fn agreement(rounds: u64) -> Agreement {
    let mut agreement: Agreement = serde_json::from_value(json!({
        "plan": {
            "unit": "patient",
            "adjacency": "add-remove",
            "clip": {"rule": "flat", "clip_norm": 1.0},
            "noise_multiplier": 1.0,
            "noise_level": "fast",
            "sampling_rate": 0.2,
            "expected_units": 4.0,
            "max_records": 4
        },
        "steps": STEPS * rounds,
        "delta": DELTA,
        "epsilon": 0.0
    }))
    .unwrap();
    agreement.epsilon = cost(&agreement, rounds);
    agreement
}

fn cost(agreement: &Agreement, rounds: u64) -> f64 {
    let guarantee = agreement.plan.guarantee(rounds * STEPS, DELTA).unwrap();
    guarantee.epsilon
}

struct Ended {
    exit: i32,
    json: Value,
    log: String,
}

fn program(config: &Path, words: &[&str]) -> Ended {
    let output = Command::new(env!("CARGO_BIN_EXE_consilium-site"))
        .args(words)
        .arg("--config")
        .arg(config)
        .args(["--format", "json"])
        .output()
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    Ended {
        exit: output.status.code().unwrap(),
        json: serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}\n{log}")),
        log,
    }
}

/// Somebody accepts the study in writing, then the agent runs.
fn accepting(config: &Path) -> Ended {
    let accepted = program(config, &["study", "accept"]);
    assert_eq!(accepted.exit, 0, "{}", accepted.log);
    program(config, &["run", "--exit-when-finished"])
}

fn near(value: &Value, expected: f64) -> bool {
    (value.as_f64().unwrap() - expected).abs() < 1e-9
}

/// More than these studies can spend, at a site that simulates.
fn budget() -> Option<SiteBudget> {
    Some(SiteBudget {
        epsilon: 100.0,
        delta: None,
        allow_simulation: true,
        trust_server_with_single_updates: false,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_whose_budget_ends_halts_with_exit_code_5_and_shows_what_was_spent() {
    let agreement = agreement(u64::from(consortium::ROUNDS) + 1);
    let (study, initial) = private_study(&agreement);
    let mut real = Real::new();
    real.budget = budget();
    let state = ServerState::of(study, initial);
    let server = real.consortium.serve(Arc::clone(&state)).await;
    let config = real.config("a");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("localhost:7443", &server.address);
    std::fs::write(&config, text).unwrap();
    let policy = real.folder().join("a.policy.toml");
    let permitted = std::fs::read_to_string(&policy).unwrap();
    let write = |extra: &str| std::fs::write(&policy, format!("{permitted}{extra}")).unwrap();
    let run = || accepting(&config);

    write("");
    let ended = run();
    assert_eq!(
        (ended.exit, &ended.json["error"]["code"]),
        (3, &json!("privacy_budget_not_set"))
    );
    assert!(ended.log.contains("[privacy]\nepsilon = "), "{}", ended.log);

    // Two rounds and not three.
    let limit = cost(&agreement, 3).next_down();
    write(&format!("[privacy]\nepsilon = {limit}\ndelta = {DELTA}\n"));
    let ended = run();
    let error = &ended.json["error"];
    assert_eq!(
        (ended.exit, &error["code"]),
        (3, &json!("privacy_simulation_not_allowed"))
    );
    assert!(
        error["hint"]
            .as_str()
            .unwrap()
            .contains("allow_simulation = true"),
        "{error}"
    );
    write(&format!(
        "[privacy]\nepsilon = {limit}\ndelta = {DELTA}\nallow_simulation = true\n"
    ));
    let others = async {
        let one = |name: &'static str| {
            let (peer, real) = (real.consortium.peer(name, &server.address), &real);
            async move {
                let joined = real.join(name, peer, &Arc::default()).await.unwrap();
                let Joined::Agent(agent) = joined else {
                    panic!("{name} had finished before");
                };
                agent.run().await
            }
        };
        join_all([SITES[1], SITES[2]].map(one)).await
    };
    let halted = tokio::task::spawn_blocking({
        let config = config.clone();
        move || accepting(&config)
    });
    // The quorum is all of them: the others are told at once, and do not wait for the deadline.
    let (others, halted) = tokio::join!(others, halted);
    let halted = halted.unwrap();
    let error = &halted.json["error"];
    assert_eq!(
        (halted.exit, &error["code"]),
        (5, &json!("privacy_budget_exhausted")),
        "{}",
        halted.log
    );
    assert!(
        near(&error["details"]["spent"], cost(&agreement, 2)),
        "{error}"
    );
    assert_eq!(error["details"]["agreed"], limit);
    assert_eq!(error["details"]["budget_of"], "site");
    for ended in others {
        let Err(AgentError::StudyFailed(reason)) = ended else {
            panic!("{ended:?}");
        };
        assert!(reason.contains("a (privacy_budget_exhausted)"), "{reason}");
    }
    {
        let inner = state.inner();
        let third = &inner.coordination.closed[2];
        let why = &third.why_missing[&consortium::site("a")];
        assert_eq!(
            why.to_string(),
            "withdrawn: privacy_budget_exhausted, the privacy budget does not cover the next round"
        );
    }
    let again = run();
    assert_eq!(
        (again.exit, &again.json["error"]["code"]),
        (6, &json!("study_failed"))
    );

    let ledger = real.folder().join("ledger.json");
    let shown = program(
        &config,
        &["privacy", "show", "--export", ledger.to_str().unwrap()],
    );
    assert_eq!(shown.exit, 0, "{}", shown.log);
    let data = &shown.json["data"];
    let mut dates = [Vec::new(), Vec::new()];
    for (statement, agreed) in [
        (&data["studies"][0], agreement.epsilon),
        (&data["total"], limit),
    ] {
        let spent = cost(&agreement, 2);
        assert!(near(&statement["spent"], spent), "{statement}");
        assert!(near(&statement["agreed"], agreed));
        assert!(near(&statement["remaining"], agreed - spent));
        assert_eq!(statement["unit"], "patient");
        assert_eq!(statement["adjacency"], "add-remove");
        assert_eq!(statement["delta"], DELTA);
        assert_eq!(statement["accountant"]["accountant"], "pld");
        assert!(statement["rdp_cross_check"].as_f64().unwrap() >= spent);
        assert_eq!(statement["noise_levels"], json!(["fast"]));
        assert_eq!(statement["stamp"], "simulation");
        assert_eq!(statement["releases"], 2);
        for (which, entry) in [("first", 0), ("last", 1)] {
            let moment: Moment = statement[which].as_str().unwrap().parse().unwrap();
            dates[entry].push(moment);
        }
    }
    assert_eq!(data["entries"], 2);

    let entries: Vec<Entry> = serde_json::from_slice(&std::fs::read(&ledger).unwrap()).unwrap();
    let read = Ledger::from_entries(entries).unwrap();
    assert_eq!(data["head"], read.head());
    assert_eq!(data["clock_went_back"], json!([]));
    for (entry, dates) in read.entries().iter().zip(dates) {
        assert_eq!(dates, [entry.at, entry.at]);
    }
    let events = std::fs::read(real.folder().join("ledger.events.json")).unwrap();
    let events: Vec<Repeated> = serde_json::from_slice(&events).unwrap();
    assert_eq!(events, [agreement.plan.events(2 * STEPS)]);

    let output = Command::new(env!("CARGO_BIN_EXE_consilium-site"))
        .args(["privacy", "show", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for words in [
        "study real: (epsilon, delta) = (",
        "RDP cross-check",
        "SIMULATION",
        "all studies",
    ] {
        assert!(text.contains(words), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_whose_ledger_was_lost_sends_nothing_until_the_lost_release_is_charged() {
    let rounds = u64::from(consortium::ROUNDS);
    let agreement = agreement(rounds + 1);
    let (study, initial) = private_study(&agreement);
    let mut real = Real::new();
    real.budget = budget();
    let state = ServerState::of(study, initial);
    let server = real.consortium.serve(Arc::clone(&state)).await;
    let config = real.config("a");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("localhost:7443", &server.address);
    let budget = format!("[privacy]\nepsilon = 100.0\ndelta = {DELTA}\nallow_simulation = true\n");
    std::fs::write(&config, text).unwrap();
    let policy = real.folder().join("a.policy.toml");
    let permitted = std::fs::read_to_string(&policy).unwrap();
    std::fs::write(&policy, format!("{permitted}{budget}")).unwrap();
    let run = {
        let config = config.clone();
        move || accepting(&config)
    };

    // The update arrives, and what comes back is not signed by the server.
    state.inner().faults.forged_receipts = true;
    let ended = run();
    let error = &ended.json["error"];
    assert_eq!(
        (ended.exit, &error["code"]),
        (1, &json!("server_protocol")),
        "{}",
        ended.log
    );
    state.inner().faults.forged_receipts = false;
    let uploads = || state.inner().uploads[&consortium::site("a")];
    assert_eq!(uploads(), 1);

    let folder = SiteConfig::read(&config).unwrap().state;
    std::fs::remove_dir_all(&folder).unwrap();
    for _ in 0..2 {
        let ended = run();
        let error = &ended.json["error"];
        assert_eq!(
            (ended.exit, &error["code"]),
            (5, &json!("privacy_ledger_behind")),
            "{}",
            ended.log
        );
        assert_eq!(error["details"]["missing"], 1);
    }
    assert_eq!(uploads(), 1);
    let shown = || program(&config, &["privacy", "show"]).json["data"].clone();
    let before = shown();
    assert_eq!(
        (&before["entries"], &before["missing"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(before["countersigned"][0]["length"], 1);
    assert_eq!(before["countersigned"][0]["signature_fits"], true);

    let reason = ["--reason", "the disk was replaced"];
    let settle =
        |words: &[&str]| program(&config, &[&["privacy", "settle"], words, &reason].concat());
    let charged = settle(&["--releases", "1", "--dry-run"]);
    assert_eq!(charged.exit, 0, "{}", charged.log);
    assert!(near(
        &charged.json["data"]["total"]["spent"],
        cost(&agreement, 1)
    ));
    assert_eq!(shown(), before);
    let charged = settle(&["--releases", "1"]);
    assert_eq!(charged.exit, 0, "{}", charged.log);
    let after = shown();
    assert_eq!(
        (&after["entries"], &after["missing"]),
        (&json!(1), &json!(null))
    );
    assert!(near(&after["total"]["spent"], cost(&agreement, 1)));
    let nothing = settle(&["--releases", "1"]);
    assert_eq!(
        (nothing.exit, &nothing.json["error"]["code"]),
        (5, &json!("privacy_nothing_to_settle"))
    );

    // It goes on, to the end of the study, and has paid for one round more.
    let others = join_all([SITES[1], SITES[2]].map(|name: &'static str| {
        let (peer, real) = (real.consortium.peer(name, &server.address), &real);
        async move {
            let Joined::Agent(agent) = real.join(name, peer, &Arc::default()).await.unwrap() else {
                panic!("{name} had finished before");
            };
            agent.run().await.unwrap()
        }
    }));
    let (_, ended) = tokio::join!(others, tokio::task::spawn_blocking(run));
    let ended = ended.unwrap();
    assert_eq!(ended.exit, 0, "{}", ended.log);
    let end = shown();
    assert!(near(&end["total"]["spent"], cost(&agreement, rounds + 1)));
    assert_eq!(end["missing"], json!(null));
}

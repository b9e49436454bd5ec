//! What the log says of a study, and the commands that say it.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

use consilium_proto::{RejoinRequest, WithdrawRequest};

use super::*;

/// Kinds of the entries, in order.
fn kinds(lines: &[Line]) -> Vec<&'static str> {
    let entries = lines.iter().filter_map(|line| match line {
        Line::Entry { entry, .. } => Entry::read(entry.as_bytes()),
        _ => None,
    });
    entries.map(|entry| entry.event.kind()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_study_is_told_in_order_and_once() {
    let (consortium, _) = two_rounds().await;
    // Again: it changes nothing.
    assert!(consortium.give("a", 0.5).await.unwrap());
    Reader::new("a").accept(&consortium).await;
    let lines = lines(&consortium).await;
    let round = [
        "update_received",
        "update_received",
        "update_received",
        "aggregated",
        "model_released",
    ];
    let expected = [
        &["study_created", "configuration", "plan_opened"][..],
        &["study_accepted"; 3],
        &round,
        &["plan_opened"],
        &round,
    ]
    .concat();
    assert_eq!(kinds(&lines), expected);
    let audited = verified(&consortium, &lines, &[]).unwrap();
    assert_eq!(audited.study, Some("border".parse().unwrap()));
    assert_eq!(audited.study_sha256, Some(consortium.study.digest()));
    assert_eq!((audited.rounds, audited.failed_attempts), (2, 0));
    let state = consortium.running().consortium().coordination().await;
    assert_eq!(audited.model, Some(state.model));
    // What came after the sites have looked last, the server alone vouches for.
    assert!(audited.witnessed > 0 && audited.witnessed < audited.entries);
    for site in audited.sites.values() {
        assert_eq!((site.updates, site.used, site.accepted), (2, 2, true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_told_as_well() {
    let consortium = Consortium::today(study()).await;
    let mut bad = consortium.upload("a", 0.5);
    consortium::bytes(&mut bad, 1, |bytes| bytes[0] ^= 1);
    consortium.send("a", bad).await.unwrap_err();
    let mut messages = consortium.upload("b", 0.5);
    consortium::header(&mut messages).ledger = Some(consilium_proto::LedgerHead {
        length: 3,
        head: vec![7; 32],
    });
    consortium.send("b", messages).await.unwrap();
    let study = digest_to_wire(&consortium.study.digest());
    let mut client = consortium.site("c").await;
    let withdrawal = WithdrawRequest {
        study: study.clone(),
        round: 1,
        attempt: 1,
        code: "budget".into(),
        reason: "no budget".into(),
        may_return: true,
    };
    for _ in 0..2 {
        client.withdraw(withdrawal.clone()).await.unwrap();
    }
    for _ in 0..2 {
        let study = study.clone();
        client.rejoin(RejoinRequest { study }).await.unwrap();
    }
    let now = consortium.clock.0.fetch_add(60_000, Ordering::SeqCst);
    consortium.until(|state| state.closed.len() == 1).await;
    let told = kinds(&lines(&consortium).await);
    let expected = [
        "study_created",
        "configuration",
        "plan_opened",
        "update_refused",
        "budget",
        "update_received",
        "study_withdrawn",
        "study_rejoined",
        "round_failed",
        "plan_opened",
    ];
    assert_eq!(told, expected, "from {now}");
}

fn program(arguments: &[&str], folder: &Path) -> (Option<i32>, serde_json::Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_consilium-server"))
        .args(["--format", "json", "audit"])
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code(), json)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_verified_on_a_machine_with_nothing_but_the_fingerprint() {
    let (consortium, readers) = two_rounds().await;
    let folder = consortium.folder.path();
    let words = ["export", "--config", "server.toml", "--out", "log.jsonl"];
    let (exit, exported) = program(&words, folder);
    assert_eq!(exit, Some(0), "{exported}");
    let fingerprint = authority(&consortium).to_string();
    assert_eq!(exported["data"]["fingerprints"][0], fingerprint);
    let (exit, again) = program(&words, folder);
    assert_eq!(
        (exit, &again["error"]["code"]),
        (Some(1), &"file_exists".into())
    );

    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("log.jsonl"), elsewhere.path().join("log.jsonl")).unwrap();
    std::fs::write(elsewhere.path().join("a.jsonl"), text(&readers[0].export())).unwrap();
    drop(consortium);
    let verify = ["verify", "log.jsonl", "--fingerprint", &fingerprint];
    let with_site = [&verify[..], &["--site", "a.jsonl"]].concat();
    for words in [&verify[..], &with_site] {
        let (exit, verified) = program(words, elsewhere.path());
        assert_eq!(exit, Some(0), "{verified}");
        assert_eq!(verified["data"]["entries"], 17);
        assert_eq!(verified["data"]["sites"]["b"]["updates"], 2);
    }
    let other = Digest::of(b"another authority").to_string();
    let words = ["verify", "log.jsonl", "--fingerprint", &other];
    let (exit, refused) = program(&words, elsewhere.path());
    assert_eq!(exit, Some(5));
    assert_eq!(refused["error"]["code"], "log_other_authority");

    let file = elsewhere.path().join("log.jsonl");
    let whole = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, whole.replacen("plan_opened", "plan_opemed", 1)).unwrap();
    let (exit, refused) = program(&verify, elsewhere.path());
    assert_eq!(exit, Some(5));
    assert_eq!(refused["error"]["code"], "log_entry_altered");
    assert_eq!(refused["error"]["details"]["entry"], 2);
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let (exit, refused) = program(&verify, elsewhere.path());
    assert_eq!(
        (exit, &refused["error"]["code"]),
        (Some(1), &"export_unreadable".into())
    );
}

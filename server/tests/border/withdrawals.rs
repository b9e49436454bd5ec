//! A site that does not go on says so: durable, as itself only, and shown with the round.

use std::process::Command;
use std::sync::atomic::Ordering;

use consilium_proto::{RejoinRequest, WithdrawRequest, digest_to_wire};
use consilium_rounds::{Missing, Outcome};
use tonic::Status;

use crate::consortium::{Consortium, code, header, study};

const CODE: &str = "privacy_budget_exhausted";
const REASON: &str = "the privacy budget does not cover the next round";

fn request(consortium: &Consortium) -> WithdrawRequest {
    WithdrawRequest {
        study: digest_to_wire(&consortium.study.digest()),
        round: 1,
        attempt: 1,
        code: CODE.into(),
        reason: REASON.into(),
        may_return: false,
    }
}

async fn withdraw(consortium: &Consortium, site: &str) {
    let mut client = consortium.site(site).await;
    client.withdraw(request(consortium)).await.unwrap();
}

/// A quorum of two out of three, and groups that two may share.
async fn of_two() -> Consortium {
    let mut study = study();
    study.schedule.quorum = 2;
    study.aggregation.minimum_holders = 2;
    study.sites[1].modality = "n".parse().unwrap();
    study.sites[2].modality = "m".parse().unwrap();
    study.sites[0].modality = "o".parse().unwrap();
    study.manifest.tensors.push(consilium_core::TensorSpec {
        name: "stem/o".into(),
        group: "stem/o".parse().unwrap(),
        shape: vec![3],
    });
    Consortium::with(study, |blobs| blobs).await
}

fn rounds(consortium: &Consortium, format: &str) -> String {
    consortium.config();
    let output = Command::new(env!("CARGO_BIN_EXE_consilium-server"))
        .args(["round", "list", "--config", "server.toml", "--format"])
        .arg(format)
        .current_dir(consortium.folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_is_durable_when_it_is_answered_and_the_round_closes_without_its_site() {
    let mut consortium = of_two().await;
    for site in ["a", "b"] {
        withdraw(&consortium, "c").await;
        consortium.restart(|blobs| blobs).await;
        let state = consortium.running().consortium().coordination().await;
        assert_eq!(state.withdrawn[&"c".parse().unwrap()].code, CODE);
        consortium.give(site, 0.5).await.unwrap();
    }
    // No deadline has passed.
    consortium
        .until(|state| state.committed_rounds() == 1)
        .await;
    let state = consortium.running().consortium().coordination().await;
    let why = &state.closed[0].why_missing[&"c".parse().unwrap()];
    let (code, reason) = (CODE.to_owned(), REASON.to_owned());
    assert_eq!(*why, Missing::Withdrawn { code, reason });
    let text = rounds(&consortium, "text");
    assert!(
        text.contains(&format!("missing c (withdrawn: {CODE}, {REASON})")),
        "{text}"
    );
    assert!(
        text.contains(&format!(
            "site c: withdrawn at round 1, attempt 1: {CODE}, {REASON}"
        )),
        "{text}"
    );
    let json: serde_json::Value = serde_json::from_str(&rounds(&consortium, "json")).unwrap();
    let record = &json["data"]["closed"][0];
    assert_eq!(record["why_missing"]["c"]["why"], "withdrawn");
    assert_eq!(record["why_missing"]["c"]["code"], CODE);
    assert_eq!(json["data"]["withdrawn"]["c"]["reason"], REASON);
    // It comes back, and is awaited again.
    let study = digest_to_wire(&consortium.study.digest());
    let mut client = consortium.site("c").await;
    for _ in 0..2 {
        let study = study.clone();
        client.rejoin(RejoinRequest { study }).await.unwrap();
    }
    consortium.restart(|blobs| blobs).await;
    let state = consortium.running().consortium().coordination().await;
    assert!(state.withdrawn.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_out_of_reach_ends_the_study_at_once_with_the_reason() {
    let consortium = Consortium::new().await;
    consortium.give("a", 0.5).await.unwrap();
    withdraw(&consortium, "b").await;
    consortium.until(|state| state.end().is_some()).await;
    let state = consortium.running().consortium().coordination().await;
    let (reachable, quorum) = (2, 3);
    assert_eq!(
        state.closed[0].outcome,
        Outcome::QuorumOutOfReach { reachable, quorum }
    );
    let reason = state.end().unwrap().unwrap_err();
    assert!(reason.contains(&format!("b ({CODE})")), "{reason}");
    let text = rounds(&consortium, "text");
    assert!(
        text.contains("failed: at most 2 updates could come, quorum 3"),
        "{text}"
    );
    assert!(text.contains("c (not awaited)"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_late_or_refused_is_recorded_with_the_round() {
    let consortium = of_two().await;
    let mut messages = consortium.upload("a", 0.5);
    header(&mut messages).groups.pop();
    consortium.send("a", messages).await.unwrap_err();
    consortium.give("b", 0.5).await.unwrap();
    consortium.clock.0.store(60_000, Ordering::SeqCst);
    consortium.until(|state| state.closed.len() == 1).await;
    let text = rounds(&consortium, "text");
    assert!(
        text.contains("missing a (refused: update_wrong_groups), c (late)"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_of_a_stranger_of_another_study_or_in_no_plain_words_is_refused() {
    let consortium = Consortium::new().await;
    let good = request(&consortium);
    let bad = |change: &dyn Fn(&mut WithdrawRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    let refused = async |site: &str, request: WithdrawRequest| {
        let refused: Status = (consortium.site(site).await)
            .withdraw(request)
            .await
            .unwrap_err();
        code(&refused)
    };
    assert_eq!(refused("stranger", good.clone()).await, "site_not_in_study");
    for (expected, request) in [
        ("message_malformed", bad(&|r| r.study.truncate(3))),
        ("study_digest_mismatch", bad(&|r| r.study[0] ^= 1)),
        ("withdrawal_code", bad(&|r| r.code = "No Code".into())),
        ("withdrawal_reason", bad(&|r| r.reason = "\u{7}".into())),
        ("withdrawal_reason", bad(&|r| r.reason = "x".repeat(300))),
    ] {
        assert_eq!(refused("a", request).await, expected);
    }
    let state = consortium.running().consortium().coordination().await;
    assert!(state.withdrawn.is_empty());
}

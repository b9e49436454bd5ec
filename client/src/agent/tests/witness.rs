//! The server's log is rewritten between two processes of the agent, in every way; the next one stops.

use consilium_transparency::Witnessed;

use super::consortium::{ROUNDS, opened};
use super::*;

/// A site whose process was killed when its update of round 1 had come; the log has the entry of the study, and
/// of the update.
async fn after_the_first_upload() -> (Site, Server, Work) {
    let site = Site::with(100.0).await;
    let (server, work) = (site.server("first"), Work::private());
    // Something that was there before.
    server.script.lock().unwrap().log = vec![accepted("c"), accepted("d"), opened((1, 1))];
    server.script.lock().unwrap().dies_after = 1;
    site.run(&server, &work).await.unwrap_err();
    assert_eq!(server.script.lock().unwrap().log.len(), 6);
    // One more process, that has seen its update in the log, and is killed at the next.
    server.script.lock().unwrap().dies_after = 1;
    site.run(&server, &work).await.unwrap_err();
    (site, server, work)
}

fn accepted(site: &str) -> Event {
    Event::StudyAccepted {
        site: site.parse().unwrap(),
        study: Digest::of(b"study"),
    }
}

/// Rewrites the log; the next process refuses with this code, and neither trains nor sends.
async fn is_refused(rewrite: impl Fn(&mut Vec<Event>), code: &str) {
    let (site, server, work) = after_the_first_upload().await;
    let (offered, trained) = {
        let mut script = server.script.lock().unwrap();
        rewrite(&mut script.log);
        (script.offered.len(), *work.trained.lock().unwrap())
    };
    let witnessed = server.script.lock().unwrap().witnessed.len();
    for _ in 0..2 {
        let (got, exit, error) = site.refused(&server, &work).await;
        assert_eq!((got.as_str(), exit), (code, ExitCode::Refused));
        assert!(error.hint.contains("evidence"), "{}", error.hint);
    }
    assert_eq!(*work.trained.lock().unwrap(), trained);
    {
        let script = server.script.lock().unwrap();
        assert_eq!(script.offered.len(), offered);
        assert_eq!(script.witnessed.len(), witnessed);
        let (told, on_disk) = script.told.last().unwrap();
        assert_eq!((told.code.as_str(), *on_disk), (code, true));
    }
    // What the server has signed is kept.
    let heads = site.store.heads().await.unwrap();
    let refused = heads.iter().filter(|head| head.refused.is_some());
    assert_eq!(refused.count(), 2);
}

#[tokio::test]
async fn a_log_that_lost_its_end_is_refused() {
    is_refused(|log| log.truncate(1), "log_rewritten").await;
}

#[tokio::test]
async fn a_log_with_a_deleted_entry_is_refused() {
    // Also when it grows meanwhile.
    is_refused(
        |log| {
            log.remove(0);
            log.extend(["x", "y", "z"].map(accepted));
        },
        "log_rewritten",
    )
    .await;
}

#[tokio::test]
async fn a_log_with_an_altered_entry_is_refused() {
    is_refused(|log| log[0] = accepted("another"), "log_rewritten").await;
}

#[tokio::test]
async fn a_log_with_reordered_entries_is_refused() {
    is_refused(|log| log.swap(0, 1), "log_rewritten").await;
}

#[tokio::test]
async fn a_log_without_the_update_that_was_confirmed_is_refused() {
    let site = Site::with(100.0).await;
    let (server, work) = (site.server("first"), Work::private());
    // What `upload` appends is lost before anybody has seen it.
    let lost = tokio::spawn({
        let script = Arc::clone(&server.script);
        async move {
            loop {
                {
                    let mut script = script.lock().unwrap();
                    let came = !script.arrived.is_empty();
                    let is_update = |event: &Event| matches!(event, Event::UpdateReceived { .. });
                    script.log.retain(|event| !is_update(event));
                    if came {
                        return;
                    }
                }
                tokio::task::yield_now().await;
            }
        }
    });
    let (code, exit, _) = site.refused(&server, &work).await;
    lost.await.unwrap();
    assert_eq!(
        (code.as_str(), exit),
        ("log_update_missing", ExitCode::Refused)
    );
    assert_eq!(server.arrived().len(), 1);
}

#[tokio::test]
async fn a_log_that_another_site_saw_otherwise_is_refused() {
    for shown in [
        // Other entries, as many as here, fewer, and more.
        vec![accepted("c"), accepted("x"), opened((1, 1))],
        vec![accepted("x")],
        vec![accepted("c"); 19],
    ] {
        let (site, server, work) = after_the_first_upload().await;
        server.script.lock().unwrap().shown_elsewhere = Some(shown);
        let (code, exit, error) = site.refused(&server, &work).await;
        assert_eq!((code.as_str(), exit), ("log_split_view", ExitCode::Refused));
        assert!(error.message.contains("site b"), "{}", error.message);
        // Both heads, and the counter-signature of the other site.
        let heads = site.store.heads().await.unwrap();
        let refused = heads.iter().filter(|head| head.refused.is_some());
        assert_eq!(refused.count(), 2);
        let witnesses = site.store.witnesses().await.unwrap();
        let said: Witnessed = witnesses.last().unwrap().1.says().unwrap();
        assert_eq!(said.site.as_str(), "b");
    }
}

#[tokio::test]
async fn a_log_without_the_round_that_is_gone_on_from_is_refused() {
    let site = Site::with(100.0).await;
    let (server, work) = (site.server("first"), Work::private());
    server.script.lock().unwrap().dies_after = 1;
    site.run(&server, &work).await.unwrap_err();
    for event in &mut server.script.lock().unwrap().log {
        if let Event::Aggregated { model, .. } = event {
            *model = Digest::of(b"another");
        }
    }
    let (code, exit, _) = site.refused(&server, &work).await;
    assert_eq!(
        (code.as_str(), exit),
        ("log_round_missing", ExitCode::Refused)
    );
}

#[tokio::test]
async fn a_log_that_another_member_of_the_round_has_not_counter_signed_is_refused() {
    let site = Site::with(100.0).await;
    let (server, work) = (site.server("first"), Work::private());
    server.script.lock().unwrap().dies_after = 1;
    site.run(&server, &work).await.unwrap_err();
    for event in &mut server.script.lock().unwrap().log {
        if let Event::Aggregated { updates, .. } = event {
            updates.insert("b".parse().unwrap(), Digest::of(b"of b"));
        }
    }
    let (code, exit, error) = site.refused(&server, &work).await;
    assert_eq!(
        (code.as_str(), exit),
        ("log_not_witnessed", ExitCode::Refused)
    );
    assert!(error.message.contains("site b"), "{}", error.message);
}

#[tokio::test]
async fn a_log_that_another_site_saw_the_beginning_of_is_good() {
    let (site, server, work) = after_the_first_upload().await;
    server.script.lock().unwrap().shown_elsewhere = Some(vec![accepted("c")]);
    site.run(&server, &work).await.unwrap();
}

#[tokio::test]
async fn every_round_and_the_end_are_seen_and_counter_signed_with_the_own_log() {
    let site = Site::with(100.0).await;
    let server = site.server("first");
    site.run(&server, &Work::private()).await.unwrap();
    let witnessed = server.script.lock().unwrap().witnessed.clone();
    assert_eq!(witnessed.len(), ROUNDS as usize + 1);
    let sizes: Vec<_> = witnessed.iter().map(|seen| seen.head.size).collect();
    assert_eq!(sizes, [2, 5, 8, 11]);
    assert!(
        site.store
            .unproved(&server.study.name, 9)
            .await
            .unwrap()
            .is_empty()
    );
    let own = site.store.log_from(0).await.unwrap();
    let tree: consilium_transparency::Tree = own
        .iter()
        .map(|e| consilium_transparency::leaf_hash(e))
        .collect();
    for seen in &witnessed {
        assert_eq!(tree.root_at(seen.own.0), Some(seen.own.1));
    }
    let kinds: Vec<_> = own
        .iter()
        .map(|bytes| Entry::read(bytes).unwrap().event.kind())
        .collect();
    let round = ["head_seen", "update_sealed"];
    let expected = [&["study_accepted"][..], &round.repeat(3), &["head_seen"]].concat();
    assert_eq!(kinds, expected);
}

#[tokio::test]
async fn a_site_from_an_old_backup_goes_on_from_the_head_that_it_had_seen() {
    // In a study with a ledger, that would have to be settled first.
    let mut site = Site::with(100.0).await;
    site.budget = None;
    let mut server = Server::new(study("open", None), &site.store);
    let work = Work::open();
    let killed = async |site: &Site, server: &Server| {
        server.script.lock().unwrap().dies_after = 1;
        let error = site.run(server, &work).await.unwrap_err();
        assert!(error.to_string().contains("killed"), "{error}");
    };
    killed(&site, &server).await;
    let (site, backup) = site.copied(&mut server).await;
    killed(&site, &server).await;
    let site = site.restored(&mut server, Some(&backup)).await;
    site.run(&server, &work).await.unwrap();
}

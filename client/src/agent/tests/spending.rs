//! What is sent is in the ledger, once, and within the budgets of study and site.

use dp_rs::agreement::AgreedPlan;

use super::super::faults::inject;
use super::consortium::{DELTA, ROUNDS, cost, entries, plan};
use super::*;
use crate::privacy::Whose;

#[tokio::test]
async fn every_update_was_in_the_ledger_when_it_arrived() {
    let site = Site::with(100.0).await;
    let server = site.server("first");
    site.run(&server, &Work::private()).await.unwrap();
    let arrived = server.arrived();
    assert_eq!(arrived.len(), ROUNDS as usize);
    assert!(all_recorded(&arrived));
    let ledger = dp_rs::ledger::Ledger::from_entries(entries(&site.store).await).unwrap();
    assert_eq!(ledger.len(), ROUNDS as usize);
    let spent = ledger.total().unwrap().epsilon(DELTA).unwrap();
    assert_eq!(spent, cost(ROUNDS.into()));
    assert!(ledger.total().unwrap().is_simulated());
    let entry = &ledger.entries()[1].record;
    assert_eq!(
        (entry.study.as_str(), entry.round, entry.attempt),
        ("first", 2, 1)
    );
}

#[tokio::test]
async fn every_entry_is_dated_by_the_clock_and_one_that_was_set_back_is_told() {
    let site = Site::with(100.0).await;
    site.run(&site.server("first"), &Work::private())
        .await
        .unwrap();
    site.clock.0.store(NOON - 1, Ordering::SeqCst);
    site.run(&site.server("second"), &Work::private())
        .await
        .unwrap();
    let standing = Standing::read(&site.store).await.unwrap();
    let dates: Vec<String> = (standing.ledger.entries().iter())
        .map(|entry| entry.at.to_string())
        .collect();
    // The clock is looked at four times before the first entry: for the log.
    assert_eq!(dates[0], "2026-03-01T12:00:04.000Z");
    assert_eq!(dates[3], "2026-03-01T12:00:03.999Z");
    assert_eq!(standing.ledger.clock_went_back(), [4]);
}

#[tokio::test]
async fn a_ledger_that_is_written_after_the_send_is_noticed_on_the_wire() {
    let site = Site::with(100.0).await;
    let server = site.server("first");
    inject(Some(Fault::LedgerAfterSend));
    let ended = site.run(&server, &Work::private()).await;
    inject(None);
    // The agent itself sees nothing: every entry is there in the end.
    ended.unwrap();
    assert_eq!(entries(&site.store).await.len(), ROUNDS as usize);
    assert!(!all_recorded(&server.arrived()));
}

#[tokio::test]
async fn a_process_killed_before_or_after_its_update_arrived_sends_the_same_and_pays_once() {
    for (before, after) in [(1, 0), (0, 1), (2, 0), (0, 3), (2, 2)] {
        let site = Site::with(100.0).await;
        let (server, work) = (site.server("first"), Work::private());
        {
            let mut script = server.script.lock().unwrap();
            (script.dies_before, script.dies_after) = (before, after);
        }
        let mut processes = 1;
        while let Err(error) = site.run(&server, &work).await {
            assert!(error.to_string().contains("killed"), "{error}");
            processes += 1;
        }
        assert!(processes > 1);
        assert!(all_recorded(&server.arrived()));
        assert_eq!(entries(&site.store).await.len(), ROUNDS as usize);
        assert_eq!(*work.trained.lock().unwrap(), ROUNDS);
    }
}

#[tokio::test]
async fn a_process_killed_while_it_trains_has_released_and_recorded_nothing() {
    let site = Site::with(100.0).await;
    let (server, work) = (site.server("first"), Work::private());
    let begun = Arc::new(tokio::sync::Notify::new());
    let mut hanging = work.clone();
    hanging.hangs = Some(Arc::clone(&begun));
    tokio::select! {
        ended = site.run(&server, &hanging) => panic!("not killed: {ended:?}"),
        () = begun.notified() => {}
    }
    assert!(site.has_accepted(&server).await);
    assert_eq!(entries(&site.store).await, []);
    assert!(server.arrived().is_empty());
    site.run(&server, &work).await.unwrap();
    assert_eq!(entries(&site.store).await.len(), ROUNDS as usize);
    assert!(all_recorded(&server.arrived()));
}

#[tokio::test]
async fn a_failed_attempt_is_spent_all_the_same() {
    let site = Site::with(100.0).await;
    let (server, work) = (site.server("first"), Work::private());
    server.script.lock().unwrap().fails = vec![(2, 1)];
    site.run(&server, &work).await.unwrap();
    let places: Vec<_> = (entries(&site.store).await.iter())
        .map(|entry| (entry.record.round, entry.record.attempt))
        .collect();
    assert_eq!(places, [(1, 1), (2, 1), (2, 2), (3, 1)]);
    assert!(all_recorded(&server.arrived()));
}

#[tokio::test]
async fn a_study_halts_where_its_own_budget_ends_to_the_last_bit() {
    // Four attempts are agreed. With one failure the study ends, with two it halts in its last round.
    let site = Site::with(100.0).await;
    let (server, work) = (site.server("first"), Work::private());
    server.script.lock().unwrap().fails = vec![(1, 1), (2, 1)];
    let (code, exit, error) = site.refused(&server, &work).await;
    assert_eq!(
        (code.as_str(), exit),
        ("privacy_budget_exhausted", ExitCode::Refused)
    );
    let details = error.details.unwrap();
    assert_eq!(details["budget_of"], "study");
    assert_eq!(details["spent"], details["agreed"]);
    assert_eq!(details["remaining"], 0.0);
    assert_eq!(server.arrived().len(), 4);
    assert_eq!(*work.trained.lock().unwrap(), 4);
}

#[tokio::test]
async fn a_site_halts_where_its_budget_ends_and_stays_halted() {
    let site = Site::with(cost(3).next_down()).await;
    let (server, work) = (site.server("first"), Work::private());
    for _ in 0..3 {
        let (code, exit, error) = site.refused(&server, &work).await;
        assert_eq!(
            (code.as_str(), exit),
            ("privacy_budget_exhausted", ExitCode::Refused)
        );
        let details = error.details.clone().unwrap();
        assert_eq!(details["budget_of"], "site");
        assert_eq!(details["spent"], cost(2));
        assert_eq!(details["together"], cost(3));
        assert_eq!(details["remaining"], cost(3).next_down() - cost(2));
        for word in ["spent", "agreed", "remaining", "nothing was trained"] {
            assert!(error.message.contains(word), "{error}");
        }
    }
    assert_eq!(*work.trained.lock().unwrap(), 2);
    assert_eq!(server.arrived().len(), 2);
    // The next study finds what is left: not enough for a round of it.
    let second = site.server("second");
    let (code, exit, _) = site.refused(&second, &work).await;
    assert_eq!(
        (code.as_str(), exit),
        ("privacy_budget_exhausted", ExitCode::Refused)
    );
    assert!(!site.has_accepted(&second).await);
    // One bit more is enough for the round that was refused.
    let enough = Site {
        budget: budget(cost(3), Some(DELTA)),
        ..site
    };
    enough.run(&server, &work).await.unwrap();
}

#[tokio::test]
async fn a_second_study_starts_from_what_the_first_has_spent() {
    let site = Site::with(cost(5)).await;
    let work = Work::private();
    site.run(&site.server("first"), &work).await.unwrap();
    let second = site.server("second");
    let (code, ..) = site.refused(&second, &work).await;
    assert_eq!(code, "privacy_budget_exhausted");
    assert_eq!(second.arrived().len(), 2);
    assert_eq!(entries(&site.store).await.len(), 5);
    // What was finished is still there.
    site.run(&site.server("first"), &work).await.unwrap();
}

#[tokio::test]
async fn a_study_for_other_neighbours_is_never_summed_with_the_first() {
    let site = Site::with(100.0).await;
    site.run(&site.server("first"), &Work::private())
        .await
        .unwrap();
    let mut other = agreement();
    let mut settings = plan(1.0).settings().clone();
    settings.adjacency = dp_rs::adjacency::Adjacency::ReplaceOne;
    let replaced = dp_rs::plan::Plan::new(settings).unwrap();
    other.plan = AgreedPlan::Steps(replaced.clone());
    other.epsilon = 50.0;
    let second = Server::new(study("second", Some(&other)), &site.store);
    let mut work = Work::private();
    work.plan = Some(replaced);
    let (code, exit, _) = site.refused(&second, &work).await;
    assert_eq!(
        (code.as_str(), exit),
        ("privacy_ledger_mixed", ExitCode::Refused)
    );
    assert!(!site.has_accepted(&second).await);
}

#[tokio::test]
async fn a_forged_ledger_or_an_update_without_its_entry_stops_the_agent() {
    let site = Site::with(100.0).await;
    let (server, work) = (site.server("first"), Work::private());
    server.script.lock().unwrap().dies_before = 1;
    site.run(&server, &work).await.unwrap_err();
    // Sealed again without its entry, as a program without a ledger would.
    let name = &server.study.name;
    let accepted = site.store.accepted(name).await.unwrap().unwrap();
    let mut participation = accepted.participation;
    let update = consortium::initial();
    let open = RoundPlan {
        study: server.study.digest(),
        round: 1,
        attempt: 1,
        model: update.sha256(),
        deadline: Timestamp(0),
    };
    let _ = participation.seal(&open, update.sha256());
    let local = work.initial_local();
    let note = Entry {
        at: Timestamp(0),
        event: Event::UpdateSealed {
            study: name.clone(),
            round: 1,
            attempt: 1,
            update: update.sha256(),
            privacy: None,
        },
    };
    let seal = async |event| {
        let event: Option<consilium_store::site::PrivacyEvent> = event;
        (site.store)
            .seal(name, &participation, &update, &local, event.as_ref(), &note)
            .await
            .unwrap();
    };
    seal(None).await;
    let (code, exit, _) = site.refused(&server, &work).await;
    assert_eq!(
        (code.as_str(), exit),
        ("privacy_not_recorded", ExitCode::Refused)
    );
    assert!(server.arrived().is_empty());
    // With an entry that does not belong into the chain.
    let mut forged = entries(&site.store).await.remove(0);
    forged.sequence = 2;
    seal(Some(row(name, &forged))).await;
    let (code, exit, _) = site.refused(&server, &work).await;
    assert_eq!(
        (code.as_str(), exit),
        ("privacy_ledger_broken", ExitCode::Configuration)
    );
    assert!(server.arrived().is_empty());
}

#[test]
fn whose_budget_it_is_is_said_in_words() {
    assert_eq!(Whose::Study.to_string(), "the study");
    assert_eq!(Whose::Site.to_string(), "this site");
}

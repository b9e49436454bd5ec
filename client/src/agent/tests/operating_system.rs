//! Noise that cannot be drawn again: kept and sent again, or never sent.

use super::consortium::{ROUNDS, entries, hardened, real_study};
use super::*;

/// Runs one process after the other until one ends; how many there were.
async fn run_to_the_end(site: &Site, server: &Server, work: &Work) -> u32 {
    let mut processes = 1;
    while let Err(error) = site.run(server, work).await {
        assert!(error.to_string().contains("killed"), "{error}");
        processes += 1;
    }
    processes
}

#[tokio::test]
async fn noise_of_the_operating_system_is_sent_again_after_a_kill_and_never_drawn_again() {
    for (before, after) in [(1, 0), (0, 1), (2, 1)] {
        let site = Site::with(100.0).await;
        let server = Server::new(real_study("first", hardened()), &site.store);
        let work = Work::secret();
        {
            let mut script = server.script.lock().unwrap();
            (script.dies_before, script.dies_after) = (before, after);
        }
        assert!(run_to_the_end(&site, &server, &work).await > 1);
        assert!(all_recorded(&server.arrived()));
        let ledger = dp_rs::ledger::Ledger::from_entries(entries(&site.store).await).unwrap();
        assert_eq!(ledger.len(), ROUNDS as usize);
        assert!(!ledger.total().unwrap().is_simulated());
        // Whatever was tried in a round, it was the same bytes: those that were drawn once.
        let drawn = work.drawn.as_ref().unwrap().lock().unwrap().clone();
        assert_eq!(drawn.len(), ROUNDS as usize);
        let offered = server.script.lock().unwrap().offered.clone();
        // What the server has counter-signed is not offered again.
        assert_eq!(offered.len(), (ROUNDS + before) as usize);
        for (sealed, update) in offered {
            let values = update.0.values().next().unwrap();
            assert_eq!(values, &drawn[sealed.round as usize - 1]);
        }
        assert_ne!(drawn[0], drawn[1]);
    }
}

#[tokio::test]
async fn noise_that_was_not_sealed_is_drawn_anew_and_counted_once() {
    let site = Site::with(100.0).await;
    let server = Server::new(real_study("first", hardened()), &site.store);
    let work = Work::secret();
    let begun = Arc::new(tokio::sync::Notify::new());
    let mut hanging = work.clone();
    hanging.hangs = Some(Arc::clone(&begun));
    tokio::select! {
        ended = site.run(&server, &hanging) => panic!("not killed: {ended:?}"),
        () = begun.notified() => {}
    }
    assert_eq!(entries(&site.store).await, []);
    site.run(&server, &work).await.unwrap();
    assert_eq!(entries(&site.store).await.len(), ROUNDS as usize);
    assert!(all_recorded(&server.arrived()));
    let drawn = work.drawn.as_ref().unwrap().lock().unwrap().clone();
    // The lost draw and the one that was sent in its place have nothing in common.
    assert_eq!(drawn.len(), ROUNDS as usize + 1);
    assert_ne!(drawn[0], drawn[1]);
    let offered = server.script.lock().unwrap().offered.clone();
    assert_eq!(offered.len(), ROUNDS as usize);
    assert!(
        offered
            .iter()
            .all(|(_, update)| update.0.values().all(|values| *values != drawn[0]))
    );
}

#[tokio::test]
async fn seeded_noise_in_a_real_study_is_not_sent() {
    let site = Site::with(100.0).await;
    let server = Server::new(real_study("first", hardened()), &site.store);
    let mut work = Work::private();
    work.plan = Some(hardened());
    let (code, exit, _) = site.refused(&server, &work).await;
    assert_eq!(
        (code.as_str(), exit),
        ("privacy_other_steps", ExitCode::Refused)
    );
    assert!(server.arrived().is_empty());
    assert_eq!(entries(&site.store).await, []);
}

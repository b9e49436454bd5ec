//! The policy in the middle of a study.

use super::consortium::ROUNDS;
use super::*;

/// The text of the policy file with a change.
fn rewrite(errand: &Errand, from: &str, to: &str) {
    let text = std::fs::read_to_string(&errand.policy).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    std::fs::write(&errand.policy, text.replace(from, to)).unwrap();
}

async fn agent(site: &Site, errand: Errand, server: &Server, work: &Work) -> Agent<Server> {
    let (store, clock, open) = (site.store.clone(), site.clock.clone(), site.open(work));
    match Agent::join(errand, store, server.clone(), clock, open).await {
        Ok(Joined::Agent(agent)) => *agent,
        Ok(Joined::Finished(_)) => panic!("finished"),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_policy_that_becomes_stricter_stops_the_next_round_without_a_restart() {
    let site = Site::with(100.0).await;
    let server = site.server("stricter");
    let errand = site.errand(&server);
    let agent = agent(&site, errand.clone(), &server, &Work::private()).await;
    rewrite(&errand, "models = [\"toy\"]", "models = []");
    let error = agent.run().await.unwrap_err();
    assert_eq!(error.code(), "policy_model");
    assert_eq!(server.arrived().len(), 0, "nothing left");
}

#[tokio::test]
async fn an_update_that_was_sealed_before_the_policy_changed_does_not_leave() {
    let site = Site::with(100.0).await;
    let server = site.server("sealed");
    let errand = site.errand(&server);
    let mut agent = agent(&site, errand.clone(), &server, &Work::private()).await;
    server.script.lock().unwrap().dies_before = 1;
    assert!(agent.step().await.is_err());
    let entries = site.store.privacy_ledger().await.unwrap();
    assert_eq!(entries.len(), 1, "sealed and paid for");
    server.script.lock().unwrap().offered.clear();
    rewrite(&errand, "groups = [\"trunk\"]", "groups = []");
    let error = agent.run().await.unwrap_err();
    assert_eq!(error.code(), "policy_group");
    assert_eq!(
        server.script.lock().unwrap().offered.len(),
        0,
        "nothing left"
    );
}

#[tokio::test]
async fn outside_of_its_hours_a_site_neither_trains_nor_sends() {
    let site = Site::with(100.0).await;
    let server = site.server("hours");
    let errand = site.errand(&server);
    // The clock stands at noon.
    rewrite(&errand, "[transfer]", "[transfer]\nhours = \"12:01-12:00\"");
    let work = Work::private();
    let agent = agent(&site, errand, &server, &work).await;
    let began = site.clock.0.load(Ordering::SeqCst);
    agent.run().await.unwrap();
    assert!(
        site.clock.0.load(Ordering::SeqCst) >= began + 60_000,
        "waited for 12:01"
    );
    assert!(!server.arrived().is_empty());
}

#[tokio::test]
async fn what_was_sent_today_counts_over_restarts() {
    let site = Site::with(100.0).await;
    let server = site.server("bytes");
    let errand = site.errand(&server);
    // Two values of four bytes a round: two rounds a day.
    rewrite(&errand, "[transfer]", "[transfer]\nbytes_a_day = \"16B\"");
    let agent = agent(&site, errand.clone(), &server, &Work::private()).await;
    let waited = tokio::time::timeout(Duration::from_secs(1), agent.run()).await;
    assert!(waited.is_err(), "the third round waits for tomorrow");
    assert_eq!(server.arrived().len(), 2);
    site.clock.0.fetch_add(86_400_000, Ordering::SeqCst);
    let again = self::agent(&site, errand, &server, &Work::private()).await;
    again.run().await.unwrap();
    assert_eq!(server.arrived().len(), ROUNDS as usize);
}

#[tokio::test]
async fn a_study_that_nobody_has_accepted_is_not_begun_and_one_that_was_is_shown_to_the_server_once()
 {
    let site = Site::with(100.0).await;
    let (server, work) = (site.server("accepted"), Work::private());
    server.script.lock().unwrap().unaccepted = true;
    let (code, exit, _) = site.refused(&server, &work).await;
    assert_eq!(
        (code.as_str(), exit),
        ("study_not_accepted", ExitCode::Refused)
    );
    assert!(!site.has_accepted(&server).await);
    server.script.lock().unwrap().unaccepted = false;
    site.run(&server, &work).await.unwrap();
    assert_eq!(server.script.lock().unwrap().acceptances, 1);
}

#[tokio::test]
async fn an_acceptance_that_is_taken_back_stops_a_running_agent_before_anything_more_leaves() {
    let site = Site::with(100.0).await;
    let server = site.server("withdrawn");
    let mut agent = agent(&site, site.errand(&server), &server, &Work::private()).await;
    server.script.lock().unwrap().dies_before = 1;
    assert!(agent.step().await.is_err());
    server.script.lock().unwrap().offered.clear();
    let name = &server.study.name;
    assert!(site.store.take_back(name, "ethics board").await.unwrap());
    let error = agent.run().await.unwrap_err();
    assert_eq!(error.code(), "study_withdrawn");
    let script = server.script.lock().unwrap();
    assert_eq!(script.offered.len(), 0, "nothing left");
    assert_eq!(script.told.last().unwrap().0.code, "study_withdrawn");
}

#[tokio::test]
async fn whoever_is_excluded_is_out_from_the_next_round_on_and_at_the_end() {
    let site = Site::with(100.0).await;
    let (server, work) = (site.server("excluded"), Work::private());
    let mut agent = agent(&site, site.errand(&server), &server, &work).await;
    assert!(agent.step().await.is_ok());
    let out = ["p1", "p2"].map(str::to_owned).into();
    assert_eq!(site.store.exclude(&out, Timestamp(1)).await.unwrap(), 2);
    agent.run().await.unwrap();
    assert_eq!(*work.excluded.lock().unwrap(), [0, 2, 2, 2]);
}

//! A site that stops says so, and what it says is on its disk before.

use super::consortium::{DELTA, ROUNDS, cost, entries};
use super::*;

#[tokio::test]
async fn a_site_that_halts_says_so_and_what_it_says_is_on_its_disk_before() {
    let site = Site::with(cost(3).next_down()).await;
    let (server, work) = (site.server("first"), Work::private());
    site.refused(&server, &work).await;
    let told = server.script.lock().unwrap().told.clone();
    let [(withdrawal, durable)] = &told[..] else {
        panic!("{told:?}");
    };
    assert!(durable);
    assert_eq!((withdrawal.round, withdrawal.attempt), (3, 1));
    assert_eq!(withdrawal.code, "privacy_budget_exhausted");
    assert!(!withdrawal.may_return);
    let halt = site.store.halted(&server.study.name).await.unwrap();
    assert!(halt.unwrap().told);
}

#[tokio::test]
async fn a_process_killed_before_it_told_of_its_halt_leaves_that_to_the_next_one() {
    let site = Site::with(cost(3).next_down()).await;
    let (server, work) = (site.server("first"), Work::private());
    server.script.lock().unwrap().dies_before_withdrawal = 1;
    site.refused(&server, &work).await;
    let name = &server.study.name;
    let halt = site.store.halted(name).await.unwrap().unwrap();
    assert!(!halt.told);
    assert!(server.script.lock().unwrap().told.is_empty());
    // The next process comes to the same end, and tells.
    site.refused(&server, &work).await;
    let told = server.script.lock().unwrap().told.clone();
    assert_eq!(told, [(halt.withdrawal, true)]);
    assert!(site.store.halted(name).await.unwrap().unwrap().told);
    // With a higher budget it takes part again, and says that too.
    let enough = Site {
        budget: budget(cost(3), Some(DELTA)),
        ..site
    };
    enough.run(&server, &work).await.unwrap();
    let (told, returned) = {
        let script = server.script.lock().unwrap();
        (script.told.len(), script.returned)
    };
    assert_eq!((told, returned), (1, 1));
    assert_eq!(enough.store.halted(name).await.unwrap(), None);
}

#[tokio::test]
async fn a_halt_that_was_put_in_order_before_it_was_told_is_not_told_any_more() {
    let site = Site::with(cost(3).next_down()).await;
    let (server, work) = (site.server("first"), Work::private());
    server.script.lock().unwrap().dies_before_withdrawal = 1;
    site.refused(&server, &work).await;
    let enough = Site {
        budget: budget(cost(3), Some(DELTA)),
        ..site
    };
    enough.run(&server, &work).await.unwrap();
    assert!(server.script.lock().unwrap().told.is_empty());
}

#[tokio::test]
async fn a_halt_that_may_pass_is_told_by_the_next_process_before_anything_else() {
    let mut site = Site::with(cost(3)).await;
    let (server, work) = (site.server("first"), Work::private());
    server.script.lock().unwrap().dies_before_withdrawal = 1;
    let budget = site.budget.take();
    site.refused(&server, &work).await;
    assert!(server.script.lock().unwrap().told.is_empty());
    site.budget = budget;
    site.run(&server, &work).await.unwrap();
    let script = server.script.lock().unwrap();
    let [(withdrawal, durable)] = &script.told[..] else {
        panic!("{:?}", script.told);
    };
    assert_eq!(withdrawal.code, "privacy_budget_not_set");
    assert!(durable);
    assert_eq!(script.returned, 1);
}

#[tokio::test]
async fn a_study_that_is_not_accepted_is_declined_in_words_without_numbers() {
    let mut site = Site::with(cost(1).next_down()).await;
    let (server, work) = (site.server("first"), Work::private());
    site.refused(&server, &work).await;
    site.budget = None;
    site.refused(&server, &work).await;
    let open = Server::new(study("open", None), &site.store);
    site.budget = budget(1.0, None);
    site.refused(&open, &Work::open()).await;
    let mut told = server.script.lock().unwrap().told.clone();
    told.append(&mut open.script.lock().unwrap().told);
    let said: Vec<_> = (told.iter())
        .map(|(withdrawal, _)| (withdrawal.code.as_str(), withdrawal.may_return))
        .collect();
    assert_eq!(
        said,
        [
            ("privacy_budget_exhausted", false),
            ("privacy_budget_not_set", true),
            ("privacy_unprotected_study", false)
        ]
    );
    for (withdrawal, durable) in told {
        assert!(durable);
        assert_eq!((withdrawal.round, withdrawal.attempt), (0, 0));
        withdrawal.check().unwrap();
        let digits = withdrawal.reason.chars().any(|c| c.is_ascii_digit());
        assert!(!digits, "{}", withdrawal.reason);
    }
}

#[tokio::test]
async fn a_study_that_halted_still_takes_the_final_model_home() {
    let site = Site::with(cost(2)).await;
    let (server, work) = (site.server("first"), Work::private());
    site.refused(&server, &work).await;
    // The others finish without this site.
    let mut arrived = server.arrived();
    arrived[1].sealed.round = ROUNDS;
    {
        let mut script = server.script.lock().unwrap();
        let told = script.told_of(arrived[1].sealed);
        script.log.extend(told);
        script.arrived.push(arrived.remove(1));
    }
    let outcome = site.run(&server, &work).await.unwrap();
    assert_eq!(outcome.rounds_used, 2);
    assert_eq!(entries(&site.store).await.len(), 2);
}

//! Whatever happens to the agent, its ledger holds at least what has left the site, and at most what was agreed.

mod consortium;

use std::sync::atomic::{AtomicU64, Ordering};

use consilium_core::clock::Timestamp;
use consilium_core::study::PrivacyMode;
use consilium_data::manifest::Origin;
use consilium_ops::{ExitCode, OperatorError};
use dp_rs::agreement::{AgreedPlan, Agreement};
use dp_rs::noise::NoiseLevel;
use dp_rs::plan::Unit;
use dp_rs::release::{Against, ReleasePlan, ReleaseSettings};

use super::faults::inject;
use super::*;
use crate::privacy::{Decision, Whose, settlement};
use consortium::{
    Arrived, DELTA, ROUNDS, STEPS, Server, Work, agreement, cost, entries, hardened, plan,
    real_study, study,
};
use dp_rs::ledger::Moment;

/// A site with a state folder.
struct Site {
    store: SiteStore,
    folder: tempfile::TempDir,
    budget: Option<SiteBudget>,
    cohort: CohortFacts,
    clock: Arc<Hand>,
}

/// A clock that goes on a second whenever it is looked at, and that a test moves.
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1000, Ordering::SeqCst))
    }
}

/// 2026-03-01T12:00:00Z.
const NOON: u64 = 1_772_366_400_000;

impl Site {
    async fn with(epsilon: f64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SiteStore::open(&folder.path().join("site.sqlite"))
            .await
            .unwrap();
        let budget = Some(SiteBudget {
            epsilon,
            delta: None,
            allow_simulation: true,
            trust_server_with_single_updates: false,
        });
        Self {
            store,
            folder,
            budget,
            cohort: CohortFacts {
                manifest: "cohort.toml".into(),
                origin: Origin::Simulated,
                fitted: Vec::new(),
            },
            clock: Arc::new(Hand(NOON.into())),
        }
    }

    fn errand(&self, server: &Server) -> Errand {
        Errand {
            site: "a".parse().unwrap(),
            study: server.study.name.clone(),
            metrics_file: self.folder.path().join("metrics.json"),
            budget: self.budget,
            cohort: self.cohort.clone(),
        }
    }

    /// One process, from its start to its end.
    async fn run(&self, server: &Server, work: &Work) -> Result<Outcome, AgentError> {
        let (store, clock) = (self.store.clone(), Arc::clone(&self.clock));
        match Agent::join(
            self.errand(server),
            store,
            server.clone(),
            clock,
            work.make(),
        )
        .await?
        {
            Joined::Finished(outcome) => Ok(outcome),
            Joined::Agent(agent) => agent.run().await,
        }
    }

    /// Runs into a refusal; its code and exit code.
    async fn refused(&self, server: &Server, work: &Work) -> (String, ExitCode, OperatorError) {
        let error = self.run(server, work).await.unwrap_err();
        let code = error.code().to_owned();
        let error = OperatorError::from(error);
        (code, error.exit, error)
    }

    fn server(&self, name: &str) -> Server {
        Server::new(study(name, Some(&agreement())), &self.store)
    }

    async fn has_accepted(&self, server: &Server) -> bool {
        let accepted = self.store.accepted(&server.study.name).await.unwrap();
        accepted.is_some()
    }
}

fn all_recorded(arrived: &[Arrived]) -> bool {
    arrived.iter().all(Arrived::is_recorded)
}

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
    assert_eq!(dates[0], "2026-03-01T12:00:00.000Z");
    assert_eq!(dates[3], "2026-03-01T11:59:59.999Z");
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
        budget: Some(SiteBudget {
            epsilon: cost(3),
            delta: Some(DELTA),
            allow_simulation: true,
            trust_server_with_single_updates: false,
        }),
        ..site
    };
    enough.run(&server, &work).await.unwrap();
}

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
        budget: Some(SiteBudget {
            epsilon: cost(3),
            delta: Some(DELTA),
            allow_simulation: true,
            trust_server_with_single_updates: false,
        }),
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
        budget: Some(SiteBudget {
            epsilon: cost(3),
            delta: Some(DELTA),
            allow_simulation: true,
            trust_server_with_single_updates: false,
        }),
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
    site.budget = Some(SiteBudget {
        epsilon: 1.0,
        delta: None,
        allow_simulation: true,
        trust_server_with_single_updates: false,
    });
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
async fn a_study_that_halted_still_takes_the_final_model_home() {
    let site = Site::with(cost(2)).await;
    let (server, work) = (site.server("first"), Work::private());
    site.refused(&server, &work).await;
    // The others finish without this site.
    let mut arrived = server.arrived();
    arrived[1].sealed.round = ROUNDS;
    server
        .script
        .lock()
        .unwrap()
        .arrived
        .push(arrived.remove(1));
    let outcome = site.run(&server, &work).await.unwrap();
    assert_eq!(outcome.rounds_used, 2);
    assert_eq!(entries(&site.store).await.len(), 2);
}

#[tokio::test]
async fn private_work_that_does_not_say_what_it_spends_is_not_sent() {
    for (announced, taken, code) in [
        (None, Some(STEPS), "privacy_missing"),
        (Some(STEPS), None, "privacy_missing"),
        (Some(STEPS), Some(STEPS + 1), "privacy_other_steps"),
        (Some(STEPS), Some(STEPS - 1), "privacy_other_steps"),
        (Some(0), Some(0), "privacy_other_steps"),
    ] {
        let site = Site::with(100.0).await;
        let server = site.server("first");
        let mut work = Work::private();
        (work.announced, work.taken) = (announced, taken);
        let (got, exit, _) = site.refused(&server, &work).await;
        assert_eq!((got.as_str(), exit), (code, ExitCode::Refused));
        assert!(server.arrived().is_empty());
        assert_eq!(entries(&site.store).await, []);
    }
    let site = Site::with(100.0).await;
    let server = site.server("first");
    let mut quieter = Work::private();
    quieter.plan = Some(plan(0.5));
    let (code, ..) = site.refused(&server, &quieter).await;
    assert_eq!(code, "privacy_other_steps");
    assert_eq!(*quieter.trained.lock().unwrap(), 0);
}

#[tokio::test]
async fn an_agreement_that_does_not_hold_is_not_accepted() {
    let mut promising = agreement();
    promising.epsilon = promising.epsilon.next_down();
    let mut wordless = study("first", Some(&agreement()));
    wordless.sites[0].privacy = Some(serde_json::json!({"epsilon": 1.0}));
    for study in [study("first", Some(&promising)), wordless] {
        let site = Site::with(100.0).await;
        let server = Server::new(study, &site.store);
        let (code, exit, _) = site.refused(&server, &Work::private()).await;
        assert_eq!(
            (code.as_str(), exit),
            ("privacy_agreement_broken", ExitCode::Refused)
        );
        assert!(!site.has_accepted(&server).await);
    }
}

#[tokio::test]
async fn a_site_without_a_budget_takes_part_in_no_private_study() {
    let mut site = Site::with(100.0).await;
    site.budget = None;
    let server = site.server("first");
    let (code, exit, error) = site.refused(&server, &Work::private()).await;
    assert_eq!(
        (code.as_str(), exit),
        ("privacy_budget_not_set", ExitCode::Configuration)
    );
    assert!(error.hint.contains("[privacy]\nepsilon = "), "{error}");
    assert!(!site.has_accepted(&server).await);
}

#[tokio::test]
async fn a_study_without_protection_exceeds_every_budget() {
    let mut site = Site::with(100.0).await;
    let open = Server::new(study("open", None), &site.store);
    let (code, ..) = site.refused(&open, &Work::open()).await;
    assert_eq!(code, "privacy_unprotected_study");
    assert!(!site.has_accepted(&open).await);
    // A simulation has no budget; what it sent is not forgotten when somebody sets one.
    let budget = site.budget.take();
    site.run(&open, &Work::open()).await.unwrap();
    site.budget = budget;
    let private = site.server("first");
    let (code, exit, error) = site.refused(&private, &Work::private()).await;
    assert_eq!(
        (code.as_str(), exit),
        ("privacy_budget_exhausted", ExitCode::Refused)
    );
    assert!(error.message.contains("study open"), "{error}");
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
    let seal = async |event| {
        let event: Option<consilium_store::site::PrivacyEvent> = event;
        (site.store)
            .seal(name, &participation, &update, &local, event.as_ref())
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

#[tokio::test]
async fn a_site_that_does_not_simulate_is_asked_for_nothing() {
    let seeded = study("first", Some(&agreement()));
    let fast = real_study("first", plan(1.0));
    for (study, allowed, origin, code, exit, words) in [
        (
            &seeded,
            false,
            Origin::Simulated,
            "privacy_simulation_not_allowed",
            ExitCode::Configuration,
            "allow_simulation = true",
        ),
        (
            &seeded,
            true,
            Origin::Real,
            "privacy_simulation_real_cohort",
            ExitCode::Refused,
            "operating-system",
        ),
        (
            &fast,
            true,
            Origin::Simulated,
            "privacy_noise_level",
            ExitCode::Refused,
            "hardened",
        ),
    ] {
        let mut site = Site::with(100.0).await;
        site.budget.as_mut().unwrap().allow_simulation = allowed;
        site.cohort.origin = origin;
        let server = Server::new(study.clone(), &site.store);
        let unread: MakeWork = Box::new(|_, _| panic!("the records were read"));
        let joined = Agent::join(
            site.errand(&server),
            site.store.clone(),
            server.clone(),
            site.clock.clone(),
            unread,
        )
        .await;
        let Err(error) = joined else {
            panic!("{code}: not refused");
        };
        let error = OperatorError::from(error);
        assert_eq!((error.code.as_str(), error.exit), (code, exit));
        assert!(error.hint.contains(words), "{error}");
        assert_eq!(error.location.is_some(), study.is_simulation(), "{error}");
        assert!(!site.has_accepted(&server).await);
    }
    // Scaling that is computed from patients is for simulations.
    let mut site = Site::with(100.0).await;
    site.cohort.origin = Origin::Real;
    site.cohort.fitted = ["age", "heart rate"].map(str::to_owned).to_vec();
    let server = Server::new(real_study("first", hardened()), &site.store);
    let (code, exit, error) = site.refused(&server, &Work::secret()).await;
    assert_eq!(
        (code.as_str(), exit),
        ("privacy_preprocessing_fitted", ExitCode::Configuration)
    );
    assert!(error.hint.contains("age, heart rate"), "{error}");
    assert_eq!(
        error.location.as_deref(),
        Some("preprocessing.public in cohort.toml")
    );
    assert!(!site.has_accepted(&server).await);
    site.cohort.fitted.clear();
    site.run(&server, &Work::secret()).await.unwrap();
    // A public cohort may simulate.
    let mut site = Site::with(100.0).await;
    site.cohort.origin = Origin::Public;
    site.run(&site.server("first"), &Work::private())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_share_of_the_noise_is_sent_to_a_trusted_server_only_and_only_where_sums_make_it_up() {
    let shared = |shares: u32, change: &dyn Fn(&mut Study)| {
        let plan = ReleasePlan::new(ReleaseSettings {
            unit: Unit::Site,
            adjacency: dp_rs::adjacency::Adjacency::ZeroOut,
            clip_norm: 1.0,
            noise_multiplier: 8.0,
            noise_level: NoiseLevel::Hardened,
            against: shares
                .try_into()
                .map_or(Against::Everybody, |shares| Against::SumsOf { shares }),
        })
        .unwrap();
        let agreed = Agreement {
            plan: AgreedPlan::Releases(plan),
            steps: 4,
            delta: DELTA,
            epsilon: 3.0,
        };
        let mut study = study("first", Some(&agreed));
        study.randomness = real_study("first", hardened()).randomness;
        study.privacy = PrivacyMode::SiteUpdates;
        change(&mut study);
        study.check().unwrap();
        study
    };
    let mut site = Site::with(100.0).await;
    site.cohort.origin = Origin::Real;
    // What is fitted at a site is behind the clip of its update.
    site.cohort.fitted = vec!["age".into()];
    let code = |site: &Site, study: &Study| {
        let own = &study.sites[0];
        match Protection::of(study, own, site.budget, &site.cohort) {
            Ok(protection) => protection.map(|_| "accepted"),
            Err(refusal) => Some(refusal.code()),
        }
    };
    let usual = |_: &mut Study| ();
    assert_eq!(code(&site, &shared(0, &usual)), Some("accepted"));
    assert_eq!(
        code(&site, &shared(1, &usual)),
        Some("privacy_server_not_trusted")
    );
    site.budget
        .as_mut()
        .unwrap()
        .trust_server_with_single_updates = true;
    assert_eq!(code(&site, &shared(1, &usual)), Some("accepted"));
    // Two holders: one of them knows its own share.
    let broken = Some("privacy_agreement_broken");
    assert_eq!(code(&site, &shared(2, &usual)), broken);
    let weighted = shared(1, &|study| {
        study.aggregation.weights = consilium_core::study::WeightRule::DeclaredPatients;
    });
    assert_eq!(code(&site, &weighted), broken);
    let quieter = shared(1, &|study| {
        let plan = study.sites[1].privacy.as_mut().unwrap();
        plan["plan"]["noise_multiplier"] = 0.5.into();
    });
    assert_eq!(code(&site, &quieter), broken);
    let steps = shared(1, &|study| study.privacy = PrivacyMode::PrivateSteps);
    assert_eq!(code(&site, &steps), broken);
}

#[tokio::test]
async fn real_patients_take_part_in_no_study_without_protection() {
    let mut site = Site::with(100.0).await;
    site.budget = None;
    site.cohort.origin = Origin::Real;
    let open = Server::new(study("open", None), &site.store);
    let (code, ..) = site.refused(&open, &Work::open()).await;
    assert_eq!(code, "privacy_unprotected_study");
    assert!(!site.has_accepted(&open).await);
}

impl Site {
    /// The database as it lies on the disk while no process runs.
    async fn copied(mut self, server: &mut Server) -> (Self, Vec<u8>) {
        self.store.clone().close().await;
        let file = self.folder.path().join("site.sqlite");
        let copy = std::fs::read(&file).unwrap();
        self.store = SiteStore::open(&file).await.unwrap();
        server.store = self.store.clone();
        (self, copy)
    }

    /// Puts `copy` in place of the database; nothing at all for `None`.
    async fn restored(mut self, server: &mut Server, copy: Option<&[u8]>) -> Self {
        self.store.clone().close().await;
        let file = self.folder.path().join("site.sqlite");
        std::fs::remove_file(&file).unwrap();
        if let Some(copy) = copy {
            std::fs::write(&file, copy).unwrap();
        }
        self.store = SiteStore::open(&file).await.unwrap();
        server.store = self.store.clone();
        self
    }

    async fn settle(&self, server: &Server, releases: u64) -> Result<(), Refusal> {
        let standing = Standing::read(&self.store).await.unwrap();
        let decision = Decision {
            releases,
            reason: "the disk was replaced".into(),
        };
        let now = Moment::from_unix_milliseconds(NOON);
        let study = &server.study;
        let round = plan(1.0).events(STEPS);
        let entries = settlement(&standing, study, &study.sites[0], &round, &decision, now)?;
        let rows: Vec<_> = entries
            .iter()
            .map(|entry| row(&study.name, entry))
            .collect();
        self.store.settle_ledger(&rows).await.unwrap();
        Ok(())
    }
}

#[tokio::test]
async fn a_ledger_from_a_backup_or_begun_anew_sends_nothing_until_it_is_settled() {
    for with_backup in [true, false] {
        let site = Site::with(100.0).await;
        let (mut server, work) = (site.server("first"), Work::private());
        // Killed after the updates of rounds 1 and 2 have arrived.
        server.script.lock().unwrap().dies_after = 1;
        site.run(&server, &work).await.unwrap_err();
        let (site, backup) = site.copied(&mut server).await;
        server.script.lock().unwrap().dies_after = 1;
        site.run(&server, &work).await.unwrap_err();
        assert_eq!(entries(&site.store).await.len(), 2);
        let copy = with_backup.then_some(&backup[..]);
        let site = site.restored(&mut server, copy).await;
        let kept = usize::from(with_backup);
        // Also by the next process, before it has asked the server.
        for _ in 0..2 {
            let (code, exit, error) = site.refused(&server, &work).await;
            assert_eq!(
                (code.as_str(), exit),
                ("privacy_ledger_behind", ExitCode::Refused)
            );
            let details = error.details.unwrap();
            assert_eq!(details["entries"], kept);
            assert_eq!(details["countersigned"], 2);
            assert_eq!(details["missing"], 2);
            assert!(error.hint.contains("--releases 2"), "{}", error.hint);
        }
        assert_eq!(server.arrived().len(), 2);
        assert_eq!(*work.trained.lock().unwrap(), 2);
        let told = server.script.lock().unwrap().told.pop().unwrap();
        assert_eq!(told.0.code, "privacy_ledger_behind");
        assert!(told.0.may_return && told.1);
        let too_few = site.settle(&server, 1).await.unwrap_err();
        assert_eq!(too_few.code(), "privacy_settlement_too_small");
        assert_eq!(entries(&site.store).await.len(), kept);
        site.settle(&server, 2).await.unwrap();
        let again = site.settle(&server, 2).await.unwrap_err();
        assert_eq!(again.code(), "privacy_nothing_to_settle");
        // The third round is trained, and what was lost is spent with it.
        site.run(&server, &work).await.unwrap();
        assert_eq!(server.arrived().len(), 3);
        let standing = Standing::read(&site.store).await.unwrap();
        let spent = standing.ledger.total().unwrap();
        assert_eq!(spent.epsilon(DELTA).unwrap(), cost(kept as u64 + 3));
        let settled = &standing.ledger.entries()[kept].record;
        assert_eq!((settled.round, settled.attempt), (0, 1));
        assert!(settled.purpose.ends_with(": the disk was replaced"));
        assert_eq!(standing.uncovered().count(), 0);
    }
}

#[tokio::test]
async fn what_is_lost_counts_against_the_budget() {
    let site = Site::with(cost(4)).await;
    let (mut server, work) = (site.server("first"), Work::private());
    server.script.lock().unwrap().dies_after = 1;
    site.run(&server, &work).await.unwrap_err();
    let (site, backup) = site.copied(&mut server).await;
    server.script.lock().unwrap().dies_after = 1;
    site.run(&server, &work).await.unwrap_err();
    let site = site.restored(&mut server, Some(&backup)).await;
    site.refused(&server, &work).await;
    // One more than is missing: the operator knows of it.
    site.settle(&server, 3).await.unwrap();
    let (code, ..) = site.refused(&server, &work).await;
    assert_eq!(code, "privacy_budget_exhausted");
    assert_eq!(server.arrived().len(), 2);
}

#[tokio::test]
async fn receipts_are_kept_beside_the_ledger_and_bound_what_may_be_missing() {
    let site = Site::with(100.0).await;
    let server = site.server("first");
    site.run(&server, &Work::private()).await.unwrap();
    let mut standing = Standing::read(&site.store).await.unwrap();
    let name = server.study.name.clone();
    assert_eq!(standing.countersigned.len(), ROUNDS as usize);
    assert_eq!(
        standing.countersigned.last(),
        Some(&(name.clone(), standing.head().unwrap()))
    );
    standing.check_all().unwrap();
    // Another ledger of the same length, and a longer one: all since the newest common entry may be missing.
    for (length, missing) in [(3, 1), (7, 4)] {
        let other = LedgerHead {
            length,
            head: Digest::of(b"other"),
        };
        standing.check(&name, &other).unwrap_err();
        assert_eq!(standing.missing(&name, &other), missing);
    }
    // A server of which this site has seen nothing yet.
    let stranger = "stranger".parse().unwrap();
    let other = LedgerHead {
        length: 2,
        head: Digest::of(b"other"),
    };
    assert_eq!(standing.missing(&stranger, &other), 2);
    standing.keep(stranger, other);
    assert!(standing.check_all().is_err());
}

#[tokio::test]
async fn a_receipt_about_another_site_or_study_is_not_taken() {
    let site = Site::with(100.0).await;
    let server = site.server("first");
    server.script.lock().unwrap().head = Some(LedgerHead {
        length: 1,
        head: Digest::of(b"x"),
    });
    server.script.lock().unwrap().receipt_of = Some("b".parse().unwrap());
    let (code, ..) = site.refused(&server, &Work::private()).await;
    assert_eq!(code, "server_protocol");
    assert!(site.store.receipts().await.unwrap().is_empty());
}

#[test]
fn whose_budget_it_is_is_said_in_words() {
    assert_eq!(Whose::Study.to_string(), "the study");
    assert_eq!(Whose::Site.to_string(), "this site");
}

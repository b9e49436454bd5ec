//! Whatever happens to the agent, its ledger holds at least what has left the site, and at most what was agreed.

mod consortium;

use consilium_ops::{ExitCode, OperatorError};

use super::faults::inject;
use super::*;
use crate::privacy::Whose;
use consortium::{
    Arrived, DELTA, ROUNDS, STEPS, Server, Work, agreement, cost, entries, plan, study,
};

/// A site with a state folder.
struct Site {
    store: SiteStore,
    folder: tempfile::TempDir,
    budget: Option<SiteBudget>,
}

impl Site {
    async fn with(epsilon: f64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SiteStore::open(&folder.path().join("site.sqlite"))
            .await
            .unwrap();
        let budget = Some(SiteBudget {
            epsilon,
            delta: None,
        });
        Self {
            store,
            folder,
            budget,
        }
    }

    /// One process, from its start to its end.
    async fn run(&self, server: &Server, work: &Work) -> Result<Outcome, AgentError> {
        let errand = Errand {
            site: "a".parse().unwrap(),
            study: server.study.name.clone(),
            metrics_file: self.folder.path().join("metrics.json"),
            budget: self.budget,
        };
        match Agent::join(errand, self.store.clone(), server.clone(), work.make()).await? {
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
    // The next process tells it first; with a higher budget it then takes part again, and says that too.
    let enough = Site {
        budget: Some(SiteBudget {
            epsilon: cost(3),
            delta: Some(DELTA),
        }),
        ..site
    };
    enough.run(&server, &work).await.unwrap();
    let (told, returned) = {
        let script = server.script.lock().unwrap();
        (script.told.clone(), script.returned)
    };
    assert_eq!(told, [(halt.withdrawal, true)]);
    assert_eq!(returned, 1);
    assert_eq!(enough.store.halted(name).await.unwrap(), None);
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
    let mut settings = other.plan.settings().clone();
    settings.adjacency = dp_rs::adjacency::Adjacency::ReplaceOne;
    other.plan = dp_rs::plan::Plan::new(settings).unwrap();
    other.epsilon = 50.0;
    let second = Server::new(study("second", Some(&other)), &site.store);
    let mut work = Work::private();
    work.plan = Some(other.plan.clone());
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
        deadline: consilium_core::clock::Timestamp(0),
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

#[test]
fn whose_budget_it_is_is_said_in_words() {
    assert_eq!(Whose::Study.to_string(), "the study");
    assert_eq!(Whose::Site.to_string(), "this site");
}

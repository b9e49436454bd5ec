use super::*;
use crate::adjacency::Adjacency;
use crate::event::{Event, Repeated};
use crate::noise::{NoiseLevel, Randomness};
use crate::plan::{Transcript, Unit};

const DELTA: f64 = 1e-5;

fn steps(noise_multiplier: f64, count: u64) -> Repeated {
    Event::poisson_gaussian(noise_multiplier, 0.02)
        .unwrap()
        .repeated(count, Adjacency::AddRemove)
}

fn record(study: &str, round: u32, events: Repeated) -> Record {
    Record {
        study: study.into(),
        round,
        attempt: 1,
        purpose: "training".into(),
        release: Some("ab".repeat(32)),
        delta: Some(DELTA),
        transcript: Transcript {
            unit: Unit::Patient,
            events,
            noise_level: NoiseLevel::Hardened,
            randomness: Randomness::OperatingSystem,
            against: Default::default(),
        },
    }
}

/// The moment of round `round`, an hour after the one before.
fn at(round: u32) -> Moment {
    Moment::from_unix_milliseconds(1_772_366_400_000 + u64::from(round) * 3_600_000)
}

fn ledger() -> Ledger {
    let mut ledger = Ledger::default();
    for round in 1..=4 {
        ledger.append(record("first", round, steps(1.0, 50)), at(round));
    }
    ledger.append(record("second", 1, steps(1.3, 20)), at(5));
    ledger
}

fn epsilon(account: Result<Account, MixedLedger>) -> f64 {
    account.unwrap().epsilon(DELTA).unwrap()
}

fn budget(epsilon: f64) -> Budget {
    Budget::new(epsilon, DELTA).unwrap()
}

#[test]
fn what_is_stored_is_read_back_and_every_change_is_found() {
    let ledger = ledger();
    let json = serde_json::to_value(ledger.entries()).unwrap();
    let read = |json: &serde_json::Value| {
        Ledger::from_entries(serde_json::from_value(json.clone()).unwrap())
    };
    assert_eq!(read(&json).unwrap(), ledger);
    // Every field of the third entry, one at a time.
    for (path, value) in [
        ("/2/at", serde_json::json!("2026-03-01T15:00:00.001Z")),
        ("/2/study", serde_json::json!("other")),
        ("/2/round", serde_json::json!(9)),
        ("/2/attempt", serde_json::json!(2)),
        ("/2/purpose", serde_json::json!("statistics")),
        ("/2/release", serde_json::json!("cd".repeat(32))),
        ("/2/delta", serde_json::json!(1e-6)),
        ("/2/transcript/unit", serde_json::json!("record")),
        ("/2/transcript/events/count", serde_json::json!(49)),
        (
            "/2/transcript/events/adjacency",
            serde_json::json!("zero-out"),
        ),
        (
            "/2/transcript/events/event/noise_multiplier",
            serde_json::json!(1.1),
        ),
        ("/2/transcript/noise_level", serde_json::json!("exact")),
        (
            "/2/transcript/randomness",
            serde_json::json!("simulation-seeded"),
        ),
        ("/2/sha256", serde_json::json!("00".repeat(32))),
    ] {
        let mut forged = json.clone();
        *forged
            .pointer_mut(path)
            .unwrap_or_else(|| panic!("no {path}")) = value;
        let broken = read(&forged).unwrap_err();
        assert_eq!(broken, BrokenLedger::Changed { sequence: 3 }, "{path}");
    }
}

#[test]
fn entries_that_are_missing_moved_or_replaced_are_found() {
    let entries = ledger().entries;
    let mut missing = entries.clone();
    missing.remove(1);
    let (expected, got) = (2, 3);
    assert_eq!(
        Ledger::from_entries(missing),
        Err(BrokenLedger::Sequence { expected, got })
    );
    let mut moved = entries.clone();
    moved.swap(1, 2);
    assert!(Ledger::from_entries(moved).is_err());
    // Written anew with its own correct hash: the next one does not follow it.
    let mut replaced = entries.clone();
    let previous = replaced[1].previous.clone();
    replaced[1] = Entry::new(2, at(2), &previous, record("first", 2, steps(1.0, 1)));
    assert_eq!(
        Ledger::from_entries(replaced),
        Err(BrokenLedger::Previous { sequence: 3 })
    );
    // A ledger that was cut short is a ledger; only a head that was kept elsewhere tells.
    let cut = Ledger::from_entries(entries[..3].to_vec()).unwrap();
    assert_ne!(cut.head(), ledger().head());
}

#[test]
fn an_entry_is_pushed_only_after_the_one_it_was_made_for() {
    let mut ledger = ledger();
    let next = ledger.following(record("second", 2, steps(1.3, 20)), at(6));
    let rival = ledger.following(record("second", 3, steps(1.3, 20)), at(6));
    assert_eq!(ledger.len(), 5);
    ledger.push(next.clone()).unwrap();
    let (expected, got) = (7, 6);
    assert_eq!(
        ledger.push(rival.clone()),
        Err(BrokenLedger::Sequence { expected, got })
    );
    let rival = Entry {
        sequence: 7,
        ..rival
    };
    assert_eq!(
        ledger.push(rival),
        Err(BrokenLedger::Previous { sequence: 7 })
    );
    assert_eq!(ledger.entries.last(), Some(&next));
}

#[test]
fn merged_entries_cost_what_their_steps_cost_at_once() {
    let ledger = ledger();
    // 500 steps at rate 0.02 and multiplier 1 cost 2.7734 (accountant.json, d01).
    let mut ten = Ledger::default();
    for round in 1..=10 {
        ten.append(record("first", round, steps(1.0, 50)), at(round));
    }
    assert!((epsilon(ten.total()) - 2.7734).abs() < 2e-3);
    assert_eq!(ten.total().unwrap().events(), [steps(1.0, 500)]);
    let (first, second) = (
        epsilon(ledger.study("first")),
        epsilon(ledger.study("second")),
    );
    let total = epsilon(ledger.total());
    assert!(first < total && second < total && total < first + second);
    assert_eq!(epsilon(ledger.study("third")), 0.0);
    assert_eq!(
        ledger.studies().into_iter().collect::<Vec<_>>(),
        ["first", "second"]
    );
    let spending = ledger.total().unwrap().spending(DELTA).unwrap().unwrap();
    assert!(spending.cross_check.epsilon >= spending.epsilon());
    assert!(spending.cross_check.epsilon < 1.5 * spending.epsilon());
}

#[test]
fn a_budget_is_kept_to_the_last_bit() {
    let ledger = ledger();
    let account = ledger.total().unwrap();
    let mut with = ledger.clone();
    with.append(record("third", 1, steps(1.1, 30)), at(6));
    let exactly = epsilon(with.total());
    let admitted = account.admit(Unit::Patient, &steps(1.1, 30), budget(exactly));
    assert_eq!(admitted.unwrap().epsilon(), exactly);
    let below = budget(exactly.next_down());
    let refused = account.admit(Unit::Patient, &steps(1.1, 30), below);
    let Err(NotAdmitted::Exhausted(exhausted)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(exhausted.together, exactly);
    assert_eq!(exhausted.spent, epsilon(ledger.total()));
    assert_eq!(exhausted.budget, below);
    assert!(exhausted.asked < exhausted.together);
    assert!(exhausted.remaining() < exhausted.asked);
    // One step less fits.
    assert!(account.admit(Unit::Patient, &steps(1.1, 29), below).is_ok());
}

#[test]
fn how_often_something_is_affordable_is_what_admitting_one_by_one_gives() {
    let round = steps(1.0, 50);
    let budget = budget(2.0);
    let mut ledger = ledger();
    let affordable = ledger.total().unwrap();
    let affordable = affordable
        .affordable(Unit::Patient, &round, budget, 1000)
        .unwrap();
    let mut admitted = 0;
    while ledger
        .total()
        .unwrap()
        .admit(Unit::Patient, &round, budget)
        .is_ok()
    {
        ledger.append(
            record("first", 5 + admitted, round.clone()),
            at(5 + admitted),
        );
        admitted += 1;
    }
    assert_eq!(affordable, u64::from(admitted));
    let account = ledger.total().unwrap();
    assert_eq!(
        account.affordable(Unit::Patient, &round, budget, 1000),
        Ok(0)
    );
    let empty = Account::default();
    assert_eq!(
        empty.affordable(Unit::Patient, &steps(1e4, 1), budget, 3),
        Ok(3)
    );
}

#[test]
fn other_units_and_neighbours_are_never_summed() {
    let mut ledger = ledger();
    let account = ledger.total().unwrap();
    let per_record = account.admit(Unit::Record, &steps(1.0, 1), budget(100.0));
    assert!(
        matches!(per_record, Err(NotAdmitted::Mixed(_))),
        "{per_record:?}"
    );
    let replaced = Repeated {
        adjacency: Adjacency::ReplaceOne,
        ..steps(1.0, 1)
    };
    let refused = account.admit(Unit::Patient, &replaced, budget(100.0));
    assert!(matches!(refused, Err(NotAdmitted::Mixed(_))), "{refused:?}");
    ledger.append(record("third", 1, replaced), at(6));
    let mixed = ledger.total().unwrap_err();
    assert_eq!(mixed.other, (Unit::Patient, Adjacency::ReplaceOne));
    // Each study on its own still has its number.
    assert!(epsilon(ledger.study("third")) > 0.0);
}

#[test]
fn a_release_without_protection_exhausts_every_budget_for_good() {
    let mut ledger = ledger();
    let events = Event::non_private().repeated(1, Adjacency::AddRemove);
    ledger.append(record("open", 1, events), at(6));
    assert_eq!(epsilon(ledger.total()), f64::INFINITY);
    let account = ledger.total().unwrap();
    let refused = account.admit(Unit::Patient, &steps(100.0, 1), budget(1e9));
    assert!(matches!(refused, Err(NotAdmitted::Exhausted(_))));
}

#[test]
fn seeds_and_noise_levels_are_told() {
    let mut ledger = ledger();
    assert!(!ledger.total().unwrap().is_simulated());
    let mut seeded = record("third", 1, steps(1.0, 1));
    seeded.transcript.randomness = Randomness::SimulationSeeded;
    seeded.transcript.noise_level = NoiseLevel::Fast;
    ledger.append(seeded, at(6));
    let account = ledger.total().unwrap();
    assert!(account.is_simulated());
    assert_eq!(
        account.noise_levels(),
        [NoiseLevel::Hardened, NoiseLevel::Fast]
    );
    assert_eq!(account.releases(), 6);
    assert!(!ledger.study("first").unwrap().is_simulated());
}

#[test]
fn what_limits_nothing_is_no_budget() {
    for (epsilon, delta) in [
        (f64::NAN, 1e-5),
        (f64::INFINITY, 1e-5),
        (-1.0, 1e-5),
        (1.0, 0.0),
        (1.0, 1.0),
        (1.0, f64::NAN),
    ] {
        assert!(Budget::new(epsilon, delta).is_err(), "{epsilon} {delta}");
    }
    assert!(serde_json::from_str::<Budget>(r#"{"epsilon":1.0,"delta":2.0}"#).is_err());
    let none = budget(0.0);
    assert!(
        Account::default()
            .admit(Unit::Patient, &steps(9.0, 1), none)
            .is_err()
    );
}

#[test]
fn a_clock_that_was_set_back_is_told_and_changes_nothing_else() {
    let mut ledger = ledger();
    assert!(ledger.clock_went_back().is_empty());
    let period = ledger.total().unwrap().period();
    assert_eq!(period, Some((at(1), at(5))));
    for (round, hour) in [(2, 3), (3, 4), (4, 0)] {
        ledger.append(record("second", round, steps(1.3, 20)), at(hour));
    }
    assert_eq!(ledger.clock_went_back(), [6, 8]);
    let read = Ledger::from_entries(ledger.entries().to_vec());
    assert_eq!(read, Ok(ledger.clone()));
    assert_eq!(ledger.total().unwrap().period(), Some((at(0), at(5))));
    assert_eq!(Account::default().period(), None);
}

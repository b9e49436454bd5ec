//! The life of a study: both sides together, with repeated and misplaced events.

use consilium_core::clock::Timestamp;
use consilium_core::study::{
    Aggregation, ModelChoice, PROTOCOL_VERSION, Participant, Randomness, Schedule, WeightRule,
};
use consilium_core::{Digest, ModelManifest, Seed, SiteId, Study, TensorSpec};
use consilium_rounds::{
    Assignment, Coordination, Effect, Event, InvalidWithdrawal, Missing, Outcome, Participation,
    Phase, SiteEffect, Withdrawal,
};
use proptest::prelude::*;

const SITES: [&str; 3] = ["a", "b", "c"];

fn study(rounds: u32, retry_rounds: u32) -> Study {
    let tensor = |group: &str| TensorSpec {
        name: group.into(),
        group: group.parse().unwrap(),
        shape: vec![1],
    };
    Study {
        protocol_version: PROTOCOL_VERSION,
        name: "life".parse().unwrap(),
        randomness: Randomness::SimulationSeeded { seed: Seed(1) },
        model: ModelChoice {
            name: "none".into(),
            settings: serde_json::Value::Null,
        },
        manifest: ModelManifest {
            tensors: vec![tensor("trunk"), tensor("stem/m"), tensor("head/t")],
        },
        initial_model_sha256: Digest::of(b"initial"),
        sites: SITES
            .map(|site| Participant {
                site: site.parse().unwrap(),
                modality: "m".parse().unwrap(),
                task: "t".parse().unwrap(),
                declared_patients: 10,
                privacy: None,
            })
            .to_vec(),
        schedule: Schedule {
            rounds,
            retry_rounds,
            quorum: 2,
            deadline_seconds: 60,
        },
        training: serde_json::Value::Null,
        privacy: consilium_core::study::PrivacyMode::NoneSimulationOnly,
        aggregation: Aggregation {
            weights: WeightRule::EqualSite,
            minimum_holders: 2,
        },
    }
}

fn site(name: &str) -> SiteId {
    name.parse().unwrap()
}

fn stored(name: &str, round: u32, attempt: u32) -> Event {
    let digest = Digest::of(format!("{name}{round}{attempt}").as_bytes());
    Event::UpdateStored {
        site: site(name),
        round,
        attempt,
        digest,
    }
}

fn started(study: &Study) -> Coordination {
    let mut coordination = Coordination::new(study);
    coordination
        .handle(study, Event::Started { now: Timestamp(0) })
        .unwrap();
    coordination
}

const BEFORE: Event = Event::Clock {
    now: Timestamp(59_999),
};
const AFTER: Event = Event::Clock {
    now: Timestamp(60_000),
};

#[test]
fn a_round_aggregates_when_every_site_has_answered() {
    let study = study(1, 0);
    let mut coordination = started(&study);
    for name in ["b", "a"] {
        assert_eq!(coordination.handle(&study, stored(name, 1, 1)).unwrap(), []);
    }
    let effects = coordination.handle(&study, stored("c", 1, 1)).unwrap();
    assert!(
        matches!(&effects[..], [Effect::Aggregate { contributors, .. }] if contributors.len() == 3)
    );
    let model = Digest::of(b"next");
    let done = Event::Aggregated {
        round: 1,
        attempt: 1,
        model,
        now: Timestamp(5),
    };
    let effects = coordination.handle(&study, done).unwrap();
    assert_eq!(
        effects,
        [
            Effect::ForgetUpdates {
                round: 1,
                attempt: 1
            },
            Effect::AnnounceEnd
        ]
    );
    assert_eq!(coordination.phase, Phase::Finished);
    assert_eq!(coordination.model, model);
}

#[test]
fn a_deadline_with_quorum_aggregates_and_names_the_missing() {
    let study = study(1, 0);
    let mut coordination = started(&study);
    coordination.handle(&study, stored("a", 1, 1)).unwrap();
    coordination.handle(&study, stored("c", 1, 1)).unwrap();
    assert_eq!(coordination.handle(&study, BEFORE).unwrap(), []);
    let effects = coordination.handle(&study, AFTER).unwrap();
    assert!(
        matches!(&effects[..], [Effect::Aggregate { contributors, .. }] if contributors.len() == 2)
    );
    let late = coordination
        .admits(&study, &site("b"), 1, 1, Digest::of(b"b11"))
        .unwrap_err();
    assert_eq!(late.code(), "update_late");
    let done = Event::Aggregated {
        round: 1,
        attempt: 1,
        model: Digest::of(b"n"),
        now: Timestamp(5),
    };
    coordination.handle(&study, done).unwrap();
    assert_eq!(coordination.closed[0].missing, [site("b")]);
}

#[test]
fn a_round_without_quorum_closes_as_failed_says_so_and_is_tried_again() {
    let study = study(1, 1);
    let mut coordination = started(&study);
    let initial = coordination.model;
    coordination.handle(&study, stored("a", 1, 1)).unwrap();
    let effects = coordination.handle(&study, AFTER).unwrap();
    assert_eq!(
        effects[0],
        Effect::ForgetUpdates {
            round: 1,
            attempt: 1
        }
    );
    assert!(matches!(&effects[1], Effect::Announce(plan) if plan.attempt == 2 && plan.round == 1));
    assert_eq!(
        coordination.closed[0].outcome,
        Outcome::QuorumMissed {
            received: 1,
            quorum: 2
        }
    );
    assert_eq!(coordination.model, initial);
    let again = Event::Clock {
        now: Timestamp(200_000),
    };
    assert!(
        coordination
            .handle(&study, again)
            .unwrap()
            .contains(&Effect::AnnounceEnd)
    );
    assert!(matches!(coordination.phase, Phase::Failed { .. }));
}

fn withdrawal(may_return: bool) -> Withdrawal {
    Withdrawal {
        round: 1,
        attempt: 1,
        code: "privacy_budget_exhausted".into(),
        reason: "the privacy budget does not cover the next round".into(),
        may_return,
    }
}

fn withdrawn(name: &str, may_return: bool) -> Event {
    Event::Withdrawn {
        site: site(name),
        withdrawal: withdrawal(may_return),
    }
}

fn aggregated(round: u32) -> Event {
    Event::Aggregated {
        round,
        attempt: 1,
        model: Digest::of(&round.to_le_bytes()),
        now: Timestamp(0),
    }
}

#[test]
fn a_site_that_withdraws_is_not_waited_for_in_this_round_or_the_next() {
    let study = study(2, 0);
    let mut coordination = started(&study);
    coordination.handle(&study, stored("a", 1, 1)).unwrap();
    assert_eq!(
        coordination.handle(&study, withdrawn("c", false)).unwrap(),
        []
    );
    let before = coordination.clone();
    // Repeated, also from a later round: nothing changes.
    let mut again = withdrawal(false);
    again.round = 2;
    for withdrawal in [withdrawal(false), again] {
        let site = site("c");
        let event = Event::Withdrawn { site, withdrawal };
        assert_eq!(coordination.handle(&study, event).unwrap(), []);
        assert_eq!(coordination, before);
    }
    for round in [1, 2] {
        coordination.handle(&study, stored("a", round, 1)).unwrap();
        let effects = coordination.handle(&study, stored("b", round, 1)).unwrap();
        assert!(
            matches!(&effects[..], [Effect::Aggregate { contributors, .. }] if contributors.len() == 2)
        );
        coordination.handle(&study, aggregated(round)).unwrap();
    }
    for record in coordination.closed.iter() {
        assert_eq!(record.missing, [site("c")]);
        let code = withdrawal(false).code;
        let reason = withdrawal(false).reason;
        assert_eq!(
            record.why_missing,
            [(site("c"), Missing::Withdrawn { code, reason })].into()
        );
    }
    assert_eq!(coordination.phase, Phase::Finished);
}

#[test]
fn the_last_one_to_withdraw_closes_the_round_that_the_others_have_answered() {
    let study = study(1, 0);
    let mut coordination = started(&study);
    for name in ["a", "b"] {
        coordination.handle(&study, stored(name, 1, 1)).unwrap();
    }
    let effects = coordination.handle(&study, withdrawn("c", false)).unwrap();
    assert!(matches!(&effects[..], [Effect::Aggregate { .. }]));
    // An update that is stored is used, whatever its site says afterwards.
    let mut coordination = started(&study);
    coordination.handle(&study, stored("a", 1, 1)).unwrap();
    coordination.handle(&study, withdrawn("a", false)).unwrap();
    coordination.handle(&study, stored("b", 1, 1)).unwrap();
    let effects = coordination.handle(&study, stored("c", 1, 1)).unwrap();
    assert!(
        matches!(&effects[..], [Effect::Aggregate { contributors, .. }] if contributors.len() == 3)
    );
}

#[test]
fn a_quorum_out_of_reach_fails_the_round_and_the_study_at_once_and_names_who_withdrew() {
    let study = study(2, 5);
    let mut coordination = started(&study);
    coordination.handle(&study, stored("a", 1, 1)).unwrap();
    coordination.handle(&study, withdrawn("b", false)).unwrap();
    let effects = coordination.handle(&study, withdrawn("c", false)).unwrap();
    let (round, attempt) = (1, 1);
    assert_eq!(
        effects,
        [
            Effect::ForgetUpdates { round, attempt },
            Effect::AnnounceEnd
        ]
    );
    let record = &coordination.closed[0];
    let (reachable, quorum) = (1, 2);
    assert_eq!(
        record.outcome,
        Outcome::QuorumOutOfReach { reachable, quorum }
    );
    assert_eq!(record.why_missing.len(), 2);
    let reason = coordination.end().unwrap().unwrap_err();
    for words in ["quorum of 2", "b (privacy_budget_exhausted)", "c ("] {
        assert!(reason.contains(words), "{reason}");
    }
    // Both withdrew after they had delivered: the next round is not opened.
    let mut coordination = started(&study);
    for name in ["a", "b"] {
        coordination.handle(&study, stored(name, 1, 1)).unwrap();
        coordination.handle(&study, withdrawn(name, false)).unwrap();
    }
    coordination.handle(&study, stored("c", 1, 1)).unwrap();
    let effects = coordination.handle(&study, aggregated(1)).unwrap();
    assert_eq!(effects.last(), Some(&Effect::AnnounceEnd));
    assert_eq!(coordination.committed_rounds(), 1);
    assert_eq!(
        coordination.closed[1].why_missing[&site("c")],
        Missing::NotAwaited
    );
}

#[test]
fn a_site_that_may_return_is_awaited_and_one_that_returned_is_awaited_again() {
    let study = study(1, 0);
    let mut coordination = started(&study);
    for name in ["a", "b"] {
        coordination.handle(&study, stored(name, 1, 1)).unwrap();
    }
    assert_eq!(
        coordination.handle(&study, withdrawn("c", true)).unwrap(),
        []
    );
    assert!(coordination.open_plan().is_some());
    coordination.handle(&study, AFTER).unwrap();
    coordination.handle(&study, aggregated(1)).unwrap();
    assert!(matches!(
        coordination.closed[0].why_missing[&site("c")],
        Missing::Withdrawn { .. }
    ));
    let mut coordination = started(&study);
    coordination.handle(&study, withdrawn("c", false)).unwrap();
    let returned = Event::Returned { site: site("c") };
    for _ in 0..2 {
        assert_eq!(coordination.handle(&study, returned.clone()).unwrap(), []);
        assert!(coordination.withdrawn.is_empty());
    }
    coordination.handle(&study, stored("a", 1, 1)).unwrap();
    assert_eq!(coordination.handle(&study, stored("b", 1, 1)).unwrap(), []);
    // Whoever delivers has returned.
    coordination.handle(&study, withdrawn("c", true)).unwrap();
    let effects = coordination.handle(&study, stored("c", 1, 1)).unwrap();
    assert_eq!(effects.len(), 1);
    assert!(coordination.withdrawn.is_empty());
}

#[test]
fn who_was_late_and_whose_update_was_refused_is_told_apart() {
    let study = study(1, 1);
    let mut coordination = started(&study);
    coordination.handle(&study, stored("a", 1, 1)).unwrap();
    let refused = |name: &str, attempt| Event::UpdateRefused {
        site: site(name),
        round: 1,
        attempt,
        code: "update_wrong_groups".into(),
    };
    // Of another attempt, of a stranger, of a site whose update is there: not this round's matter.
    for event in [refused("b", 2), refused("x", 1), refused("a", 1)] {
        let before = coordination.clone();
        assert_eq!(coordination.handle(&study, event).unwrap(), []);
        assert_eq!(coordination, before);
    }
    coordination.handle(&study, refused("b", 1)).unwrap();
    coordination.handle(&study, AFTER).unwrap();
    let code = "update_wrong_groups".into();
    assert_eq!(
        coordination.closed[0].why_missing,
        [
            (site("b"), Missing::Refused { code }),
            (site("c"), Missing::Late)
        ]
        .into()
    );
}

#[test]
fn a_withdrawal_that_is_no_plain_text_is_refused() {
    assert_eq!(withdrawal(true).check(), Ok(()));
    for code in ["", "Bad", "with space", &"x".repeat(65)] {
        let mut bad = withdrawal(true);
        bad.code = code.to_owned();
        assert_eq!(bad.check(), Err(InvalidWithdrawal::Code), "{code}");
    }
    for reason in ["two\nlines", "\u{1b}[31m", &"x".repeat(201)] {
        let mut bad = withdrawal(true);
        bad.reason = reason.to_owned();
        assert_eq!(bad.check(), Err(InvalidWithdrawal::Reason), "{reason}");
    }
}

#[test]
fn a_sum_that_cannot_be_done_ends_the_study_and_says_so_to_both_sides() {
    let study = study(2, 5);
    let mut coordination = started(&study);
    let failed = Event::SumFailed {
        round: 1,
        attempt: 1,
        code: "store_corrupt".into(),
        problem: "blobs/ab does not hold what its name says".into(),
    };
    assert!(coordination.handle(&study, failed.clone()).is_err());
    for name in SITES {
        coordination.handle(&study, stored(name, 1, 1)).unwrap();
    }
    let effects = coordination.handle(&study, failed.clone()).unwrap();
    assert_eq!(effects, [Effect::AnnounceEnd]);
    assert_eq!(coordination.handle(&study, failed).unwrap(), []);
    assert!(matches!(
        &coordination.closed[0].outcome,
        Outcome::SumFailed { problem, .. } if problem.contains("blobs/ab")
    ));
    // Sites are told the code, and no path of the server.
    let reason = coordination.end().unwrap().unwrap_err();
    assert!(reason.contains("store_corrupt") && !reason.contains("blobs"));
    assert_eq!(coordination.sealed_was_used(&site("a"), 1, 1), Some(false));
}

#[test]
fn updates_of_strangers_other_rounds_and_changed_updates_are_rejected() {
    let study = study(2, 0);
    let mut coordination = started(&study);
    coordination.handle(&study, stored("a", 1, 1)).unwrap();
    let digest = Digest::of(b"other");
    let code = |name: &str, round, attempt| {
        coordination
            .admits(&study, &site(name), round, attempt, digest)
            .unwrap_err()
            .code()
    };
    assert_eq!(code("stranger", 1, 1), "update_unknown_site");
    assert_eq!(code("b", 2, 1), "update_round_not_open");
    assert_eq!(code("b", 1, 2), "update_round_not_open");
    assert_eq!(code("a", 1, 1), "update_conflicting");
}

#[test]
fn a_site_refuses_plans_of_another_study_from_another_initial_model_or_of_rounds_it_has_done() {
    let study = study(2, 0);
    let coordination = started(&study);
    let plan = coordination.open_plan().unwrap().clone();
    let ask = |plan| Assignment {
        plan: Some(plan),
        ..Assignment::default()
    };
    let mut participation = Participation::new(&study);
    let mut other = plan.clone();
    other.study = Digest::of(b"another study");
    assert_eq!(
        participation
            .assigned(&study, &ask(other))
            .unwrap_err()
            .code(),
        "plan_other_study"
    );
    let mut other = plan.clone();
    other.model = Digest::of(b"another model");
    assert_eq!(
        participation
            .assigned(&study, &ask(other))
            .unwrap_err()
            .code(),
        "plan_other_model"
    );
    participation.advanced_to = 1;
    assert_eq!(
        participation
            .assigned(&study, &ask(plan))
            .unwrap_err()
            .code(),
        "plan_wrong_round"
    );
}

/// What the server answers to a site with this state.
fn assignment(
    coordination: &Coordination,
    name: &str,
    participation: &Participation,
) -> Assignment {
    Assignment {
        sealed_was_used: participation.sealed.and_then(|sealed| {
            coordination.sealed_was_used(&site(name), sealed.round, sealed.attempt)
        }),
        plan: coordination.open_plan().cloned(),
        end: coordination.end(),
        ..Assignment::default()
    }
}

proptest! {
    /// Any sequence of "this site polls", "this site's reply is lost and it repeats", "the deadline passes":
    /// every site ends in the same study state, and every update that was used advanced its site once.
    #[test]
    fn both_sides_agree_whatever_is_repeated_or_late(steps in prop::collection::vec((0_usize..3, 0_u8..8), 1..200)) {
        let study = study(4, 2);
        let mut server = started(&study);
        let mut sites: Vec<Participation> = SITES.iter().map(|_| Participation::new(&study)).collect();
        let mut advanced = vec![Vec::new(); 3];
        let mut now = 0;
        for (index, what) in steps {
            if what == 7 {
                now += 61_000;
                drive(&mut server, &study, Event::Clock { now: Timestamp(now) }, now);
                continue;
            }
            let answer = assignment(&server, SITES[index], &sites[index]);
            for effect in sites[index].assigned(&study, &answer).unwrap() {
                let sealed = match effect {
                    SiteEffect::AdvanceLocalState { round } => { advanced[index].push(round); continue; }
                    SiteEffect::Train(plan) => {
                        let digest = Digest::of(format!("{index}{}{}", plan.round, plan.attempt).as_bytes());
                        let SiteEffect::Upload(sealed) = sites[index].seal(&plan, digest) else { unreachable!() };
                        sealed
                    }
                    SiteEffect::Upload(sealed) => sealed,
                    SiteEffect::RollBack { .. } | SiteEffect::Finish(_) => continue,
                };
                // what & 1: the request is lost; what & 2: it is sent twice.
                for _ in 0..(if what & 1 == 1 { 0 } else { 1 + (what & 2) / 2 }) {
                    let (round, attempt, digest) = (sealed.round, sealed.attempt, sealed.digest);
                    if server.admits(&study, &site(SITES[index]), round, attempt, digest).is_ok() {
                        let event = Event::UpdateStored { site: site(SITES[index]), round, attempt, digest };
                        drive(&mut server, &study, event, now);
                    }
                }
            }
        }
        for (index, rounds) in advanced.iter().enumerate() {
            for round in rounds {
                let used = server.closed.iter().filter(|record| record.round == *round
                    && matches!(record.outcome, Outcome::Committed { .. })
                    && record.received.contains_key(&site(SITES[index]))).count();
                prop_assert_eq!(used, 1);
            }
            prop_assert!(rounds.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}

/// Feeds an event, its repetition, and what follows from its effects.
fn drive(server: &mut Coordination, study: &Study, event: Event, now: u64) {
    let effects = server.handle(study, event.clone()).unwrap();
    if !matches!(event, Event::Clock { .. }) {
        assert_eq!(
            server.handle(study, event).unwrap(),
            [],
            "a repeated event had an effect"
        );
    }
    for effect in effects {
        if let Effect::Aggregate { plan, .. } = effect {
            let model = Digest::of(format!("model {}", plan.round).as_bytes());
            let (round, attempt) = (plan.round, plan.attempt);
            drive(
                server,
                study,
                Event::Aggregated {
                    round,
                    attempt,
                    model,
                    now: Timestamp(now),
                },
                now,
            );
        }
    }
}

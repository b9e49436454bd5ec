//! What the log tells of a change of the study's state.

use consilium_rounds::{Coordination, Event as Happened, Outcome, RoundRecord};
use consilium_transparency::Event;

/// The entries about a step from `before` to `after`, which are not the same. `statement` is the privacy statement
/// of an update that has come.
#[must_use]
pub fn told(
    happened: &Happened,
    before: &Coordination,
    after: &Coordination,
    statement: Option<serde_json::Value>,
) -> Vec<Event> {
    let mut events = Vec::new();
    let back = before.withdrawn.keys();
    let back = back.filter(|site| !after.withdrawn.contains_key(*site));
    events.extend(back.map(|site| Event::StudyRejoined { site: site.clone() }));
    match happened {
        Happened::UpdateStored {
            site,
            round,
            attempt,
            digest,
        } => events.push(Event::UpdateReceived {
            site: site.clone(),
            round: *round,
            attempt: *attempt,
            update: *digest,
            privacy: statement,
        }),
        Happened::UpdateRefused {
            site,
            round,
            attempt,
            code,
        } => events.push(Event::UpdateRefused {
            site: site.clone(),
            round: *round,
            attempt: *attempt,
            code: code.clone(),
        }),
        Happened::Withdrawn { site, withdrawal } => events.push(Event::StudyWithdrawn {
            site: site.clone(),
            round: withdrawal.round,
            attempt: withdrawal.attempt,
            code: withdrawal.code.clone(),
            may_return: withdrawal.may_return,
        }),
        _ => {}
    }
    for record in &after.closed[before.closed.len()..] {
        closed(record, &mut events);
    }
    if let Some(plan) = after.open_plan()
        && before.open_plan() != Some(plan)
    {
        events.push(Event::PlanOpened {
            round: plan.round,
            attempt: plan.attempt,
            model: plan.model,
            deadline: plan.deadline,
        });
    }
    events
}

fn closed(record: &RoundRecord, events: &mut Vec<Event>) {
    let (round, attempt) = (record.round, record.attempt);
    let code = match &record.outcome {
        Outcome::Committed { model } => {
            let model = *model;
            events.push(Event::Aggregated {
                round,
                attempt,
                updates: record.received.clone(),
                model,
            });
            return events.push(Event::ModelReleased { round, model });
        }
        Outcome::QuorumMissed { .. } => "quorum_missed",
        Outcome::QuorumOutOfReach { .. } => "quorum_out_of_reach",
        Outcome::SumFailed { code, .. } => code,
    };
    let code = code.to_owned();
    events.push(Event::RoundFailed {
        round,
        attempt,
        code,
    });
}

//! A ledger that is behind what a server has counter-signed, put in order by a decision of this site.
//!
//! What is missing has left this site, and nothing here says what it was. Each missing release is charged as the
//! costliest one that is known: a round of the study as its agreement has it, or any release in the ledger.

use consilium_core::study::Randomness as StudyRandomness;
use consilium_core::{Participant, Study};
use dp_rs::accounting::Profile;
use dp_rs::agreement::Agreement;
use dp_rs::event::Repeated;
use dp_rs::ledger::{Entry, Moment, Record};
use dp_rs::noise::Randomness;
use dp_rs::plan::Transcript;

use super::standing::SETTLEMENT;
use super::{Refusal, Standing};

/// What the operator decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Releases that are charged; at least those that are missing.
    pub releases: u64,
    /// Why the ledger is behind, in the operator's words.
    pub reason: String,
}

/// The entries that stand for the missing releases, in the order in which they are to be stored.
///
/// # Errors
/// [`Refusal::NothingToSettle`], [`Refusal::TooFewSettled`], [`Refusal::Agreement`] for a study without one,
/// [`Refusal::Accounting`].
pub fn settlement(
    standing: &Standing,
    study: &Study,
    participant: &Participant,
    round: &Repeated,
    decision: &Decision,
    at: Moment,
) -> Result<Vec<Entry>, Refusal> {
    let open: Vec<_> = standing.uncovered().collect();
    let missing = open
        .iter()
        .map(|(study, known)| standing.missing(study, known));
    let Some(missing) = missing.max() else {
        return Err(Refusal::NothingToSettle);
    };
    let releases = decision.releases;
    if releases < missing {
        return Err(Refusal::TooFewSettled { releases, missing });
    }
    let agreement = participant.privacy.clone().unwrap_or_default();
    let agreement: Agreement =
        serde_json::from_value(agreement).map_err(|error| Refusal::Agreement {
            study: study.name.clone(),
            problem: error.to_string(),
        })?;
    let agreed = &agreement.plan;
    let transcript = Transcript {
        unit: agreed.unit(),
        events: round.clone(),
        noise_level: agreed.noise_level(),
        randomness: match study.randomness {
            StudyRandomness::SimulationSeeded { .. } => Randomness::SimulationSeeded,
            _ => Randomness::OperatingSystem,
        },
        against: agreed.against(),
    };
    let events = costliest(standing, &transcript, agreement.delta)?;
    let heads: Vec<String> = open
        .iter()
        .map(|(_, known)| known.head.to_string())
        .collect();
    let purpose = format!("{SETTLEMENT}{}: {}", heads.join(", "), decision.reason);
    let mut ledger = standing.ledger.clone();
    let mut entries = Vec::new();
    for attempt in 1..=releases {
        let record = Record {
            study: study.name.to_string(),
            round: 0,
            attempt: u32::try_from(attempt).unwrap_or(u32::MAX),
            purpose: purpose.clone(),
            release: None,
            delta: Some(agreement.delta),
            transcript: Transcript {
                events: events.clone(),
                ..transcript.clone()
            },
        };
        entries.push(ledger.append(record, at).clone());
    }
    Ok(entries)
}

/// The costliest of a round and of all releases in the ledger for the same unit and neighbours.
fn costliest(standing: &Standing, round: &Transcript, delta: f64) -> Result<Repeated, Refusal> {
    let cost = |events: &Repeated| -> Result<f64, Refusal> {
        let profile = Profile::of(std::slice::from_ref(events), events.adjacency)?;
        Ok(profile.epsilon(delta)?.epsilon)
    };
    let mut costliest = (cost(&round.events)?, round.events.clone());
    let mut seen = vec![round.events.clone()];
    for entry in standing.ledger.entries() {
        let transcript = &entry.record.transcript;
        let events = &transcript.events;
        let comparable =
            (transcript.unit, events.adjacency) == (round.unit, round.events.adjacency);
        if !comparable || seen.contains(events) {
            continue;
        }
        seen.push(events.clone());
        let costs = cost(events)?;
        if costs > costliest.0 {
            costliest = (costs, events.clone());
        }
    }
    Ok(costliest.1)
}

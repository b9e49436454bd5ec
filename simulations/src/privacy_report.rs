//! What the private steps of a run cost each site, round by round.

use std::collections::{BTreeMap, BTreeSet};

use consilium_core::SiteId;
use consilium_ops::OperatorError;
use dp_rs::accounting::{Accountant, Profile};
use dp_rs::agreement::Agreement;
use dp_rs::noise::{NoiseLevel, Randomness};
use dp_rs::plan::Transcript;
use serde::Serialize;

/// One site after one round: a line of `privacy.csv`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PrivacyRow {
    /// Rounds so far, failed attempts included.
    pub round: u32,
    /// The site.
    pub site: SiteId,
    /// What is protected: `patient`, `record`, or `site`, which says nothing about a patient.
    pub unit: String,
    /// Which data sets are neighbours.
    pub adjacency: String,
    /// Probability with which the guarantee may fail.
    pub delta: f64,
    /// From whom it is protected.
    pub against: String,
    /// `pld`; `rdp` where only divergences are known.
    pub accountant: String,
    /// Spent so far.
    pub epsilon: f64,
    /// The same by the cross-check, Renyi divergences.
    pub rdp_epsilon: f64,
    /// Standard deviation of the noise / clip norm.
    pub noise_multiplier: f64,
    /// Probability that a unit takes part in a step.
    pub sampling_rate: f64,
    /// Steps so far.
    pub steps: u64,
    /// How far the noise can be trusted.
    pub noise_level: NoiseLevel,
    /// `simulation-seeded` noise protects nobody.
    pub randomness: Randomness,
    /// Scaling and imputation were computed from the same patients, outside of epsilon.
    pub conditional_on_preprocessing: bool,
}

/// The cost after every round at every site, in the order of rounds; `fitted` are the sites whose cohorts fitted
/// something on the patients that epsilon is about.
///
/// # Errors
/// [`OperatorError`] when the accountant refuses what was released: a bug.
pub fn rows(
    agreements: &BTreeMap<SiteId, Agreement>,
    released: &BTreeMap<SiteId, Vec<Transcript>>,
    fitted: &BTreeSet<SiteId>,
) -> Result<Vec<PrivacyRow>, OperatorError> {
    let mut rows = Vec::new();
    // Sites of one kind often have the same plan.
    let mut known = Vec::new();
    for (site, transcripts) in released {
        let Some(agreement) = agreements.get(site) else {
            continue;
        };
        let delta = agreement.delta;
        let mut so_far = Vec::new();
        for (index, transcript) in transcripts.iter().enumerate() {
            so_far.push(transcript.events.clone());
            let found = known
                .iter()
                .find(|(events, at, _)| *events == so_far && *at == delta);
            let [epsilon, rdp_epsilon] = match found {
                Some((_, _, found)) => *found,
                None => {
                    let found = both(&so_far, transcript, delta)?;
                    known.push((so_far.clone(), delta, found));
                    found
                }
            };
            rows.push(PrivacyRow {
                round: index as u32 + 1,
                site: site.clone(),
                unit: transcript.unit.to_string(),
                adjacency: transcript.events.adjacency.to_string(),
                delta,
                against: transcript.against.to_string(),
                accountant: match agreement.plan.noise_level() {
                    NoiseLevel::Exact => "rdp",
                    _ => "pld",
                }
                .into(),
                epsilon,
                rdp_epsilon,
                noise_multiplier: agreement.plan.noise_multiplier(),
                sampling_rate: agreement.plan.sampling_rate(),
                steps: so_far.iter().map(|events| events.count).sum(),
                noise_level: transcript.noise_level,
                randomness: transcript.randomness,
                conditional_on_preprocessing: fitted.contains(site),
            });
        }
    }
    rows.sort_by_key(|row| row.round);
    Ok(rows)
}

fn both(
    events: &[dp_rs::event::Repeated],
    transcript: &Transcript,
    delta: f64,
) -> Result<[f64; 2], OperatorError> {
    let refused = |error: dp_rs::accounting::AccountingError| {
        OperatorError::failed(
            "privacy_accounting",
            error.to_string(),
            "report this as a bug",
        )
    };
    let profile = Profile::of(events, transcript.events.adjacency).map_err(refused)?;
    // By loss distributions, where there are any.
    let own = profile.epsilon(delta).map_err(refused)?;
    let rdp = profile
        .epsilon_by(Accountant::Rdp, delta)
        .map_err(refused)?;
    Ok([own.epsilon, rdp.epsilon])
}

//! Private steps at a site: which patients take part, what their gradients are, what is done with the noisy
//! mean.
//!
//! The agreement decides sampler, clip and noise; nothing here can take a step that is not accounted for.

use consilium_core::study::{PrivacyMode, Randomness};
use consilium_core::{ModelVector, Participant, Study};
use consilium_data::Cohort;
use dp_rs::agreement::{AgreedPlan, Agreement};
use dp_rs::event::Repeated;
use dp_rs::noise::RootKey;
use dp_rs::plan::{Plan, Training, Transcript, Unit};
use dp_rs::release::ReleasePlan;

use crate::work::WorkError;

/// Patients whose gradients are computed at once. Bounds memory, not the step.
pub(super) const CHUNK: usize = 32;

/// The private side of a site's training.
pub(super) struct PrivateSteps {
    plan: Plan,
    /// The training records of each patient.
    pub records_of: Vec<Vec<usize>>,
    randomness: Randomness,
    local_steps: u32,
}

impl PrivateSteps {
    /// Reads the participant's agreement, if the study has any, and holds it against study and cohort.
    ///
    /// # Errors
    /// [`WorkError`] for an agreement that does not hold, is shorter than the study, or claims to protect
    /// patients of whom the cohort does not know which records are theirs.
    pub fn of(
        study: &Study,
        participant: &Participant,
        cohort: &Cohort,
        (train, patient_of): (&[usize], &[u32]),
        local_steps: u32,
    ) -> Result<Option<Self>, WorkError> {
        if study.privacy != PrivacyMode::PrivateSteps {
            return Ok(None);
        }
        let AgreedPlan::Steps(plan) = agreed(study, participant, local_steps)? else {
            return Err(broken(
                "it is of releases, the study is of private steps".into(),
            ));
        };
        let settings = plan.settings();
        if settings.unit == Unit::Patient && cohort.manifest().patient_id.is_none() {
            return Err(WorkError {
                code: "privacy_unit",
                message: "the study protects patients, but the cohort does not say which records are of one patient"
                    .into(),
                hint: "name patient_id in cohort.toml, or set privacy_unit = \"record\" for this site: then only \
                       single records are protected, and every table says so"
                    .into(),
            });
        }
        Ok(Some(Self {
            records_of: units(settings.unit, train, patient_of),
            plan,
            randomness: study.randomness,
            local_steps,
        }))
    }

    /// Draws from the patients of these records from now on. Rate and divisor stay as declared: how many are left is
    /// private.
    pub fn draw_from(&mut self, train: &[usize], patient_of: &[u32]) {
        self.records_of = units(self.plan.settings().unit, train, patient_of);
    }

    /// Begins the steps of one round.
    ///
    /// # Errors
    /// [`WorkError`] for a clip that is not possible.
    pub fn begin(&self) -> Result<Training, WorkError> {
        self.plan.begin().map_err(|error| WorkError {
            code: error.code(),
            message: error.to_string(),
            hint: "the coordinator must correct the study".into(),
        })
    }

    /// What everything that is drawn in one round derives from. In a study of the operating system it is fresh for
    /// every attempt, lives as long as its steps and is never written down: work that was not sealed is drawn anew.
    ///
    /// # Errors
    /// [`WorkError`] when the operating system has no randomness to give.
    pub fn key(&self) -> Result<RootKey, WorkError> {
        root_key(self.randomness)
    }

    /// Whether views and dropout of a step are drawn from its key as well, and not from a seed that everybody has.
    ///
    /// The clip bounds what one patient's own gradient adds. Read from a stream one patient after the other, views
    /// and dropout of everybody who comes later would move with one patient more or less, and known to everybody
    /// they could not be averaged over. Drawn in secret, each patient's are independent of all others', and the sum
    /// is a mixture of sums that differ by one clipped gradient.
    pub fn draws_in_secret(&self) -> bool {
        !matches!(self.randomness, Randomness::SimulationSeeded { .. })
    }

    /// Whether every parameter group is clipped on its own.
    pub fn clips_groups(&self) -> bool {
        match &self.plan.settings().clip {
            dp_rs::plan::Clip::Fixed(rule) => rule.groups() > 1,
            dp_rs::plan::Clip::Quantile(_) => false,
        }
    }

    /// What one round costs.
    pub fn round_cost(&self) -> Repeated {
        self.plan.events(u64::from(self.local_steps))
    }
}

/// Clipping and noise of a site's whole update.
pub(super) struct SiteUpdates {
    plan: ReleasePlan,
    randomness: Randomness,
}

impl SiteUpdates {
    /// Reads the participant's agreement, where the study protects whole sites.
    ///
    /// # Errors
    /// [`WorkError`] for an agreement that does not hold or is shorter than the study.
    pub fn of(study: &Study, participant: &Participant) -> Result<Option<Self>, WorkError> {
        if study.privacy != PrivacyMode::SiteUpdates {
            return Ok(None);
        }
        let AgreedPlan::Releases(plan) = agreed(study, participant, 1)? else {
            return Err(broken(
                "it is of steps, the study is of whole updates".into(),
            ));
        };
        Ok(Some(Self {
            plan,
            randomness: study.randomness,
        }))
    }

    /// Clips all groups that leave together and adds the noise; `context` names the attempt.
    ///
    /// # Errors
    /// [`WorkError`]: the update must not leave then.
    pub fn protect(
        &self,
        update: &mut ModelVector,
        context: &[&[u8]],
    ) -> Result<Transcript, WorkError> {
        let mut values: Vec<f32> = update.0.values().flatten().copied().collect();
        let released = self
            .plan
            .release(&root_key(self.randomness)?, context, &mut values);
        let transcript = released.map_err(|error| WorkError {
            code: error.code(),
            message: error.to_string(),
            hint: "nothing was sent; the coordinator must correct the study".into(),
        })?;
        let mut values = values.into_iter();
        for group in update.0.values_mut() {
            let length = group.len();
            *group = values.by_ref().take(length).collect();
        }
        Ok(transcript)
    }

    /// What one round costs.
    pub fn round_cost(&self) -> Repeated {
        self.plan.events(1)
    }
}

/// The participant's agreement, which holds and covers every attempt at `a_round` mechanisms each.
fn agreed(study: &Study, participant: &Participant, a_round: u32) -> Result<AgreedPlan, WorkError> {
    let agreement = participant.privacy.clone().unwrap_or_default();
    let agreement: Agreement = serde_json::from_value(agreement)
        .map_err(|error| broken(format!("the agreement cannot be read: {error}")))?;
    agreement
        .check()
        .map_err(|error| broken(error.to_string()))?;
    let schedule = &study.schedule;
    let attempts = u64::from(schedule.rounds) + u64::from(schedule.retry_rounds);
    let needed = attempts * u64::from(a_round);
    if agreement.steps < needed {
        return Err(broken(format!(
            "it covers {} steps, {attempts} rounds of {a_round} steps need {needed}",
            agreement.steps
        )));
    }
    Ok(agreement.plan)
}

/// A key for one attempt. That of the operating system is never written down.
fn root_key(randomness: Randomness) -> Result<RootKey, WorkError> {
    match randomness {
        Randomness::SimulationSeeded { seed } => Ok(RootKey::simulation(seed.0)),
        _ => RootKey::from_operating_system().map_err(|error| WorkError {
            code: error.code(),
            message: error.to_string(),
            hint: "nothing was drawn; start again when the system's random generator works".into(),
        }),
    }
}

/// The records of each unit, in the order in which units first appear.
fn units(unit: Unit, train: &[usize], patient_of: &[u32]) -> Vec<Vec<usize>> {
    if unit == Unit::Record {
        return train.iter().map(|&record| vec![record]).collect();
    }
    let mut found = std::collections::BTreeMap::<u32, Vec<usize>>::new();
    for &record in train {
        found.entry(patient_of[record]).or_default().push(record);
    }
    found.into_values().collect()
}

fn broken(message: String) -> WorkError {
    WorkError {
        code: "privacy_agreement_broken",
        message,
        hint: "do not take part; the coordinator must correct the study".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_hold_the_records_of_the_training_part_only() {
        let patient_of = [7, 7, 3, 9, 3];
        assert_eq!(
            units(Unit::Patient, &[0, 2, 4], &patient_of),
            [vec![2, 4], vec![0]]
        );
        assert_eq!(
            units(Unit::Record, &[0, 2, 4], &patient_of),
            [vec![0], vec![2], vec![4]]
        );
    }
}

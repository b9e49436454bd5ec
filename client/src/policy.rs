//! What this site permits, whatever the consortium asks: the policy file.
//!
//! [`Policy`] is the file. [`Policy::judge`] holds a study against it and names everything that it forbids, before a
//! record is read; [`Transfer`] says when and how much may be sent. The agent reads the file again before every
//! round and before every update leaves, so that a stricter policy takes effect without a restart. Nothing in a
//! study document or a plan can widen it.

mod explain;
mod transfer;
mod violation;

use std::path::Path;

use consilium_core::{GroupName, Participant, Study, StudyId, TaskKey};
use consilium_ops::OperatorError;
use consilium_ops::config::read_toml;
use dp_rs::agreement::Agreement;
use dp_rs::plan::Unit;
use serde::{Deserialize, Serialize};

pub use explain::explain;
pub use transfer::{Hours, InvalidHours, Transfer, day};
pub use violation::{Forbidden, Violation};

use crate::privacy::SiteBudget;

/// The policy file. Every list names what is permitted; what is not named is forbidden.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Studies that this site may take part in.
    pub studies: Vec<StudyId>,
    /// Networks that may be trained here, for example `ehpal-net`.
    pub models: Vec<String>,
    /// What may be predicted.
    pub tasks: Vec<TaskKey>,
    /// Parameter groups whose updates may leave.
    pub groups: Vec<GroupName>,
    /// A study must keep every group with fewer holders than this at its sites.
    #[serde(default = "three")]
    pub minimum_holders: u32,
    /// Fewer sites than this in an aggregate are not enough to hide among.
    #[serde(default = "three")]
    pub minimum_participants: u32,
    /// Whether the server must not see this site's single update.
    #[serde(default)]
    pub secure_aggregation: SecureAggregation,
    /// Metrics that may leave. The protocol has no message that carries one, so none can be named.
    #[serde(default)]
    pub metrics: Vec<String>,
    /// What a private study may protect. `record` is less than `patient` where a patient has several records; `site` hides
    /// the whole site, and every patient with it.
    #[serde(default = "patients_and_sites")]
    pub units: Vec<Unit>,
    /// Limits of any one private study.
    #[serde(default)]
    pub each_study: EachStudy,
    /// The most that this site's patients may spend, over all studies. A private study is refused without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<SiteBudget>,
    /// When and how much may be sent.
    #[serde(default)]
    pub transfer: Transfer,
}

/// Whether single updates must be hidden from the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecureAggregation {
    /// Only sums may become visible.
    Required,
    /// The server may see this site's update, which differential privacy protects.
    #[default]
    NotRequired,
}

/// Limits of any one private study; what is left out does not limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EachStudy {
    /// Largest epsilon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// Largest delta.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// Largest norm to which contributions are clipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Smallest standard deviation of the noise / clip norm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_multiplier: Option<f64>,
}

fn three() -> u32 {
    3
}

fn patients_and_sites() -> Vec<Unit> {
    vec![Unit::Patient, Unit::Site]
}

impl Policy {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`OperatorError`] with exit code 3, file, line and column.
    pub fn read(path: &Path) -> Result<Self, OperatorError> {
        let policy: Self = read_toml(path)?;
        match policy.problem() {
            None => Ok(policy),
            Some((problem, hint)) => {
                let error = OperatorError::configuration("config_wrong_value", problem, hint);
                Err(error.at(path.display()))
            }
        }
    }

    /// What is wrong with the values, and what to write instead.
    fn problem(&self) -> Option<(String, &'static str)> {
        if let Some(problem) = self.privacy.and_then(|budget| budget.problem()) {
            let hint = "epsilon is finite and above 0, for example 8.0; delta is above 0 and below 1, for example 1e-6";
            return Some((problem, hint));
        }
        for (key, least) in [
            ("minimum_holders", self.minimum_holders),
            ("minimum_participants", self.minimum_participants),
        ] {
            if least < 2 {
                let problem = format!("{key} is {least}: alone, this site's update is in clear");
                return Some((
                    problem,
                    "3 or more; 2 only between sites that trust each other",
                ));
            }
        }
        let EachStudy {
            epsilon,
            delta,
            clip_norm,
            noise_multiplier,
        } = self.each_study;
        let numbers = [
            ("epsilon", epsilon),
            ("delta", delta),
            ("clip_norm", clip_norm),
            ("noise_multiplier", noise_multiplier),
        ];
        for (key, value) in numbers {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
                let problem = format!("each_study.{key} is {value}");
                return Some((
                    problem,
                    "write a finite number above 0, or leave the key out",
                ));
            }
        }
        self.metrics.first().map(|metric| {
            (
                format!("metrics names {metric:?}, and no metric can leave: the protocol has no message for one"),
                "write metrics = []; results stay in this site's state folder",
            )
        })
    }

    /// The policy that permits exactly this study and nothing else.
    #[must_use]
    pub fn exactly(study: &Study, participant: &Participant, privacy: Option<SiteBudget>) -> Self {
        Self {
            studies: vec![study.name.clone()],
            models: vec![study.model.name.clone()],
            tasks: vec![participant.task.clone()],
            groups: study.shared_groups(participant).into_iter().collect(),
            minimum_holders: study.aggregation.minimum_holders,
            minimum_participants: fewest(study),
            secure_aggregation: SecureAggregation::NotRequired,
            metrics: Vec::new(),
            units: match participant.privacy.as_ref().and_then(readable) {
                Some(agreement) => vec![agreement.plan.unit()],
                None => patients_and_sites(),
            },
            each_study: EachStudy::default(),
            privacy,
            transfer: Transfer::default(),
        }
    }

    /// Holds `study` against this policy.
    ///
    /// # Errors
    /// [`Forbidden`] with everything that the policy does not permit.
    pub fn judge(&self, study: &Study, participant: &Participant) -> Result<(), Forbidden> {
        let mut found = Vec::new();
        if !self.studies.contains(&study.name) {
            found.push(Violation::Study);
        }
        if !self.models.contains(&study.model.name) {
            found.push(Violation::Model(study.model.name.clone()));
        }
        if !self.tasks.contains(&participant.task) {
            found.push(Violation::Task(participant.task.clone()));
        }
        let shared = study.shared_groups(participant);
        let unknown = shared.iter().filter(|group| !self.groups.contains(group));
        found.extend(unknown.cloned().map(Violation::Group));
        let holders = study.aggregation.minimum_holders;
        if holders < self.minimum_holders {
            let least = self.minimum_holders;
            found.push(Violation::Holders {
                asked: holders,
                least,
            });
        }
        let quorum = fewest(study);
        if quorum < self.minimum_participants {
            let least = self.minimum_participants;
            found.push(Violation::Participants {
                asked: quorum,
                least,
            });
        }
        if self.secure_aggregation == SecureAggregation::Required {
            found.push(Violation::SecureAggregation);
        }
        // An agreement that cannot be read is refused where privacy is checked.
        if let Some(agreement) = participant.privacy.as_ref().and_then(readable) {
            let unit = agreement.plan.unit();
            if !self.units.contains(&unit) {
                found.push(Violation::Unit(unit));
            }
            self.each_study.judge(&agreement, &mut found);
        }
        if let Some(most) = self.transfer.bytes_a_day {
            let lengths = study.manifest.group_lengths();
            let values: usize = shared.iter().filter_map(|group| lengths.get(group)).sum();
            let asked = 4 * values as u64;
            if asked > most.0 {
                found.push(Violation::RoundBytes { asked, most });
            }
        }
        Forbidden::of(&study.name, found)
    }
}

/// Sites in the smallest aggregate that may be published.
fn fewest(study: &Study) -> u32 {
    (study.schedule.quorum).max(study.aggregation.minimum_holders)
}

fn readable(agreement: &serde_json::Value) -> Option<Agreement> {
    serde_json::from_value(agreement.clone()).ok()
}

impl EachStudy {
    fn judge(&self, agreement: &Agreement, found: &mut Vec<Violation>) {
        let above = |most: Option<f64>, asked: f64| {
            most.filter(|most| asked > *most).map(|most| (asked, most))
        };
        if let Some((asked, most)) = above(self.epsilon, agreement.epsilon) {
            found.push(Violation::Epsilon { asked, most });
        }
        if let Some((asked, most)) = above(self.delta, agreement.delta) {
            found.push(Violation::Delta { asked, most });
        }
        if let Some((asked, most)) = above(self.clip_norm, agreement.plan.largest_clip_norm()) {
            found.push(Violation::ClipNorm { asked, most });
        }
        let asked = agreement.plan.noise_multiplier();
        if let Some(least) = self.noise_multiplier.filter(|least| asked < *least) {
            found.push(Violation::NoiseMultiplier { asked, least });
        }
    }
}

#[cfg(test)]
mod tests;

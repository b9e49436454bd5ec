//! What a study asks that the policy does not permit.

use consilium_core::{GroupName, StudyId, TaskKey};
use consilium_ops::units::Bytes;
use consilium_ops::{ExitCode, OperatorError};
use dp_rs::plan::Unit;

/// One thing that the policy does not permit.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A study that is not named.
    #[error("the study is not among `studies`")]
    Study,
    /// A network that is not named.
    #[error("model {0:?} is not among `models`")]
    Model(String),
    /// A task that is not named.
    #[error("task {0} is not among `tasks`")]
    Task(TaskKey),
    /// A group that would leave and is not named.
    #[error("group {0} would leave and is not among `groups`")]
    Group(GroupName),
    /// Too few holders of a group.
    #[error("groups with {asked} holders would leave, `minimum_holders` is {least}")]
    Holders {
        /// The study's minimum.
        asked: u32,
        /// The policy's.
        least: u32,
    },
    /// Too small a quorum.
    #[error("an aggregate of {asked} sites would be published, `minimum_participants` is {least}")]
    Participants {
        /// The larger of the study's quorum and minimum of holders.
        asked: u32,
        /// The policy's least.
        least: u32,
    },
    /// No secure aggregation.
    #[error("the server would see this site's single update, `secure_aggregation` is required")]
    SecureAggregation,
    /// A unit that is not named.
    #[error("the study protects each {0}, which is not among `units`")]
    Unit(Unit),
    /// Too large an epsilon.
    #[error("epsilon would be {asked}, `each_study.epsilon` is at most {most}")]
    Epsilon {
        /// The agreement's.
        asked: f64,
        /// The policy's most.
        most: f64,
    },
    /// Too large a delta.
    #[error("delta would be {asked:e}, `each_study.delta` is at most {most:e}")]
    Delta {
        /// The agreement's.
        asked: f64,
        /// The policy's most.
        most: f64,
    },
    /// Too large a clip norm.
    #[error("contributions would be clipped to {asked}, `each_study.clip_norm` is at most {most}")]
    ClipNorm {
        /// The plan's largest.
        asked: f64,
        /// The policy's most.
        most: f64,
    },
    /// Too little noise.
    #[error(
        "the noise multiplier would be {asked}, `each_study.noise_multiplier` is at least {least}"
    )]
    NoiseMultiplier {
        /// The plan's.
        asked: f64,
        /// The policy's least.
        least: f64,
    },
    /// One update is more than a day's allowance.
    #[error("one update has {asked} bytes, `transfer.bytes_a_day` is {most}")]
    RoundBytes {
        /// Bytes of one update.
        asked: u64,
        /// The policy's most.
        most: Bytes,
    },
}

impl Violation {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Study => "policy_study",
            Self::Model(_) => "policy_model",
            Self::Task(_) => "policy_task",
            Self::Group(_) => "policy_group",
            Self::Holders { .. } => "policy_minimum_holders",
            Self::Participants { .. } => "policy_minimum_participants",
            Self::SecureAggregation => "policy_secure_aggregation",
            Self::Unit(_) => "policy_unit",
            Self::Epsilon { .. } => "policy_epsilon",
            Self::Delta { .. } => "policy_delta",
            Self::ClipNorm { .. } => "policy_clip_norm",
            Self::NoiseMultiplier { .. } => "policy_noise_multiplier",
            Self::RoundBytes { .. } => "policy_bytes_a_day",
        }
    }
}

/// A study that the policy does not permit, with every reason.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "this site's policy does not permit study {study}: {}",
    listed(violations)
)]
pub struct Forbidden {
    study: StudyId,
    /// At least one.
    violations: Vec<Violation>,
}

fn listed(violations: &[Violation]) -> String {
    let words: Vec<_> = violations.iter().map(ToString::to_string).collect();
    words.join("; ")
}

impl Forbidden {
    /// A refusal, if there is a reason.
    pub(super) fn of(study: &StudyId, violations: Vec<Violation>) -> Result<(), Self> {
        if violations.is_empty() {
            return Ok(());
        }
        Err(Self {
            study: study.clone(),
            violations,
        })
    }

    /// Every reason.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Stable code of the first reason.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.violations[0].code()
    }
}

impl From<Forbidden> for OperatorError {
    fn from(forbidden: Forbidden) -> Self {
        let details: Vec<_> = forbidden
            .violations
            .iter()
            .map(|one| serde_json::json!({"code": one.code(), "message": one.to_string()}))
            .collect();
        Self::new(
            ExitCode::Refused,
            forbidden.code(),
            forbidden.to_string(),
            "nothing was read or sent; ask the coordinator for another study, or decide with your data-protection \
             officer to change the policy file",
        )
        .with_details(&serde_json::json!({"study": forbidden.study, "violations": details}))
    }
}

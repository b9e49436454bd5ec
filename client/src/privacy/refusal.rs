//! Why a private study or one of its rounds is not begun, or its result not sent.

use std::path::PathBuf;

use consilium_core::StudyId;
use consilium_ops::{ExitCode, OperatorError};
use dp_rs::accounting::AccountingError;
use dp_rs::ledger::{BrokenLedger, Exhausted, MixedLedger};

use super::CohortFacts;
use super::statement::number;

/// Whose budget is exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whose {
    /// That of one study, as its participants agreed.
    Study,
    /// That of this site, over all studies, as its policy says.
    Site,
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Study => "the study",
            Self::Site => "this site",
        })
    }
}

/// What a site lacks to take part in a study with seeded noise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotSimulated {
    /// Its policy does not allow it.
    Policy,
    /// Its cohort, of this manifest, is of real patients.
    Cohort(PathBuf),
}

/// Why privacy stops the agent. Nothing is trained, or nothing of what was trained is sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The agreement cannot be read, or its steps cost more than it says.
    #[error("the privacy agreement of this site in study {study} does not hold: {problem}")]
    Agreement {
        /// The study.
        study: StudyId,
        /// What is wrong with it.
        problem: String,
    },
    /// The study protects its patients in a way that this program does not know.
    #[error("study {0} protects its patients in a way that this program does not know")]
    UnknownMode(StudyId),
    /// A study without protection, at a site that has set a budget.
    #[error(
        "study {0} protects nobody, which is for simulations only; this site has set a privacy budget or has real \
         patients, and an update without protection exceeds every budget"
    )]
    NoProtection(StudyId),
    /// The policy does not say how much this site may spend.
    #[error(
        "study {study} spends up to epsilon {epsilon} at delta {delta:e} of this site's patients, and the \
         policy does not say how much they may spend in all"
    )]
    NoSiteBudget {
        /// The study.
        study: StudyId,
        /// What the study agreed to spend.
        epsilon: f64,
        /// At this delta.
        delta: f64,
    },
    /// A study with seeded noise, at a site that does not simulate.
    #[error(
        "the noise of study {study} comes from a seed in its document, so that it protects nobody{}",
        match missing {
            NotSimulated::Policy => ", and the policy does not allow simulations",
            NotSimulated::Cohort(_) => "; the cohort is of real patients",
        }
    )]
    Simulation {
        /// The study.
        study: StudyId,
        /// What stands in the way.
        missing: NotSimulated,
    },
    /// Updates with a share of the noise only, at a site that does not trust the server.
    #[error(
        "study {0} puts a share of the noise into each update: the server sees this site's update nearly in clear, \
         because there is no secure aggregation"
    )]
    TrustedServer(StudyId),
    /// A real study whose noise is for simulations.
    #[error(
        "study {0} is no simulation, and its noise level is fast, which is for simulations only"
    )]
    NoiseLevel(StudyId),
    /// Scaling would be computed from patients outside of the guarantee.
    #[error(
        "study {study} protects patients, and scaling and imputation of {} features would be computed from them \
         without protection",
        cohort.fitted.len()
    )]
    Fitted {
        /// The study.
        study: StudyId,
        /// The cohort.
        cohort: CohortFacts,
    },
    /// The next round would cost more than is left.
    #[error(
        "the privacy budget of {whose} is exhausted, study {study} halts here: spent epsilon {:.4}, agreed {} at \
         delta {:e}, remaining {:.4}; what was asked costs {:.4} alone, {:.4} together with what is spent; nothing \
         was trained",
        .exhausted.spent, .exhausted.budget.epsilon(), .exhausted.budget.delta(), .exhausted.remaining(),
        .exhausted.asked, .exhausted.together
    )]
    Exhausted {
        /// The study.
        study: StudyId,
        /// Whose budget.
        whose: Whose,
        /// Spent, asked, agreed.
        exhausted: Exhausted,
    },
    /// An earlier study sent updates that nothing protected: no number is left that could be kept.
    #[error(
        "the privacy budget of this site is exhausted, study {study} halts here: spent epsilon infinity, because \
         study {unprotected} sent updates without protection from this state folder; nothing was trained"
    )]
    Unprotected {
        /// The study that was asked for.
        study: StudyId,
        /// The one without protection.
        unprotected: StudyId,
    },
    /// The study is stated for another unit or adjacency than the ledger.
    #[error("study {study}: {mixed}")]
    Mixed {
        /// The study.
        study: StudyId,
        /// What differs.
        mixed: MixedLedger,
    },
    /// The accountant refuses what is in the ledger or was asked.
    #[error("the privacy ledger cannot be accounted for: {0}")]
    Accounting(#[from] AccountingError),
    /// Entries that are not as they were written.
    #[error("{0}")]
    BrokenLedger(#[from] BrokenLedger),
    /// An entry that this program cannot read.
    #[error("entry {sequence} of the ledger cannot be read: {problem}")]
    UnreadableEntry {
        /// Its number.
        sequence: u64,
        /// What is wrong.
        problem: String,
    },
    /// Training for a private study that does not say what it released.
    #[error("study {0} is private, and training does not say what it spends; nothing was sent")]
    Missing(StudyId),
    /// Training did other things than were admitted.
    #[error("training in study {study} did not do what was agreed: {problem}; nothing was sent")]
    OtherSteps {
        /// The study.
        study: StudyId,
        /// What differs.
        problem: String,
    },
    /// A sealed update without its entry.
    #[error(
        "the sealed update of round {round}, attempt {attempt} of study {study} has no entry in the privacy \
         ledger; nothing was sent"
    )]
    NotRecorded {
        /// The study.
        study: StudyId,
        /// The round.
        round: u32,
        /// The attempt.
        attempt: u32,
    },
    /// A server has seen entries of this ledger that are not in it.
    #[error(
        "the privacy ledger of this site is behind: the server of study {study} has counter-signed its entry {known}, \
         and the ledger here, of {entries} entries, does not hold it; up to {missing} releases are missing; nothing \
         was trained or sent"
    )]
    LedgerBehind {
        /// The study.
        study: StudyId,
        /// Entries here.
        entries: u64,
        /// The entry that was counter-signed.
        known: u64,
        /// Entries since the newest one that the server has seen and that is here.
        missing: u64,
    },
    /// A ledger that holds everything that was counter-signed.
    #[error(
        "the ledger holds every entry that a server has counter-signed: nothing is missing from it"
    )]
    NothingToSettle,
    /// Fewer releases than may be missing.
    #[error("{missing} releases may be missing from the ledger, and {releases} are to be charged")]
    TooFewSettled {
        /// To be charged.
        releases: u64,
        /// At least.
        missing: u64,
    },
}

impl Refusal {
    /// Stable code for logs and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Agreement { .. } => "privacy_agreement_broken",
            Self::UnknownMode(_) => "privacy_mode_unknown",
            Self::NoProtection(_) => "privacy_unprotected_study",
            Self::NoSiteBudget { .. } => "privacy_budget_not_set",
            Self::Simulation { missing, .. } => match missing {
                NotSimulated::Policy => "privacy_simulation_not_allowed",
                NotSimulated::Cohort(_) => "privacy_simulation_real_cohort",
            },
            Self::TrustedServer(_) => "privacy_server_not_trusted",
            Self::NoiseLevel(_) => "privacy_noise_level",
            Self::Fitted { .. } => "privacy_preprocessing_fitted",
            Self::Exhausted { .. } | Self::Unprotected { .. } => "privacy_budget_exhausted",
            Self::Mixed { .. } => "privacy_ledger_mixed",
            Self::Accounting(_) => "privacy_not_accountable",
            Self::BrokenLedger(_) | Self::UnreadableEntry { .. } => "privacy_ledger_broken",
            Self::Missing(_) => "privacy_missing",
            Self::OtherSteps { .. } => "privacy_other_steps",
            Self::NotRecorded { .. } => "privacy_not_recorded",
            Self::LedgerBehind { .. } => "privacy_ledger_behind",
            Self::NothingToSettle => "privacy_nothing_to_settle",
            Self::TooFewSettled { .. } => "privacy_settlement_too_small",
        }
    }

    fn exit(&self) -> ExitCode {
        match self {
            Self::NoSiteBudget { .. }
            | Self::TrustedServer(_)
            | Self::Fitted { .. }
            | Self::Simulation {
                missing: NotSimulated::Policy,
                ..
            }
            | Self::BrokenLedger(_)
            | Self::UnreadableEntry { .. } => ExitCode::Configuration,
            _ => ExitCode::Refused,
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::Agreement { .. } | Self::UnknownMode(_) | Self::Accounting(_) => {
                "ask the coordinator for a corrected study; nothing was accepted".into()
            }
            Self::NoProtection(_) => "ask the coordinator for a study with private steps; a site whose cohort is \
                  marked simulated or public may leave out [privacy]"
                .into(),
            Self::Simulation { missing, .. } => match missing {
                NotSimulated::Policy => "to simulate with a cohort that is generated or public, add to the \
                      policy:\n[privacy]\nallow_simulation = true"
                    .into(),
                NotSimulated::Cohort(_) => "ask the coordinator for a study with randomness = \"operating-system\"; \
                      only a cohort whose origin is simulated or public may simulate"
                    .into(),
            },
            Self::TrustedServer(_) => "ask the coordinator for against = \"everybody\"; if your data-protection officer \
                  agrees that the server may see what this site learned, add to the policy:\n\
                  [privacy]\ntrust_server_with_single_updates = true"
                .into(),
            Self::Fitted { cohort, .. } => {
                let (some, rest) = cohort.fitted.split_at(cohort.fitted.len().min(5));
                let more = match rest.len() {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!(
                    "give the mean and standard deviation (or usual range) of {}{more} from a source other than these \
                     patients, for example:\n[preprocessing.public]\nsource = \"the laboratory's reference ranges\"\n\
                     [[preprocessing.public.scales]]\nof = [{:?}]\nrange = [low, high]",
                    some.join(", "),
                    some[0]
                )
            }
            Self::NoiseLevel(_) => {
                "ask the coordinator for a study with noise_level = \"hardened\"; nothing was accepted".into()
            }
            Self::NoSiteBudget { epsilon, .. } => format!(
                "agree on a number with your data-protection officer, and add to the policy:\n\
                 [privacy]\nepsilon = {epsilon}"
            ),
            Self::Exhausted {
                whose: Whose::Study,
                ..
            } => "nothing more can be spent in this study; `consilium-site privacy show` lists what was".into(),
            Self::Exhausted {
                whose: Whose::Site, ..
            } => "`consilium-site privacy show` lists what was spent; only your data-protection officer may \
                  raise privacy.epsilon in the policy"
                .into(),
            Self::Unprotected { .. } => "use a state folder of its own for simulations; the patients of that \
                  study, if there were any, have no protection left to spend"
                .into(),
            Self::Mixed { .. } => {
                "ask the coordinator to state the study for the unit and adjacency of this site's ledger".into()
            }
            Self::BrokenLedger(_) | Self::UnreadableEntry { .. } => {
                "restore the state folder from a backup that holds every entry, and tell your data-protection \
                 officer; this site does not train before"
                    .into()
            }
            Self::Missing(_) | Self::OtherSteps { .. } | Self::NotRecorded { .. } => {
                "this is a bug in the training code; report it".into()
            }
            Self::LedgerBehind { missing, .. } => format!(
                "put back the newest copy of the state folder; where there is none, decide with your data-protection \
                 officer: `consilium-site privacy settle --releases {missing} --reason TEXT` charges what is missing"
            ),
            Self::NothingToSettle => "run the agent once where the server may know of more".into(),
            Self::TooFewSettled { missing, .. } => format!("charge at least --releases {missing}"),
        }
    }
}

impl From<Refusal> for OperatorError {
    fn from(refusal: Refusal) -> Self {
        let error = Self::new(
            refusal.exit(),
            refusal.code(),
            refusal.to_string(),
            refusal.hint(),
        );
        let place = match &refusal {
            Refusal::Simulation { missing, .. } => Some(match missing {
                NotSimulated::Policy => "privacy.allow_simulation in the policy".into(),
                NotSimulated::Cohort(manifest) => format!("origin in {}", manifest.display()),
            }),
            Refusal::Fitted { cohort, .. } => Some(format!(
                "preprocessing.public in {}",
                cohort.manifest.display()
            )),
            _ => None,
        };
        let error = match place {
            Some(place) => error.at(place),
            None => error,
        };
        match &refusal {
            Refusal::Exhausted {
                study,
                whose,
                exhausted,
            } => error.with_details(&serde_json::json!({
                "study": study,
                "budget_of": whose,
                "spent": number(exhausted.spent),
                "asked": number(exhausted.asked),
                "together": number(exhausted.together),
                "agreed": exhausted.budget.epsilon(),
                "remaining": exhausted.remaining(),
                "delta": exhausted.budget.delta(),
            })),
            Refusal::LedgerBehind {
                study,
                entries,
                known,
                missing,
            } => error.with_details(&serde_json::json!({
                "study": study,
                "entries": entries,
                "countersigned": known,
                "missing": missing,
            })),
            _ => error,
        }
    }
}

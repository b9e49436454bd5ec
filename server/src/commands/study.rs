//! `consilium-server study show`: where the study stands, site by site.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use consilium_core::clock::Timestamp;
use consilium_core::{Digest, ModalityKey, SiteId, Study, StudyId, TaskKey};
use consilium_ops::{Format, OperatorError, output};
use consilium_rounds::{Coordination, Outcome, Phase, Withdrawal};
use serde::Serialize;

use super::stored;
use crate::config::ServerConfig;

/// Where a study stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// The study.
    pub study: StudyId,
    /// SHA-256 of its document.
    pub study_sha256: Digest,
    /// `not_started`, `training`, `aggregating`, `finished` or `failed`.
    pub state: &'static str,
    /// Why it failed.
    pub reason: Option<String>,
    /// The round that is open or being summed.
    pub round: Option<u32>,
    /// The attempt at it.
    pub attempt: Option<u32>,
    /// When it closes, milliseconds since the Unix epoch.
    pub deadline: Option<Timestamp>,
    /// Rounds committed.
    pub committed: u32,
    /// Rounds that the study asks for.
    pub rounds: u32,
    /// Hash of the global model: of the last committed round, or the initial one.
    pub model_sha256: Digest,
    /// Every site of the study, in name order.
    pub sites: Vec<SiteStanding>,
}

/// One site's part.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteStanding {
    /// The site.
    pub site: SiteId,
    /// The modality its cohort holds.
    pub modality: ModalityKey,
    /// What its head predicts.
    pub task: TaskKey,
    /// Patients it declared.
    pub declared_patients: u32,
    /// Whether its update of the present round is stored; absent when none is open.
    pub delivered: Option<bool>,
    /// Committed rounds that used its update.
    pub rounds_used: u32,
    /// Where and why it does not go on, if it has said so.
    pub withdrawn: Option<Withdrawal>,
}

impl Standing {
    /// Where `study` stands.
    #[must_use]
    pub fn of(study: &Study, coordination: &Coordination) -> Self {
        let (state, present) = match &coordination.phase {
            Phase::AwaitStart => ("not_started", None),
            Phase::Training { plan, received, .. } => ("training", Some((plan, received))),
            Phase::Aggregating {
                plan, contributors, ..
            } => ("aggregating", Some((plan, contributors))),
            Phase::Finished => ("finished", None),
            Phase::Failed { .. } => ("failed", None),
        };
        let used = |site: &SiteId| {
            let records = coordination.closed.iter();
            records
                .filter(|record| {
                    matches!(record.outcome, Outcome::Committed { .. })
                        && record.received.contains_key(site)
                })
                .count() as u32
        };
        Self {
            study: study.name.clone(),
            study_sha256: coordination.study,
            state,
            reason: coordination.end().and_then(Result::err),
            round: present.map(|(plan, _)| plan.round),
            attempt: present.map(|(plan, _)| plan.attempt),
            deadline: present.map(|(plan, _)| plan.deadline),
            committed: coordination.committed_rounds(),
            rounds: study.schedule.rounds,
            model_sha256: coordination.model,
            sites: study
                .sites
                .iter()
                .map(|participant| SiteStanding {
                    site: participant.site.clone(),
                    modality: participant.modality.clone(),
                    task: participant.task.clone(),
                    declared_patients: participant.declared_patients,
                    delivered: present.map(|(_, updates)| updates.contains_key(&participant.site)),
                    rounds_used: used(&participant.site),
                    withdrawn: coordination.withdrawn.get(&participant.site).cloned(),
                })
                .collect(),
        }
    }

    fn to_text(&self) -> String {
        let stands = match (&self.reason, self.round, self.attempt) {
            (Some(reason), ..) => format!("failed: {reason}"),
            (None, Some(round), Some(attempt)) => {
                let delivered = self.sites.iter().filter(|s| s.delivered == Some(true));
                format!(
                    "{}, round {round}, attempt {attempt}, {} of {} updates",
                    self.state,
                    delivered.count(),
                    self.sites.len()
                )
            }
            _ => self.state.replace('_', " "),
        };
        let mut text = format!(
            "study {}: {stands}\n  {} of {} rounds committed\n  document {}\n  model    {}\n",
            self.study, self.committed, self.rounds, self.study_sha256, self.model_sha256
        );
        if let Some(Timestamp(deadline)) = self.deadline {
            let closes = consilium_certs::date((deadline / 1000).cast_signed());
            text.push_str(&format!("  the round closes {closes}\n"));
        }
        for site in &self.sites {
            let delivered = match site.delivered {
                Some(true) => "; update delivered",
                Some(false) => "; update awaited",
                None => "",
            };
            let withdrawn = match &site.withdrawn {
                Some(withdrawal) => format!("; {}", super::round::withdrawn(withdrawal)),
                None => String::new(),
            };
            text.push_str(&format!(
                "  site {}: {}, {}, {} patients declared, in {} rounds{delivered}{withdrawn}\n",
                site.site, site.modality, site.task, site.declared_patients, site.rounds_used
            ));
        }
        text
    }
}

/// Shows the study of the configuration file.
///
/// # Errors
/// [`OperatorError`]: exit 3 for the configuration, `study_not_started`, or a database that fails.
pub fn show(config: &Path, format: Format) -> Result<(), OperatorError> {
    let (study, coordination) = stored(&ServerConfig::read(config)?)?;
    let standing = Standing::of(&study, &coordination);
    output::print(format, &standing, Standing::to_text);
    Ok(())
}

/// Shows it again whenever it has changed, until the study has ended: on a terminal in the place of what was shown
/// before, elsewhere one after the other.
///
/// # Errors
/// As [`show`].
pub fn watch(config: &Path, format: Format) -> Result<(), OperatorError> {
    let config = ServerConfig::read(config)?;
    let on_screen = format == Format::Text && std::io::stdout().is_terminal();
    let mut shown = None;
    loop {
        let (study, coordination) = stored(&config)?;
        let standing = Standing::of(&study, &coordination);
        if shown.as_ref() != Some(&standing) {
            if on_screen {
                // Clears the screen and goes to its beginning (ECMA-48).
                print!("\x1b[2J\x1b[H");
            }
            output::print(format, &standing, Standing::to_text);
        }
        if coordination.end().is_some() {
            return Ok(());
        }
        shown = Some(standing);
        std::thread::sleep(AGAIN);
    }
}

/// How often it is looked at.
const AGAIN: Duration = Duration::from_secs(1);

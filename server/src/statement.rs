//! The privacy statement of an update, held against the participant's agreement.
//!
//! The server cannot see from a noisy update whether it was clipped. What it can do is to take no update whose
//! site does not say, in writing, that it was made by the steps that were agreed.

use consilium_core::study::PrivacyMode;
use consilium_core::{Participant, Study};
use dp_rs::agreement::Agreement;
use dp_rs::noise::Randomness as NoiseFrom;
use dp_rs::plan::Transcript;

/// Why a statement is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefusedStatement {
    /// A private study, and an update that does not say how it was made.
    #[error("the study protects patients, and the update does not say how")]
    Missing,
    /// Bytes that are no statement.
    #[error("the privacy statement cannot be read: {0}")]
    Unreadable(String),
    /// A statement of other steps than were agreed.
    #[error("the privacy statement is of {0}, which is not what was agreed")]
    Other(&'static str),
    /// A statement in a study that protects nobody.
    #[error("the study protects nobody, and the update says that it does")]
    NotAsked,
}

impl RefusedStatement {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "privacy_statement_missing",
            Self::Unreadable(_) => "privacy_statement_unreadable",
            Self::Other(_) => "privacy_statement_mismatch",
            Self::NotAsked => "privacy_statement_unasked",
        }
    }
}

/// Checks the statement that came with an update of `participant`.
///
/// # Errors
/// [`RefusedStatement`].
pub fn check(
    study: &Study,
    participant: &Participant,
    statement: &[u8],
) -> Result<(), RefusedStatement> {
    if study.privacy == PrivacyMode::NoneSimulationOnly {
        return if statement.is_empty() {
            Ok(())
        } else {
            Err(RefusedStatement::NotAsked)
        };
    }
    if statement.is_empty() {
        return Err(RefusedStatement::Missing);
    }
    let unreadable = |error: serde_json::Error| RefusedStatement::Unreadable(error.to_string());
    let transcript: Transcript = serde_json::from_slice(statement).map_err(unreadable)?;
    // A checked study has an agreement for every participant; one that cannot be read is nobody's promise.
    let agreement = participant.privacy.clone().unwrap_or_default();
    let agreement: Agreement = serde_json::from_value(agreement).map_err(unreadable)?;
    let steps = transcript.events.count;
    let expected = if study.is_simulation() {
        NoiseFrom::SimulationSeeded
    } else {
        NoiseFrom::OperatingSystem
    };
    if transcript.unit != agreement.plan.unit() {
        return Err(RefusedStatement::Other("another unit"));
    }
    if transcript.noise_level != agreement.plan.noise_level() {
        return Err(RefusedStatement::Other("noise of another level"));
    }
    if transcript.against != agreement.plan.against() {
        return Err(RefusedStatement::Other("another share of the noise"));
    }
    if transcript.randomness != expected {
        return Err(RefusedStatement::Other("another source of randomness"));
    }
    if transcript.events != agreement.plan.events(steps) {
        return Err(RefusedStatement::Other("another mechanism or adjacency"));
    }
    if steps == 0 || steps > agreement.steps {
        return Err(RefusedStatement::Other("another number of steps"));
    }
    Ok(())
}

/// A checked statement as the log holds it: what it says and nothing else that a site may have written into it.
#[must_use]
pub fn as_logged(statement: &[u8]) -> Option<serde_json::Value> {
    let transcript: Transcript = serde_json::from_slice(statement).ok()?;
    serde_json::to_value(transcript).ok()
}

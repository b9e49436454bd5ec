//! From the refusals of the crates below to what an operator is told.

use consilium_data::Refusal;
use consilium_ops::OperatorError;
use consilium_site::work::WorkError;

use crate::federation::FederationError;

/// A cohort that is not acceptable: everything that is wrong with it, nothing touched.
#[must_use]
pub fn refused_cohort(refusal: Refusal) -> OperatorError {
    OperatorError::configuration(
        refusal.code(),
        refusal.to_string(),
        "correct the cohort; `consilium data check FILE` lists every problem with file and line",
    )
}

/// Training or evaluation failed, or was asked for on a device that is not there.
#[must_use]
pub fn failed_work(error: WorkError) -> OperatorError {
    if error.code == "model_device_unavailable" {
        return OperatorError::configuration(error.code, error.message, error.hint);
    }
    OperatorError::failed(error.code, error.message, error.hint)
}

/// The federation stopped.
#[must_use]
pub fn failed_federation(error: FederationError) -> OperatorError {
    match error {
        FederationError::Work { site, error } => failed_work(error).at(format!("site {site}")),
        FederationError::Failed(_) => OperatorError::failed(
            "study_failed",
            error.to_string(),
            "see the rounds in events.jsonl",
        ),
        FederationError::Disagreement(_) => OperatorError::new(
            consilium_ops::ExitCode::Internal,
            "internal",
            error.to_string(),
            "report this: server and site should not be able to disagree in one process",
        ),
    }
}

//! `consilium-site policy`: what the policy says, and whether a study fits it.

use std::path::Path;

use consilium_core::{Digest, Study};
use consilium_ops::{Format, OperatorError, output};
use serde::Serialize;

use crate::agent::AgentError;
use crate::config::SiteConfig;
use crate::policy;

/// What was checked and found in order.
#[derive(Serialize)]
struct Checked {
    /// SHA-256 of the study document that the policy permits, if one was given.
    study_sha256: Option<Digest>,
    /// The policy in plain words.
    policy: Vec<String>,
}

/// Checks the policy, and holds the document in `study` against it.
///
/// # Errors
/// [`OperatorError`]: exit code 3 for a policy or document that cannot be read, 5 for a study that is not permitted.
pub fn check(path: &Path, study: Option<&Path>, format: Format) -> Result<(), OperatorError> {
    let config = SiteConfig::read(path)?;
    let policy = config.read_policy()?;
    let mut study_sha256 = None;
    if let Some(file) = study {
        let bytes = std::fs::read(file).map_err(|error| OperatorError::file(file, &error))?;
        let unreadable = |problem: String| {
            OperatorError::configuration(
                "study_unreadable",
                problem,
                "use the study document as the coordinator wrote it",
            )
            .at(file.display())
        };
        let study: Study =
            serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
        study.check().map_err(AgentError::from)?;
        let participant =
            study
                .participant(&config.site)
                .ok_or_else(|| AgentError::NotAParticipant {
                    study: study.name.clone(),
                    site: config.site.clone(),
                })?;
        policy
            .judge(&study, participant)
            .map_err(|forbidden| OperatorError::from(forbidden).at(config.policy.display()))?;
        study_sha256 = Some(study.digest());
    }
    let checked = Checked {
        study_sha256,
        policy: policy::explain(&policy),
    };
    output::print(format, &checked, |checked| match checked.study_sha256 {
        Some(digest) => format!("the policy permits this study ({digest})"),
        None => "the policy is acceptable; `consilium-site policy explain` says what it permits"
            .to_owned(),
    });
    Ok(())
}

/// Says in plain words what the policy permits.
///
/// # Errors
/// [`OperatorError`] with exit code 3.
pub fn explain(path: &Path, format: Format) -> Result<(), OperatorError> {
    let policy = SiteConfig::read(path)?.read_policy()?;
    let checked = Checked {
        study_sha256: None,
        policy: policy::explain(&policy),
    };
    output::print(format, &checked, |checked| checked.policy.join("\n"));
    Ok(())
}

//! `consilium-site status`: where this site stands, from its own database.

use std::path::Path;

use consilium_core::{Digest, Study, StudyId};
use consilium_ops::{Format, OperatorError, output};
use consilium_rounds::Withdrawal;
use consilium_store::site::SiteStore;
use serde::Serialize;

use super::no_runtime;
use crate::agent::AgentError;
use crate::config::SiteConfig;
use crate::outcome::Traffic;

#[derive(Serialize)]
struct Status {
    study: StudyId,
    study_sha256: Digest,
    /// Rounds that the study asks for.
    rounds: u32,
    /// The last round that used this site's update.
    rounds_used: u32,
    /// The update that is stored here and whose fate is not known.
    sealed: Option<SealedUpdate>,
    /// Rounds of which the groups that stay here are kept.
    local_versions: Vec<u32>,
    /// Round of the global model as last received.
    received_round: Option<u32>,
    /// Hash of the final model, once it is received and evaluated here.
    final_model_sha256: Option<Digest>,
    traffic: Traffic,
    /// Where and why this site does not go on, if it has stopped.
    halted: Option<Withdrawal>,
}

#[derive(Serialize)]
struct SealedUpdate {
    round: u32,
    attempt: u32,
    sha256: Digest,
}

/// Shows every study in the state folder; the agent may be running.
///
/// # Errors
/// [`OperatorError`], with exit code 3 when there is no state folder.
pub fn status(path: &Path, format: Format) -> Result<(), OperatorError> {
    let config = SiteConfig::read(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| no_runtime(&error))?;
    let statuses = runtime.block_on(read(&config))?;
    output::print(format, &statuses, |statuses| {
        statuses.iter().map(text).collect()
    });
    Ok(())
}

async fn read(config: &SiteConfig) -> Result<Vec<Status>, AgentError> {
    let store = SiteStore::open_existing(&config.database()).await?;
    let mut statuses = Vec::new();
    for study in store.studies().await? {
        let Some(accepted) = store.accepted(&study).await? else {
            continue;
        };
        let document: Study = serde_json::from_slice(&accepted.document).map_err(|error| {
            AgentError::UnreadableStudy {
                study: study.clone(),
                problem: error.to_string(),
            }
        })?;
        let received = store.received(&study).await?;
        statuses.push(Status {
            study_sha256: accepted.digest,
            rounds: document.schedule.rounds,
            rounds_used: accepted.participation.advanced_to,
            sealed: accepted.participation.sealed.map(|sealed| SealedUpdate {
                round: sealed.round,
                attempt: sealed.attempt,
                sha256: sealed.digest,
            }),
            local_versions: store.local_versions(&study).await?,
            received_round: received.map(|(_, version)| version.round),
            final_model_sha256: accepted.final_model,
            traffic: accepted.traffic.into(),
            halted: store.halted(&study).await?.map(|halt| halt.withdrawal),
            study,
        });
    }
    store.close().await;
    Ok(statuses)
}

fn text(status: &Status) -> String {
    let stands = match (&status.final_model_sha256, &status.halted, &status.sealed) {
        (Some(model), ..) => format!("finished, final model {model}"),
        (None, Some(halted), _) => format!("stopped: {}, {}", halted.code, halted.reason),
        (None, None, Some(sealed)) => format!(
            "update of round {} (attempt {}) sealed, waiting for its receipt",
            sealed.round, sealed.attempt
        ),
        (None, None, None) => "waiting for the next round".into(),
    };
    let versions: Vec<String> = status.local_versions.iter().map(u32::to_string).collect();
    let local = match &versions[..] {
        [] => "none".to_owned(),
        versions => format!("of round {}", versions.join(" and ")),
    };
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!(
        "study {}: {stands}\n  round {} of {} used this site's update\n  groups that stay here: {local}\n  \
         model values: {:.2} MiB received, {:.2} MiB delivered\n",
        status.study,
        status.rounds_used,
        status.rounds,
        mebibytes(status.traffic.down),
        mebibytes(status.traffic.up),
    )
}

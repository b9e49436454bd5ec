//! `consilium-site run`: take part in the study until it ends or somebody stops the program.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use consilium_core::clock::SystemClock;
use consilium_data::Cohort;
use consilium_models::DeviceChoice;
use consilium_ops::stop::stopped;
use consilium_ops::{Format, OperatorError, StateLock, logging, output};
use consilium_store::site::SiteStore;
use tracing::info;

use super::{identity, no_runtime, read_cohort, server_address};
use crate::agent::{Agent, AgentError, Errand, Joined, MakeWork, OpenCohort};
use crate::config::SiteConfig;
use crate::outcome::Outcome;
use crate::privacy::CohortFacts;
use crate::renewal::Renewal;
use crate::training::{SiteRecords, SiteTraining};
use crate::transport::{Credentials, GrpcServer};
use crate::work::LocalWork;

/// Runs the agent. Everything that is configured is checked before the state folder is touched.
///
/// # Errors
/// [`OperatorError`] with the exit code that says whose matter it is.
pub fn run(path: &Path, exit_when_finished: bool, format: Format) -> Result<(), OperatorError> {
    logging::start();
    let config = SiteConfig::read(path)?;
    let (identity, witness) = identity(&config)?;
    let address = server_address(&config).map_err(|error| error.at(path.display()))?;
    config.read_policy()?;
    std::fs::create_dir_all(&config.state)
        .map_err(|error| OperatorError::file(&config.state, &error))?;
    // Held until the program ends, however it ends.
    let _lock = StateLock::take(&config.state, "agent")?;
    let patience = Duration::from_secs(config.server.patience.0);
    let credentials = Credentials::new(identity, &witness);
    let (files, site) = (config.identity.clone(), config.site.clone());
    let renewal = Renewal::new(files, site.clone(), address.clone(), credentials.clone());
    let server = GrpcServer::new(address, credentials, witness, site, patience);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| no_runtime(&error))?;
    runtime.block_on(async {
        let mut stop = std::pin::pin!(stopped()?);
        let mut renewal = std::pin::pin!(renewal.keep());
        let ended = tokio::select! {
            outcome = follow(&config, server) => Some(outcome?),
            stop = &mut stop => stop.map(|()| None)?,
            never = &mut renewal => match never {},
        };
        let Some(outcome) = ended else { return Ok(()) };
        output::print(format, &outcome, text);
        if exit_when_finished {
            return Ok(());
        }
        info!("waiting to be stopped");
        tokio::select! {
            stop = stop => stop,
            never = renewal => match never {},
        }
    })
}

async fn follow(config: &SiteConfig, server: GrpcServer) -> Result<Outcome, AgentError> {
    let store = SiteStore::open(&config.database()).await?;
    let errand = Errand {
        site: config.site.clone(),
        study: config.study.clone(),
        metrics_file: config.metrics_file(),
        policy: config.policy.clone(),
    };
    let (clock, open) = (Arc::new(SystemClock), open_cohort(config));
    let ended = match Agent::join(errand, store.clone(), server, clock, open).await {
        Ok(Joined::Finished(outcome)) => Ok(outcome),
        Ok(Joined::Agent(agent)) => agent.run().await,
        Err(error) => Err(error),
    };
    store.close().await;
    ended
}

fn open_cohort(config: &SiteConfig) -> OpenCohort {
    let (manifest, device) = (config.cohort.clone(), config.device);
    Box::new(move || {
        let cohort = read_cohort(&manifest)?;
        let facts = CohortFacts::of(&manifest, &cohort);
        Ok((facts, work(cohort, device)))
    })
}

pub(super) fn work(cohort: Cohort, device: DeviceChoice) -> MakeWork {
    Box::new(move |study, participant| {
        let records = SiteRecords::of_parts(&cohort)?;
        let training = SiteTraining::new(study, participant, &cohort, records, device)?;
        Ok(Box::new(training) as Box<dyn LocalWork>)
    })
}

fn text(outcome: &Outcome) -> String {
    let mut text = format!(
        "study {} is finished\n  final model  {}\n  local groups {}\n",
        outcome.study, outcome.final_model_sha256, outcome.local_groups_sha256
    );
    for value in &outcome.metrics {
        text.push_str(&value.line());
    }
    text
}

//! `consilium-site model`: what a hospital takes home from a study.

mod export;
mod predict;

use consilium_core::StudyId;
use consilium_ops::OperatorError;

pub use export::export;
pub use predict::{Predict, predict};

use super::no_runtime;
use crate::config::SiteConfig;
use crate::joined::JoinedModel;

/// The joined model of `study` (the configured one if left out), of `round` (the newest if left out).
fn joined(
    config: &SiteConfig,
    study: Option<&StudyId>,
    round: Option<u32>,
) -> Result<JoinedModel, OperatorError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| no_runtime(&error))?;
    runtime.block_on(JoinedModel::load(
        config,
        study.unwrap_or(&config.study),
        round,
    ))
}

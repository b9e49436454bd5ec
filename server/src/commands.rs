//! What the program says of the study in its state folder; the server may be running meanwhile.
//!
//! * [`certs`]: the authority, requests for its certificates, and revocation.
//! * [`study`]: where the study stands, site by site.
//! * [`round`]: the closed rounds, who took part, who was missing and why.
//! * [`model`]: the committed global model as a file.
//! * [`audit`]: the log as a file, and whether such a file is good.

pub mod audit;
pub mod certs;
pub mod doctor;
pub mod model;
pub mod round;
pub mod study;

use consilium_core::Study;
use consilium_ops::OperatorError;
use consilium_rounds::Coordination;
use consilium_store::server::ServerStore;

use crate::config::ServerConfig;

/// The study of the state folder and where it stands.
///
/// # Errors
/// [`OperatorError`]: `study_not_started` when no server has run here; nothing is made then.
pub fn stored(config: &ServerConfig) -> Result<(Study, Coordination), OperatorError> {
    let not_started = || {
        OperatorError::failed(
            "study_not_started",
            "no study has run here yet",
            "start it with `consilium-server serve`",
        )
        .at(config.state.display())
    };
    if !ServerStore::exists(&config.state) {
        return Err(not_started());
    }
    let loaded =
        runtime()?.block_on(async { ServerStore::open(&config.state).await?.load().await });
    loaded
        .map_err(|error| OperatorError::failed(error.code(), error.to_string(), error.hint()))?
        .ok_or_else(not_started)
}

fn runtime() -> Result<tokio::runtime::Runtime, OperatorError> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().map_err(|error| {
        OperatorError::failed(
            "runtime",
            error.to_string(),
            "check the limits of this account",
        )
    })
}

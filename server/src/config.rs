//! The server's configuration: one TOML file, read and checked before a port is opened.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use consilium_certs::Revocations;
use consilium_core::Study;
use consilium_ops::OperatorError;
use consilium_ops::config::read_toml;
use serde::Deserialize;

use crate::initial::InitialModel;

/// What `consilium-server` is told in its file. Relative paths start at the folder of that file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Address and port to listen on.
    #[serde(default = "localhost")]
    pub listen: SocketAddr,
    /// Folder for the database, models and updates. Made when it is not there.
    pub state: PathBuf,
    /// The study document, as `consilium study prepare` writes it.
    pub study: PathBuf,
    /// Initial values of the federated groups, safetensors.
    pub initial_model: PathBuf,
    /// Who this server is, and whom it trusts.
    pub identity: IdentityConfig,
}

/// Who this server is, and whom it trusts. Paths, never the secrets themselves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// The server's certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM, readable by this account only.
    pub key: PathBuf,
    /// The consortium's certificate, PEM; only sites it signed are accepted.
    pub authority: PathBuf,
    /// The authority's list of revoked certificates; `authority.crl` beside its certificate if left out.
    pub revocations: Option<PathBuf>,
}

impl IdentityConfig {
    /// Where the list of revoked certificates lies, or will.
    #[must_use]
    pub fn revocations(&self) -> PathBuf {
        let beside = || Revocations::beside(&self.authority);
        self.revocations.clone().unwrap_or_else(beside)
    }
}

fn localhost() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7443))
}

impl ServerConfig {
    /// Reads the file and completes its paths.
    ///
    /// # Errors
    /// [`OperatorError`] with exit code 3, file, line and column.
    pub fn read(path: &Path) -> Result<Self, OperatorError> {
        let mut config: Self = read_toml(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for entry in [
            &mut config.state,
            &mut config.study,
            &mut config.initial_model,
            &mut config.identity.certificate,
            &mut config.identity.key,
            &mut config.identity.authority,
        ] {
            *entry = folder.join(&*entry);
        }
        if let Some(revocations) = &mut config.identity.revocations {
            *revocations = folder.join(&*revocations);
        }
        Ok(config)
    }

    /// Reads and checks the study document.
    ///
    /// # Errors
    /// [`OperatorError`] with exit code 3.
    pub fn read_study(&self) -> Result<Study, OperatorError> {
        let bytes = read(&self.study)?;
        let study: Study = serde_json::from_slice(&bytes).map_err(|error| {
            OperatorError::configuration(
                "study_unreadable",
                error.to_string(),
                "write it with `consilium study prepare`",
            )
            .at(self.study.display())
        })?;
        study.check().map_err(|error| {
            OperatorError::configuration(
                error.code(),
                error.to_string(),
                "correct the scenario and prepare the study again",
            )
            .at(self.study.display())
        })?;
        Ok(study)
    }

    /// Checks the initial values of the federated groups against the study.
    ///
    /// # Errors
    /// [`OperatorError`] with exit code 3.
    pub fn initial_model(&self, study: &Study) -> Result<InitialModel, OperatorError> {
        InitialModel::open(&self.initial_model, study)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, OperatorError> {
    std::fs::read(path).map_err(|error| {
        let mut error = OperatorError::file(path, &error);
        error.exit = consilium_ops::ExitCode::Configuration;
        error
    })
}

//! The agent's configuration: one TOML file, read and checked before anything is opened.

use std::path::{Path, PathBuf};

use consilium_core::{SiteId, StudyId};
use consilium_models::DeviceChoice;
use consilium_ops::OperatorError;
use consilium_ops::config::read_toml;
use consilium_ops::units::Seconds;
use serde::Deserialize;

use crate::policy::Policy;

/// What `consilium-site` is told in its configuration file. Relative paths start at the folder of that file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteConfig {
    /// This site's name; must be the one in its certificate.
    pub site: SiteId,
    /// Name of the study to take part in.
    pub study: StudyId,
    /// The cohort's manifest, `cohort.toml`.
    pub cohort: PathBuf,
    /// Folder for the database, the sealed update and the results. Made when it is not there.
    pub state: PathBuf,
    /// Where the network computes.
    #[serde(default)]
    pub device: DeviceChoice,
    /// The aggregation server.
    pub server: ServerConfig,
    /// Who this site is, and whom it trusts.
    pub identity: IdentityConfig,
    /// What this site permits, whatever the consortium asks: the policy file.
    pub policy: PathBuf,
}

/// Where the aggregation server is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// `host:port`.
    pub address: String,
    /// The name in the server's certificate.
    pub name: String,
    /// The HTTP proxy on the way, `http://host:port`; the environment's (`HTTPS_PROXY`) if left out. `NO_PROXY` holds for
    /// both.
    #[serde(default)]
    pub proxy: Option<String>,
    /// A file that only this account can read, with `user:password` for the proxy in its first line.
    #[serde(default)]
    pub proxy_credentials: Option<PathBuf>,
    /// How long the server may be unreachable before the agent gives up.
    #[serde(default = "default_patience")]
    pub patience: Seconds,
}

/// Who this site is, and whom it trusts. Paths, never the secrets themselves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// The site's certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM, readable by this account only.
    pub key: PathBuf,
    /// The consortium's certificate, PEM; nobody else is trusted.
    pub authority: PathBuf,
}

impl SiteConfig {
    /// Reads the file and completes its paths.
    ///
    /// # Errors
    /// [`OperatorError`] with exit code 3, file, line and column.
    pub fn read(path: &Path) -> Result<Self, OperatorError> {
        let mut config: Self = read_toml(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for entry in [
            &mut config.cohort,
            &mut config.state,
            &mut config.policy,
            &mut config.identity.certificate,
            &mut config.identity.key,
            &mut config.identity.authority,
        ] {
            *entry = folder.join(&*entry);
        }
        if let Some(credentials) = &mut config.server.proxy_credentials {
            *credentials = folder.join(&*credentials);
        }
        if !has_host_and_port(&config.server.address) {
            return Err(OperatorError::configuration(
                "config_wrong_value",
                format!(
                    "server.address {:?} is not host:port",
                    config.server.address
                ),
                "write for example \"fl.example.org:7443\"",
            )
            .at(path.display()));
        }
        Ok(config)
    }

    /// The policy as it is now.
    ///
    /// # Errors
    /// [`OperatorError`] with exit code 3, file, line and column.
    pub fn read_policy(&self) -> Result<Policy, OperatorError> {
        Policy::read(&self.policy)
    }

    /// The database in the state folder.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.state.join("site.sqlite")
    }

    /// The results in the state folder.
    #[must_use]
    pub fn metrics_file(&self) -> PathBuf {
        self.state.join("metrics.json")
    }
}

fn has_host_and_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

fn default_patience() -> Seconds {
    Seconds(3600)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/site.toml")
    }

    fn read(text: &str) -> Result<SiteConfig, OperatorError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site.toml");
        std::fs::write(&path, text).unwrap();
        SiteConfig::read(&path)
    }

    #[test]
    fn the_annotated_sample_is_acceptable_and_its_paths_start_at_its_folder() {
        let config = SiteConfig::read(&sample()).unwrap();
        assert_eq!(config.server.patience, default_patience());
        assert_eq!(config.device, DeviceChoice::Cpu);
        assert!(config.cohort.starts_with(sample().parent().unwrap()));
        config.read_policy().unwrap();
    }

    #[test]
    fn a_mistyped_key_is_refused_with_line_and_suggestion() {
        let text = std::fs::read_to_string(sample()).unwrap();
        let error = read(&text.replace("certificate =", "certifcate =")).unwrap_err();
        assert_eq!(error.code, "config_unknown_key");
        assert_eq!(error.hint, "did you mean `certificate`?");
        assert!(error.location.unwrap().contains("site.toml:"));
    }

    #[test]
    fn an_address_without_a_port_and_a_site_that_is_no_name_are_refused() {
        let text = std::fs::read_to_string(sample()).unwrap();
        let address = SiteConfig::read(&sample()).unwrap().server.address;
        for bad in ["localhost", ":7443", "localhost:port", "localhost:0"] {
            let error = read(&text.replace(&address, bad)).unwrap_err();
            assert_eq!(error.code, "config_wrong_value", "{bad}");
        }
        let site = SiteConfig::read(&sample()).unwrap().site.to_string();
        let error = read(&text.replacen(&format!("\"{site}\""), "\"Not A Name\"", 1)).unwrap_err();
        assert_eq!(error.code, "config_wrong_value");
    }
}

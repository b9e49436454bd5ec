//! The files of a deployment: study document, initial model, every site's cohort, and configuration files that
//! expect certificates in `certs/` beside them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use consilium_core::{Participant, SiteId};
use consilium_models::DeviceChoice;
use consilium_ops::OperatorError;
use consilium_site::policy::Policy;
use consilium_site::privacy::SiteBudget;
use dp_rs::agreement::Agreement;

use crate::scenario::{CohortChoice, Loaded};

/// Where the files of a deployment are.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The folder they are in.
    folder: PathBuf,
    /// The study's name.
    name: String,
    /// The study document, for the server.
    pub study: PathBuf,
    /// Initial values of the federated groups, for the server.
    pub initial_model: PathBuf,
    /// Per site its `cohort.toml`.
    pub cohorts: BTreeMap<SiteId, PathBuf>,
    /// Per site a policy file that permits this study and nothing else: what its data-protection officer may begin with.
    pub policies: BTreeMap<SiteId, PathBuf>,
}

/// Writes what the separate programs need to `folder`, but for their configuration. Generated cohorts are written out as files; others
/// stay where they are.
///
/// # Errors
/// [`OperatorError`] when the disk or a cohort fails.
pub fn prepare(loaded: &Loaded, folder: &Path) -> Result<Deployment, OperatorError> {
    std::fs::create_dir_all(folder).map_err(|error| OperatorError::file(folder, &error))?;
    let write = |name: &str, contents: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, contents).map_err(|error| OperatorError::file(&path, &error))?;
        Ok::<_, OperatorError>(path)
    };
    let initial = loaded
        .initial_federated()
        .to_safetensors(&loaded.study.manifest)
        .map_err(|error| OperatorError::failed(error.code(), error.to_string(), ""))?;
    let study = serde_json::to_vec(&loaded.study)
        .map_err(|error| OperatorError::failed("study_unwritable", error.to_string(), ""))?;
    let mut cohorts = BTreeMap::new();
    for (site, section) in &loaded.scenario.sites {
        let manifest = match &section.cohort {
            CohortChoice::Manifest(path) => {
                let path = loaded.folder.join(path);
                std::path::absolute(&path).map_err(|error| OperatorError::file(&path, &error))?
            }
            CohortChoice::Generated(_) => {
                let place = folder.join("cohorts").join(site.as_str());
                consilium_data::generated::write(&loaded.cohort(site)?, &place).map_err(
                    |error| {
                        OperatorError::failed(
                            error.code(),
                            error.to_string(),
                            "choose another folder",
                        )
                    },
                )?
            }
        };
        cohorts.insert(site.clone(), manifest);
    }
    let place = folder.join("policies");
    std::fs::create_dir_all(&place).map_err(|error| OperatorError::file(&place, &error))?;
    let mut policies = BTreeMap::new();
    for (site, text) in policy_texts(loaded) {
        let path = write(&format!("policies/{site}.toml"), text.as_bytes())?;
        policies.insert(site, path);
    }
    Ok(Deployment {
        folder: folder.to_owned(),
        name: loaded.study.name.to_string(),
        study: write("study.json", &study)?,
        initial_model: write("initial.safetensors", &initial)?,
        cohorts,
        policies,
    })
}

impl Deployment {
    /// Where the certificates and keys belong.
    #[must_use]
    pub fn certs(&self) -> PathBuf {
        self.folder.join("certs")
    }

    /// Where a site keeps its state.
    #[must_use]
    pub fn state_of(&self, site: &SiteId) -> PathBuf {
        self.folder.join("state").join(site.as_str())
    }

    /// Writes `server.toml`, for a server that listens on `listen`.
    ///
    /// # Errors
    /// [`OperatorError`] when the disk fails.
    pub fn write_server(&self, listen: &str) -> Result<PathBuf, OperatorError> {
        let text = format!(
            "listen = \"{listen}\"\nstate = \"state/server\"\nstudy = {}\ninitial_model = {}\n\n{}",
            self.quoted(&self.study),
            self.quoted(&self.initial_model),
            identity("server"),
        );
        self.write("server.toml", &text)
    }

    /// Writes `<site>.toml`, for an agent that reaches the server called localhost at `address` and gives up
    /// after `patience`.
    ///
    /// # Errors
    /// [`OperatorError`] when the disk fails.
    pub fn write_site(
        &self,
        site: &SiteId,
        address: &str,
        patience: &str,
        device: DeviceChoice,
    ) -> Result<PathBuf, OperatorError> {
        let text = format!(
            "site = \"{site}\"\nstudy = \"{}\"\ncohort = {}\nstate = \"state/{site}\"\npolicy = {}\ndevice = \"{device}\"\n\n\
             [server]\naddress = \"{address}\"\nname = \"localhost\"\npatience = \"{patience}\"\n\n{}",
            self.name,
            self.quoted(&self.cohorts[site]),
            self.quoted(&self.policies[site]),
            identity(site.as_str()),
        );
        self.write(&format!("{site}.toml"), &text)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, OperatorError> {
        let path = self.folder.join(name);
        std::fs::write(&path, text).map_err(|error| OperatorError::file(&path, &error))?;
        Ok(path)
    }

    /// A path as a TOML string, from the folder where it is inside it.
    fn quoted(&self, path: &Path) -> String {
        let path = path.strip_prefix(&self.folder).unwrap_or(path);
        toml::Value::from(path.display().to_string()).to_string()
    }
}

/// A policy a site. In a deployment that is prepared for one study, the site's budget is the study's, rounded up;
/// what only a simulation may do is permitted where the study is one.
fn policy_texts(loaded: &Loaded) -> BTreeMap<SiteId, String> {
    let agreements = loaded.agreements();
    let simulation = loaded.study.is_simulation();
    let shares = |agreed: &Agreement| !agreed.plan.against().is_everybody();
    let policy = |participant: &Participant| {
        let budget = agreements.get(&participant.site).map(|agreed| SiteBudget {
            epsilon: (agreed.epsilon * 100.0).ceil() / 100.0,
            delta: None,
            allow_simulation: simulation,
            trust_server_with_single_updates: simulation && shares(agreed),
        });
        // Cannot fail: names and numbers.
        toml::to_string(&Policy::exactly(&loaded.study, participant, budget))
            .expect("a policy serialises")
    };
    let sites = loaded.study.sites.iter();
    sites
        .map(|participant| (participant.site.clone(), policy(participant)))
        .collect()
}

fn identity(name: &str) -> String {
    format!(
        "[identity]\ncertificate = \"certs/{name}.pem\"\nkey = \"certs/{name}.key\"\n\
         authority = \"certs/authority.pem\"\n"
    )
}

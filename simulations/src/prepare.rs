//! The files of a deployment: study document, initial model, every site's cohort, and configuration files that
//! expect certificates in `certs/` beside them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use consilium_core::SiteId;
use consilium_models::DeviceChoice;
use consilium_ops::OperatorError;

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
    /// Per site what the study may spend of its patients' privacy; nothing where the study protects nobody.
    epsilons: BTreeMap<SiteId, f64>,
    /// What the sites of a simulation have to allow, in the form of their configuration. In a real study that is
    /// for each site to decide.
    allowed: String,
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
    Ok(Deployment {
        folder: folder.to_owned(),
        name: loaded.study.name.to_string(),
        study: write("study.json", &study)?,
        initial_model: write("initial.safetensors", &initial)?,
        cohorts,
        epsilons: loaded
            .agreements()
            .into_iter()
            .map(|(site, agreed)| (site, agreed.epsilon))
            .collect(),
        allowed: allowed(loaded),
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
        // In a deployment that is prepared for one study, the site's budget is the study's, rounded up.
        let budget = self.epsilons.get(site).map_or_else(String::new, |epsilon| {
            format!(
                "[privacy]\nepsilon = {:?}\n{}\n",
                (epsilon * 100.0).ceil() / 100.0,
                self.allowed
            )
        });
        let text = format!(
            "site = \"{site}\"\nstudy = \"{}\"\ncohort = {}\nstate = \"state/{site}\"\ndevice = \"{device}\"\n\n\
             [server]\naddress = \"{address}\"\nname = \"localhost\"\npatience = \"{patience}\"\n\n{budget}{}",
            self.name,
            self.quoted(&self.cohorts[site]),
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

fn allowed(loaded: &Loaded) -> String {
    if !loaded.study.is_simulation() {
        return String::new();
    }
    let mut text = "allow_simulation = true\n".to_owned();
    let agreements = loaded.agreements();
    if agreements
        .values()
        .any(|agreed| !agreed.plan.against().is_everybody())
    {
        text.push_str("trust_server_with_single_updates = true\n");
    }
    text
}

fn identity(name: &str) -> String {
    format!(
        "[identity]\ncertificate = \"certs/{name}.pem\"\nkey = \"certs/{name}.key\"\n\
         authority = \"certs/authority.pem\"\n"
    )
}

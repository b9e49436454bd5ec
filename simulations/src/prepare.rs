//! The files of a deployment: study document, initial model, and every site's cohort.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use consilium_core::SiteId;
use consilium_ops::OperatorError;

use crate::scenario::{CohortChoice, Loaded};

/// Where the files of a deployment are.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The study document, for the server.
    pub study: PathBuf,
    /// Initial values of the federated groups, for the server.
    pub initial_model: PathBuf,
    /// Per site its `cohort.toml`.
    pub cohorts: BTreeMap<SiteId, PathBuf>,
}

/// Writes what the separate programs need to `folder`. Generated cohorts are written out as files; others
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
        study: write("study.json", &study)?,
        initial_model: write("initial.safetensors", &initial)?,
        cohorts,
    })
}

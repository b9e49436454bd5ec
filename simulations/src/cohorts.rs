//! The cohorts of a folder, and which of them can be used here.

use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use consilium_core::{ModalityKey, SiteId, TaskKey};
use consilium_data::{CohortManifest, Severity};
use consilium_ops::OperatorError;
use consilium_ops::config::read_toml;
use serde::Serialize;

/// A manifest that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listed {
    /// The manifest.
    pub manifest: PathBuf,
    /// What it says; absent when it cannot be read.
    pub cohort: Option<Said>,
    /// Code of the first error for which the cohort would be refused; absent when it can be used.
    pub refused: Option<String>,
}

/// What a manifest says of its cohort.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Said {
    /// Name of the cohort.
    pub name: SiteId,
    /// The modality it holds.
    pub modality: ModalityKey,
    /// What is predicted.
    pub task: TaskKey,
    /// `real`, `public` or `simulated`.
    pub origin: &'static str,
}

/// Every cohort of `folder`: its `*.toml`, and the `cohort.toml` of the folders in it. Each is read and
/// checked as `consilium data check` does.
///
/// # Errors
/// [`OperatorError`]: a folder that cannot be read, or `cohorts_none` with exit code 3.
pub fn list(folder: &Path) -> Result<Vec<Listed>, OperatorError> {
    let failed = |error: std::io::Error| OperatorError::file(folder, &error);
    let mut manifests = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let inside = path.join("cohort.toml");
        if inside.is_file() {
            manifests.push(inside);
        } else if path.is_file() && path.extension().is_some_and(|end| end == "toml") {
            manifests.push(path);
        }
    }
    if manifests.is_empty() {
        return Err(OperatorError::configuration(
            "cohorts_none",
            "there is no cohort manifest in this folder",
            "give the folder that holds them, for example simulations/cohorts",
        )
        .at(folder.display()));
    }
    manifests.sort();
    Ok(manifests.into_iter().map(listed).collect())
}

fn listed(manifest: PathBuf) -> Listed {
    let said = read_toml::<CohortManifest>(&manifest).ok();
    let findings = consilium_data::check(&manifest);
    let first = findings
        .iter()
        .find(|finding| finding.severity == Severity::Error);
    Listed {
        cohort: said.map(|said| Said {
            name: said.name,
            modality: said.modality.key,
            task: said.task.key,
            origin: said.origin.as_str(),
        }),
        refused: first.map(|finding| finding.code.to_owned()),
        manifest,
    }
}

/// The table for people.
#[must_use]
pub fn to_text(cohorts: &[Listed]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_header(["cohort", "modality", "task", "origin", "here", "manifest"]);
    for listed in cohorts {
        let said = |what: fn(&Said) -> String| listed.cohort.as_ref().map_or("?".into(), what);
        let here = listed.refused.clone();
        table.add_row([
            said(|said| said.name.to_string()),
            said(|said| said.modality.to_string()),
            said(|said| said.task.to_string()),
            said(|said| said.origin.to_owned()),
            here.map_or("usable".into(), |code| format!("refused: {code}")),
            listed.manifest.display().to_string(),
        ]);
    }
    table.to_string()
}

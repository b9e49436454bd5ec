//! `consilium-site model export`: the model of a committed round as files.

use std::path::Path;

use consilium_core::{Digest, StudyId};
use consilium_ops::{Format, OperatorError, output};
use serde::Serialize;

use super::joined;
use crate::config::SiteConfig;
use crate::export::{Files, write};

#[derive(Serialize)]
struct Exported {
    study: StudyId,
    round: u32,
    #[serde(flatten)]
    files: Files,
    /// Of the safetensors file.
    sha256: Digest,
    /// Of the whole global model of the round.
    global_model_sha256: Digest,
    /// Values in the file.
    values: usize,
    /// Groups in the file that had never left this site.
    local_groups: Vec<String>,
}

/// Joins received and own groups of a committed round and writes them to `out`.
///
/// # Errors
/// [`OperatorError`]; then no file was written.
pub fn export(
    config: &Path,
    study: Option<&StudyId>,
    round: Option<u32>,
    out: &Path,
    format: Format,
) -> Result<(), OperatorError> {
    let config = SiteConfig::read(config)?;
    let joined = joined(&config, study, round)?;
    let files = Files::at(out, &joined);
    let document = write(&files, &joined)?;
    let exported = Exported {
        study: document.study,
        round: document.round,
        files,
        sha256: document.sha256,
        global_model_sha256: document.global_model_sha256,
        values: joined.groups.len(),
        local_groups: (document.local_groups.iter().map(ToString::to_string)).collect(),
    };
    output::print(format, &exported, text);
    Ok(())
}

fn text(exported: &Exported) -> String {
    let own = match &exported.local_groups[..] {
        [] => "every group of it was trained together with other sites".to_owned(),
        groups => format!(
            "it holds groups that had never left this site: {}",
            groups.join(", ")
        ),
    };
    format!(
        "study {}, round {}: {} values, readable by this account only\n  {}\n  {}\n  sha256 {}\n{own}\n",
        exported.study,
        exported.round,
        exported.values,
        exported.files.model.display(),
        exported.files.document.display(),
        exported.sha256,
    )
}

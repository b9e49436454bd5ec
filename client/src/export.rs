//! A joined model as two files: `<name>.safetensors` and the document `<name>.json` beside it.
//!
//! The two files hold everything that prediction needs elsewhere: the values, the network's settings, the
//! names and shapes of its tensors, and how records are prepared.

use std::path::{Path, PathBuf};

use consilium_core::study::ModelChoice;
use consilium_core::{Digest, GroupName, ModelManifest, ModelVector, Participant, StudyId};
use consilium_ops::OperatorError;
use serde::{Deserialize, Serialize};

use crate::joined::JoinedModel;
use crate::preparation::Preparation;
use crate::private_file::Pending;

/// Version of [`Document`].
pub const SCHEMA_VERSION: u32 = 1;

/// What `<name>.json` says about `<name>.safetensors`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// [`SCHEMA_VERSION`] of the program that wrote it.
    pub schema_version: u32,
    /// The study.
    pub study: StudyId,
    /// Digest of its document.
    pub study_sha256: Digest,
    /// The committed round.
    pub round: u32,
    /// The round of the groups that stayed at this site; nothing where none stayed.
    pub local_round: Option<u32>,
    /// The site, its modality and its task.
    pub participant: Participant,
    /// Name of the file with the values, beside this one.
    pub file: String,
    /// SHA-256 of that file.
    pub sha256: Digest,
    /// Hash of the whole global model of the round, as in every document of the study.
    pub global_model_sha256: Digest,
    /// Groups that were trained together with other sites.
    pub shared_groups: Vec<GroupName>,
    /// Groups that were trained on this site's records alone and had never left it.
    pub local_groups: Vec<GroupName>,
    /// Name and settings of the network.
    pub model: ModelChoice,
    /// How records become its input, fitted on this site's training part.
    pub preparation: Preparation,
    /// Names, groups and shapes of the tensors in the file, f32 in C order.
    pub manifest: ModelManifest,
}

/// Where the two files of an export are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Files {
    /// The values.
    pub model: PathBuf,
    /// The document.
    pub document: PathBuf,
}

impl Files {
    /// `out` itself and the `.json` beside it when it ends in `.safetensors`; otherwise
    /// `<study>-round<round>` in the folder `out`.
    #[must_use]
    pub fn at(out: &Path, joined: &JoinedModel) -> Self {
        let model = if out.extension().is_some_and(|end| end == "safetensors") {
            out.to_owned()
        } else {
            out.join(format!(
                "{}-round{}.safetensors",
                joined.study.name, joined.round
            ))
        };
        let document = model.with_extension("json");
        Self { model, document }
    }
}

/// Writes both files, readable by their owner only: either both are there, or neither is.
///
/// # Errors
/// [`OperatorError`] when one of them exists already, or the disk does not take them.
pub fn write(files: &Files, joined: &JoinedModel) -> Result<Document, OperatorError> {
    for path in [&files.model, &files.document] {
        if path.exists() {
            return Err(OperatorError::failed(
                "file_exists",
                "an export is not written over another file",
                "choose another path, or remove the file first",
            )
            .at(path.display()));
        }
    }
    let JoinedModel {
        study, participant, ..
    } = joined;
    let bytes = (joined.groups.to_safetensors(&study.manifest)).map_err(|error| {
        OperatorError::failed(error.code(), error.to_string(), "restore the state folder")
    })?;
    let mut manifest = study.manifest.clone();
    manifest
        .tensors
        .retain(|tensor| joined.groups.0.contains_key(&tensor.group));
    let document = Document {
        schema_version: SCHEMA_VERSION,
        study: study.name.clone(),
        study_sha256: joined.study_sha256,
        round: joined.round,
        local_round: joined.local_round,
        participant: participant.clone(),
        file: (files.model.file_name())
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        sha256: Digest::of(&bytes),
        global_model_sha256: joined.global_model_sha256,
        shared_groups: study.shared_groups(participant).into_iter().collect(),
        local_groups: study.local_groups(participant).into_iter().collect(),
        model: study.model.clone(),
        preparation: joined.preparation.clone(),
        manifest,
    };
    let text = serde_json::to_vec_pretty(&document).expect("plain numbers and text");
    let model = Pending::write(&files.model, &bytes)?;
    let described = Pending::write(&files.document, &text)?;
    model.place()?;
    described.place().inspect_err(|_| {
        // Values without their document are of no use.
        let _ = std::fs::remove_file(&files.model);
    })?;
    Ok(document)
}

/// Reads an export back from its document, and checks the values against it.
///
/// # Errors
/// [`OperatorError`] when a file is missing, changed, or written by a later program.
pub fn read(document: &Path) -> Result<(Document, ModelVector), OperatorError> {
    let refuse = |code: &str, message: String| {
        OperatorError::failed(code, message, "export the model again").at(document.display())
    };
    let file = |path: &Path| std::fs::read(path).map_err(|error| OperatorError::file(path, &error));
    let described: Document = serde_json::from_slice(&file(document)?)
        .map_err(|error| refuse("export_unreadable", error.to_string()))?;
    if described.schema_version != SCHEMA_VERSION {
        return Err(refuse(
            "export_unreadable",
            format!(
                "the document has schema version {}, this program reads {SCHEMA_VERSION}",
                described.schema_version
            ),
        ));
    }
    let path = document.with_file_name(&described.file);
    let bytes = file(&path)?;
    if Digest::of(&bytes) != described.sha256 {
        return Err(refuse(
            "export_changed",
            format!("{} is not the file that the document names", path.display()),
        ));
    }
    let groups = described.participant.groups();
    let model = ModelVector::from_safetensors(&bytes, &described.manifest, &groups)
        .map_err(|error| refuse(error.code(), error.to_string()))?;
    Ok((described, model))
}

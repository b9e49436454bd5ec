//! `consilium-server model export`: the committed global model as a safetensors file.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use consilium_core::vector::bytes_to_values;
use consilium_core::{Digest, ModelVector, Study, StudyId};
use consilium_ops::{Format, OperatorError, output};
use consilium_store::server::{Blobs, ServerStoreError};
use serde::Serialize;

use super::stored;
use crate::aggregate::places;
use crate::config::ServerConfig;

/// What was exported.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exported {
    /// The study.
    pub study: StudyId,
    /// The committed round.
    pub round: u32,
    /// Rounds that the study asks for.
    pub rounds: u32,
    /// The model hash of every document: SHA-256 over the groups in name order, little-endian f32.
    pub model_sha256: Digest,
    /// The file.
    pub file: PathBuf,
    /// SHA-256 of the file, as `sha256sum` prints it.
    pub file_sha256: Digest,
}

/// Writes the federated groups of the last committed round to `out`, which must not be there yet.
///
/// # Errors
/// [`OperatorError`]: exit 3 for the configuration, `study_not_started`, `model_not_committed`,
/// `file_exists`, or a model or disk that fails; then nothing is left behind.
pub fn export(config: &Path, out: &Path, format: Format) -> Result<(), OperatorError> {
    let config = ServerConfig::read(config)?;
    let (study, coordination) = stored(&config)?;
    let round = coordination.committed_rounds();
    if round == 0 {
        return Err(OperatorError::failed(
            "model_not_committed",
            format!("study {} has not committed a round yet", study.name),
            "wait for the first round; `consilium-server study show` says where it stands",
        ));
    }
    let failed = |error: ServerStoreError| {
        OperatorError::failed(error.code(), error.to_string(), error.hint())
    };
    let blobs = Blobs::open_beside_server(&config.state.join("blobs"));
    let model = read(&study, &blobs, coordination.model).map_err(failed)?;
    let bytes = model
        .to_safetensors(&study.manifest)
        .map_err(|error| OperatorError::failed(error.code(), error.to_string(), ""))?;
    write(out, &bytes).map_err(|error| OperatorError::file(out, &error))?;
    let exported = Exported {
        study: study.name,
        round,
        rounds: study.schedule.rounds,
        model_sha256: coordination.model,
        file: out.to_owned(),
        file_sha256: Digest::of(&bytes),
    };
    output::print(format, &exported, |exported| {
        format!(
            "study {}, round {} of {}\nmodel {}\nfile  {}  {}",
            exported.study,
            exported.round,
            exported.rounds,
            exported.model_sha256,
            exported.file_sha256,
            exported.file.display()
        )
    });
    Ok(())
}

/// The federated groups of a stored model, which must be what its name says.
fn read(study: &Study, blobs: &Blobs, model: Digest) -> Result<ModelVector, ServerStoreError> {
    let mut reader = blobs.reader(&model);
    let mut groups = ModelVector::default();
    for (group, (_, length)) in places(study, &study.federated_groups()) {
        let mut bytes = vec![0; 4 * length];
        reader.read(&mut bytes)?;
        groups.0.insert(group, bytes_to_values(&bytes).collect());
    }
    reader.finish()?;
    Ok(groups)
}

/// Writes a new file, whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        // What stopped the writing is what the operator must know.
        let _ = std::fs::remove_file(path);
    }
    written
}

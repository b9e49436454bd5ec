//! The file of initial values, read a chunk at a time: memory is a chunk, whatever the model.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use consilium_core::vector::VectorMismatch;
use consilium_core::{Digest, GroupName, Study};
use consilium_ops::OperatorError;
use safetensors::tensor::{Dtype, Metadata};
use sha2::{Digest as _, Sha256};

use crate::aggregate::CHUNK;

/// A safetensors file that holds the initial values of a study's federated groups.
#[derive(Debug)]
pub struct InitialModel {
    path: PathBuf,
    /// Where the tensors lie in the file, in the order of the model hash.
    tensors: Vec<Range<u64>>,
}

impl InitialModel {
    /// Finds the values in the file, and checks them against the study.
    ///
    /// # Errors
    /// [`OperatorError`] with exit code 3: a file that cannot be read, is not safetensors, lacks a tensor,
    /// has one of another shape or type, or has other values than the study says.
    pub fn open(path: &Path, study: &Study) -> Result<Self, OperatorError> {
        let unreadable = |error: io::Error| {
            let mut error = OperatorError::file(path, &error);
            error.exit = consilium_ops::ExitCode::Configuration;
            error
        };
        let refuse = |code: &str, message: String| {
            OperatorError::configuration(code, message, "use the two files of one `study prepare`")
                .at(path.display())
        };
        let mut file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let groups = study.federated_groups();
        let model = Self {
            path: path.to_owned(),
            tensors: header(&mut file, length)
                .and_then(|(header, begin)| find(&header, begin, study, &groups))
                .map_err(|error| refuse(error.code(), error.to_string()))?,
        };
        let mut hasher = Sha256::new();
        for chunk in model.chunks() {
            hasher.update(chunk.map_err(unreadable)?);
        }
        let found = Digest::from(<[u8; 32]>::from(hasher.finalize()));
        if found != study.initial_model_sha256 {
            let expected = study.initial_model_sha256;
            let message = format!("the values have SHA-256 {found}, the study says {expected}");
            return Err(refuse("model_hash_mismatch", message));
        }
        Ok(model)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Little-endian bytes of the values in the order of the model hash, at most 256 KiB at a time. After
    /// an error nothing follows.
    pub fn chunks(&self) -> impl Iterator<Item = io::Result<Vec<u8>>> {
        const BYTES: usize = 4 * CHUNK;
        let mut file = None;
        let places = self.tensors.iter().flat_map(|tensor| {
            let starts = tensor.clone().step_by(BYTES);
            starts.map(|start| start..tensor.end.min(start + BYTES as u64))
        });
        places.map(move |place| {
            let file = match &mut file {
                Some(file) => file,
                None => file.insert(File::open(&self.path)?),
            };
            file.seek(SeekFrom::Start(place.start))?;
            let mut bytes = vec![0; (place.end - place.start) as usize];
            file.read_exact(&mut bytes)?;
            Ok(bytes)
        })
    }
}

/// The header of a safetensors file of `length` bytes, and where the values begin.
fn header(file: &mut File, length: u64) -> Result<(Metadata, u64), VectorMismatch> {
    let wrong = |error: String| VectorMismatch::Format(error);
    let mut size = [0; 8];
    file.read_exact(&mut size)
        .map_err(|error| wrong(error.to_string()))?;
    let size = u64::from_le_bytes(size);
    if size > length {
        return Err(wrong("its header is longer than the file".into()));
    }
    let mut text = vec![0; size as usize];
    file.read_exact(&mut text)
        .map_err(|error| wrong(error.to_string()))?;
    let header: Metadata =
        serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    if 8 + size + header.data_len() as u64 != length {
        return Err(wrong("its length is not what its header says".into()));
    }
    Ok((header, 8 + size))
}

/// Where the tensors of `groups` lie in a file whose values begin at `begin`.
fn find<'a>(
    header: &Metadata,
    begin: u64,
    study: &'a Study,
    groups: impl IntoIterator<Item = &'a GroupName>,
) -> Result<Vec<Range<u64>>, VectorMismatch> {
    let tensors = groups
        .into_iter()
        .flat_map(|group| study.manifest.tensors_of(group));
    tensors
        .map(|(spec, _)| {
            let wrong = |problem: String| VectorMismatch::Tensor {
                name: spec.name.clone(),
                problem,
            };
            let found = header
                .info(&spec.name)
                .ok_or_else(|| wrong("the file does not hold it".into()))?;
            if found.dtype != Dtype::F32 || found.shape != spec.shape {
                return Err(wrong(format!(
                    "expected f32 {:?}, the file has {:?} {:?}",
                    spec.shape, found.dtype, found.shape
                )));
            }
            let (start, end) = found.data_offsets;
            Ok(begin + start as u64..begin + end as u64)
        })
        .collect()
}

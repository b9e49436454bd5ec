//! The folder that a run leaves behind, and that explains itself.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use consilium_core::clock::{Clock as _, SystemClock};
use consilium_core::{Digest, ModelManifest, ModelVector, SiteId};
use serde::{Deserialize, Serialize};

/// One line of `metrics.csv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricRow {
    /// Name of the run.
    pub run: String,
    /// `local | constant | federated:<strategy>`.
    pub arm: String,
    /// Seed of the run.
    pub seed: u64,
    /// Round after which it was measured; empty for final values.
    pub round: Option<u32>,
    /// The site.
    pub site: SiteId,
    /// `train`, `validation` or `test`.
    pub split: String,
    /// Name of the metric.
    pub metric: String,
    /// Empty where undefined.
    pub value: Option<f64>,
}

/// One line of `communication.csv`: bytes of model values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CommunicationRow {
    /// The site.
    pub site: SiteId,
    /// Received, in all rounds and for the final model.
    pub bytes_down: u64,
    /// Sent in all rounds.
    pub bytes_up: u64,
}

/// `manifest.json`: what ran, on what, and what came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunManifest {
    /// Version of this file.
    pub schema_version: u32,
    /// The scenario's name.
    pub scenario: String,
    /// Version of the program.
    pub code_version: String,
    /// Seed of every stream.
    pub seed: u64,
    /// Digest of the study document.
    pub study_sha256: Digest,
    /// Per site the digest of who is in which part, and of its local groups at the end.
    pub sites: Vec<SiteRecord>,
    /// Rounds committed.
    pub rounds: u32,
    /// SHA-256 over the federated groups in name order, little-endian f32.
    pub final_model_sha256: Digest,
    /// Milliseconds since the Unix epoch.
    pub started: u64,
    /// Milliseconds since the Unix epoch.
    pub ended: u64,
    /// How often the test parts were opened by this run.
    pub test_openings: u32,
}

/// A site's part of [`RunManifest`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteRecord {
    /// The site.
    pub site: SiteId,
    /// Digest of its records and targets; an HMAC outside simulations.
    pub data_sha256: String,
    /// Digest of who is in which part; an HMAC outside simulations.
    pub split_sha256: String,
    /// Digest of the values of the groups that stayed.
    pub local_groups_sha256: Digest,
}

/// An open run folder.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    events: File,
}

impl RunFolder {
    /// Refuses a folder that holds a finished run.
    ///
    /// # Errors
    /// When `path` holds `manifest.json`.
    pub fn refuse_finished(path: &Path) -> io::Result<()> {
        if path.join("manifest.json").exists() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!(
                    "{} already holds a finished run; choose another --out",
                    path.display()
                ),
            ));
        }
        Ok(())
    }

    /// Creates `path`; refuses one that holds a finished run.
    ///
    /// # Errors
    /// When the folder cannot be made, or holds `manifest.json`.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::refuse_finished(path)?;
        fs::create_dir_all(path)?;
        let events = File::create(path.join("events.jsonl"))?;
        Ok(Self {
            path: path.to_owned(),
            events,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one line to `events.jsonl`, with the time in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn event(&mut self, event: &impl Serialize) -> io::Result<()> {
        #[derive(Serialize)]
        struct Line<'a, E> {
            at: u64,
            #[serde(flatten)]
            event: &'a E,
        }
        let at = SystemClock.now().0;
        serde_json::to_writer(&mut self.events, &Line { at, event })?;
        self.events.write_all(b"\n")
    }

    /// Writes `name`, whole or not at all.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn write(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        write_whole(&self.path.join(name), contents)
    }

    /// Writes `name` as CSV with a header.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn write_csv<T: Serialize>(&self, name: &str, rows: &[T]) -> io::Result<()> {
        self.write(name, &to_csv(rows)?)
    }

    /// Writes the federated groups as `model.safetensors`.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn write_model(&self, model: &ModelVector, manifest: &ModelManifest) -> io::Result<()> {
        let contents = model.to_safetensors(manifest).map_err(io::Error::other)?;
        self.write("model.safetensors", &contents)
    }

    /// Writes `manifest.json`, the mark of a finished run; call it last.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn finish(&self, manifest: &RunManifest) -> io::Result<()> {
        self.write("manifest.json", &serde_json::to_vec_pretty(manifest)?)
    }
}

/// Writes a file whole or not at all, with its folder.
///
/// # Errors
/// When the disk does not take it.
pub fn write_whole(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".part");
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = File::create(&temporary)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

/// Rows as CSV with a header.
///
/// # Errors
/// When a row cannot be a line.
pub fn to_csv<T: Serialize>(rows: &[T]) -> io::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(row).map_err(io::Error::other)?;
    }
    writer
        .into_inner()
        .map_err(|error| io::Error::other(error.to_string()))
}

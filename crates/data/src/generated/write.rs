//! Generated cohorts as files, in the layouts that real cohorts use.

use std::fmt::Write as _;
use std::fs;
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use zip::write::SimpleFileOptions;
use zip::{DateTime, ZipWriter};

use super::Kind;
use crate::cohort::Cohort;
use crate::examples::Targets;
use crate::manifest::{ModalityKind, NpzSource, PartWords, SeriesSource, Source, TableSource};
use crate::read::npy::npy_bytes;
use crate::split::Part;

/// Why a cohort was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Records of patients are not copied around.
    #[error("cohort {0} is not simulated; only generated cohorts are written")]
    NotSimulated(String),
    /// The operating system refused.
    #[error("{path} cannot be written: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The archive or the manifest could not be put together.
    #[error("{path} cannot be put together: {message}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What failed.
        message: String,
    },
}

impl WriteError {
    /// Stable code for logs and replies.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotSimulated(_) => "cohort_not_simulated",
            Self::File { .. } => "file_not_written",
            Self::Content { .. } => "file_content",
        }
    }
}

const IMAGES: &str = "images.npz";
const TABLE: &str = "records.csv.gz";
const INDEX: &str = "series.csv";
const SAMPLES: &str = "signals.csv.gz";

/// The source that [`write()`] will fill.
pub(super) fn source(kind: &Kind) -> Source {
    match kind.modality_kind {
        ModalityKind::Image => Source::Npz(NpzSource {
            file: IMAGES.to_owned(),
            images: "{part}_images".to_owned(),
            parts: Some(PartWords {
                train: "train".to_owned(),
                validation: "val".to_owned(),
                test: "test".to_owned(),
            }),
        }),
        ModalityKind::Signal => Source::Series(SeriesSource {
            index: INDEX.to_owned(),
            samples: SAMPLES.to_owned(),
            id: "series".to_owned(),
            channels: kind.names.clone(),
            length: Some("samples".to_owned()),
        }),
        _ => Source::Table(TableSource {
            file: TABLE.to_owned(),
            header: Vec::new(),
            one_row_per_patient: false,
        }),
    }
}

/// Writes a generated cohort to `folder` and returns the path of its `cohort.toml`. Reading it gives the
/// same cohort, bit for bit. The manifest is written last, so that a cut-short folder is not a cohort.
///
/// # Errors
/// [`WriteError`] when the cohort is not generated or the folder cannot be written.
pub fn write(cohort: &Cohort, folder: &Path) -> Result<PathBuf, WriteError> {
    if !cohort.is_simulated() {
        return Err(WriteError::NotSimulated(cohort.name().to_string()));
    }
    let files = match &cohort.manifest().source {
        Source::Npz(_) => {
            let path = folder.join(IMAGES);
            let message = |error: zip::result::ZipError| WriteError::Content {
                path: path.clone(),
                message: error.to_string(),
            };
            vec![(IMAGES, images(cohort).map_err(message)?)]
        }
        Source::Series(_) => {
            let (index, samples) = series(cohort);
            vec![(INDEX, index.into_bytes()), (SAMPLES, gzip(&samples))]
        }
        _ => vec![(TABLE, gzip(&table(cohort)))],
    };
    let failed = |path: &Path, source| WriteError::File {
        path: path.to_owned(),
        source,
    };
    fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::write(&path, bytes).map_err(|error| failed(&path, error))?;
    }
    let path = folder.join("cohort.toml");
    let text = toml::to_string(cohort.manifest()).map_err(|error| WriteError::Content {
        path: path.clone(),
        message: error.to_string(),
    })?;
    fs::write(&path, text).map_err(|error| failed(&path, error))?;
    Ok(path)
}

/// Compressed without a time stamp, so that equal text gives equal bytes.
fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::default());
    // Cannot fail: writing into memory has no error case.
    encoder
        .write_all(text.as_bytes())
        .expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

fn images(cohort: &Cohort) -> Result<Vec<u8>, zip::result::ZipError> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().last_modified_time(DateTime::default());
    let (shape, labels) = (cohort.recorded_shape(), cohort.targets().labels());
    let width: usize = shape.iter().product();
    for (part, word) in Part::ALL.into_iter().zip(["train", "val", "test"]) {
        let records = cohort.records_in(part);
        let n = records.len();
        let pixels: Vec<u8> = (records.iter())
            .flat_map(|&r| &cohort.values()[r * width..(r + 1) * width])
            .map(|&value| value as u8)
            .collect();
        let classes: Vec<u8> = (records.iter())
            .map(|&r| labels.map_or(0, |labels| labels[r] as u8))
            .collect();
        let patients: Vec<u8> = (records.iter())
            .map(|&r| {
                cohort.ids()[cohort.patient()[r] as usize]
                    .parse::<u32>()
                    .unwrap_or(0)
            })
            .flat_map(u32::to_le_bytes)
            .collect();
        for (name, bytes) in [
            (
                "images",
                npy_bytes("|u1", &[n, shape[1], shape[2]], &pixels),
            ),
            ("labels", npy_bytes("|u1", &[n, 1], &classes)),
            ("patients", npy_bytes("<u4", &[n], &patients)),
        ] {
            archive.start_file(format!("{word}_{name}.npy"), options)?;
            archive.write_all(&bytes)?;
        }
    }
    Ok(archive.finish()?.into_inner())
}

/// Header and cells of the target columns.
fn target(cohort: &Cohort, record: usize) -> String {
    match cohort.targets() {
        Targets::Classes { label, names } => names[label[record] as usize].clone(),
        Targets::Survival { time, event } => {
            format!("{},{}", time[record], u8::from(event[record]))
        }
        Targets::Unlabelled { .. } => String::new(),
    }
}

fn target_header(cohort: &Cohort) -> &'static str {
    match cohort.targets() {
        Targets::Classes { .. } => "label",
        Targets::Survival { .. } => "months,died",
        Targets::Unlabelled { .. } => "label",
    }
}

fn patient_and_part(cohort: &Cohort, record: usize) -> (&str, &'static str) {
    let patient = &cohort.ids()[cohort.patient()[record] as usize];
    (patient, cohort.parts()[record].as_str())
}

fn table(cohort: &Cohort) -> String {
    let names: Vec<&str> = cohort.features().iter().map(|f| f.name.as_str()).collect();
    let mut text = format!(
        "patient,part,{},{}\n",
        target_header(cohort),
        names.join(",")
    );
    for (record, values) in cohort.values().chunks_exact(names.len()).enumerate() {
        let (patient, part) = patient_and_part(cohort, record);
        let cells: Vec<String> = values.iter().map(|value| cell(*value)).collect();
        let target = target(cohort, record);
        // Cannot fail: writing into a string has no error case.
        let _ = writeln!(text, "{patient},{part},{target},{}", cells.join(","));
    }
    text
}

/// The shortest text that reads back as the same number; empty if missing.
fn cell(value: f32) -> String {
    match value.is_nan() {
        true => String::new(),
        false => value.to_string(),
    }
}

fn series(cohort: &Cohort) -> (String, String) {
    let names: Vec<&str> = cohort.features().iter().map(|f| f.name.as_str()).collect();
    let length = cohort.recorded_shape()[1];
    let header = target_header(cohort);
    let mut index = format!("series,patient,part,{header},samples\n");
    let mut samples = format!("series,{}\n", names.join(","));
    for (record, values) in cohort
        .values()
        .chunks_exact(names.len() * length)
        .enumerate()
    {
        let (patient, part) = patient_and_part(cohort, record);
        let target = target(cohort, record);
        let _ = writeln!(index, "{record},{patient},{part},{target},{length}");
        for at in 0..length {
            let cells: Vec<String> = (0..names.len())
                .map(|channel| values[channel * length + at].to_string())
                .collect();
            let _ = writeln!(samples, "{record},{}", cells.join(","));
        }
    }
    (index, samples)
}

//! From files to [`Records`]: one reader per layout, all problems collected.

pub(crate) mod columns;
mod icu;
mod images;
pub(crate) mod npy;
mod series;
mod table;
mod table_file;

use serde::Serialize;

use crate::examples::Targets;
use crate::manifest::Source;
use crate::manifest_file::ManifestFile;
use crate::refusal::{Place, Problems};
use crate::split::Part;

/// One column of a table, or one channel of an image or signal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// The column, concept or channel that it comes from.
    pub source: String,
    /// The declared physical unit.
    pub unit: Option<String>,
    /// Declared limits for the recorded value.
    pub clip: Option<[f32; 2]>,
    /// Whether an indicator feature for missing values is added.
    pub missing_indicator: bool,
}

/// What a reader found: records as recorded, in the order of the files.
pub(crate) struct Records {
    /// Shape of one record.
    pub(crate) shape: Vec<usize>,
    /// All records; NaN is a missing value (tables only).
    pub(crate) values: Vec<f32>,
    pub(crate) features: Vec<Feature>,
    pub(crate) targets: Targets,
    /// Patient or record id of each record.
    pub(crate) ids: Vec<String>,
    /// Parts as distributed.
    pub(crate) parts: Option<Vec<Part>>,
    /// Where each record stands.
    pub(crate) places: Vec<Place>,
}

/// Reads all records; problems are noted, and nothing is returned when a file could not be read at all.
pub(crate) fn records(file: &ManifestFile, problems: &mut Problems) -> Option<Records> {
    match &file.manifest.source {
        Source::Npz(source) => images::read(file, source, problems),
        Source::Table(source) => table::read(file, source, problems),
        Source::Icu(source) => icu::read(file, source, problems),
        Source::Series(source) => series::read(file, source, problems),
    }
}

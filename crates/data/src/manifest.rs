//! `cohort.toml`: one site's cohort, told in one file.
//!
//! [`CohortManifest`] is the parser, the check and the reference text at once. It says what the records
//! are, whose they are, which task they serve, where the files lie, how patients are split and what is
//! done to the values. A key that it does not know is refused with its line and a suggestion.

use std::collections::BTreeMap;

use consilium_core::{ModalityKey, SiteId, TaskKey};
use serde::{Deserialize, Serialize};

use crate::read::columns::matches;

/// A cohort as its site declares it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CohortManifest {
    /// Name of the cohort, in the alphabet of site names.
    pub name: SiteId,
    /// One sentence for people: what was recorded, of whom, where it comes from.
    #[serde(default)]
    pub description: String,
    /// Whether the records are real, published or generated.
    pub origin: Origin,
    /// How several modalities of this cohort belong together; `none` for a cohort of one modality.
    #[serde(default)]
    pub linkage: Linkage,
    /// Column or array that holds the patient id. Excludes `unit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patient_id: Option<String>,
    /// `record` when no patient id exists; every table, verdict and budget then says *record*.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<DeclaredUnit>,
    /// Why records cannot be joined into patients; required with `unit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was measured.
    pub modality: ModalitySpec,
    /// What is predicted.
    pub task: TaskSpec,
    /// Where the records lie.
    pub source: Source,
    /// Which patients train, validate and test.
    pub splits: Splits,
    /// What is done to the values before training.
    #[serde(default)]
    pub preprocessing: Preprocessing,
    /// Columns of a table, in blocks that are treated alike. Required for tables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<FeatureBlock>,
    /// Physical unit of columns or channels, by name; part of the schema hash.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub units: BTreeMap<String, String>,
}

/// Where the records come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Patients of this site.
    Real,
    /// A published data set of real patients.
    Public,
    /// Generated; stated wherever results are shown.
    Simulated,
}

impl Origin {
    /// The word in files and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Real => "real",
            Self::Public => "public",
            Self::Simulated => "simulated",
        }
    }
}

/// How records of several modalities are joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Linkage {
    /// Same patient.
    Patient,
    /// Same episode of one patient.
    Episode,
    /// Not joined.
    #[default]
    None,
    /// Joined by a rule, not by a patient; fusion scores are refused.
    Synthetic,
}

/// The unit of a cohort without patient ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeclaredUnit {
    /// One record.
    Record,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModalitySpec {
    /// Kind, version and, optionally, the first hexadecimal digits of the schema hash, as in
    /// `tab.v1.9f3c`. Equal key means equal shapes and equal meaning of every column.
    pub key: ModalityKey,
    /// The kind of record.
    pub kind: ModalityKind,
}

/// The kind of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModalityKind {
    /// A 2-D image, `[C, H, W]`.
    Image,
    /// A row of a table, `[F]`.
    Table,
    /// A row of molecular measurements, `[F]`.
    Omics,
    /// A row of intensive-care measurements, `[F]`.
    Icu,
    /// A window of a series, `[C, L]`.
    Signal,
}

impl ModalityKind {
    /// The word in files and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Table => "table",
            Self::Omics => "omics",
            Self::Icu => "icu",
            Self::Signal => "signal",
        }
    }
}

/// What is predicted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// Type, label schema and version, for example `binary.pneumonia.v1`.
    pub key: TaskKey,
    /// The kind of target.
    pub kind: TaskKind,
    /// Column or array of the label (`binary`, `classes`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Names of the classes in the order of their indices; the second of a binary task is the positive one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// What stands in the file for each class, one text or several; the names themselves if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<ClassValue>,
    /// Column of the time to event or censoring (`survival`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Column that says whether the event happened (`survival`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// What stands in the event column when it happened, `1` if left out. `0` for a censoring column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_value: Option<f64>,
}

/// The kind of target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// One of two classes.
    Binary,
    /// One of several classes.
    Classes,
    /// Time to an event, possibly censored.
    Survival,
    /// Nobody knows yet: new patients, to predict for and not to train on. The key is that of the task.
    Unlabelled,
}

impl TaskKind {
    /// The word in files and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Classes => "classes",
            Self::Survival => "survival",
            Self::Unlabelled => "unlabelled",
        }
    }
}

/// Where the records lie, by layout. Paths are relative to the manifest; `${CONSILIUM_DATA}` is expanded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Arrays in one numpy archive, or in a folder of `.npy` files.
    Npz(NpzSource),
    /// One table, CSV or TSV, plain or gzip.
    Table(TableSource),
    /// Hourly intensive-care values, static values and outcomes, joined by stay.
    Icu(IcuSource),
    /// Series of samples and an index with one row a series.
    Series(SeriesSource),
}

/// Arrays in one numpy archive, or in a folder of `.npy` files. `{part}` in a name (also in `task.label` and `patient_id`) stands for
/// the words of `parts`, as in MedMNIST's `train_images`, `val_images`, `test_images`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NpzSource {
    /// The archive, or the folder.
    pub file: String,
    /// Array of images, `(N, H, W)` or `(N, H, W, C)`, uint8.
    pub images: String,
    /// What `{part}` stands for in each part; needs `splits.fixed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<PartWords>,
}

/// The words for the three parts in names of arrays or in a column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartWords {
    /// Training part.
    pub train: String,
    /// Validation part.
    pub validation: String,
    /// Test part.
    pub test: String,
}

/// What stands in a file for one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ClassValue {
    /// One text, as in `"1"`.
    One(String),
    /// Several, as in `["1", "2", "3"]`.
    Several(Vec<String>),
}

impl ClassValue {
    /// All texts of the class.
    #[must_use]
    pub fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Several(texts) => texts,
        }
    }
}

/// Whether two cells say the same: equal texts, or equal numbers (`1` and `1.0`).
pub(crate) fn same_cell(one: &str, other: &str) -> bool {
    let number = |text: &str| text.parse::<f64>().ok();
    one == other || number(one).is_some_and(|value| number(other) == Some(value))
}

/// One table, CSV or TSV (by file ending), plain or gzip (`.gz`). An empty cell is a missing value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSource {
    /// The table.
    pub file: String,
    /// Names of the columns, for a file that has no header row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub header: Vec<String>,
    /// Keep the first row of each patient; later ones must agree with it in every column that is used.
    #[serde(default)]
    pub one_row_per_patient: bool,
}

/// Hourly intensive-care values in long form, as in the YAIB exports.
///
/// Each dynamic feature column becomes five features of the stay: mean, minimum, maximum, last and count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IcuSource {
    /// Table of `id`, `time` and one column per concept.
    pub dynamic: String,
    /// Table with one row a stay.
    #[serde(rename = "static")]
    pub fixed: String,
    /// Table of `id` and the label.
    pub outcome: String,
    /// Column of the stay, in all three tables.
    pub id: String,
    /// Column of the time in hours since admission, in `dynamic`.
    pub time: String,
    /// Hours that count; later rows are left out.
    pub hours: f64,
}

/// Series of samples in long form and an index with one row a series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeriesSource {
    /// Table with one row a series: id, label and patient.
    pub index: String,
    /// Table of `id` and one column per channel, in the order of time.
    pub samples: String,
    /// Column of the series id, in both tables.
    pub id: String,
    /// Columns of the channels, in order.
    pub channels: Vec<String>,
    /// Column of the index with the number of samples, to be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<String>,
}

/// Which patients train, validate and test. Exactly one of `fractions` and `fixed`; exactly one of `key`
/// and `key_file`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Splits {
    /// Key of the hash, for simulated and public cohorts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// File that holds the key, for real cohorts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
    /// Shares of a threshold on the keyed hash of the patient id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fractions: Option<Fractions>,
    /// Parts as they were distributed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed: Option<FixedSplit>,
}

/// Shares that add up to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fractions {
    /// Training share.
    pub train: f64,
    /// Validation share.
    pub validation: f64,
    /// Test share.
    pub test: f64,
}

/// Parts as distributed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedSplit {
    /// Column with `train`, `validation` or `test`; left out where arrays carry the part in their name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Drop validation records that equal a training record instead of refusing the cohort.
    #[serde(default)]
    pub drop_shared_validation: bool,
}

/// What is done to the values. What is fitted (mean, standard deviation) is fitted on training records only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Subtract the mean and divide by the standard deviation: per feature of a table, per channel of an
    /// image or signal.
    #[serde(default = "yes")]
    pub standardise: bool,
    /// Limit standardised values to plus or minus this many standard deviations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<f32>,
    /// Side in pixels to which images are resized (bilinear).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<usize>,
    /// Samples in one window of a series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Samples from the start of one window to the start of the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<usize>,
    /// Means, standard deviations and stand-ins for missing values that are known without these patients. With it
    /// nothing is fitted on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<PublicConstants>,
}

/// Scaling and imputation that were not computed from the cohort's own patients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicConstants {
    /// Where the numbers come from: a publication, a device's range, another data set. Numbers that were computed
    /// from the patients of this cohort are not public.
    pub source: String,
    /// One entry for features that are treated alike; the first that names a feature counts, and every feature needs
    /// one.
    pub scales: Vec<PublicScale>,
}

/// How some features are scaled: by `range`, or by `mean` and `standard_deviation`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicScale {
    /// Names of features or channels, as `consilium data describe` lists them; one `*` stands for any text.
    pub of: Vec<String>,
    /// Where values usually lie: the middle is the mean, a quarter of the width the standard deviation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
    /// What becomes 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// What becomes a distance of 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard_deviation: Option<f64>,
    /// What stands in for a missing value; the mean if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<f64>,
}

impl PublicConstants {
    /// The entry that holds for a feature or channel.
    #[must_use]
    pub fn scale_of(&self, feature: &str) -> Option<&PublicScale> {
        let names = |scale: &&PublicScale| scale.of.iter().any(|pattern| matches(pattern, feature));
        self.scales.iter().find(names)
    }
}

impl PublicScale {
    /// Mean and standard deviation; nothing where the entry does not say them in exactly one way.
    #[must_use]
    pub fn centre_and_spread(&self) -> Option<(f64, f64)> {
        match (self.range, self.mean, self.standard_deviation) {
            (Some([low, high]), None, None) => Some(((low + high) / 2.0, (high - low) / 4.0)),
            (None, Some(mean), Some(deviation)) => Some((mean, deviation)),
            _ => None,
        }
    }
}

impl Default for Preprocessing {
    fn default() -> Self {
        Self {
            standardise: true,
            limit: None,
            side: None,
            window: None,
            step: None,
            public: None,
        }
    }
}

fn yes() -> bool {
    true
}

/// Columns of a table that are treated alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureBlock {
    /// Column names; one `*` stands for any text, as in `*_rnaseq`, in the order of the file.
    pub columns: Vec<String>,
    /// Limits for the values as recorded: smaller and larger ones are set to the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<[f32; 2]>,
    /// Texts that say that a value is missing, beside an empty cell; a number stands for every way to write it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// Texts of a categorical column; each becomes a feature of 0 and 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
    /// Add a feature that is 1 where the value is missing.
    #[serde(default)]
    pub missing_indicator: bool,
}

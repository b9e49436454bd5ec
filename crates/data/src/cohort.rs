//! One site's records, typed and unchangeable, with their split.
//!
//! A [`Cohort`] holds values as recorded; [`Cohort::prepare`] fits scaling on a list of training records
//! and returns arrays for training. It does not know models, rounds or the network.

use std::collections::HashMap;
use std::path::Path;

use consilium_core::{Digest, SiteId};
use serde::Serialize;

use crate::examples::Targets;
use crate::manifest::{CohortManifest, Origin};
use crate::manifest_file::ManifestFile;
use crate::problem::Problem;
use crate::read::columns::matches;
use crate::read::{self, Feature, Records};
use crate::refusal::{Located, Place, Problems, Refusal};
use crate::split::{Part, fold, keyed_hash, part_of, split_hash};

/// Records of one site. Private data: not printable.
#[derive(Clone)]
pub struct Cohort {
    manifest: CohortManifest,
    shape: Vec<usize>,
    values: Vec<f32>,
    features: Vec<Feature>,
    targets: Targets,
    /// Distinct patient ids in the order of first appearance.
    ids: Vec<String>,
    patient: Vec<u32>,
    part: Vec<Part>,
    key: Vec<u8>,
    notes: Vec<Located>,
}

/// Whose data one unit of privacy and of every table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A patient with all records.
    Patient,
    /// One record; patient-level claims are refused.
    Record,
}

impl Unit {
    /// The word in tables and verdicts.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Patient => "patient",
            Self::Record => "record",
        }
    }
}

/// Record indices of one fold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    /// Records of all other folds.
    pub train: Vec<usize>,
    /// Records of this fold.
    pub test: Vec<usize>,
}

impl Cohort {
    /// Reads the cohort that `manifest` (a `cohort.toml`) describes.
    ///
    /// # Errors
    /// [`Refusal`] with every problem found in the manifest, the files and the split.
    pub fn read(manifest: &Path) -> Result<Self, Refusal> {
        let mut problems = Problems::default();
        let cohort = ManifestFile::read(manifest, &mut problems).and_then(|file| {
            let records = read::records(&file, &mut problems)?;
            Self::assemble(file, records, &mut problems)
        });
        match cohort {
            Some(mut cohort) if !problems.refuse() => {
                cohort.notes = problems.listed().to_vec();
                Ok(cohort)
            }
            _ => Err(problems.into_refusal()),
        }
    }

    /// Splits the records and checks the split.
    pub(crate) fn assemble(
        file: ManifestFile,
        mut records: Records,
        problems: &mut Problems,
    ) -> Option<Self> {
        let manifest = file.manifest;
        let key = file.split_key;
        if let Some(fixed) = &manifest.splits.fixed
            && fixed.drop_shared_validation
        {
            drop_shared_validation(&mut records, problems);
        }
        let part: Vec<Part> = match (records.parts, &manifest.splits.fractions) {
            (Some(parts), _) => parts,
            (None, Some(f)) => (records.ids.iter())
                .map(|id| part_of(id, f, &key))
                .collect(),
            (None, None) => return None,
        };
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let mut first: Vec<usize> = Vec::new();
        let mut patient = Vec::with_capacity(records.ids.len());
        for (record, id) in records.ids.iter().enumerate() {
            let number = *numbers.entry(id).or_insert_with(|| {
                first.push(record);
                first.len() as u32 - 1
            });
            patient.push(number);
            let before = first[number as usize];
            if part[before] != part[record] {
                let problem = Problem::PatientInTwoSplits {
                    unit: unit_of(&manifest).as_str(),
                    here: part[record].as_str(),
                    there: part[before].as_str(),
                    first: within_file(&records.places[before]),
                };
                problems.push(problem, records.places[record].clone());
            }
        }
        let ids = first
            .iter()
            .map(|&record| records.ids[record].clone())
            .collect();
        let cohort = Self {
            manifest,
            shape: records.shape,
            values: records.values,
            features: records.features,
            targets: records.targets,
            ids,
            patient,
            part,
            key,
            notes: Vec::new(),
        };
        cohort.check_schema(&file.path, problems);
        cohort.check_public(&file.path, problems);
        // Gaps that come from refused rows are not news.
        if !problems.refuse() {
            cohort.note_gaps(&file.path, problems);
        }
        Some(cohort)
    }

    /// Compares the schema hash that the modality key may carry as its last part.
    fn check_schema(&self, path: &Path, problems: &mut Problems) {
        let key = self.manifest.modality.key.as_str();
        let Some(declared) = key.split('.').nth(2) else {
            return;
        };
        let is_hash = declared.len() >= 4 && declared.bytes().all(|b| b.is_ascii_hexdigit());
        let computed = self.schema_hash().to_string();
        if is_hash && !computed.starts_with(declared) {
            let problem = Problem::SchemaDiffers {
                declared: declared.to_owned(),
                computed: computed.chars().take(declared.len()).collect(),
            };
            problems.push(problem, Place::file(path).column("modality.key"));
        }
    }

    /// Every feature has public constants, and every constant a feature, where there are any.
    fn check_public(&self, path: &Path, problems: &mut Problems) {
        let Some(public) = &self.manifest.preprocessing.public else {
            return;
        };
        let place = || Place::file(path).column("preprocessing.public.scales");
        let names = || self.features.iter().map(|feature| feature.name.as_str());
        let without: Vec<&str> = names()
            .filter(|name| public.scale_of(name).is_none())
            .collect();
        if let [first, ..] = without[..] {
            let message = format!(
                "{} features have no public constants, the first is `{first}`",
                without.len()
            );
            problems.push(Problem::InvalidValue(message), place());
        }
        for pattern in public.scales.iter().flat_map(|scale| &scale.of) {
            if !names().any(|name| matches(pattern, name)) {
                let message = format!("no feature or channel matches `{pattern}`");
                problems.push(Problem::InvalidValue(message), place());
            }
        }
    }

    /// The features or channels whose mean and standard deviation [`Cohort::prepare`] computes from patients: none
    /// where the manifest gives public constants, or where nothing is scaled.
    #[must_use]
    pub fn fitted(&self) -> Vec<&str> {
        let steps = &self.manifest.preprocessing;
        if !steps.standardise || steps.public.is_some() {
            return Vec::new();
        }
        self.features.iter().map(|f| f.name.as_str()).collect()
    }

    /// Notes what makes training pointless or poor.
    fn note_gaps(&self, path: &Path, problems: &mut Problems) {
        let train = self.records_in(Part::Train);
        if train.is_empty() {
            problems.push(Problem::PartEmpty(Part::Train.as_str()), Place::file(path));
            return;
        }
        if let Targets::Classes { label, names } = &self.targets {
            for (class, name) in names.iter().enumerate() {
                if !train.iter().any(|&record| label[record] as usize == class) {
                    problems.push(Problem::ClassEmpty(name.clone()), Place::file(path));
                }
            }
        }
        if self.is_table() {
            let width = self.features.len();
            for (at, feature) in self.features.iter().enumerate() {
                if train
                    .iter()
                    .all(|&record| self.values[record * width + at].is_nan())
                {
                    problems.push(
                        Problem::FeatureEmpty(feature.name.clone()),
                        Place::file(path),
                    );
                }
            }
        }
    }

    /// What the site declares.
    #[must_use]
    pub fn manifest(&self) -> &CohortManifest {
        &self.manifest
    }

    /// Name of the cohort.
    #[must_use]
    pub fn name(&self) -> &SiteId {
        &self.manifest.name
    }

    /// Whether the records were generated; stated wherever results are shown.
    #[must_use]
    pub fn is_simulated(&self) -> bool {
        self.manifest.origin == Origin::Simulated
    }

    /// Whose data one unit is.
    #[must_use]
    pub fn unit(&self) -> Unit {
        unit_of(&self.manifest)
    }

    /// Number of records.
    #[must_use]
    pub fn records(&self) -> usize {
        self.patient.len()
    }

    /// Number of patients (of distinct records under `unit = "record"`).
    #[must_use]
    pub fn patients(&self) -> usize {
        self.ids.len()
    }

    /// Shape of one record as recorded: `[C, H, W]`, `[C, L]` or `[F]`.
    #[must_use]
    pub fn recorded_shape(&self) -> &[usize] {
        &self.shape
    }

    /// Columns of a table, channels of an image or signal, as recorded.
    #[must_use]
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// The target of each record.
    #[must_use]
    pub fn targets(&self) -> &Targets {
        &self.targets
    }

    /// The patient of each record, numbered from 0 inside this cohort.
    #[must_use]
    pub fn patient(&self) -> &[u32] {
        &self.patient
    }

    /// The id of a record's patient as recorded, or the digest that stands for the record under
    /// `unit = "record"`; nothing beyond the end. Private: for tables that stay at the site.
    #[must_use]
    pub fn id_of(&self, record: usize) -> Option<&str> {
        let patient = *self.patient.get(record)?;
        self.ids.get(patient as usize).map(String::as_str)
    }

    /// The part of each record.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.part
    }

    /// Warnings and notes of reading.
    #[must_use]
    pub fn notes(&self) -> &[Located] {
        &self.notes
    }

    /// Indices of the records in `part`, ascending.
    #[must_use]
    pub fn records_in(&self, part: Part) -> Vec<usize> {
        (0..self.records())
            .filter(|&r| self.part[r] == part)
            .collect()
    }

    /// Number of patients in `part`.
    #[must_use]
    pub fn patients_in(&self, part: Part) -> usize {
        let mut seen = vec![false; self.ids.len()];
        for record in self.records_in(part) {
            seen[self.patient[record] as usize] = true;
        }
        seen.into_iter().filter(|&here| here).count()
    }

    /// `count` patient-wise folds over all records, by the same kind of keyed hash as the split.
    #[must_use]
    pub fn folds(&self, count: u32) -> Vec<Fold> {
        let of_patient: Vec<u32> = (self.ids.iter())
            .map(|id| fold(id, count, &self.key))
            .collect();
        (0..count)
            .map(|number| {
                let (test, train) = (0..self.records())
                    .partition(|&record| of_patient[self.patient[record] as usize] == number);
                Fold { train, test }
            })
            .collect()
    }

    /// Digest of who is in which part, keyed with the split key.
    #[must_use]
    pub fn split_hash(&self) -> Digest {
        let mut part_of = vec![Part::Train; self.ids.len()];
        for (&patient, &part) in self.patient.iter().zip(&self.part) {
            part_of[patient as usize] = part;
        }
        let pairs = self.ids.iter().map(String::as_str).zip(part_of);
        split_hash(pairs, &self.key)
    }

    /// Digest of shapes, values, targets, patients and parts, keyed with the split key.
    #[must_use]
    pub fn data_hash(&self) -> Digest {
        let mut bytes = Vec::with_capacity(self.values.len() * 4 + self.records() * 16);
        for &side in &self.shape {
            bytes.extend((side as u64).to_le_bytes());
        }
        bytes.extend(self.values.iter().flat_map(|v| v.to_le_bytes()));
        match &self.targets {
            Targets::Classes { label, .. } => {
                bytes.extend(label.iter().flat_map(|l| l.to_le_bytes()))
            }
            Targets::Survival { time, event } => {
                bytes.extend(time.iter().flat_map(|t| t.to_le_bytes()));
                bytes.extend(event.iter().map(|&e| u8::from(e)));
            }
            Targets::Unlabelled { .. } => {}
        }
        for (&patient, part) in self.patient.iter().zip(&self.part) {
            let id = &self.ids[patient as usize];
            bytes.extend((id.len() as u64).to_le_bytes());
            bytes.extend(id.bytes());
            bytes.extend(part.as_str().bytes());
        }
        Digest::from(keyed_hash(&self.key, "data-hash", &bytes))
    }

    /// Digest over kind, ordered feature names, units, categories and limits: what a modality key stands for.
    #[must_use]
    pub fn schema_hash(&self) -> Digest {
        let steps = &self.manifest.preprocessing;
        Digest::of_json(&(
            self.manifest.modality.kind.as_str(),
            &self.features,
            (steps.standardise, steps.limit, steps.side, steps.window),
        ))
    }

    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    pub(crate) fn is_table(&self) -> bool {
        self.shape.len() == 1
    }

    /// Ids of the patients, for writing generated cohorts.
    pub(crate) fn ids(&self) -> &[String] {
        &self.ids
    }
}

impl std::fmt::Debug for Cohort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Cohort({}, {} records)",
            self.manifest.name,
            self.records()
        )
    }
}

fn unit_of(manifest: &CohortManifest) -> Unit {
    match manifest.unit {
        Some(_) => Unit::Record,
        None => Unit::Patient,
    }
}

/// A place without its file.
fn within_file(place: &Place) -> String {
    match (&place.line, &place.column) {
        (Some(line), _) => format!("line {line}"),
        (None, Some(column)) => column.clone(),
        (None, None) => place.file.display().to_string(),
    }
}

/// Drops validation records that equal a training record, and says which.
fn drop_shared_validation(records: &mut Records, problems: &mut Problems) {
    let Some(parts) = &records.parts else {
        return;
    };
    let train: std::collections::HashSet<&str> = (records.ids.iter().zip(parts))
        .filter(|(_, part)| **part == Part::Train)
        .map(|(id, _)| id.as_str())
        .collect();
    let keep: Vec<bool> = (records.ids.iter().zip(parts))
        .map(|(id, part)| *part != Part::Validation || !train.contains(id.as_str()))
        .collect();
    let dropped: Vec<&Place> = (records.places.iter().zip(&keep))
        .filter(|(_, keep)| !**keep)
        .map(|(place, _)| place)
        .collect();
    let Some(first) = dropped.first() else {
        return;
    };
    let places: Vec<String> = dropped.iter().map(|place| within_file(place)).collect();
    let problem = Problem::SharedRecordsDropped {
        count: dropped.len(),
        list: places.join(", "),
    };
    problems.push(problem, Place::file(&first.file));
    let kept: Vec<usize> = (0..keep.len()).filter(|&record| keep[record]).collect();
    records.keep(&kept);
}

impl Records {
    /// Keeps the records at `kept`, which are indices of this very list.
    fn keep(&mut self, kept: &[usize]) {
        let width: usize = self.shape.iter().product();
        self.values = (kept.iter())
            .flat_map(|&r| self.values[r * width..(r + 1) * width].iter().copied())
            .collect();
        // Cannot fail: `kept` are indices of this list.
        self.targets = (self.targets.select(kept)).expect("indices of this list");
        self.ids = kept.iter().map(|&r| self.ids[r].clone()).collect();
        self.places = kept.iter().map(|&r| self.places[r].clone()).collect();
        if let Some(parts) = &mut self.parts {
            *parts = kept.iter().map(|&r| parts[r]).collect();
        }
    }
}

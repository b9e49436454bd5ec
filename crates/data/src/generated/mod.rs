//! Generated cohorts: for the quickstart, for tests and for trying out a study before asking for data.
//!
//! A [`GeneratedSpec`] names a kind, a hospital and the number of patients; [`cohort`] makes the records
//! from named random streams, so that one patient's record depends on seed, cohort name, part and number
//! only. Hospitals of one kind share what there is to learn and differ in how they measure (X-ray
//! scanners) or whom they treat (intensive care). Everything is marked `simulated`. [`write()`] puts a cohort
//! on disk in the layouts that real cohorts use.

mod icu;
mod omics;
mod signal;
mod write;
mod xray;

use std::path::PathBuf;

use consilium_core::{ModalityKey, Seed, SiteId, StreamKey, TaskKey, seed};
use rand::{Rng, RngExt as _};
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use crate::cohort::Cohort;
use crate::examples::Targets;
use crate::manifest::{
    ClassValue, CohortManifest, FeatureBlock, FixedSplit, Linkage, ModalityKind, ModalitySpec,
    Origin, Preprocessing, PublicConstants, PublicScale, Source, Splits, TaskKind, TaskSpec,
};
use crate::manifest_file::ManifestFile;
use crate::problem::Problem;
use crate::read::columns::Target;
use crate::read::{Feature, Records};
use crate::refusal::{Place, Problems, Refusal};
use crate::split::Part;

pub use write::{WriteError, write};

/// One generated cohort.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratedSpec {
    /// Name of the cohort; another name gives other patients.
    pub name: SiteId,
    /// What is recorded.
    pub kind: GeneratedKind,
    /// Which hospital of this kind. 0, 1 and 2 are fixed; others are drawn from the seed.
    #[serde(default)]
    pub hospital: u32,
    /// Patients to train on.
    pub train: u32,
    /// Patients to choose the recipe on.
    pub validation: u32,
    /// Patients to test on.
    pub test: u32,
    /// Scale by numbers that are known from how records of this kind are generated, and fit nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public_constants: bool,
}

/// What a generated cohort records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeneratedKind {
    /// Chest X-rays `[1, 32, 32]`, with or without an opacity.
    Xray,
    /// Intensive-care rows of 24 values with gaps, with death as label.
    Icu,
    /// Expression of 64 genes, with survival.
    Omics,
    /// Windows `[3, 128]` of an accelerometer, with four activities.
    Signal,
}

impl GeneratedSpec {
    fn new(name: &str, kind: GeneratedKind, hospital: u32, patients: [u32; 3]) -> Self {
        Self {
            // Cannot fail: the names below are names.
            name: SiteId::new(name).expect("a valid name"),
            kind,
            hospital,
            train: patients[0],
            validation: patients[1],
            test: patients[2],
            public_constants: false,
        }
    }
}

/// The eight hospitals of the built-in quickstart.
#[must_use]
pub fn quickstart() -> Vec<GeneratedSpec> {
    use GeneratedKind::{Icu, Omics, Signal, Xray};
    vec![
        GeneratedSpec::new("xray-north", Xray, 0, [90, 40, 160]),
        GeneratedSpec::new("xray-harbour", Xray, 1, [70, 40, 160]),
        GeneratedSpec::new("xray-valley", Xray, 2, [110, 40, 160]),
        GeneratedSpec::new("icu-general", Icu, 0, [90, 40, 200]),
        GeneratedSpec::new("icu-cardiac", Icu, 1, [80, 40, 200]),
        GeneratedSpec::new("icu-trauma", Icu, 2, [110, 40, 200]),
        GeneratedSpec::new("omics-institute", Omics, 0, [160, 50, 160]),
        GeneratedSpec::new("signal-clinic", Signal, 0, [80, 30, 150]),
    ]
}

/// Makes the cohort.
///
/// # Errors
/// [`Refusal`] when a part would be empty or has more than 100 000 patients.
pub fn cohort(spec: &GeneratedSpec, seed: Seed) -> Result<Cohort, Refusal> {
    let path = PathBuf::from(format!("generated:{}", spec.name));
    let mut problems = Problems::default();
    for (part, count) in parts(spec) {
        if !(1..=MOST_PATIENTS).contains(&count) {
            let message = format!("{count} patients are outside 1 to {MOST_PATIENTS}");
            let place = Place::file(&path).column(part.as_str());
            problems.push(Problem::InvalidValue(message), place);
        }
    }
    if problems.refuse() {
        return Err(problems.into_refusal());
    }
    let kind = Kind::of(spec.kind);
    let manifest = manifest(spec, &kind);
    let records = records(spec, seed, &kind, &path);
    let file = ManifestFile {
        path,
        split_key: manifest.splits.key.clone().unwrap_or_default().into_bytes(),
        manifest,
    };
    match Cohort::assemble(file, records, &mut problems) {
        Some(cohort) if !problems.refuse() => Ok(cohort),
        _ => Err(problems.into_refusal()),
    }
}

/// Patients in one part at most; also the distance between the numbers of two parts.
const MOST_PATIENTS: u32 = 100_000;

fn parts(spec: &GeneratedSpec) -> [(Part, u32); 3] {
    [
        (Part::Train, spec.train),
        (Part::Validation, spec.validation),
        (Part::Test, spec.test),
    ]
}

/// One generated record.
struct Record {
    /// NaN is missing.
    values: Vec<f32>,
    target: Target,
}

/// What the kinds differ in.
struct Kind {
    modality: &'static str,
    modality_kind: ModalityKind,
    task: &'static str,
    task_kind: TaskKind,
    classes: &'static [&'static str],
    about: &'static str,
    shape: Vec<usize>,
    /// Columns or channels.
    names: Vec<String>,
    /// What is known about the values of every hospital of this kind.
    scales: Vec<PublicScale>,
    /// Makes all records of one patient.
    patient: fn(&Hospital, &mut dyn Rng) -> Vec<Record>,
}

/// One hospital: its number and, beyond the fixed ones, what was drawn for it.
struct Hospital {
    number: u32,
    /// Four numbers in `[0, 1)`.
    drawn: [f32; 4],
}

impl Kind {
    fn of(kind: GeneratedKind) -> Self {
        match kind {
            GeneratedKind::Xray => xray::kind(),
            GeneratedKind::Icu => icu::kind(),
            GeneratedKind::Omics => omics::kind(),
            GeneratedKind::Signal => signal::kind(),
        }
    }
}

fn records(spec: &GeneratedSpec, seed: Seed, kind: &Kind, path: &std::path::Path) -> Records {
    let stream = |purpose: &'static str, step: u32| {
        let key = StreamKey {
            purpose,
            step,
            site: spec.name.as_str(),
            ..StreamKey::default()
        };
        seed::stream(seed, &key)
    };
    let mut draw = stream("generated-hospital", spec.hospital);
    let hospital = Hospital {
        number: spec.hospital,
        drawn: std::array::from_fn(|_| draw.random()),
    };
    let mut records = Records {
        shape: kind.shape.clone(),
        values: Vec::new(),
        features: (kind.names.iter())
            .map(|name| Feature {
                name: name.clone(),
                source: name.clone(),
                unit: None,
                clip: None,
                missing_indicator: kind.modality_kind == ModalityKind::Icu,
            })
            .collect(),
        targets: match kind.task_kind {
            TaskKind::Survival => Targets::Survival {
                time: Vec::new(),
                event: Vec::new(),
            },
            _ => Targets::Classes {
                label: Vec::new(),
                names: kind.classes.iter().map(|&name| name.to_owned()).collect(),
            },
        },
        ids: Vec::new(),
        parts: Some(Vec::new()),
        places: Vec::new(),
    };
    for (number, (part, count)) in parts(spec).into_iter().enumerate() {
        let purpose = match part {
            Part::Train => "generated-train",
            Part::Validation => "generated-validation",
            Part::Test => "generated-test",
        };
        for patient in 0..count {
            for record in (kind.patient)(&hospital, &mut stream(purpose, patient)) {
                records.values.extend(record.values);
                records.targets.push(record.target);
                records
                    .ids
                    .push((number as u32 * MOST_PATIENTS + patient).to_string());
                if let Some(parts) = &mut records.parts {
                    parts.push(part);
                }
                records.places.push(Place::file(path));
            }
        }
    }
    records
}

fn manifest(spec: &GeneratedSpec, kind: &Kind) -> CohortManifest {
    let image = kind.modality_kind == ModalityKind::Image;
    let signal = kind.modality_kind == ModalityKind::Signal;
    let survival = kind.task_kind == TaskKind::Survival;
    CohortManifest {
        name: spec.name.clone(),
        description: format!("Simulated: {}", kind.about),
        origin: Origin::Simulated,
        linkage: Linkage::None,
        patient_id: Some(if image { "{part}_patients" } else { "patient" }.to_owned()),
        unit: None,
        reason: None,
        modality: ModalitySpec {
            // Cannot fail: the keys in this module are names.
            key: ModalityKey::new(kind.modality).expect("a valid key"),
            kind: kind.modality_kind,
        },
        task: TaskSpec {
            key: TaskKey::new(kind.task).expect("a valid key"),
            kind: kind.task_kind,
            label: (!survival).then(|| if image { "{part}_labels" } else { "label" }.to_owned()),
            classes: kind.classes.iter().map(|&name| name.to_owned()).collect(),
            values: match image {
                true => (0..kind.classes.len())
                    .map(|class| ClassValue::One(class.to_string()))
                    .collect(),
                false => Vec::new(),
            },
            time: survival.then(|| "months".to_owned()),
            event: survival.then(|| "died".to_owned()),
            event_value: None,
        },
        source: write::source(kind),
        splits: Splits {
            key: Some(format!("generated/{}", spec.name)),
            key_file: None,
            fractions: None,
            fixed: Some(FixedSplit {
                column: (!image).then(|| "part".to_owned()),
                drop_shared_validation: false,
            }),
        },
        preprocessing: Preprocessing {
            limit: Some(6.0),
            window: signal.then(|| kind.shape[1]),
            step: signal.then(|| kind.shape[1]),
            public: spec.public_constants.then(|| PublicConstants {
                source: "levels and spreads of the generator, the same for every hospital"
                    .to_owned(),
                scales: kind.scales.clone(),
            }),
            ..Preprocessing::default()
        },
        features: match write::source(kind) {
            Source::Table(_) => vec![FeatureBlock {
                columns: kind.names.clone(),
                clip: None,
                missing: Vec::new(),
                categories: Vec::new(),
                missing_indicator: kind.modality_kind == ModalityKind::Icu,
            }],
            _ => Vec::new(),
        },
        units: std::collections::BTreeMap::new(),
    }
}

/// Features or channels of this mean and standard deviation.
fn scale(of: &str, mean: f32, standard_deviation: f32) -> PublicScale {
    PublicScale {
        of: vec![of.to_owned()],
        range: None,
        mean: Some(f64::from(mean)),
        standard_deviation: Some(f64::from(standard_deviation)),
        missing: None,
    }
}

/// A standard normal number.
fn normal(stream: &mut dyn Rng) -> f32 {
    stream.sample(StandardNormal)
}

/// A number from `low` to `high`.
fn between(low: f32, high: f32, stream: &mut dyn Rng) -> f32 {
    low + (high - low) * stream.random::<f32>()
}

/// Whether something of this probability happens.
fn happens(probability: f32, stream: &mut dyn Rng) -> bool {
    stream.random::<f32>() < probability
}

/// Three decimals, as they would be exported.
fn rounded(value: f32) -> f32 {
    (value * 1000.0).round() / 1000.0
}

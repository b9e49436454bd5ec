//! What a cohort holds, in counts, and what is wrong with it.

use std::fmt;
use std::path::Path;

use consilium_core::Digest;
use serde::Serialize;

use crate::cohort::{Cohort, Unit};
use crate::examples::Targets;
use crate::refusal::Finding;
use crate::split::Part;

/// A cohort in counts. Stays at the site: counts are not protected.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// Name of the cohort.
    pub name: String,
    /// The site's own sentence about it.
    pub description: String,
    /// `real`, `public` or `simulated`.
    pub origin: &'static str,
    /// Whose data one unit is.
    pub unit: Unit,
    /// Why there is no patient id.
    pub reason: Option<String>,
    /// Modality key.
    pub modality: String,
    /// Kind of record.
    pub kind: &'static str,
    /// Shape of one record as recorded.
    pub recorded_shape: Vec<usize>,
    /// Shape of one record as training sees it.
    pub prepared_shape: Vec<usize>,
    /// Features or channels as recorded.
    pub features: usize,
    /// Share of missing values (tables).
    pub missing: f64,
    /// Task key.
    pub task: String,
    /// Kind of target.
    pub task_kind: &'static str,
    /// Number of records.
    pub records: usize,
    /// Number of patients, or of distinct records.
    pub patients: usize,
    /// Each part.
    pub parts: Vec<PartDescription>,
    /// Patients in each of five folds.
    pub fold_patients: Vec<usize>,
    /// Digest of the schema behind the modality key.
    pub schema_hash: Digest,
    /// Digest of the split.
    pub split_hash: Digest,
    /// Digest of the data.
    pub data_hash: Digest,
    /// Warnings and notes of reading.
    pub notes: Vec<Finding>,
}

/// One part of the split in counts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartDescription {
    /// Which part.
    pub part: Part,
    /// Records in it.
    pub records: usize,
    /// Patients in it.
    pub patients: usize,
    /// Records of each class, or records with an event and without.
    pub targets: Vec<(String, usize)>,
}

/// Describes a cohort.
#[must_use]
pub fn describe(cohort: &Cohort) -> Description {
    let manifest = cohort.manifest();
    let parts = Part::ALL.map(|part| describe_part(cohort, part)).to_vec();
    let all: Vec<usize> = (0..cohort.records()).collect();
    let prepared_shape = cohort
        .prepare(&all)
        .map(|prepared| prepared.examples().shape.clone())
        .unwrap_or_default();
    let values = cohort.values();
    let missing = values.iter().filter(|value| value.is_nan()).count();
    let fold_patients = (cohort.folds(5).iter())
        .map(|fold| {
            let mut patients: Vec<u32> = fold.test.iter().map(|&r| cohort.patient()[r]).collect();
            patients.sort_unstable();
            patients.dedup();
            patients.len()
        })
        .collect();
    Description {
        name: manifest.name.to_string(),
        description: manifest.description.clone(),
        origin: manifest.origin.as_str(),
        unit: cohort.unit(),
        reason: manifest.reason.clone(),
        modality: manifest.modality.key.to_string(),
        kind: manifest.modality.kind.as_str(),
        recorded_shape: cohort.recorded_shape().to_vec(),
        prepared_shape,
        features: cohort.features().len(),
        missing: missing as f64 / values.len().max(1) as f64,
        task: manifest.task.key.to_string(),
        task_kind: manifest.task.kind.as_str(),
        records: cohort.records(),
        patients: cohort.patients(),
        parts,
        fold_patients,
        schema_hash: cohort.schema_hash(),
        split_hash: cohort.split_hash(),
        data_hash: cohort.data_hash(),
        notes: cohort.notes().iter().map(Finding::from).collect(),
    }
}

fn describe_part(cohort: &Cohort, part: Part) -> PartDescription {
    let records = cohort.records_in(part);
    let targets = match cohort.targets() {
        Targets::Classes { label, names } => {
            let count = |class| {
                records
                    .iter()
                    .filter(|&&r| label[r] as usize == class)
                    .count()
            };
            let names = names.iter().enumerate();
            names
                .map(|(class, name)| (name.clone(), count(class)))
                .collect()
        }
        Targets::Survival { event, .. } => {
            let events = records.iter().filter(|&&r| event[r]).count();
            vec![
                ("event".to_owned(), events),
                ("censored".to_owned(), records.len() - events),
            ]
        }
        Targets::Unlabelled { .. } => vec![("unlabelled".to_owned(), records.len())],
    };
    PartDescription {
        part,
        patients: cohort.patients_in(part),
        records: records.len(),
        targets,
    }
}

/// Everything that is wrong with the cohort of `manifest`; empty when it is clean. A cohort without an
/// error among the findings can be used.
#[must_use]
pub fn check(manifest: &Path) -> Vec<Finding> {
    let refusal = match Cohort::read(manifest) {
        Ok(cohort) => return cohort.notes().iter().map(Finding::from).collect(),
        Err(refusal) => refusal,
    };
    let mut findings = refusal.findings();
    for (code, count) in refusal.omitted() {
        let like = findings.iter().rev().find(|f| f.code == *code).cloned();
        if let Some(like) = like {
            findings.push(Finding {
                line: None,
                column: None,
                problem: format!("{count} more of this kind"),
                ..like
            });
        }
    }
    findings
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cohort      {} ({})", self.name, self.origin)?;
        if !self.description.is_empty() {
            writeln!(f, "            {}", self.description)?;
        }
        writeln!(f, "unit        {}", self.unit.as_str())?;
        if let Some(reason) = &self.reason {
            writeln!(f, "            {reason}")?;
        }
        writeln!(
            f,
            "modality    {} ({}), recorded {:?}, prepared {:?}",
            self.modality, self.kind, self.recorded_shape, self.prepared_shape
        )?;
        writeln!(f, "missing     {:.1} % of the values", self.missing * 100.0)?;
        writeln!(f, "task        {} ({})", self.task, self.task_kind)?;
        let units = match self.unit {
            Unit::Patient => "patients",
            Unit::Record => "distinct records",
        };
        writeln!(
            f,
            "records     {} of {} {units}",
            self.records, self.patients
        )?;
        for part in &self.parts {
            let targets: Vec<String> = (part.targets.iter())
                .map(|(name, count)| format!("{name} {count}"))
                .collect();
            writeln!(
                f,
                "  {:<11}{} of {} {units}: {}",
                part.part.as_str(),
                part.records,
                part.patients,
                targets.join(", ")
            )?;
        }
        writeln!(f, "five folds  {:?} {units}", self.fold_patients)?;
        writeln!(f, "schema      {}", self.schema_hash)?;
        writeln!(f, "split       {}", self.split_hash)?;
        writeln!(f, "data        {}", self.data_hash)?;
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        Ok(())
    }
}

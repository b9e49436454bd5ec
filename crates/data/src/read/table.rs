//! Layout `table`: one row a record (or one row a slide, image or visit, reduced to one a patient).

use std::collections::HashMap;

use consilium_core::Digest;

use super::Records;
use super::columns::{self, TargetColumns};
use super::table_file::TableFile;
use crate::manifest::TableSource;
use crate::manifest_file::ManifestFile;
use crate::problem::Problem;
use crate::refusal::{Place, Problems};

/// Reads the table.
pub(crate) fn read(
    file: &ManifestFile,
    source: &TableSource,
    problems: &mut Problems,
) -> Option<Records> {
    let manifest = &file.manifest;
    let path = file.resolve(&source.file, problems)?;
    let mut table = TableFile::open(&path, &source.header, problems)?;
    let targets = TargetColumns::find(manifest, &table, problems);
    let patient = columns::optional(manifest.patient_id.as_deref(), &table, problems);
    let fixed = manifest.splits.fixed.as_ref();
    let part = columns::optional(fixed.and_then(|f| f.column.as_deref()), &table, problems);
    let place = Place::file(&file.path);
    let planned = columns::plan(manifest, &place, &[&table], &[], problems).pop()?;
    let (targets, patient, part) = (targets?, patient.ok()?, part.ok()?);

    let features: Vec<_> = planned.iter().flat_map(|c| c.features(manifest)).collect();
    let mut records = Records {
        shape: vec![features.len()],
        values: Vec::new(),
        features,
        targets: targets.empty(),
        ids: Vec::new(),
        parts: part.map(|_| Vec::new()),
        places: Vec::new(),
    };
    let width = records.shape[0];
    let mut first_rows: HashMap<String, usize> = HashMap::new();
    let mut kept_targets = Vec::new();
    let mut values = Vec::with_capacity(width);
    table.rows(problems, |row, cells, problems| {
        values.clear();
        for column in &planned {
            column.push(row, cells, problems, &mut values);
        }
        let target = targets.target(row, cells, problems);
        let id = match patient {
            Some(column) => cells.text(row, column, problems).map(str::to_owned),
            // Equal rows count as one record, wherever they stand.
            None => {
                let text = row.iter().collect::<Vec<_>>().join("\u{1f}");
                Some(Digest::of(text.as_bytes()).to_string())
            }
        };
        let part = part.map(|column| columns::part(row, column, cells, problems));
        let (Some(target), Some(id)) = (target, id) else {
            return;
        };
        if source.one_row_per_patient {
            if let Some(&first) = first_rows.get(&id) {
                let kept = &records.values[first * width..(first + 1) * width];
                let same = kept
                    .iter()
                    .zip(&values)
                    .all(|(a, b)| a.to_bits() == b.to_bits());
                if !same || kept_targets[first] != target {
                    let first = records.places[first].line.unwrap_or_default();
                    problems.push(Problem::PatientRowsDiffer { first }, cells.place());
                }
                return;
            }
            first_rows.insert(id.clone(), records.ids.len());
            kept_targets.push(target);
        }
        match (part, &mut records.parts) {
            (Some(Some(part)), Some(parts)) => parts.push(part),
            (Some(None), _) => return,
            _ => {}
        }
        records.values.extend_from_slice(&values);
        records.targets.push(target);
        records.ids.push(id);
        records.places.push(cells.place());
    });
    Some(records)
}

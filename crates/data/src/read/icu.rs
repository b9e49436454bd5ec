//! Layout `icu`: hourly values in long form, static values and outcomes, joined by stay.
//!
//! Each stay becomes one row: for every concept the mean, minimum, maximum, last value and number of
//! values over the first hours, then the static columns. A concept that was never measured is missing
//! (its count is 0).

use std::collections::HashMap;

use super::columns::{self, PlannedColumn, Target, TargetColumns};
use super::table_file::{Number, TableFile};
use super::{Feature, Records};
use crate::manifest::IcuSource;
use crate::manifest_file::ManifestFile;
use crate::problem::Problem;
use crate::refusal::{Place, Problems};
use crate::split::Part;

/// Running summary of one concept at one stay.
#[derive(Clone, Copy)]
struct Summary {
    sum: f64,
    count: u32,
    low: f32,
    high: f32,
    last: f32,
    last_time: f32,
}

const NOTHING: Summary = Summary {
    sum: 0.0,
    count: 0,
    low: f32::INFINITY,
    high: f32::NEG_INFINITY,
    last: f32::NAN,
    last_time: f32::NEG_INFINITY,
};

/// What one summary becomes, in order.
const SUMMARIES: [&str; 5] = ["mean", "min", "max", "last", "count"];

/// One stay of the outcome table.
struct Stay {
    target: Target,
    place: Place,
    static_values: Option<(Vec<f32>, String, Option<Part>)>,
    summaries: Vec<Summary>,
}

/// Reads the three tables.
pub(crate) fn read(
    file: &ManifestFile,
    source: &IcuSource,
    problems: &mut Problems,
) -> Option<Records> {
    let manifest = &file.manifest;
    let mut open = |name: &str| {
        let path = file.resolve(name, problems)?;
        TableFile::open(&path, &[], problems)
    };
    let (dynamic, fixed, outcome) = (
        open(&source.dynamic),
        open(&source.fixed),
        open(&source.outcome),
    );
    let (mut dynamic, mut fixed, mut outcome) = (dynamic?, fixed?, outcome?);
    let place = Place::file(&file.path);
    let ids = [source.id.as_str(), source.time.as_str()];
    let mut planned = columns::plan(manifest, &place, &[&dynamic, &fixed], &ids, problems);
    let (static_columns, concepts) = (planned.pop()?, planned.pop()?);

    let (order, mut stays) = read_outcomes(file, source, &mut outcome, concepts.len(), problems)?;
    read_static(
        file,
        source,
        &mut fixed,
        &static_columns,
        &mut stays,
        problems,
    )?;
    read_dynamic(
        source,
        &mut dynamic,
        &concepts,
        &outcome,
        &mut stays,
        problems,
    )?;

    let mut features: Vec<Feature> = Vec::new();
    for concept in &concepts {
        for summary in SUMMARIES {
            features.push(Feature {
                name: format!("{}.{summary}", concept.name),
                source: concept.name.clone(),
                unit: manifest.units.get(&concept.name).cloned(),
                clip: None,
                missing_indicator: concept.block.missing_indicator,
            });
        }
    }
    features.extend(static_columns.iter().flat_map(|c| c.features(manifest)));
    let mut records = Records {
        shape: vec![features.len()],
        values: Vec::new(),
        features,
        targets: TargetColumns::find(manifest, &outcome, problems)?.empty(),
        ids: Vec::new(),
        parts: manifest.splits.fixed.as_ref().map(|_| Vec::new()),
        places: Vec::new(),
    };
    for id in order {
        let Some(stay) = stays.remove(&id) else {
            continue;
        };
        let Some((values, patient, part)) = stay.static_values else {
            let series = fixed.path.display().to_string();
            problems.push(Problem::IdWithoutRows { series }, stay.place);
            continue;
        };
        for summary in &stay.summaries {
            records.values.extend(finish(summary));
        }
        records.values.extend(values);
        records.targets.push(stay.target);
        records.ids.push(patient);
        if let (Some(parts), Some(part)) = (&mut records.parts, part) {
            parts.push(part);
        }
        records.places.push(stay.place);
    }
    Some(records)
}

fn finish(summary: &Summary) -> [f32; 5] {
    if summary.count == 0 {
        return [f32::NAN, f32::NAN, f32::NAN, f32::NAN, 0.0];
    }
    let mean = summary.sum / f64::from(summary.count);
    [
        mean as f32,
        summary.low,
        summary.high,
        summary.last,
        summary.count as f32,
    ]
}

type Stays = HashMap<String, Stay>;

fn read_outcomes(
    file: &ManifestFile,
    source: &IcuSource,
    outcome: &mut TableFile,
    concepts: usize,
    problems: &mut Problems,
) -> Option<(Vec<String>, Stays)> {
    let targets = TargetColumns::find(&file.manifest, outcome, problems);
    let id = outcome.column(&source.id, problems)?;
    let targets = targets?;
    let mut order = Vec::new();
    let mut stays = Stays::new();
    outcome.rows(problems, |row, cells, problems| {
        let target = targets.target(row, cells, problems);
        let id_text = cells.text(row, id, problems);
        let (Some(target), Some(id_text)) = (target, id_text) else {
            return;
        };
        if let Some(first) = stays.get(id_text) {
            let first = first.place.line.unwrap_or_default();
            problems.push(Problem::IdRepeated { first }, cells.cell(id));
            return;
        }
        let stay = Stay {
            target,
            place: cells.place(),
            static_values: None,
            summaries: vec![NOTHING; concepts],
        };
        order.push(id_text.to_owned());
        stays.insert(id_text.to_owned(), stay);
    });
    Some((order, stays))
}

fn read_static(
    file: &ManifestFile,
    source: &IcuSource,
    fixed: &mut TableFile,
    planned: &[PlannedColumn],
    stays: &mut Stays,
    problems: &mut Problems,
) -> Option<()> {
    let manifest = &file.manifest;
    let id = fixed.column(&source.id, problems);
    let patient = columns::optional(manifest.patient_id.as_deref(), fixed, problems);
    let split = manifest.splits.fixed.as_ref();
    let part = columns::optional(split.and_then(|s| s.column.as_deref()), fixed, problems);
    let (id, patient, part) = (id?, patient.ok()?, part.ok()?);
    let mut lines: HashMap<String, u64> = HashMap::new();
    fixed.rows(problems, |row, cells, problems| {
        let Some(id_text) = cells.text(row, id, problems) else {
            return;
        };
        if let Some(&first) = lines.get(id_text) {
            problems.push(Problem::IdRepeated { first }, cells.cell(id));
            return;
        }
        lines.insert(id_text.to_owned(), cells.line);
        let mut values = Vec::new();
        for column in planned {
            column.push(row, cells, problems, &mut values);
        }
        let patient = match patient {
            Some(column) => cells.text(row, column, problems),
            None => Some(id_text),
        };
        let part = match part {
            Some(column) => match columns::part(row, column, cells, problems) {
                Some(part) => Some(part),
                None => return,
            },
            None => None,
        };
        // Static rows of stays without outcome are not used.
        if let (Some(stay), Some(patient)) = (stays.get_mut(id_text), patient) {
            stay.static_values = Some((values, patient.to_owned(), part));
        }
    });
    Some(())
}

fn read_dynamic(
    source: &IcuSource,
    dynamic: &mut TableFile,
    concepts: &[PlannedColumn],
    outcome: &TableFile,
    stays: &mut Stays,
    problems: &mut Problems,
) -> Option<()> {
    let id = dynamic.column(&source.id, problems);
    let time = dynamic.column(&source.time, problems);
    let (id, time) = (id?, time?);
    // Rows of a stay whose outcome row was refused are not reported again.
    let outcome_is_whole = !problems.refuse();
    dynamic.rows(problems, |row, cells, problems| {
        let id_text = cells.text(row, id, problems);
        let hour = cells.filled(row, time, problems);
        let (Some(id_text), Some(hour)) = (id_text, hour) else {
            return;
        };
        let Some(stay) = stays.get_mut(id_text) else {
            if outcome_is_whole {
                let index = outcome.path.display().to_string();
                problems.push(Problem::IdUnknown { index }, cells.cell(id));
            }
            return;
        };
        let counts = (0.0..=source.hours).contains(&f64::from(hour));
        for (concept, summary) in concepts.iter().zip(&mut stay.summaries) {
            let Some(Number::Value(value)) = cells.number(row, concept.index, problems) else {
                continue;
            };
            if !counts {
                continue;
            }
            let value = match concept.block.clip {
                Some([low, high]) => value.clamp(low, high),
                None => value,
            };
            summary.sum += f64::from(value);
            summary.count += 1;
            summary.low = summary.low.min(value);
            summary.high = summary.high.max(value);
            if hour >= summary.last_time {
                summary.last = value;
                summary.last_time = hour;
            }
        }
    });
    Some(())
}

//! Layout `series`: samples in long form and an index with one row a series, cut into windows.
//!
//! A window starts every `step` samples and has `window` samples; an incomplete one at the end is left out.

use std::collections::HashMap;

use super::columns::{self, Target, TargetColumns};
use super::table_file::TableFile;
use super::{Feature, Records};
use crate::manifest::SeriesSource;
use crate::manifest_file::ManifestFile;
use crate::problem::Problem;
use crate::refusal::{Place, Problems};
use crate::split::Part;

struct Series {
    target: Target,
    patient: String,
    part: Option<Part>,
    place: Place,
    declared: Option<String>,
    /// Samples, each with all channels.
    samples: Vec<f32>,
}

/// Reads index and samples and cuts the windows.
pub(crate) fn read(
    file: &ManifestFile,
    source: &SeriesSource,
    problems: &mut Problems,
) -> Option<Records> {
    let manifest = &file.manifest;
    let steps = &manifest.preprocessing;
    let (window, step) = (steps.window?, steps.step?);
    let mut open = |name: &str| {
        let path = file.resolve(name, problems)?;
        TableFile::open(&path, &[], problems)
    };
    let (index, samples) = (open(&source.index), open(&source.samples));
    let (mut index, mut samples) = (index?, samples?);
    let targets = TargetColumns::find(manifest, &index, problems);
    let all = read_index(file, source, &mut index, problems);
    let (targets, (order, mut all)) = (targets?, all?);
    read_samples(source, &index, &mut samples, &mut all, problems)?;

    let channels = source.channels.len();
    let mut records = Records {
        shape: vec![channels, window],
        values: Vec::new(),
        features: (source.channels.iter())
            .map(|name| Feature {
                name: name.clone(),
                source: name.clone(),
                unit: manifest.units.get(name).cloned(),
                clip: None,
                missing_indicator: false,
            })
            .collect(),
        targets: targets.empty(),
        ids: Vec::new(),
        parts: manifest.splits.fixed.as_ref().map(|_| Vec::new()),
        places: Vec::new(),
    };
    let mut short = 0;
    for id in order {
        let Some(series) = all.remove(&id) else {
            continue;
        };
        let length = series.samples.len() / channels;
        if let Some(declared) = series.declared
            && declared.parse::<usize>() != Ok(length)
        {
            let got = length;
            problems.push(Problem::SeriesLength { got, declared }, series.place);
            continue;
        }
        if length == 0 {
            let series_file = samples.path.display().to_string();
            let problem = Problem::IdWithoutRows {
                series: series_file,
            };
            problems.push(problem, series.place);
            continue;
        }
        if length < window {
            short += 1;
            continue;
        }
        for start in (0..=length - window).step_by(step) {
            for channel in 0..channels {
                let samples =
                    (start..start + window).map(|t| series.samples[t * channels + channel]);
                records.values.extend(samples);
            }
            records.targets.push(series.target);
            records.ids.push(series.patient.clone());
            if let (Some(parts), Some(part)) = (&mut records.parts, series.part) {
                parts.push(part);
            }
            records.places.push(series.place.clone());
        }
    }
    if short > 0 {
        problems.push(Problem::SeriesTooShort(short), Place::file(&index.path));
    }
    Some(records)
}

type AllSeries = HashMap<String, Series>;

fn read_index(
    file: &ManifestFile,
    source: &SeriesSource,
    index: &mut TableFile,
    problems: &mut Problems,
) -> Option<(Vec<String>, AllSeries)> {
    let manifest = &file.manifest;
    let targets = TargetColumns::find(manifest, index, &mut Problems::default());
    let id = index.column(&source.id, problems);
    let patient = columns::optional(manifest.patient_id.as_deref(), index, problems);
    let length = columns::optional(source.length.as_deref(), index, problems);
    let split = manifest.splits.fixed.as_ref();
    let part = columns::optional(split.and_then(|s| s.column.as_deref()), index, problems);
    let (targets, id) = (targets?, id?);
    let (patient, length, part) = (patient.ok()?, length.ok()?, part.ok()?);
    let mut order = Vec::new();
    let mut all = AllSeries::new();
    index.rows(problems, |row, cells, problems| {
        let target = targets.target(row, cells, problems);
        let id_text = cells.text(row, id, problems);
        let patient = match patient {
            Some(column) => cells.text(row, column, problems),
            None => id_text,
        };
        let part = part.map(|column| columns::part(row, column, cells, problems));
        let (Some(target), Some(id_text), Some(patient)) = (target, id_text, patient) else {
            return;
        };
        if part == Some(None) {
            return;
        }
        if let Some(first) = all.get(id_text) {
            let first = first.place.line.unwrap_or_default();
            problems.push(Problem::IdRepeated { first }, cells.cell(id));
            return;
        }
        let series = Series {
            target,
            patient: patient.to_owned(),
            part: part.flatten(),
            place: cells.place(),
            declared: length.map(|c| row.get(c).unwrap_or_default().trim().to_owned()),
            samples: Vec::new(),
        };
        order.push(id_text.to_owned());
        all.insert(id_text.to_owned(), series);
    });
    Some((order, all))
}

fn read_samples(
    source: &SeriesSource,
    index: &TableFile,
    samples: &mut TableFile,
    all: &mut AllSeries,
    problems: &mut Problems,
) -> Option<()> {
    let id = samples.column(&source.id, problems);
    let channels: Vec<_> = (source.channels.iter())
        .map(|name| samples.column(name, problems))
        .collect();
    // Rows of a series whose index row was refused are not reported again.
    let index_is_whole = !problems.refuse();
    let id = id?;
    let channels: Vec<usize> = channels.into_iter().collect::<Option<_>>()?;
    samples.rows(problems, |row, cells, problems| {
        let Some(id_text) = cells.text(row, id, problems) else {
            return;
        };
        let Some(series) = all.get_mut(id_text) else {
            if index_is_whole {
                let index = index.path.display().to_string();
                problems.push(Problem::IdUnknown { index }, cells.cell(id));
            }
            return;
        };
        for &channel in &channels {
            // A hole in a series has no place in a window; it is reported and the cohort refused.
            let value = cells.filled(row, channel, problems);
            series.samples.push(value.unwrap_or(f32::NAN));
        }
    });
    Some(())
}

//! From the path of a `cohort.toml` to a manifest that makes sense, with the split key and the folder.

use std::path::{Path, PathBuf};

use crate::manifest::{
    ClassValue, CohortManifest, DeclaredUnit, ModalityKind, Origin, Source, Splits, TaskKind,
};
use crate::problem::Problem;
use crate::refusal::{Place, Problems};
use crate::toml_text::Document;

/// A manifest, checked, and what belongs to it.
#[derive(Clone, Debug)]
pub(crate) struct ManifestFile {
    /// The path of the manifest.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) manifest: CohortManifest,
    /// Key of the split hash.
    pub(crate) split_key: Vec<u8>,
}

impl ManifestFile {
    /// Reads and checks `path`.
    pub(crate) fn read(path: &Path, problems: &mut Problems) -> Option<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                problems.push(unreadable(&error), Place::file(path));
                return None;
            }
        };
        let document = Document::parse(&text, path, problems)?;
        let manifest: CohortManifest = document.read(problems)?;
        check(&manifest, &document, problems);
        let split_key = split_key(&manifest, path, &document, problems);
        (!problems.refuse()).then_some(())?;
        Some(Self {
            path: path.to_owned(),
            manifest,
            split_key: split_key?,
        })
    }

    /// The path of a file that the manifest names.
    pub(crate) fn resolve(&self, text: &str, problems: &mut Problems) -> Option<PathBuf> {
        resolve(&self.path, text)
            .map_err(|problem| problems.push(problem, Place::file(&self.path)))
            .ok()
    }
}

/// The problem behind an input error of the operating system.
pub(crate) fn unreadable(error: &std::io::Error) -> Problem {
    match error.kind() {
        std::io::ErrorKind::NotFound => Problem::FileMissing,
        _ => Problem::FileUnreadable(error.to_string()),
    }
}

const DATA_VARIABLE: &str = "CONSILIUM_DATA";

/// Expands variables and takes the path relative to the folder of the manifest.
///
/// `CONSILIUM_DATA` may be relative to the working folder or to one of the folders above the manifest; where it
/// is not set, it is `../shared/data`.
fn resolve(manifest: &Path, text: &str) -> Result<PathBuf, Problem> {
    let folder = manifest.parent().unwrap_or(Path::new("."));
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, after)) = after.split_once('}') else {
            return Err(Problem::InvalidValue(format!(
                "the path {text:?} has no `}}` after `${{`"
            )));
        };
        expanded.push_str(before);
        match std::env::var(name) {
            Ok(value) if name == DATA_VARIABLE => {
                let found = data_folder(folder, &value).unwrap_or(PathBuf::from(value));
                expanded.push_str(&found.to_string_lossy());
            }
            Ok(value) => expanded.push_str(&value),
            Err(_) if name == DATA_VARIABLE => {
                let found = data_folder(folder, "../shared/data");
                let found = found.ok_or(Problem::VariableUnset(name.to_owned()))?;
                expanded.push_str(&found.to_string_lossy());
            }
            Err(_) => return Err(Problem::VariableUnset(name.to_owned())),
        }
        rest = after;
    }
    expanded.push_str(rest);
    Ok(folder.join(expanded))
}

/// `data` from the working folder, or from one of the folders above the manifest.
fn data_folder(manifest_folder: &Path, data: &str) -> Option<PathBuf> {
    let here = std::env::current_dir().unwrap_or_default();
    let above = std::path::absolute(manifest_folder).unwrap_or(manifest_folder.to_owned());
    std::iter::once(here.as_path())
        .chain(above.ancestors())
        .map(|folder| folder.join(data))
        .find(|folder| folder.is_dir())
}

fn split_key(
    manifest: &CohortManifest,
    path: &Path,
    document: &Document<'_>,
    problems: &mut Problems,
) -> Option<Vec<u8>> {
    match (&manifest.splits.key, &manifest.splits.key_file) {
        (Some(key), None) => {
            if manifest.origin == Origin::Real {
                problems.push(Problem::SplitKeyInClear, document.place(&["splits", "key"]));
            }
            Some(key.clone().into_bytes())
        }
        (None, Some(file)) => {
            let file = resolve(path, file)
                .map_err(|p| problems.push(p, document.place(&["splits", "key_file"])))
                .ok()?;
            match std::fs::read(&file) {
                Ok(bytes) => Some(bytes.trim_ascii().to_vec()),
                Err(error) => {
                    problems.push(unreadable(&error), Place::file(&file));
                    None
                }
            }
        }
        _ => {
            let problem = Problem::InvalidValue(
                "the splits need exactly one of `key` and `key_file`".to_owned(),
            );
            problems.push(problem, document.place(&["splits"]));
            None
        }
    }
}

/// Checks what the types of the manifest cannot say.
fn check(manifest: &CohortManifest, document: &Document<'_>, problems: &mut Problems) {
    let mut invalid = |path: &[&str], message: String| {
        problems.push(Problem::InvalidValue(message), document.place(path));
    };
    check_task(manifest, &mut invalid);
    check_source(manifest, &mut invalid);
    check_splits(&manifest.splits, &manifest.source, &mut invalid);
    check_features(manifest, &mut invalid);
    check_public(manifest, &mut invalid);
    match (&manifest.patient_id, manifest.unit, &manifest.reason) {
        (None, None, _) => problems.push(Problem::UnitUndeclared, document.place(&["unit"])),
        (Some(_), Some(_), _) => {
            problems.push(Problem::UnitDeclaredTwice, document.place(&["unit"]));
        }
        (None, Some(DeclaredUnit::Record), reason)
            if reason.as_deref().unwrap_or_default().trim().is_empty() =>
        {
            problems.push(Problem::UnitReasonMissing, document.place(&["unit"]));
        }
        _ => {}
    }
}

fn check_task(manifest: &CohortManifest, invalid: &mut impl FnMut(&[&str], String)) {
    let task = &manifest.task;
    let names = task.classes.len();
    match task.kind {
        TaskKind::Survival => {
            if task.time.is_none() || task.event.is_none() {
                invalid(
                    &["task"],
                    "a survival task needs `time` and `event`".to_owned(),
                );
            }
            if task.label.is_some() || names > 0 || !task.values.is_empty() {
                invalid(
                    &["task"],
                    "a survival task has no label and no classes".to_owned(),
                );
            }
            if task
                .event_value
                .is_some_and(|value| value != 0.0 && value != 1.0)
            {
                invalid(&["task", "event_value"], "use 0 or 1".to_owned());
            }
        }
        TaskKind::Unlabelled => {
            let declared = task.label.is_some() || task.time.is_some() || task.event.is_some();
            if declared || names > 0 || !task.values.is_empty() {
                invalid(
                    &["task"],
                    "an unlabelled task has only its key: no label, time, event or classes"
                        .to_owned(),
                );
            }
        }
        TaskKind::Binary | TaskKind::Classes => {
            if task.label.is_none() {
                invalid(&["task"], "this task needs `label`".to_owned());
            }
            let right = match task.kind {
                TaskKind::Binary => names == 2,
                _ => names >= 2,
            };
            if !right {
                let message =
                    format!("a binary task has 2 classes, others 2 or more; declared are {names}");
                invalid(&["task", "classes"], message);
            }
            if !task.values.is_empty() && task.values.len() != names {
                let message = format!("{} values for {names} classes", task.values.len());
                invalid(&["task", "values"], message);
            }
            if task.time.is_some() || task.event.is_some() || task.event_value.is_some() {
                invalid(
                    &["task"],
                    "`time` and `event` belong to survival tasks".to_owned(),
                );
            }
            let values = task.values.iter().flat_map(ClassValue::texts).collect();
            for list in [task.classes.iter().collect::<Vec<_>>(), values] {
                if (1..list.len()).any(|i| list[..i].contains(&list[i])) {
                    invalid(
                        &["task", "classes"],
                        "a class or value occurs twice".to_owned(),
                    );
                }
            }
        }
    }
}

fn check_source(manifest: &CohortManifest, invalid: &mut impl FnMut(&[&str], String)) {
    let kind = manifest.modality.kind;
    let fits = match &manifest.source {
        Source::Npz(_) => kind == ModalityKind::Image,
        Source::Series(_) => kind == ModalityKind::Signal,
        Source::Table(_) | Source::Icu(_) => {
            !matches!(kind, ModalityKind::Image | ModalityKind::Signal)
        }
    };
    if !fits {
        let message = format!("a modality of kind {} has another source", kind.as_str());
        invalid(&["modality", "kind"], message);
    }
    if matches!(manifest.source, Source::Npz(_) | Source::Icu(_))
        && manifest.task.kind == TaskKind::Survival
    {
        let message = "survival targets are read from `source.table` and `source.series` only";
        invalid(&["task", "kind"], message.to_owned());
    }
    if let Source::Table(table) = &manifest.source
        && table.one_row_per_patient
        && manifest.patient_id.is_none()
    {
        let message = "one row per patient needs a patient id".to_owned();
        invalid(&["source", "table", "one_row_per_patient"], message);
    }
    if let Source::Icu(icu) = &manifest.source
        && !(icu.hours > 0.0 && icu.hours.is_finite())
    {
        invalid(
            &["source", "icu", "hours"],
            "hours must be above 0".to_owned(),
        );
    }
    let steps = &manifest.preprocessing;
    let at = |key| ["preprocessing", key];
    if let Source::Series(series) = &manifest.source {
        for (key, value) in [("window", steps.window), ("step", steps.step)] {
            if !value.is_some_and(|samples| (1..=1 << 20).contains(&samples)) {
                invalid(
                    &at(key),
                    format!("a signal needs `{key}` of at least 1 sample"),
                );
            }
        }
        if series.channels.is_empty() {
            invalid(
                &["source", "series", "channels"],
                "name at least one channel".to_owned(),
            );
        }
    } else if steps.window.is_some() || steps.step.is_some() {
        invalid(
            &at("window"),
            "`window` and `step` belong to signals".to_owned(),
        );
    }
    match (&manifest.source, steps.side) {
        (Source::Npz(_), Some(side)) if !(1..=4096).contains(&side) => {
            invalid(&at("side"), "the side is 1 to 4096 pixels".to_owned());
        }
        (Source::Npz(_), _) | (_, None) => {}
        _ => invalid(&at("side"), "`side` belongs to images".to_owned()),
    }
    if steps
        .limit
        .is_some_and(|limit| limit.is_nan() || limit <= 0.0)
    {
        invalid(&at("limit"), "the limit must be above 0".to_owned());
    }
}

fn check_splits(splits: &Splits, source: &Source, invalid: &mut impl FnMut(&[&str], String)) {
    match (&splits.fractions, &splits.fixed) {
        (Some(f), None) => {
            let shares = [f.train, f.validation, f.test];
            let sum: f64 = shares.iter().sum();
            if shares.iter().any(|s| !(0.0..=1.0).contains(s)) || (sum - 1.0).abs() > 1e-9 {
                let message =
                    format!("the fractions must be 0 to 1 and add up to 1, they add up to {sum}");
                invalid(&["splits", "fractions"], message);
            }
        }
        (None, Some(_)) => {}
        _ => invalid(
            &["splits"],
            "the splits need exactly one of `fractions` and `fixed`".to_owned(),
        ),
    }
    let parts = matches!(source, Source::Npz(npz) if npz.parts.is_some());
    let column = splits
        .fixed
        .as_ref()
        .is_some_and(|fixed| fixed.column.is_some());
    if parts && splits.fixed.is_none() {
        let message =
            "arrays by part have their split already: use `splits.fixed`, or leave out `parts`";
        invalid(&["splits"], message.to_owned());
    }
    if splits.fixed.is_some() && parts == column {
        let message = "a fixed split needs either `column` or, for arrays, `source.npz.parts`";
        invalid(&["splits", "fixed"], message.to_owned());
    }
    if column && matches!(source, Source::Npz(_)) {
        let message = "arrays carry the part in their name: use `source.npz.parts`";
        invalid(&["splits", "fixed", "column"], message.to_owned());
    }
}

fn check_features(manifest: &CohortManifest, invalid: &mut impl FnMut(&[&str], String)) {
    let table = matches!(manifest.source, Source::Table(_) | Source::Icu(_));
    if table == manifest.features.is_empty() {
        let message = if table {
            "a table needs at least one block of `features`"
        } else {
            "`features` belong to tables"
        };
        invalid(&["features"], message.to_owned());
    }
    for block in &manifest.features {
        if let Some([low, high]) = block.clip
            && (low.is_nan() || high.is_nan() || low >= high)
        {
            invalid(
                &["features"],
                format!("clip = [{low}, {high}] has no room between its limits"),
            );
        }
        if block.clip.is_some() && !block.categories.is_empty() {
            invalid(
                &["features"],
                "categories cannot be clipped; use two blocks".to_owned(),
            );
        }
        if block.columns.is_empty() {
            invalid(
                &["features"],
                "a block of features names no column".to_owned(),
            );
        }
    }
}

fn check_public(manifest: &CohortManifest, invalid: &mut impl FnMut(&[&str], String)) {
    let Some(public) = &manifest.preprocessing.public else {
        return;
    };
    if !manifest.preprocessing.standardise {
        let message = "without standardising there is nothing to scale: leave out `public`";
        invalid(&["preprocessing", "public"], message.to_owned());
    }
    if public.source.trim().is_empty() {
        let message =
            "say where the numbers come from, for example a publication or the range of a device";
        invalid(&["preprocessing", "public", "source"], message.to_owned());
    }
    for scale in &public.scales {
        let of = scale.of.join(", ");
        let missing = scale.missing.is_none_or(f64::is_finite);
        let fits = scale.centre_and_spread().is_some_and(|(mean, deviation)| {
            mean.is_finite() && deviation.is_finite() && deviation > 0.0 && missing
        });
        if !fits {
            invalid(
                &["preprocessing", "public", "scales"],
                format!(
                    "[{of}]: give either `range = [low, high]`, or `mean` and `standard_deviation` above 0, all finite"
                ),
            );
        }
    }
}

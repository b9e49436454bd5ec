//! `consilium-site model predict`: what the model of a committed round says about this site's patients.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use consilium_core::{Digest, StudyId};
use consilium_data::{Cohort, Part, Targets};
use consilium_ops::{Format, OperatorError, logging, output};
use serde::Serialize;
use tracing::info;

use super::joined;
use crate::agent::AgentError;
use crate::commands::{cohort, read_cohort};
use crate::config::SiteConfig;
use crate::joined::JoinedModel;
use crate::predictions::table;
use crate::private_file::Pending;
use crate::training::{Predictor, metrics, model_targets};
use crate::work::{MetricValue, Progress};

/// What to predict, with which model, and where to.
#[derive(Clone, Debug)]
pub struct Predict {
    /// The study; the configured one if left out.
    pub study: Option<StudyId>,
    /// The committed round; the newest if left out.
    pub round: Option<u32>,
    /// Part of the site's own cohort.
    pub part: Part,
    /// Another cohort's manifest, of which every record is predicted, in place of the part.
    pub records: Option<PathBuf>,
    /// Dropout passes; 0 for one pass without dropout, as the study's own metrics are computed.
    pub passes: usize,
    /// The table.
    pub out: PathBuf,
}

#[derive(Serialize)]
struct Predicted {
    study: StudyId,
    round: u32,
    global_model_sha256: Digest,
    /// Name of the cohort.
    cohort: String,
    /// Its part; nothing for all records of another cohort.
    part: Option<Part>,
    records: usize,
    passes: usize,
    /// The table.
    file: PathBuf,
    /// Empty where what is predicted is not known.
    metrics: Vec<MetricValue>,
}

/// Predicts and writes the table.
///
/// # Errors
/// [`OperatorError`]; then no table was written.
pub fn predict(config_file: &Path, wanted: &Predict, format: Format) -> Result<(), OperatorError> {
    logging::start();
    let config = SiteConfig::read(config_file)?;
    let joined = joined(&config, wanted.study.as_ref(), wanted.round)?;
    config.device.open().map_err(|error| {
        OperatorError::configuration(error.code(), error.to_string(), "set device = \"cpu\"")
            .at(config_file.display())
    })?;
    let (cohort, records) = match &wanted.records {
        None => of_part(&config, &joined, wanted.part)?,
        Some(manifest) => of_others(manifest, &joined)?,
    };
    let failed = |error| OperatorError::from(AgentError::Work(error));
    let prepared = cohort
        .prepare_with(&joined.preparation.scaling)
        .map_err(|error| {
            OperatorError::failed(error.code(), error.to_string(), "restore the state folder")
        })?;
    let examples = prepared.examples();
    let predictor = Predictor::new(
        &joined.study,
        &joined.participant,
        &joined.groups,
        config.device,
    )
    .map_err(failed)?;
    // Refuses targets of another kind before anything is computed.
    if !matches!(examples.targets, Targets::Unlabelled { .. }) {
        model_targets(predictor.task(), &examples.targets).map_err(failed)?;
    }
    let predictions = predictor
        .predict(examples, &records, wanted.passes, &mut reporter())
        .map_err(failed)?;
    let contents = table(
        &cohort,
        &records,
        predictor.task(),
        &joined.preparation.classes,
        &predictions,
        wanted.passes,
    );
    let own = wanted.records.is_none();
    let split = if own { wanted.part.as_str() } else { "records" };
    let targets = examples.targets.select(&records).map_err(|error| {
        OperatorError::failed(error.code(), error.to_string(), "report this as a bug")
    })?;
    Pending::write(&wanted.out, &contents)?.place()?;
    let predicted = Predicted {
        study: joined.study.name,
        round: joined.round,
        global_model_sha256: joined.global_model_sha256,
        cohort: cohort.name().to_string(),
        part: own.then_some(wanted.part),
        records: records.len(),
        passes: wanted.passes,
        file: wanted.out.clone(),
        metrics: metrics(predictor.task(), &predictions, &targets, split),
    };
    output::print(format, &predicted, text);
    Ok(())
}

/// A part of the site's own cohort, which must still be the one that was trained on: otherwise a patient of
/// the test part may have been in the training part.
fn of_part(
    config: &SiteConfig,
    joined: &JoinedModel,
    part: Part,
) -> Result<(Cohort, Vec<usize>), OperatorError> {
    let cohort = cohort(config)?;
    let refuse = |code: &str, message: String, hint: &str| {
        OperatorError::configuration(code, message, hint).at(config.cohort.display())
    };
    if !joined.preparation.is_of(&cohort) {
        return Err(refuse(
            "cohort_changed",
            format!(
                "the cohort has changed since this site accepted study {}: its parts are not those of the study",
                joined.study.name
            ),
            "put the records back as they were, or give the cohort as it is now with --records",
        ));
    }
    let records = cohort.records_in(part);
    if records.is_empty() {
        return Err(refuse(
            "part_empty",
            format!("the cohort has no records in its {} part", part.as_str()),
            "choose another --part",
        ));
    }
    Ok((cohort, records))
}

/// Every record of another cohort, whose columns must mean the same as in the one that was trained on.
fn of_others(manifest: &Path, joined: &JoinedModel) -> Result<(Cohort, Vec<usize>), OperatorError> {
    let cohort = read_cohort(manifest)?;
    let (wanted, given) = (&joined.participant, cohort.manifest());
    let problem = if given.modality.key != wanted.modality {
        format!(
            "holds modality {}, the model takes {}",
            given.modality.key, wanted.modality
        )
    } else if given.task.key != wanted.task {
        format!(
            "has task {}, the model answers {}",
            given.task.key, wanted.task
        )
    } else if !joined.preparation.has_schema_of(&cohort) {
        "has other columns, units, categories or limits than the cohort that was trained on".into()
    } else {
        let records = (0..cohort.records()).collect();
        return Ok((cohort, records));
    };
    Err(OperatorError::configuration(
        "records_other_schema",
        format!("cohort {} {problem}", cohort.name()),
        "describe the new records as the cohort of the study is described; compare the two files",
    )
    .at(manifest.display()))
}

/// Tells of the last record, and of one step a second before it.
fn reporter() -> impl FnMut(Progress) {
    let mut told = Instant::now();
    move |Progress { step, steps }| {
        if step == steps || told.elapsed() >= Duration::from_secs(1) {
            told = Instant::now();
            info!(records = step, of = steps, "predicting");
        }
    }
}

fn text(predicted: &Predicted) -> String {
    let of = match predicted.part {
        Some(part) => format!("{} part of cohort {}", part.as_str(), predicted.cohort),
        None => format!("cohort {}", predicted.cohort),
    };
    let how = match predicted.passes {
        0 => "without dropout".to_owned(),
        passes => format!("{passes} dropout passes"),
    };
    let mut text = format!(
        "study {}, round {}: {} records, {of}, {how}\n",
        predicted.study, predicted.round, predicted.records
    );
    for value in &predicted.metrics {
        text.push_str(&value.line());
    }
    text.push_str(&format!(
        "  {}: one line a record, readable by this account only; these are patients' data and stay at this site\n",
        predicted.file.display()
    ));
    text
}

//! What a network says about each record, as a table for people and other programs.

use consilium_data::Cohort;
use consilium_models::{Prediction, Task};

/// Dropout passes from which a spread has a meaning.
const LEAST_PASSES: usize = 2;

/// The CSV table of `predictions` for `records` of `cohort`, in that order, one line a record. `classes` are
/// the names of the outputs (two for a binary task, the second is the positive one).
///
/// Columns: `patient` (or `record`, as the cohort's unit is) with the id as recorded; `row`, the place of the
/// record in the cohort, from 1; then by task `probability_<class>`, `log_risk`, or `risk` (minus the expected
/// number of intervals survived) and `survival_<cut point>`. Uncertainty over the
/// dropout passes is empty for fewer than two: `standard_deviation` of the probability, averaged as variance
/// over the columns, or of the log-risk; `predictive_entropy` and `mutual_information` in nats.
#[must_use]
pub fn table(
    cohort: &Cohort,
    records: &[usize],
    task: &Task,
    classes: &[String],
    predictions: &[Prediction],
    passes: usize,
) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut header = vec![cohort.unit().as_str().to_owned(), "row".into()];
    header.extend(value_columns(task, classes));
    header.push("standard_deviation".into());
    let probabilities = matches!(task, Task::Classes { .. } | Task::Labels { .. });
    if probabilities {
        header.extend(["predictive_entropy".into(), "mutual_information".into()]);
    }
    let spread = |value: Option<f32>| {
        let known = value.filter(|_| passes >= LEAST_PASSES);
        known.map_or_else(String::new, |value| value.to_string())
    };
    let mut lines = vec![header];
    for (&record, prediction) in records.iter().zip(predictions) {
        let id = cohort.id_of(record).unwrap_or_default().to_owned();
        let mut line = vec![id, (record + 1).to_string()];
        if matches!(task, Task::Hazards { .. }) {
            line.extend(prediction.risk.map(|risk| risk.to_string()));
        }
        line.extend(prediction.outputs.iter().map(ToString::to_string));
        line.push(spread(Some(prediction.variance.sqrt())));
        if probabilities {
            line.push(prediction.entropy.unwrap_or_default().to_string());
            line.push(spread(prediction.mutual_information));
        }
        lines.push(line);
    }
    for line in &lines {
        // Cannot fail: lines of equal length into memory.
        let _ = writer.write_record(line);
    }
    writer.into_inner().unwrap_or_default()
}

fn value_columns(task: &Task, classes: &[String]) -> Vec<String> {
    match task {
        // The negative class has no output of its own.
        Task::Labels { n: 1 } if classes.len() == 2 => vec![format!("probability_{}", classes[1])],
        Task::Classes { .. } | Task::Labels { .. } => (0..task.outputs())
            .map(|output| match classes.get(output) {
                Some(name) => format!("probability_{name}"),
                None => format!("probability_{output}"),
            })
            .collect(),
        Task::Cox => vec!["log_risk".into()],
        Task::Hazards { cut_points } => std::iter::once("risk".to_owned())
            .chain(cut_points.iter().map(|cut| format!("survival_{cut}")))
            .collect(),
    }
}

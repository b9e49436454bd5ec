//! From a network's outputs and a cohort's targets to metrics.

use consilium_data::Targets;
use consilium_evaluation::{
    BinaryPredictions, InvalidPredictions, MultiClassPredictions, Predictions, SurvivalPredictions,
    TaskKind,
};
use consilium_models::{Prediction, Task};

use crate::work::{MetricValue, WorkError};

/// The targets in the form of the network's loss.
///
/// # Errors
/// [`WorkError`] when the cohort's targets are not of the task's kind, or have another number of classes.
pub fn model_targets(
    task: &Task,
    targets: &Targets,
) -> Result<consilium_models::Targets, WorkError> {
    use consilium_models::Targets as Wanted;
    Ok(match (task, targets) {
        (Task::Labels { n: 1 }, Targets::Classes { label, names }) if names.len() == 2 => {
            Wanted::Labels(label.iter().map(|&class| class as f32).collect())
        }
        (Task::Classes { n }, Targets::Classes { label, names }) if names.len() == *n => {
            Wanted::Classes(label.iter().map(|&class| class as usize).collect())
        }
        (Task::Cox, Targets::Survival { time, event }) => Wanted::Survival {
            time: time.clone(),
            event: event.clone(),
        },
        (Task::Hazards { cut_points }, Targets::Survival { time, event }) => {
            Wanted::in_intervals(cut_points, time, event)
        }
        (task, targets) => {
            let held = match targets {
                Targets::Classes { names, .. } => format!("{} classes", names.len()),
                Targets::Survival { .. } => "survival times".into(),
                Targets::Unlabelled { .. } => "no labels".into(),
            };
            return Err(WorkError {
                code: "cohort_other_targets",
                message: format!("the cohort has {held}, the study's task is {task:?}"),
                hint: "correct [task] in cohort.toml, or the task's kind in the study".into(),
            });
        }
    })
}

/// Outcomes and predictions as the evaluation takes them.
///
/// # Errors
/// [`InvalidPredictions`] for targets that are not known, and for a value that is no probability, which a
/// network that computes cannot give.
pub fn evaluated(
    task: &Task,
    predictions: &[Prediction],
    targets: &Targets,
) -> Result<Predictions, InvalidPredictions> {
    Ok(match targets {
        Targets::Classes { label, .. } if matches!(task, Task::Labels { .. }) => {
            let labels = label.iter().map(|&class| class == 1).collect();
            let positive = predictions
                .iter()
                .map(|p| f64::from(p.outputs[0]))
                .collect();
            Predictions::Binary(BinaryPredictions::new(labels, positive)?)
        }
        Targets::Classes { label, names } => {
            let labels = label.iter().map(|&class| class as usize).collect();
            let rows: Vec<Vec<f64>> = predictions
                .iter()
                .map(|p| p.outputs.iter().map(|&value| f64::from(value)).collect())
                .collect();
            Predictions::MultiClass(MultiClassPredictions::new(names.len(), labels, &rows)?)
        }
        Targets::Survival { time, event } => {
            let times = time.iter().map(|&t| f64::from(t)).collect();
            let risks = predictions
                .iter()
                .map(|p| f64::from(p.risk.unwrap_or_default()))
                .collect();
            Predictions::Survival(SurvivalPredictions::new(times, event.clone(), risks)?)
        }
        // As many outcomes as are known: none.
        Targets::Unlabelled { records } => {
            Predictions::Binary(BinaryPredictions::new(Vec::new(), vec![0.0; *records])?)
        }
    })
}

/// Every metric that has a meaning for the task, on one split; none where the targets are not known.
#[must_use]
pub fn metrics(
    task: &Task,
    predictions: &[Prediction],
    targets: &Targets,
    split: &str,
) -> Vec<MetricValue> {
    if matches!(targets, Targets::Unlabelled { .. }) {
        return Vec::new();
    }
    let predictions = evaluated(task, predictions, targets).ok();
    kind(task)
        .metrics()
        .iter()
        .map(|&metric| MetricValue {
            split: split.to_owned(),
            metric: metric.name().to_owned(),
            value: predictions.as_ref().and_then(|p| p.metric(metric)),
        })
        .collect()
}

/// Metrics of a constant prediction: class shares of the training part; for survival the same risk for all.
#[must_use]
pub fn constant_metrics(
    task: &Task,
    train: &Targets,
    targets: &Targets,
    split: &str,
) -> Vec<MetricValue> {
    let constant = match train {
        Targets::Classes { label, names } => {
            let share = |class: usize| {
                let count = label.iter().filter(|&&l| l as usize == class).count();
                count as f32 / label.len().max(1) as f32
            };
            let shares: Vec<f32> = (0..names.len()).map(share).collect();
            let outputs = if matches!(task, Task::Labels { .. }) {
                vec![shares.get(1).copied().unwrap_or_default()]
            } else {
                shares
            };
            Prediction {
                outputs,
                risk: None,
                variance: 0.0,
                entropy: None,
                mutual_information: None,
            }
        }
        Targets::Survival { .. } | Targets::Unlabelled { .. } => Prediction {
            outputs: vec![0.0],
            risk: Some(0.0),
            variance: 0.0,
            entropy: None,
            mutual_information: None,
        },
    };
    metrics(task, &vec![constant; targets.len()], targets, split)
}

/// Name of the metric that speaks for the task in tables.
#[must_use]
pub fn primary_metric(task: &Task) -> &'static str {
    kind(task).primary_metric().name()
}

fn kind(task: &Task) -> TaskKind {
    match task {
        Task::Classes { .. } => TaskKind::MultiClass,
        Task::Labels { n: 1 } => TaskKind::Binary,
        Task::Labels { .. } => TaskKind::MultiLabel,
        Task::Cox | Task::Hazards { .. } => TaskKind::Survival,
    }
}

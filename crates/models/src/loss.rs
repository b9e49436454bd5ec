//! Losses as a sum and a weight, so that micro-batches and sites add up exactly, and predictions.

use burn::tensor::activation::{log_softmax, relu};
use burn::tensor::{Tensor, TensorData};
use consilium_core::TaskKey;

use crate::hazards::survival;
use crate::{ModelError, Task};

/// What the records of a batch should have been predicted as.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// Class of each record, for [`Task::Classes`].
    Classes(Vec<usize>),
    /// 0 or 1 per record and label, record by record, for [`Task::Labels`].
    Labels(Vec<f32>),
    /// Follow-up time and whether the event happened then, for [`Task::Cox`].
    Survival {
        /// Time in the unit of the cohort.
        time: Vec<f32>,
        /// True: event; false: censored.
        event: Vec<bool>,
    },
    /// Interval (from 0) and whether the event happened in it, for [`Task::Hazards`]; made by
    /// [`Targets::in_intervals`].
    Hazards {
        /// Interval in which each follow-up ended.
        bin: Vec<usize>,
        /// True: event; false: censored.
        event: Vec<bool>,
    },
}

/// How tied event times enter the partial likelihood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ties {
    /// Breslow (1974): order-independent; the one we train with.
    Breslow,
    /// Efron (1977).
    #[cfg(test)]
    Efron,
}

impl Targets {
    /// Number of records.
    #[must_use]
    pub fn records(&self, task: &Task) -> usize {
        match self {
            Self::Classes(classes) => classes.len(),
            Self::Labels(values) => values.len() / task.outputs(),
            Self::Survival { time, .. } => time.len(),
            Self::Hazards { bin, .. } => bin.len(),
        }
    }

    /// Those of some of the records, in the given order.
    pub(crate) fn select(&self, task: &Task, records: &[usize]) -> Self {
        fn pick<T: Copy>(values: &[T], records: &[usize]) -> Vec<T> {
            records.iter().map(|&record| values[record]).collect()
        }
        match self {
            Self::Classes(classes) => Self::Classes(pick(classes, records)),
            Self::Labels(values) => {
                let per = task.outputs();
                let rows = records
                    .iter()
                    .flat_map(|&record| &values[record * per..(record + 1) * per]);
                Self::Labels(rows.copied().collect())
            }
            Self::Survival { time, event } => Self::Survival {
                time: pick(time, records),
                event: pick(event, records),
            },
            Self::Hazards { bin, event } => Self::Hazards {
                bin: pick(bin, records),
                event: pick(event, records),
            },
        }
    }
}

/// Sum of the losses of a batch, and the weight to divide it by: records, known labels or events.
///
/// `logits` is `[outputs, batch]`. `mask` has a weight per record, or per record and label for labels;
/// 0 excludes. The sum is a tensor of one value; with weight 0 it is 0.
///
/// # Errors
/// [`ModelError::Target`] when targets, mask and task do not fit together.
pub(crate) fn loss(
    key: &TaskKey,
    task: &Task,
    logits: &Tensor<2>,
    targets: &Targets,
    mask: Option<&[f32]>,
) -> Result<(Tensor<1>, f64), ModelError> {
    let [outputs, batch] = logits.dims();
    let refuse = |problem: String| {
        Err(ModelError::Target {
            task: key.clone(),
            problem,
        })
    };
    let per_record = if matches!(task, Task::Labels { .. }) {
        outputs
    } else {
        1
    };
    if mask.is_some_and(|mask| mask.len() != batch * per_record) {
        return refuse(format!("the mask needs {} values", batch * per_record));
    }
    if mask.is_some_and(|mask| !mask.iter().all(|w| (0.0..=f32::MAX).contains(w))) {
        return refuse("mask values are weights, finite and not negative".into());
    }
    let weight = |index: usize| mask.map_or(1.0, |mask| mask[index]);
    match (task, targets) {
        (Task::Classes { n }, Targets::Classes(classes)) if classes.len() == batch => {
            if let Some(class) = classes.iter().find(|class| *class >= n) {
                return refuse(format!("class {class} is outside 0 to {}", n - 1));
            }
            let mut chosen = vec![0.0; n * batch];
            for (b, &class) in classes.iter().enumerate() {
                chosen[class * batch + b] = weight(b);
            }
            let total = chosen.iter().map(|&w| f64::from(w)).sum();
            let chosen = constant(chosen, [*n, batch], logits);
            Ok(((log_softmax(logits.clone(), 0) * chosen).sum().neg(), total))
        }
        (Task::Labels { n }, Targets::Labels(labels)) if labels.len() == n * batch => {
            let mut positive = vec![0.0; n * batch];
            let mut counted = vec![0.0; n * batch];
            for b in 0..batch {
                for l in 0..*n {
                    let (label, weight) = (labels[b * n + l], weight(b * n + l));
                    if weight > 0.0 && !(0.0..=1.0).contains(&label) {
                        return refuse(format!("label {label} is outside 0 to 1"));
                    }
                    counted[l * batch + b] = weight;
                    positive[l * batch + b] = if weight > 0.0 { label * weight } else { 0.0 };
                }
            }
            let total = counted.iter().map(|&w| f64::from(w)).sum();
            Ok((binary(logits, positive, counted), total))
        }
        (Task::Hazards { .. }, Targets::Hazards { bin, event })
            if bin.len() == batch && event.len() == batch =>
        {
            let bins = outputs;
            let mut happened = vec![0.0; bins * batch];
            let mut at_risk = vec![0.0; bins * batch];
            let mut total = 0.0;
            for b in 0..batch {
                if bin[b] >= bins {
                    return refuse(format!("bin {} is outside 0 to {}", bin[b], bins - 1));
                }
                for j in 0..=bin[b] {
                    at_risk[j * batch + b] = weight(b);
                }
                happened[bin[b] * batch + b] = if event[b] { weight(b) } else { 0.0 };
                total += f64::from(weight(b));
            }
            Ok((binary(logits, happened, at_risk), total))
        }
        (Task::Cox, Targets::Survival { time, event })
            if time.len() == batch && event.len() == batch =>
        {
            if !time.iter().all(|time| time.is_finite()) {
                return refuse("a follow-up time is not a finite number".into());
            }
            let included: Vec<bool> = (0..batch).map(|b| weight(b) > 0.0).collect();
            Ok(cox(logits, time, event, &included, Ties::Breslow))
        }
        _ => refuse(format!(
            "{task:?} with {batch} records needs as many targets of its own kind"
        )),
    }
}

fn constant<const D: usize>(values: Vec<f32>, shape: [usize; D], like: &Tensor<2>) -> Tensor<D> {
    Tensor::from_data(
        TensorData::new(values, shape),
        (&like.device(), like.dtype()),
    )
}

/// `sum weight * softplus(z) - positive * z`: binary cross-entropy from logits.
fn binary(logits: &Tensor<2>, positive: Vec<f32>, weight: Vec<f32>) -> Tensor<1> {
    let shape = logits.dims();
    let softplus = relu(logits.clone()) + logits.clone().abs().neg().exp().log1p();
    let gain = logits.clone() * constant(positive, shape, logits);
    (softplus * constant(weight, shape, logits) - gain).sum()
}

/// Negative log partial likelihood of `[1, batch]` log-risks (`model-interface.md` section 6), summed over
/// events, and the number of events. The risk set of i holds every included j with `t_j >= t_i`.
pub(crate) fn cox(
    eta: &Tensor<2>,
    time: &[f32],
    event: &[bool],
    included: &[bool],
    ties: Ties,
) -> (Tensor<1>, f64) {
    let batch = time.len();
    let counts = |i: usize| event[i] && included[i];
    let events: Vec<f32> = (0..batch)
        .map(|i| if counts(i) { 1.0 } else { 0.0 })
        .collect();
    let total: f64 = events.iter().map(|&e| f64::from(e)).sum();
    // log W: 0 inside the risk set, a large negative number outside.
    let mut outside = vec![-1e30_f32; batch * batch];
    for i in 0..batch {
        let tied: Vec<usize> = (0..batch)
            .filter(|&j| counts(j) && time[j] == time[i])
            .collect();
        let rank = tied.iter().filter(|&&j| j < i).count();
        let _ = (rank, ties);
        for j in 0..batch {
            // An excluded record keeps itself, so that its unused row stays finite.
            if (included[j] && time[j] >= time[i]) || i == j {
                outside[i * batch + j] = 0.0;
            }
        }
        #[cfg(test)]
        if ties == Ties::Efron && counts(i) && rank > 0 {
            let share = (1.0 - rank as f32 / tied.len() as f32).ln();
            for &j in &tied {
                outside[i * batch + j] = share;
            }
        }
    }
    let scores = eta.clone().expand([batch, batch]) + constant(outside, [batch, batch], eta);
    let top = scores.clone().max_dim(1).detach();
    let log_sum = (scores - top.clone()).exp().sum_dim(1).log() + top;
    let difference = log_sum.reshape([1, batch]) - eta.clone();
    let events = constant(events, [1, batch], eta);
    ((difference * events).sum(), total)
}

/// Class probabilities, label probabilities, log-risk or survival curve from logits `[outputs, batch]`, record
/// by record.
pub(crate) fn activate(task: &Task, logits: &[f32], batch: usize) -> Vec<Vec<f32>> {
    let outputs = task.outputs();
    (0..batch)
        .map(|b| {
            let column = (0..outputs).map(|o| logits[o * batch + b]);
            match task {
                Task::Classes { .. } => {
                    let top = column.clone().fold(f32::NEG_INFINITY, f32::max);
                    let exponentials: Vec<f32> = column.map(|z| (z - top).exp()).collect();
                    let total: f32 = exponentials.iter().sum();
                    exponentials.iter().map(|e| e / total).collect()
                }
                Task::Labels { .. } => column.map(sigmoid).collect(),
                Task::Hazards { .. } => survival(column.map(sigmoid)),
                Task::Cox => column.collect(),
            }
        })
        .collect()
}

fn sigmoid(z: f32) -> f32 {
    1.0 / (1.0 + (-z).exp())
}

/// Risk of one record for the concordance: the log-risk, or minus the expected number of intervals survived
/// (section 7.3); nothing for other tasks.
pub(crate) fn risk(task: &Task, outputs: &[f32]) -> Option<f32> {
    match task {
        Task::Cox => outputs.first().copied(),
        Task::Hazards { .. } => Some(-outputs.iter().sum::<f32>()),
        Task::Classes { .. } | Task::Labels { .. } => None,
    }
}

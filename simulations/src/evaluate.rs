//! `consilium evaluate`: each site's network, trained at that site alone, against the simple models of its
//! data set on the same patient-wise folds.

use std::collections::BTreeSet;

use comfy_table::{Cell, CellAlignment, Table, presets};
use consilium_core::SiteId;
use consilium_data::{Cohort, Fold, Part};
use consilium_evaluation::CorrectedT;
use consilium_models::{DeviceChoice, Prediction, Task};
use consilium_ops::OperatorError;
use consilium_site::training::{
    SiteRecords, SiteTraining, constant_metrics, metrics, primary_metric,
};
use consilium_site::work::MetricValue;
use serde::Serialize;

use crate::baseline::{Baseline, BaselineError};
use crate::errors::failed_work;
use crate::federation::each_in_threads;
use crate::scenario::Loaded;

/// How far below the baseline the mean may lie before the network counts as worse.
const MARGIN: f64 = 0.03;

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of folds.
    pub folds: u32,
    /// Sites to evaluate; all when empty.
    pub sites: Vec<SiteId>,
    /// Leave the test part closed: folds over the train and validation parts, on which a recipe may be
    /// chosen.
    pub development: bool,
    /// Folds computed at a time.
    pub threads: usize,
    /// Where networks compute.
    pub device: DeviceChoice,
}

/// A site's network against one baseline in one metric.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The site.
    pub site: SiteId,
    /// `patient` or `record`: what the folds keep together.
    pub unit: String,
    /// Patients or records of all folds.
    pub units: usize,
    /// Name of the metric.
    pub metric: String,
    /// Name of the baseline.
    pub baseline: String,
    /// The network on each fold; empty where the metric is undefined.
    pub network_folds: Vec<Option<f64>>,
    /// The baseline on each fold.
    pub baseline_folds: Vec<Option<f64>>,
    /// A constant prediction on each fold.
    pub constant_folds: Vec<Option<f64>>,
    /// Network minus baseline over the folds where both are defined: mean and corrected resampled t interval.
    pub difference: Option<CorrectedT>,
    /// Whether the mean difference is at least the margin below zero; no verdict when undefined.
    pub within_margin: Option<bool>,
}

/// What an evaluation found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// The scenario's name.
    pub scenario: String,
    /// Number of folds.
    pub folds: u32,
    /// Whether the test parts stayed closed.
    pub development: bool,
    /// Optimiser steps, batches and the rest are the scenario's; this is its seed.
    pub seed: u64,
    /// Largest shortfall of the mean that still counts as equal.
    pub margin: f64,
    /// One line per site, baseline and metric.
    pub comparisons: Vec<Comparison>,
}

/// One fold of one site.
struct Job<'a> {
    site: usize,
    number: usize,
    cohort: &'a Cohort,
    fold: Fold,
}

/// Metrics of the network, of each baseline and of a constant on one fold.
struct Scores {
    /// Patients or records in the fold's test part.
    units: usize,
    network: Vec<MetricValue>,
    constant: Vec<MetricValue>,
    baselines: Vec<(Baseline, Vec<MetricValue>)>,
}

/// Evaluates the sites of a scenario on `folds` patient-wise folds.
///
/// # Errors
/// [`OperatorError`] for a site that the scenario does not have, a cohort that is not acceptable, or a fold
/// without records.
pub fn evaluate(loaded: &Loaded, options: &Options) -> Result<Evaluation, OperatorError> {
    let names = chosen(loaded, &options.sites)?;
    let cohorts: Vec<Cohort> = (names.iter())
        .map(|name| {
            loaded
                .cohort(name)
                .map_err(|error| error.at(format!("site {name}")))
        })
        .collect::<Result<_, _>>()?;
    let mut jobs = Vec::new();
    for (site, cohort) in cohorts.iter().enumerate() {
        for (number, fold) in folds(cohort, options).into_iter().enumerate() {
            if fold.train.is_empty() || fold.test.is_empty() {
                return Err(OperatorError::configuration(
                    "fold_empty",
                    format!(
                        "fold {} of {} at site {} has no records",
                        number + 1,
                        options.folds,
                        names[site]
                    ),
                    "ask for fewer folds, or change splits.key in the cohort's manifest",
                ));
            }
            jobs.push(Job {
                site,
                number,
                cohort,
                fold,
            });
        }
    }
    let scores = each_in_threads(jobs, options.threads, |job| {
        let scores = score(loaded, &names[job.site], &job, options.device)?;
        eprintln!(
            "{} fold {}/{}",
            names[job.site],
            job.number + 1,
            options.folds
        );
        Ok::<_, OperatorError>((job.site, scores))
    });
    let mut of_site: Vec<Vec<Scores>> = names.iter().map(|_| Vec::new()).collect();
    // The results are in the order of the jobs, so folds stay in order.
    for found in scores {
        let (site, scores) = found?;
        of_site[site].push(scores);
    }
    let mut comparisons = Vec::new();
    for ((name, cohort), folds) in names.iter().zip(&cohorts).zip(&of_site) {
        let task = &loaded.scenario.ehpal_net.tasks[&loaded.scenario.sites[name].task];
        for metric in compared(task) {
            for (index, baseline) in Baseline::of(cohort).into_iter().enumerate() {
                comparisons.push(compare(name, cohort, metric, baseline, index, folds));
            }
        }
    }
    Ok(Evaluation {
        scenario: loaded.scenario.name.to_string(),
        folds: options.folds,
        development: options.development,
        seed: loaded.scenario.seed,
        margin: MARGIN,
        comparisons,
    })
}

/// Patient-wise folds of the records that may be used.
fn folds(cohort: &Cohort, options: &Options) -> Vec<Fold> {
    let mut folds = cohort.folds(options.folds);
    if options.development {
        let closed: BTreeSet<usize> = cohort.records_in(Part::Test).into_iter().collect();
        for fold in &mut folds {
            fold.train.retain(|record| !closed.contains(record));
            fold.test.retain(|record| !closed.contains(record));
        }
    }
    folds
}

fn chosen(loaded: &Loaded, asked: &[SiteId]) -> Result<Vec<SiteId>, OperatorError> {
    let sites = &loaded.scenario.sites;
    if let Some(unknown) = asked.iter().find(|site| !sites.contains_key(*site)) {
        let names: Vec<_> = sites.keys().map(ToString::to_string).collect();
        return Err(OperatorError::configuration(
            "scenario_site",
            format!("the scenario has no site {unknown}"),
            format!("give one of: {}", names.join(", ")),
        ));
    }
    Ok(match asked {
        [] => sites.keys().cloned().collect(),
        asked => asked.to_vec(),
    })
}

/// The primary metric; accuracy beside it where there are several classes, since data sets state it.
fn compared(task: &Task) -> Vec<&'static str> {
    match task {
        Task::Classes { .. } => vec![primary_metric(task), "accuracy"],
        task => vec![primary_metric(task)],
    }
}

fn score(
    loaded: &Loaded,
    name: &SiteId,
    job: &Job<'_>,
    device: DeviceChoice,
) -> Result<Scores, OperatorError> {
    let at_site = |error| failed_work(error).at(format!("site {name}"));
    // A scenario's sites are the study's participants.
    let participant = loaded.study.participant(name).cloned().ok_or_else(|| {
        OperatorError::configuration("scenario_site", format!("no site {name}"), "")
    })?;
    let (train, test) = (&job.fold.train, &job.fold.test);
    let records =
        SiteRecords::new(job.cohort, train.clone(), Vec::new(), test.clone()).map_err(at_site)?;
    let mut training = SiteTraining::new(&loaded.study, &participant, job.cohort, records, device)
        .map_err(at_site)?;
    let model = training.train_alone(&mut |_| ()).map_err(at_site)?;
    let part = Part::Test;
    let (targets, task) = (training.targets_of(part), training.task().clone());
    let known = training.targets_of(Part::Train);
    let measure = |predictions: &[Prediction]| metrics(&task, predictions, &targets, part.as_str());
    let network = training.evaluate_on(&model, part).map_err(at_site)?;
    let mut baselines = Vec::new();
    for baseline in Baseline::of(job.cohort) {
        let predictions = baseline
            .fit_and_predict(job.cohort, train, test)
            .map_err(|error| failed_baseline(&error, name))?;
        baselines.push((baseline, measure(&predictions)));
    }
    Ok(Scores {
        units: units_among(job.cohort, test),
        network,
        constant: constant_metrics(&task, &known, &targets, part.as_str()),
        baselines,
    })
}

/// Patients, or records where these are the unit, among some records.
fn units_among(cohort: &Cohort, records: &[usize]) -> usize {
    let patients: BTreeSet<_> = (records.iter())
        .map(|&record| cohort.patient()[record])
        .collect();
    patients.len()
}

fn failed_baseline(error: &BaselineError, site: &SiteId) -> OperatorError {
    OperatorError::failed(
        error.code(),
        error.to_string(),
        "see `consilium data describe`",
    )
    .at(format!("site {site}"))
}

fn compare(
    site: &SiteId,
    cohort: &Cohort,
    metric: &str,
    baseline: Baseline,
    index: usize,
    folds: &[Scores],
) -> Comparison {
    let value = |values: &[MetricValue]| values.iter().find(|v| v.metric == metric)?.value;
    let column = |pick: fn(&Scores, usize) -> &[MetricValue]| -> Vec<Option<f64>> {
        folds
            .iter()
            .map(|scores| value(pick(scores, index)))
            .collect()
    };
    let network = column(|scores, _| &scores.network);
    let simple = column(|scores, index| &scores.baselines[index].1);
    let differences: Vec<f64> = (network.iter().zip(&simple))
        .filter_map(|(a, b)| Some((*a)? - (*b)?))
        .collect();
    // One run tests on a share 1/J of the patients and trains on the rest.
    let units = folds.iter().map(|scores| scores.units).sum::<usize>();
    let test = units / folds.len().max(1);
    let difference = CorrectedT::of(&differences, units - test, test);
    Comparison {
        site: site.clone(),
        unit: cohort.unit().as_str().into(),
        units,
        metric: metric.into(),
        baseline: baseline.name().into(),
        constant_folds: column(|scores, _| &scores.constant),
        network_folds: network,
        baseline_folds: simple,
        within_margin: difference.as_ref().map(|d| d.mean >= -MARGIN),
        difference,
    }
}

impl Evaluation {
    /// The table and what belongs under it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
            "site",
            "folds over",
            "metric",
            "network alone",
            "baseline",
            "its value",
            "constant",
            "difference [95 %]",
            "at least -0.03",
        ]);
        for row in &self.comparisons {
            let verdict = match row.within_margin {
                Some(true) => "yes",
                Some(false) => "no",
                None => "undefined",
            };
            table.add_row([
                Cell::new(&row.site),
                Cell::new(format!("{} {}s", row.units, row.unit)),
                Cell::new(&row.metric),
                right(mean(&row.network_folds)),
                Cell::new(&row.baseline),
                right(mean(&row.baseline_folds)),
                right(mean(&row.constant_folds)),
                right(row.difference.as_ref().map_or("undefined".into(), |d| {
                    format!(
                        "{:+.3} [{:+.3}, {:+.3}]",
                        d.mean, d.interval.lower, d.interval.upper
                    )
                })),
                Cell::new(verdict),
            ]);
        }
        let over = if self.development {
            " of the train and validation parts"
        } else {
            ""
        };
        format!(
            "{table}\nMeans over {} patient-wise folds{over}; the network is trained at the site alone, seed {}. \
             Difference: network minus baseline on the same folds, with the corrected resampled t interval.\n",
            self.folds, self.seed
        )
    }
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn mean(values: &[Option<f64>]) -> String {
    let defined: Vec<f64> = values.iter().flatten().copied().collect();
    if defined.is_empty() {
        return "undefined".into();
    }
    let mean = defined.iter().sum::<f64>() / defined.len() as f64;
    if defined.len() < values.len() {
        format!("{mean:.3} ({} folds)", defined.len())
    } else {
        format!("{mean:.3}")
    }
}

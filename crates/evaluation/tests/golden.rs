//! Every case in `CONSILIUM_GOLDEN/metrics` and the concordance cases beside the network's, by content.
//!
//! A value passes when |got - expected| <= abs + rel |expected| with the tolerance of its file; integers are
//! equal; null is undefined. Cases and values that nothing here computes are printed by name.

use std::io::Write as _;
use std::path::PathBuf;

use consilium_evaluation::calibration::CalibrationError;
use consilium_evaluation::cox::{BaselineHazard, Ties, partial_likelihood};
use consilium_evaluation::delong::DeLong;
use consilium_evaluation::ranking::auroc;
use consilium_evaluation::*;
use serde_json::{Map, Value, json};

const NOT_COVERED: &str = "not covered yet";

/// A relative `CONSILIUM_GOLDEN` starts at the workspace, where `cargo test` is typed, not at this crate.
fn golden_folder(name: &str) -> Option<PathBuf> {
    let workspace = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let asked = std::env::var_os("CONSILIUM_GOLDEN");
    let root = asked.clone().unwrap_or("../shared/data/golden".into());
    let folder = workspace.join(root).join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(asked.is_none(), "{} is not there", folder.display());
    say(&format!(
        "skipped: {} is not there; set CONSILIUM_GOLDEN",
        folder.display()
    ));
    None
}

/// Straight to the descriptor: the test harness keeps what passing tests print to itself.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn json_files(folder: &PathBuf) -> Vec<(String, Value)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (
                name,
                serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap(),
            )
        })
        .collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    files
}

fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap();
    list.iter().map(|v| v.as_f64().unwrap()).collect()
}

fn indices(value: &Value) -> Vec<usize> {
    numbers(value).into_iter().map(|v| v as usize).collect()
}

fn flags(value: &Value) -> Vec<bool> {
    numbers(value).into_iter().map(|v| v != 0.0).collect()
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(numbers).collect()
}

/// What we compute for a case, in the shape of `expected`; `None` for a case of an unknown kind.
fn computed(case: &Value) -> Option<Value> {
    match case["kind"].as_str() {
        Some("binary") => Some(binary(case)),
        Some("multiclass") => Some(multi_class(case)),
        Some("multilabel") => Some(multi_label(case)),
        Some("corrected_resampled_t") => Some(corrected_t(case)),
        Some(_) => None,
        None => {
            let has = |keys: &[&str]| keys.iter().all(|key| case.get(key).is_some());
            if has(&["time", "event", "risk"]) {
                Some(survival(case))
            } else if has(&["cluster_indices", "patient"]) {
                Some(cluster_bootstrap(case))
            } else if has(&["indices", "score_a", "score_b"]) {
                Some(bootstrap(case))
            } else if has(&["y", "score_a", "score_b"]) {
                Some(delong(case))
            } else {
                None
            }
        }
    }
}

fn expected_error(error: Option<CalibrationError>) -> Option<f64> {
    error.map(|error| error.expected)
}

fn binary(case: &Value) -> Value {
    let p = BinaryPredictions::new(flags(&case["y"]), numbers(&case["p"])).unwrap();
    let confusion = p.confusion();
    let counts = confusion.counts();
    let through_enum = Predictions::Binary(p.clone());
    json!({
        "auroc": through_enum.metric(Metric::Auroc),
        "auprc_average_precision": through_enum.metric(Metric::Auprc),
        "brier": through_enum.metric(Metric::Brier),
        "log_loss_clip_1e-15": through_enum.metric(Metric::LogLoss),
        "ece_15_equal_width": through_enum.metric(Metric::Ece),
        "mce_15_equal_width": p.calibration().map(|error| error.maximum),
        "ece_10_equal_mass": expected_error(p.calibration_equal_mass()),
        "tp": counts[1][1], "fp": counts[0][1], "fn": counts[1][0], "tn": counts[0][0],
        "accuracy": through_enum.metric(Metric::Accuracy),
        "sensitivity": confusion.recall(1),
        "specificity": confusion.recall(0),
        "ppv": confusion.precision(1),
        "npv": confusion.precision(0),
        "f1": confusion.f1(1),
        "balanced_accuracy": through_enum.metric(Metric::BalancedAccuracy),
        "mcc": confusion.matthews(),
        "cohen_kappa": confusion.cohen_kappa(),
    })
}

fn multi_class(case: &Value) -> Value {
    let probabilities = rows(&case["p"]);
    let classes = probabilities[0].len();
    let p = MultiClassPredictions::new(classes, indices(&case["y"]), &probabilities).unwrap();
    let confusion = p.confusion();
    let through_enum = Predictions::MultiClass(p.clone());
    json!({
        "auroc_ovr_per_class": p.auroc_per_class(),
        "auroc_ovr_macro_defined_classes": through_enum.metric(Metric::MacroAuroc),
        "auroc_ovr_prevalence_weighted": p.prevalence_weighted_auroc(),
        "auprc_per_class": p.auprc_per_class(),
        "auprc_macro_defined_classes": through_enum.metric(Metric::Auprc),
        "accuracy": through_enum.metric(Metric::Accuracy),
        "balanced_accuracy": through_enum.metric(Metric::BalancedAccuracy),
        "f1_macro_defined_classes": confusion.macro_f1(),
        "brier_sum_over_classes": through_enum.metric(Metric::Brier),
        "log_loss_clip_1e-15": through_enum.metric(Metric::LogLoss),
        "ece_top1_15": through_enum.metric(Metric::Ece),
        "mce_top1_15": p.calibration().map(|error| error.maximum),
        "cohen_kappa": confusion.cohen_kappa(),
        "quadratic_weighted_kappa": confusion.quadratic_weighted_kappa(),
        "mcc": confusion.matthews(),
        "confusion_rows_true": confusion.counts(),
    })
}

fn multi_label(case: &Value) -> Value {
    let known = |row: &Value| -> Vec<Option<bool>> {
        let labels = row.as_array().unwrap();
        labels
            .iter()
            .map(|v| v.as_f64().map(|v| v != 0.0))
            .collect()
    };
    let labels: Vec<_> = case["y"].as_array().unwrap().iter().map(known).collect();
    let probabilities = rows(&case["p"]);
    let width = probabilities[0].len();
    let p = MultiLabelPredictions::new(width, labels, probabilities).unwrap();
    let through_enum = Predictions::MultiLabel(p.clone());
    json!({
        "auroc_per_label": p.auroc_per_label(),
        "auroc_macro_defined": through_enum.metric(Metric::MacroAuroc),
        "auroc_micro": p.micro_auroc(),
        "auprc_per_label": p.auprc_per_label(),
        "auprc_macro_defined": through_enum.metric(Metric::Auprc),
        "hamming_loss": p.hamming_loss(),
        "subset_accuracy": p.subset_accuracy(),
        "brier_mean_over_labels": through_enum.metric(Metric::Brier),
    })
}

fn survival(case: &Value) -> Value {
    let (times, events, risks) = (
        numbers(&case["time"]),
        flags(&case["event"]),
        numbers(&case["risk"]),
    );
    let p = SurvivalPredictions::new(times.clone(), events.clone(), risks.clone()).unwrap();
    let pairs = p.concordance();
    let mut values = Map::new();
    values.insert(
        "harrell".into(),
        json!({
            "concordant": pairs.concordant,
            "discordant": pairs.discordant,
            "tied_risk": pairs.tied_risk,
            "tied_event_times_excluded": pairs.tied_event_times,
            "c_index": Predictions::Survival(p).metric(Metric::CIndex),
        }),
    );
    // The concordance cases beside the network's carry the value in the case itself.
    values.insert("c_index".into(), json!(pairs.c_index()));
    let strata = case.get("stratum").map(indices);
    for (name, ties) in [("breslow", Ties::Breslow), ("efron", Ties::Efron)] {
        for (suffix, strata) in [("", None), ("_stratified", strata.as_deref())] {
            let loss = partial_likelihood(&times, &events, &risks, strata, ties);
            values.insert(format!("nll_sum_{name}{suffix}"), json!(loss.sum));
            values.insert(
                format!("nll_mean_over_events_{name}{suffix}"),
                json!(loss.mean()),
            );
            values.insert(format!("grad_{name}{suffix}"), json!(loss.gradient));
        }
    }
    let hazard = BaselineHazard::estimate(&times, &events, &risks);
    if let Some(grid) = case["expected"].get("grid") {
        let on_grid: Vec<Vec<f64>> = risks
            .iter()
            .map(|&risk| {
                numbers(grid)
                    .iter()
                    .map(|&t| hazard.survival(t, risk))
                    .collect()
            })
            .collect();
        values.insert("grid".into(), grid.clone());
        values.insert("survival_on_grid".into(), json!(on_grid));
    }
    values.insert("baseline_event_times".into(), json!(hazard.times));
    values.insert(
        "breslow_cumulative_baseline_hazard".into(),
        json!(hazard.cumulative),
    );
    Value::Object(values)
}

fn corrected_t(case: &Value) -> Value {
    let size = |key: &str| case[key].as_u64().unwrap() as usize;
    let got = CorrectedT::of(
        &numbers(&case["differences"]),
        size("n_train"),
        size("n_test"),
    )
    .unwrap();
    json!({
        "t": got.t,
        "df": got.runs - 1,
        "p_two_sided": got.p_two_sided,
        "ci95": limits(Some(got.interval)),
    })
}

fn delong(case: &Value) -> Value {
    let scores = |key: &str| numbers(&case[key]);
    let got = DeLong::compare(&flags(&case["y"]), &scores("score_a"), &scores("score_b")).unwrap();
    json!({
        "auc_a": got.areas[0],
        "auc_b": got.areas[1],
        "covariance": got.covariance,
        "z": got.z(),
        "p_two_sided": got.p_two_sided(),
        "ci95_logit_a": limits(got.logit_interval()),
    })
}

fn limits(interval: Option<Interval>) -> Option<[f64; 2]> {
    interval.map(|interval| [interval.lower, interval.upper])
}

fn area_of(labels: &[bool], scores: &[f64], rows: &[usize]) -> Option<f64> {
    let labels: Vec<bool> = rows.iter().map(|&row| labels[row]).collect();
    let scores: Vec<f64> = rows.iter().map(|&row| scores[row]).collect();
    auroc(&labels, &scores)
}

fn choices(value: &Value) -> Vec<Vec<usize>> {
    value.as_array().unwrap().iter().map(indices).collect()
}

fn bootstrap(case: &Value) -> Value {
    let labels = flags(&case["y"]);
    let (a, b) = (numbers(&case["score_a"]), numbers(&case["score_b"]));
    let patients: Vec<usize> = (0..labels.len()).collect();
    let choices = choices(&case["indices"]);
    let first =
        Bootstrap::with_choices(&patients, &choices, |rows| area_of(&labels, &a, rows)).unwrap();
    let difference = Bootstrap::with_choices(&patients, &choices, |rows| {
        Some(area_of(&labels, &a, rows)? - area_of(&labels, &b, rows)?)
    })
    .unwrap();
    json!({
        "point_a": first.estimate,
        "replicates_a": first.replicates,
        "percentile_ci95_a": limits(first.percentile()),
        "bca_a": {
            "z0": first.bias(),
            "acceleration": first.acceleration(),
            "ci95": limits(first.bca()),
        },
        "point_difference": difference.estimate,
        "percentile_ci95_difference": limits(difference.percentile()),
        "p_two_sided_difference": difference.p_two_sided(),
        "bootstrap_se_a": first.standard_error(),
    })
}

fn cluster_bootstrap(case: &Value) -> Value {
    let (labels, scores) = (flags(&case["y"]), numbers(&case["score_a"]));
    let choices = choices(&case["cluster_indices"]);
    let drawn = Bootstrap::with_choices(&indices(&case["patient"]), &choices, |rows| {
        area_of(&labels, &scores, rows)
    })
    .unwrap();
    json!({
        "replicates_a": drawn.replicates,
        "percentile_ci95_a": limits(drawn.percentile()),
        "undefined_replicates": drawn.undefined,
    })
}

/// Compares leaf by leaf; pushes one line per leaf that differs or that nothing computes.
struct Comparison {
    abs: f64,
    rel: f64,
    compared: usize,
    wrong: Vec<String>,
    not_covered: Vec<String>,
}

impl Comparison {
    fn leaf(&mut self, place: &str, got: Option<&Value>, expected: &Value) {
        match (got, expected) {
            (None, _) => self.not_covered.push(place.to_owned()),
            (Some(Value::Object(got)), Value::Object(expected)) => {
                for (key, value) in expected {
                    self.leaf(&format!("{place}.{key}"), got.get(key), value);
                }
            }
            (Some(Value::Array(got)), Value::Array(expected)) if got.len() == expected.len() => {
                for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
                    self.leaf(&format!("{place}[{index}]"), Some(got), expected);
                }
            }
            (Some(got), expected) => {
                self.compared += 1;
                let equal = match (got.as_f64(), expected.as_f64()) {
                    (Some(g), Some(e)) if expected.is_u64() && got.is_u64() => g == e,
                    (Some(g), Some(e)) => (g - e).abs() <= self.abs + self.rel * e.abs(),
                    _ => got == expected,
                };
                if !equal {
                    self.wrong
                        .push(format!("{place}: got {got}, expected {expected}"));
                }
            }
        }
    }

    fn finish(self, at_least: usize) {
        for place in &self.not_covered {
            say(&format!("{NOT_COVERED}: {place}"));
        }
        say(&format!("{} values compared", self.compared));
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        assert!(
            self.compared >= at_least,
            "only {} values compared",
            self.compared
        );
    }
}

#[test]
fn golden_metrics_are_reproduced() {
    let Some(folder) = golden_folder("metrics") else {
        return;
    };
    let mut comparison = Comparison {
        abs: 0.0,
        rel: 0.0,
        compared: 0,
        wrong: vec![],
        not_covered: vec![],
    };
    for (file, content) in json_files(&folder) {
        comparison.abs = content["tolerance"]["abs"].as_f64().unwrap_or(1e-9);
        comparison.rel = content["tolerance"]["rel"].as_f64().unwrap_or(1e-9);
        for case in content["cases"].as_array().into_iter().flatten() {
            let place = format!("{file}: {}", case["name"].as_str().unwrap_or("unnamed"));
            match computed(case) {
                Some(values) => comparison.leaf(&place, Some(&values), &case["expected"]),
                None => comparison.not_covered.push(place),
            }
        }
    }
    comparison.finish(1);
}

#[test]
fn golden_concordance_beside_the_network_is_reproduced() {
    let Some(folder) = golden_folder("ehpal") else {
        return;
    };
    let mut comparison = Comparison {
        abs: 1e-12,
        rel: 1e-12,
        compared: 0,
        wrong: vec![],
        not_covered: vec![],
    };
    for (file, content) in json_files(&folder) {
        let cases = content.as_array().into_iter().flatten();
        for case in cases.filter(|case| case.get("c_index").is_some()) {
            let place = format!("{file}: {}", case["name"].as_str().unwrap_or("unnamed"));
            let got = survival(case);
            comparison.leaf(&place, got.get("c_index"), &case["c_index"]);
        }
    }
    comparison.finish(1);
}

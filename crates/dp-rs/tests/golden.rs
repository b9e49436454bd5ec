//! Every case in `CONSILIUM_GOLDEN/dp`, by the name of its list, with the tolerances of the files.
//!
//! Lists that belong to other crates (layers, audit) and values that nothing here computes are printed by
//! name, not skipped in silence.

#[path = "golden/accountant.rs"]
mod accountant;
#[path = "golden/case.rs"]
mod case;
#[path = "golden/discrete.rs"]
mod discrete;
#[path = "golden/matrix.rs"]
mod matrix;
#[path = "golden/misc.rs"]
mod misc;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use case::Case;
use serde_json::Value;

/// How to check one case.
type Check = fn(&Case);

fn check_for(kind: &str) -> Option<Check> {
    Some(match kind {
        "poisson_gaussian" => accountant::poisson_gaussian,
        "gaussian_full_batch" => accountant::gaussian_full_batch,
        "heterogeneous" => accountant::heterogeneous,
        "rdp_curve" => accountant::rdp_curve,
        "calibration" => accountant::calibration,
        "without_replacement_and_adjacency" => misc::without_replacement,
        "patient_level_from_record_sampling" => misc::patient_level,
        "truncated_poisson_batches" => misc::truncated_poisson,
        "gdp_clt_approximation_not_a_bound" => misc::gdp_approximation,
        "zcdp_to_approximate_dp" => misc::zcdp,
        "rdp_to_approximate_dp" => misc::conversion,
        "tree_aggregation_zero_out" => misc::tree_aggregation,
        "conditional_rounding_norm_bound" => discrete::rounding,
        "distributed_discrete_gaussian" => discrete::distributed_gaussian,
        "distributed_skellam" => discrete::skellam,
        "distributed_discrete_gaussian_exact_1d" => discrete::gaussian_in_one_dimension,
        "skellam_exact_1d" => discrete::skellam_in_one_dimension,
        "discrete_gaussian_pmf" => discrete::masses,
        "discrete_gaussian_pld" => discrete::loss_distribution,
        "scale_from_bit_width" => discrete::scale,
        "toeplitz" => matrix::toeplitz,
        "blt" => matrix::blt,
        "streaming_noise_example" => matrix::streaming,
        _ => return None,
    })
}

/// A relative `CONSILIUM_GOLDEN` starts at the workspace, where `cargo test` is typed, not at this crate.
fn golden_folder() -> Option<PathBuf> {
    let workspace = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let asked = std::env::var_os("CONSILIUM_GOLDEN");
    let root = asked.clone().unwrap_or("../shared/data/golden".into());
    let folder = workspace.join(root).join("dp");
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

fn json_files(folder: &Path) -> Vec<(String, Value)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let text = std::fs::read(&path).unwrap();
            (name, serde_json::from_slice(&text).unwrap())
        })
        .collect();
    files.sort_by(|a, b| a.0.cmp(&b.0));
    files
}

/// Lists of objects are cases; so is the one example that stands alone.
fn cases(kind: &str, value: &Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(list) if list.iter().all(Value::is_object) => Some(list.clone()),
        Value::Object(_) if check_for(kind).is_some() => Some(vec![value.clone()]),
        _ => None,
    }
}

#[test]
fn golden_cases_of_the_accountant() {
    let Some(folder) = golden_folder() else {
        return;
    };
    let (mut checked, mut failures) = (0, Vec::new());
    for (file, content) in json_files(&folder) {
        let lists = content.as_object().expect("an object of lists");
        for (kind, value) in lists {
            let Some(cases) = cases(kind, value) else {
                continue;
            };
            let Some(check) = check_for(kind) else {
                say(&format!(
                    "not covered: {file} {kind} ({} cases)",
                    cases.len()
                ));
                continue;
            };
            for (position, value) in cases.into_iter().enumerate() {
                let case = Case::new(format!("{file} {kind}[{position}]"), value);
                check(&case);
                for field in case.unused() {
                    say(&format!("not covered: {} {field}", case.name()));
                }
                failures.extend(case.failures());
                checked += 1;
            }
        }
    }
    say(&format!(
        "{checked} golden cases of {} checked",
        folder.display()
    ));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

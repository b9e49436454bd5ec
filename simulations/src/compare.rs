//! Two models on the same patients.

use consilium_core::seed::stream;
use consilium_core::{Seed, StreamKey};
use consilium_data::Targets;
use consilium_evaluation::Bootstrap;
use consilium_models::{Prediction, Task};
use consilium_site::training::evaluated;

/// Draws of the bootstrap.
const DRAWS: usize = 1000;

/// 95 % interval of the difference of the primary metric, first minus second model, over a patient
/// bootstrap with both models fixed. `None` where it cannot be estimated.
#[must_use]
pub fn bootstrap_difference(
    seed: Seed,
    site: &str,
    task: &Task,
    targets: &Targets,
    [first, second]: [&[Prediction]; 2],
    patient_of_row: &[u32],
) -> Option<[f64; 2]> {
    let first = evaluated(task, first, targets).ok()?;
    let second = evaluated(task, second, targets).ok()?;
    let patients: Vec<usize> = patient_of_row
        .iter()
        .map(|&patient| patient as usize)
        .collect();
    let key = StreamKey {
        purpose: "bootstrap",
        site,
        ..StreamKey::default()
    };
    let difference =
        |rows: &[usize]| Some(first.rows(rows).primary()? - second.rows(rows).primary()?);
    let bootstrap = Bootstrap::draw(&patients, DRAWS, &mut stream(seed, &key), difference)?;
    let interval = bootstrap.interval()?;
    Some([interval.lower, interval.upper])
}

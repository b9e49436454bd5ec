//! What a baseline sees of a record.

use consilium_data::manifest::ModalityKind;
use consilium_data::{Cohort, PrepareError};
use nalgebra::DMatrix;

/// One row a record of the cohort, all records `[records, features]`; scaling is fitted on `train`.
///
/// Images: pixels from 0 to 1, at the side the network sees. Signals: statistics of each channel of the
/// window. Tables: standardised columns with missing values at the mean and indicators, as the network sees
/// them.
pub fn rows(cohort: &Cohort, train: &[usize]) -> Result<DMatrix<f64>, PrepareError> {
    let prepared = cohort.prepare(train)?;
    let (examples, scaling) = (prepared.examples(), prepared.scaling());
    let records = examples.values.chunks_exact(examples.width());
    Ok(match cohort.manifest().modality.kind {
        ModalityKind::Image => {
            let plane = examples.width() / examples.shape[0];
            matrix(records, examples.width(), |record| {
                let planes = record.chunks_exact(plane).enumerate();
                planes
                    .flat_map(|(channel, plane)| {
                        let (mean, spread) =
                            (scaling.mean[channel], scaling.standard_deviation[channel]);
                        plane
                            .iter()
                            .map(move |&value| (f64::from(value) * spread + mean) / 255.0)
                    })
                    .collect()
            })
        }
        ModalityKind::Signal => {
            let [channels, length] = [0, 1].map(|side| examples.shape[side]);
            matrix(records, channels * STATISTICS, |record| {
                record.chunks_exact(length).flat_map(statistics).collect()
            })
        }
        _ => matrix(records, examples.width(), |record| {
            record.iter().map(|&value| f64::from(value)).collect()
        }),
    })
}

fn matrix<'a>(
    records: impl ExactSizeIterator<Item = &'a [f32]>,
    width: usize,
    row: impl Fn(&[f32]) -> Vec<f64>,
) -> DMatrix<f64> {
    let count = records.len();
    DMatrix::from_row_iterator(count, width, records.flat_map(row))
}

const STATISTICS: usize = 8;

/// Mean, standard deviation, smallest, quartiles, largest, mean absolute change from sample to sample.
fn statistics(channel: &[f32]) -> [f64; STATISTICS] {
    let n = channel.len() as f64;
    let values = || channel.iter().map(|&value| f64::from(value));
    let mean = values().sum::<f64>() / n;
    let spread = (values().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
    let changes: f64 = channel
        .windows(2)
        .map(|pair| f64::from((pair[1] - pair[0]).abs()))
        .sum();
    let mut sorted: Vec<f64> = values().collect();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted[((n - 1.0) * share) as usize];
    [
        mean,
        spread,
        at(0.0),
        at(0.25),
        at(0.5),
        at(0.75),
        at(1.0),
        changes / n,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_a_short_window_are_those_on_paper() {
        let found = statistics(&[1.0, 3.0, 2.0, 5.0, 4.0]);
        assert_eq!(
            found,
            [3.0, 2.0_f64.sqrt(), 1.0, 2.0, 3.0, 4.0, 5.0, 7.0 / 5.0]
        );
    }
}

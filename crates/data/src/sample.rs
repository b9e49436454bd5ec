//! Which records one local step uses: a function of the step's stream only.
//!
//! Each step draws on its own, so that a killed site can redo any step without the ones before it.

use rand::{Rng, RngExt as _};

/// Draws the records of one step.
///
/// With at least as many patients as the batch has places, a step draws that many distinct patients and
/// one record of each. With fewer patients every patient takes part and gives further distinct records in
/// turn, until the batch is full or each has given `most_per_patient` records or all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampler {
    records_of: Vec<Vec<usize>>,
    batch: usize,
    most_per_patient: usize,
}

/// Why no sampler can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// There is nothing to draw.
    #[error("there are no records to draw from")]
    NoRecords,
    /// A batch or a patient's share of zero records.
    #[error("the batch size and the records per patient must be at least 1")]
    EmptyBatch,
}

impl SamplerError {
    /// Stable code for logs and replies.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoRecords => "sampler_without_records",
            Self::EmptyBatch => "sampler_empty_batch",
        }
    }
}

impl Sampler {
    /// `patient[i]` is the patient of record `i`; see the type for the other two.
    ///
    /// # Errors
    /// [`SamplerError`] without records, or with a size of zero.
    pub fn new(
        patient: &[u32],
        batch: usize,
        most_per_patient: usize,
    ) -> Result<Self, SamplerError> {
        if patient.is_empty() {
            return Err(SamplerError::NoRecords);
        }
        if batch == 0 || most_per_patient == 0 {
            return Err(SamplerError::EmptyBatch);
        }
        let mut order: Vec<usize> = (0..patient.len()).collect();
        order.sort_by_key(|&record| patient[record]);
        let records_of = (order.chunk_by(|&a, &b| patient[a] == patient[b]))
            .map(<[usize]>::to_vec)
            .collect();
        Ok(Self {
            records_of,
            batch,
            most_per_patient,
        })
    }

    /// Number of distinct patients.
    #[must_use]
    pub fn patients(&self) -> usize {
        self.records_of.len()
    }

    /// Record indices of one step, drawn from that step's stream (purpose `batch`).
    pub fn batch(&self, stream: &mut impl Rng) -> Vec<usize> {
        let patients = draw(self.patients(), self.batch, stream);
        let share = (self.batch.div_ceil(patients.len())).min(self.most_per_patient);
        let drawn: Vec<Vec<usize>> = (patients.iter())
            .map(|&patient| {
                let records = &self.records_of[patient];
                let places = draw(records.len(), share, stream);
                places.into_iter().map(|place| records[place]).collect()
            })
            .collect();
        (0..share)
            .flat_map(|turn| drawn.iter().filter_map(move |records| records.get(turn)))
            .copied()
            .take(self.batch)
            .collect()
    }
}

/// `count` distinct numbers below `below` (all of them if there are fewer), in random order.
fn draw(below: usize, count: usize, stream: &mut impl Rng) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..below).collect();
    let count = count.min(below);
    for at in 0..count {
        // Drawn as u64, so that the result does not depend on the width of usize.
        let other = stream.random_range(at as u64..below as u64) as usize;
        numbers.swap(at, other);
    }
    numbers.truncate(count);
    numbers
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use consilium_core::{Seed, StreamKey, seed};

    use super::*;

    fn step(step: u32) -> impl Rng {
        let key = StreamKey {
            purpose: "batch",
            step,
            ..StreamKey::default()
        };
        seed::stream(Seed(7), &key)
    }

    #[test]
    fn a_batch_has_distinct_patients_while_there_are_enough() {
        let patient: Vec<u32> = (0..300).map(|record| record / 3).collect();
        let sampler = Sampler::new(&patient, 32, 4).unwrap();
        let batch = sampler.batch(&mut step(0));
        let patients: BTreeSet<u32> = batch.iter().map(|&r| patient[r]).collect();
        assert_eq!((batch.len(), patients.len()), (32, 32));
    }

    #[test]
    fn few_patients_give_several_distinct_records_each_up_to_the_most() {
        let patient: Vec<u32> = (0..60).map(|record| record % 6).collect();
        let batch = |size, most| {
            Sampler::new(&patient, size, most)
                .unwrap()
                .batch(&mut step(1))
        };
        assert_eq!(batch(20, 8).len(), 20);
        assert_eq!(batch(20, 2).len(), 12);
        assert_eq!(batch(500, 500).len(), 60);
        let distinct: BTreeSet<usize> = batch(20, 8).into_iter().collect();
        assert_eq!(distinct.len(), 20);
    }

    #[test]
    fn a_step_can_be_redone_without_the_steps_before_it() {
        let patient: Vec<u32> = (0..100).collect();
        let sampler = Sampler::new(&patient, 16, 1).unwrap();
        let all: Vec<_> = (0..5).map(|s| sampler.batch(&mut step(s))).collect();
        assert_eq!(sampler.batch(&mut step(3)), all[3]);
        assert_ne!(all[2], all[3]);
    }

    #[test]
    fn over_many_steps_every_patient_is_drawn_about_equally_often() {
        let patient: Vec<u32> = (0..40).collect();
        let sampler = Sampler::new(&patient, 10, 1).unwrap();
        let mut counts = [0_u32; 40];
        for s in 0..2000 {
            for record in sampler.batch(&mut step(s)) {
                counts[record] += 1;
            }
        }
        // Each is drawn 500 times on average, standard deviation about 19.
        assert!(counts.iter().all(|&c| c.abs_diff(500) < 100), "{counts:?}");
    }

    #[test]
    fn nothing_to_draw_is_an_error() {
        assert_eq!(Sampler::new(&[], 1, 1), Err(SamplerError::NoRecords));
        assert_eq!(Sampler::new(&[0], 0, 1), Err(SamplerError::EmptyBatch));
    }
}

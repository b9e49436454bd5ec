//! A cohort's records, prepared for the network, in their parts.

use consilium_data::{Cohort, Examples, Part};

use crate::preparation::Preparation;
use crate::work::WorkError;

/// Prepared records and which of them belong to which part.
pub struct SiteRecords {
    /// All records, scaled as the training part says.
    pub examples: Examples,
    /// Records to train on.
    pub train: Vec<usize>,
    /// Records to choose a recipe on.
    pub validation: Vec<usize>,
    /// Records for final values.
    pub test: Vec<usize>,
    pub(super) preparation: Preparation,
}

impl SiteRecords {
    /// The cohort's own parts; everything fitted is fitted on the training part.
    ///
    /// # Errors
    /// [`WorkError`] when the training part is empty.
    pub fn of_parts(cohort: &Cohort) -> Result<Self, WorkError> {
        let [train, validation, test] =
            [Part::Train, Part::Validation, Part::Test].map(|part| cohort.records_in(part));
        Self::new(cohort, train, validation, test)
    }

    /// Other parts, for example of a fold; everything fitted is fitted on `train`.
    ///
    /// # Errors
    /// [`WorkError`] when `train` is empty.
    pub fn new(
        cohort: &Cohort,
        train: Vec<usize>,
        validation: Vec<usize>,
        test: Vec<usize>,
    ) -> Result<Self, WorkError> {
        let prepared = cohort.prepare(&train).map_err(|error| WorkError {
            code: error.code(),
            message: error.to_string(),
            hint: "run `consilium data check` on the cohort".into(),
        })?;
        Ok(Self {
            preparation: Preparation::of(cohort, &prepared),
            examples: prepared.examples().clone(),
            train,
            validation,
            test,
        })
    }

    /// The records of a part by its name.
    #[must_use]
    pub fn part(&self, part: Part) -> &[usize] {
        match part {
            Part::Train => &self.train,
            Part::Validation => &self.validation,
            Part::Test => &self.test,
        }
    }
}

//! From recorded values to arrays for training; everything fitted sees the training records only.
//!
//! [`Cohort::prepare`] fits a [`Scaling`] on a list of records and applies it to all. Folds refit by
//! calling it again with other records. A missing value becomes 0 after standardising, the training mean.

use serde::{Deserialize, Serialize};

use crate::cohort::Cohort;
use crate::examples::{Examples, NoSuchRecord};
use crate::manifest::PublicConstants;
use crate::resize::resize;

/// Mean and standard deviation of each feature (tables) or channel (images, signals).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// Mean over the observed training values; 0 if there are none.
    pub mean: Vec<f64>,
    /// Standard deviation (divisor n); 1 if the feature is constant.
    pub standard_deviation: Vec<f64>,
    /// What stands in for a missing value, per feature; the mean where this is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<f64>,
    /// Where the numbers come from; nothing where they were computed from the training records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// A cohort as training sees it, and how it was scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    examples: Examples,
    features: Vec<String>,
    scaling: Scaling,
}

impl Prepared {
    /// All records of the cohort, in its order.
    #[must_use]
    pub fn examples(&self) -> &Examples {
        &self.examples
    }

    /// Names of the features of a table with the indicators (`missing:<column>`) at the end; of the
    /// channels otherwise.
    #[must_use]
    pub fn features(&self) -> &[String] {
        &self.features
    }

    /// What was fitted.
    #[must_use]
    pub fn scaling(&self) -> &Scaling {
        &self.scaling
    }
}

/// Why a cohort could not be prepared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// Nothing to fit on.
    #[error("the list of training records is empty")]
    NothingToFit,
    /// An index beyond the end.
    #[error(transparent)]
    NoSuchRecord(#[from] NoSuchRecord),
    /// A scaling of another cohort.
    #[error("the scaling has {got} features, the cohort has {expected}")]
    ScalingLength {
        /// Entries in the scaling.
        got: usize,
        /// Features or channels of the cohort.
        expected: usize,
    },
    /// A scaling that was not fitted by [`Cohort::prepare`].
    #[error("the scaling of feature {0} is not finite or not above zero")]
    ScalingValue(usize),
}

impl PrepareError {
    /// Stable code for logs and replies.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NothingToFit => "training_records_empty",
            Self::NoSuchRecord(error) => error.code(),
            Self::ScalingLength { .. } => "scaling_length",
            Self::ScalingValue(_) => "scaling_value",
        }
    }
}

impl Cohort {
    /// Fits scaling on the records `training` and applies it to all records. Where the manifest gives public
    /// constants, those are applied and nothing is fitted: a record is then prepared the same whoever else is there.
    ///
    /// # Errors
    /// [`PrepareError`] when `training` is empty or names a record that does not exist.
    pub fn prepare(&self, training: &[usize]) -> Result<Prepared, PrepareError> {
        let records = self.records();
        if training.is_empty() {
            return Err(PrepareError::NothingToFit);
        }
        if let Some(&index) = training.iter().find(|&&index| index >= records) {
            return Err(NoSuchRecord { index, records }.into());
        }
        let (shape, values) = self.sized();
        let steps = &self.manifest().preprocessing;
        let scaling = match &steps.public {
            _ if !steps.standardise => Scaling {
                mean: vec![0.0; shape[0]],
                standard_deviation: vec![1.0; shape[0]],
                ..Scaling::default()
            },
            Some(public) => self.public_scaling(public)?,
            None => fit(&shape, &values, training),
        };
        Ok(self.scaled(shape, values, scaling))
    }

    /// Applies a scaling that was fitted before, for example to predict on new patients.
    ///
    /// # Errors
    /// [`PrepareError::ScalingLength`] when it belongs to another schema, [`PrepareError::ScalingValue`]
    /// when a number in it cannot be a mean or standard deviation.
    pub fn prepare_with(&self, scaling: &Scaling) -> Result<Prepared, PrepareError> {
        let (shape, values) = self.sized();
        let expected = shape[0];
        for got in [scaling.mean.len(), scaling.standard_deviation.len()] {
            if got != expected {
                return Err(PrepareError::ScalingLength { got, expected });
            }
        }
        let got = scaling.missing.len();
        if got != expected && got != 0 {
            return Err(PrepareError::ScalingLength { got, expected });
        }
        if let Some(at) = scaling.missing.iter().position(|value| !value.is_finite()) {
            return Err(PrepareError::ScalingValue(at));
        }
        for (at, mean) in scaling.mean.iter().enumerate() {
            let deviation = scaling.standard_deviation[at];
            if !mean.is_finite() || !deviation.is_finite() || deviation <= 0.0 {
                return Err(PrepareError::ScalingValue(at));
            }
        }
        Ok(self.scaled(shape, values, scaling.clone()))
    }

    fn public_scaling(&self, public: &PublicConstants) -> Result<Scaling, PrepareError> {
        let mut scaling = Scaling {
            source: Some(public.source.clone()),
            ..Scaling::default()
        };
        for (at, feature) in self.features().iter().enumerate() {
            // A cohort whose constants are not complete was refused when it was read.
            let scale = public.scale_of(&feature.name);
            let known = scale.and_then(|scale| Some((scale.centre_and_spread()?, scale.missing)));
            let ((mean, deviation), missing) = known.ok_or(PrepareError::ScalingValue(at))?;
            scaling.mean.push(mean);
            scaling.standard_deviation.push(deviation);
            scaling.missing.push(missing.unwrap_or(mean));
        }
        Ok(scaling)
    }

    /// Values after the steps that are not fitted: limits of tables, size of images.
    fn sized(&self) -> (Vec<usize>, Vec<f32>) {
        let shape = self.recorded_shape().to_vec();
        let mut values = self.values().to_vec();
        if self.is_table() {
            let width = shape[0];
            for (at, feature) in self.features().iter().enumerate() {
                if let Some([low, high]) = feature.clip {
                    // NaN, a missing value, stays NaN.
                    (values.iter_mut().skip(at).step_by(width))
                        .for_each(|value| *value = value.clamp(low, high));
                }
            }
            return (shape, values);
        }
        match (shape.as_slice(), self.manifest().preprocessing.side) {
            (&[channels, height, width], Some(side)) if (height, width) != (side, side) => (
                vec![channels, side, side],
                resize(&values, height, width, side),
            ),
            _ => (shape, values),
        }
    }

    fn scaled(&self, shape: Vec<usize>, values: Vec<f32>, scaling: Scaling) -> Prepared {
        let limit = self.manifest().preprocessing.limit.unwrap_or(f32::INFINITY);
        let groups = shape[0];
        let run = shape[1..].iter().product::<usize>();
        let mut features: Vec<String> = self.features().iter().map(|f| f.name.clone()).collect();
        let indicators = self.indicators();
        let mut scaled = Vec::with_capacity(values.len() + indicators.len() * self.records());
        for record in values.chunks_exact(groups * run) {
            for (group, values) in record.chunks_exact(run).enumerate() {
                let mean = scaling.mean[group] as f32;
                let factor = (1.0 / scaling.standard_deviation[group]) as f32;
                let placed = |value: f32| ((value - mean) * factor).clamp(-limit, limit);
                let missing = scaling
                    .missing
                    .get(group)
                    .map(|&value| placed(value as f32));
                scaled.extend(values.iter().map(|&value| {
                    if value.is_nan() {
                        missing.unwrap_or(0.0)
                    } else {
                        placed(value)
                    }
                }));
            }
            scaled.extend(
                indicators
                    .iter()
                    .map(|&at| f32::from(u8::from(record[at].is_nan()))),
            );
        }
        let names = indicators
            .iter()
            .map(|&at| format!("missing:{}", self.features()[at].source));
        features.extend(names);
        let shape = match shape.as_slice() {
            [_] => vec![features.len()],
            other => other.to_vec(),
        };
        let examples = Examples {
            shape,
            values: scaled,
            targets: self.targets().clone(),
            patient: self.patient().to_vec(),
        };
        Prepared {
            examples,
            features,
            scaling,
        }
    }

    /// One feature index for each column with an indicator: its first feature says whether it is missing.
    fn indicators(&self) -> Vec<usize> {
        let features = self.features();
        (0..features.len())
            .filter(|&at| features[at].missing_indicator)
            .filter(|&at| {
                features[..at]
                    .iter()
                    .all(|f| f.source != features[at].source)
            })
            .collect()
    }
}

/// Mean and standard deviation over the training records, in f64 and in record order.
fn fit(shape: &[usize], values: &[f32], training: &[usize]) -> Scaling {
    let groups = shape[0];
    let run = shape[1..].iter().product::<usize>();
    let width = groups * run;
    let observed = |group: usize| {
        (training.iter())
            .flat_map(move |&r| &values[r * width + group * run..r * width + (group + 1) * run])
            .filter(|value| !value.is_nan())
            .map(|&value| f64::from(value))
    };
    let mut mean = vec![0.0; groups];
    let mut standard_deviation = vec![1.0; groups];
    for group in 0..groups {
        let count = observed(group).count() as f64;
        if count == 0.0 {
            continue;
        }
        mean[group] = observed(group).sum::<f64>() / count;
        let square: f64 = observed(group)
            .map(|value| (value - mean[group]).powi(2))
            .sum();
        let deviation = (square / count).sqrt();
        if deviation > 1e-12 * mean[group].abs().max(1e-12) {
            standard_deviation[group] = deviation;
        }
    }
    Scaling {
        mean,
        standard_deviation,
        ..Scaling::default()
    }
}

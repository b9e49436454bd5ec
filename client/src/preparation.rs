//! How a cohort's records became the network's input, as fixed when its study was accepted.

use consilium_core::Digest;
use consilium_data::manifest::Preprocessing;
use consilium_data::{Cohort, Prepared, Scaling, Targets};
use serde::{Deserialize, Serialize};

/// What prediction needs to treat other records as training treated the cohort's, and what shows that the
/// cohort has changed since. Fitted on the training part; it stays at the site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preparation {
    /// Digest of values, targets, patients and parts, keyed with the cohort's split key.
    pub data_sha256: Digest,
    /// Digest of kind, ordered feature names, units, categories and limits.
    pub schema_sha256: Digest,
    /// Shape of one record as the network takes it: `[C, H, W]`, `[C, L]` or `[F]`.
    pub shape: Vec<usize>,
    /// Names of a table's features with the indicators of missing values at the end; of channels otherwise.
    pub features: Vec<String>,
    /// Names of the classes in the order of the outputs; the second of a binary task is the positive one.
    /// Empty for survival.
    pub classes: Vec<String>,
    /// Steps that are not fitted: limit in standard deviations, side in pixels, window in samples.
    pub steps: Preprocessing,
    /// Mean and standard deviation per feature or channel: `(value - mean) / standard deviation`; a missing
    /// value becomes 0 after that.
    pub scaling: Scaling,
}

impl Preparation {
    /// What holds for `cohort`, which was prepared as `prepared`.
    #[must_use]
    pub fn of(cohort: &Cohort, prepared: &Prepared) -> Self {
        let classes = match cohort.targets() {
            Targets::Classes { names, .. } => names.clone(),
            Targets::Survival { .. } | Targets::Unlabelled { .. } => Vec::new(),
        };
        Self {
            data_sha256: cohort.data_hash(),
            schema_sha256: cohort.schema_hash(),
            shape: prepared.examples().shape.clone(),
            features: prepared.features().to_vec(),
            classes,
            steps: cohort.manifest().preprocessing.clone(),
            scaling: prepared.scaling().clone(),
        }
    }

    /// Whether scaling and imputation were computed from the cohort's own patients.
    #[must_use]
    pub fn is_fitted(&self) -> bool {
        self.steps.standardise && self.scaling.source.is_none()
    }

    /// Whether `cohort` is still the one it was made of: the same records, patients, parts and steps.
    #[must_use]
    pub fn is_of(&self, cohort: &Cohort) -> bool {
        self.data_sha256 == cohort.data_hash() && self.has_schema_of(cohort)
    }

    /// Whether the columns or channels of `cohort` mean the same.
    #[must_use]
    pub fn has_schema_of(&self, cohort: &Cohort) -> bool {
        self.schema_sha256 == cohort.schema_hash()
    }
}

//! Which tensors a model has, in which order, and which group each belongs to.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::GroupName;

/// One tensor of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// Stable dotted name, for example `ehf128.ehf2_1.emrc.a.mhcf1.gpc.kernel`.
    pub name: String,
    /// The one group it belongs to.
    pub group: GroupName,
    /// Its shape; the values are stored in C order.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All tensors of a model. Inside a group they follow each other in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelManifest {
    /// The tensors.
    pub tensors: Vec<TensorSpec>,
}

/// Why a manifest is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidManifest {
    /// The same tensor name twice.
    #[error("tensor {0:?} is listed twice")]
    Duplicate(String),
    /// A tensor without values, or with more than memory can address.
    #[error("tensor {0:?} has an impossible shape {1:?}")]
    Shape(String, Vec<usize>),
}

impl ModelManifest {
    /// Refuses duplicate names and impossible shapes.
    ///
    /// # Errors
    /// [`InvalidManifest`], naming the tensor.
    pub fn check(&self) -> Result<(), InvalidManifest> {
        let mut seen = BTreeSet::new();
        for tensor in &self.tensors {
            if !seen.insert(&tensor.name) {
                return Err(InvalidManifest::Duplicate(tensor.name.clone()));
            }
            let values = tensor
                .shape
                .iter()
                .try_fold(1_usize, |product, &side| product.checked_mul(side));
            if !values.is_some_and(|values| (1..=1 << 40).contains(&values)) {
                return Err(InvalidManifest::Shape(
                    tensor.name.clone(),
                    tensor.shape.clone(),
                ));
            }
        }
        Ok(())
    }

    /// Number of values per group.
    #[must_use]
    pub fn group_lengths(&self) -> BTreeMap<GroupName, usize> {
        let mut lengths = BTreeMap::new();
        for tensor in &self.tensors {
            *lengths.entry(tensor.group.clone()).or_insert(0) += tensor.len();
        }
        lengths
    }

    /// The tensors of one group with the range each takes in the group's values.
    pub fn tensors_of<'a>(
        &'a self,
        group: &'a GroupName,
    ) -> impl Iterator<Item = (&'a TensorSpec, std::ops::Range<usize>)> {
        let mut start = 0;
        self.tensors
            .iter()
            .filter(move |tensor| &tensor.group == group)
            .map(move |tensor| {
                let range = start..start + tensor.len();
                start = range.end;
                (tensor, range)
            })
    }
}

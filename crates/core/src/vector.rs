//! The values of some parameter groups.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest as _, Sha256};

use crate::{Digest, GroupName, ModelManifest};

/// Values per group: the group's tensors in manifest order, each in C order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelVector(pub BTreeMap<GroupName, Vec<f32>>);

/// Why values do not fit a manifest or a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VectorMismatch {
    /// The manifest has no such group.
    #[error("group {0} is not in the manifest")]
    UnknownGroup(GroupName),
    /// The number of values differs from the manifest's.
    #[error("group {group} has {got} values, the manifest says {expected}")]
    Length {
        /// The group.
        group: GroupName,
        /// Values found.
        got: usize,
        /// Values expected.
        expected: usize,
    },
    /// The file does not hold a tensor, or holds it in another shape or type.
    #[error("tensor {name:?}: {problem}")]
    Tensor {
        /// Its dotted name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The file is not safetensors.
    #[error("not a safetensors file: {0}")]
    Format(String),
}

impl VectorMismatch {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownGroup(_) => "model_unknown_group",
            Self::Length { .. } => "model_wrong_length",
            Self::Tensor { .. } => "model_wrong_tensor",
            Self::Format(_) => "model_not_safetensors",
        }
    }
}

impl ModelVector {
    /// The groups of `names` that this vector holds.
    #[must_use]
    pub fn restricted_to<'a>(&self, names: impl IntoIterator<Item = &'a GroupName>) -> Self {
        let groups = names.into_iter().filter_map(|name| {
            self.0
                .get(name)
                .map(|values| (name.clone(), values.clone()))
        });
        Self(groups.collect())
    }

    /// Replaces or adds every group of `other`.
    pub fn extend(&mut self, other: &Self) {
        for (group, values) in &other.0 {
            self.0.insert(group.clone(), values.clone());
        }
    }

    /// Total number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Whether there is no value at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// SHA-256 over the groups in name order, little-endian f32: the model hash of every document.
    #[must_use]
    pub fn sha256(&self) -> Digest {
        let mut hasher = Sha256::new();
        for values in self.0.values() {
            hash_values(&mut hasher, values);
        }
        let bytes: [u8; 32] = hasher.finalize().into();
        bytes.into()
    }

    /// Checks that every group is in the manifest and has its length.
    ///
    /// # Errors
    /// [`VectorMismatch`] for the first group that does not fit.
    pub fn check(&self, manifest: &ModelManifest) -> Result<(), VectorMismatch> {
        let lengths = manifest.group_lengths();
        for (group, values) in &self.0 {
            let expected = *lengths
                .get(group)
                .ok_or_else(|| VectorMismatch::UnknownGroup(group.clone()))?;
            if values.len() != expected {
                return Err(VectorMismatch::Length {
                    group: group.clone(),
                    got: values.len(),
                    expected,
                });
            }
        }
        Ok(())
    }

    /// The safetensors file of these groups, with the manifest's tensor names and shapes.
    ///
    /// # Errors
    /// [`VectorMismatch`] when the values do not fit the manifest.
    pub fn to_safetensors(&self, manifest: &ModelManifest) -> Result<Vec<u8>, VectorMismatch> {
        self.check(manifest)?;
        let mut stored = Vec::new();
        for (group, values) in &self.0 {
            for (tensor, range) in manifest.tensors_of(group) {
                let bytes = values_to_bytes(&values[range]);
                stored.push((tensor.name.clone(), tensor.shape.clone(), bytes));
            }
        }
        let views = stored
            .iter()
            .map(|(name, shape, bytes)| {
                TensorView::new(Dtype::F32, shape.clone(), bytes)
                    .map(|view| (name.as_str(), view))
                    .map_err(|error| VectorMismatch::Format(error.to_string()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        safetensors::serialize(views, None)
            .map_err(|error| VectorMismatch::Format(error.to_string()))
    }

    /// Reads the groups `wanted` out of a safetensors file.
    ///
    /// # Errors
    /// [`VectorMismatch`] for a file of another format, a missing tensor, or another shape or type.
    pub fn from_safetensors<'a>(
        bytes: &[u8],
        manifest: &ModelManifest,
        wanted: impl IntoIterator<Item = &'a GroupName>,
    ) -> Result<Self, VectorMismatch> {
        let file = SafeTensors::deserialize(bytes)
            .map_err(|error| VectorMismatch::Format(error.to_string()))?;
        let mut groups = BTreeMap::new();
        for group in wanted {
            let mut values = Vec::new();
            for (spec, _) in manifest.tensors_of(group) {
                let wrong = |problem: String| VectorMismatch::Tensor {
                    name: spec.name.clone(),
                    problem,
                };
                let view = file
                    .tensor(&spec.name)
                    .map_err(|error| wrong(error.to_string()))?;
                if view.dtype() != Dtype::F32 || view.shape() != spec.shape {
                    return Err(wrong(format!(
                        "expected f32 {:?}, the file has {:?} {:?}",
                        spec.shape,
                        view.dtype(),
                        view.shape()
                    )));
                }
                // Length is a multiple of four: the type and the shape were checked above.
                values.extend(bytes_to_values(view.data()));
            }
            if values.is_empty() {
                return Err(VectorMismatch::UnknownGroup(group.clone()));
            }
            groups.insert(group.clone(), values);
        }
        Ok(Self(groups))
    }
}

/// Little-endian bytes of f32 values.
#[must_use]
pub fn values_to_bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; 4 * values.len()];
    // Four bytes at a time into memory that is there: compilers turn this into a copy.
    for (four, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
        *four = value.to_le_bytes();
    }
    bytes
}

/// The f32 values of little-endian bytes; a remainder of one to three bytes is ignored.
pub fn bytes_to_values(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .copied()
        .map(f32::from_le_bytes)
}

fn hash_values(hasher: &mut Sha256, values: &[f32]) {
    // A block at a time: hashing four bytes at a time is several times slower.
    for block in values.chunks(4096) {
        hasher.update(values_to_bytes(block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TensorSpec;

    fn manifest() -> ModelManifest {
        let tensor = |name: &str, group: &str, shape: &[usize]| TensorSpec {
            name: name.into(),
            group: group.parse().unwrap(),
            shape: shape.to_vec(),
        };
        ModelManifest {
            tensors: vec![
                tensor("a.kernel", "stem/x", &[2, 2]),
                tensor("t.kernel", "trunk", &[3]),
                tensor("a.bias", "stem/x", &[2]),
            ],
        }
    }

    fn vector() -> ModelVector {
        ModelVector(BTreeMap::from([
            ("stem/x".parse().unwrap(), vec![1., 2., 3., 4., 5., 6.]),
            ("trunk".parse().unwrap(), vec![7., f32::MIN_POSITIVE, -0.0]),
        ]))
    }

    #[test]
    fn a_safetensors_round_trip_keeps_every_bit() {
        let bytes = vector().to_safetensors(&manifest()).unwrap();
        let groups: Vec<GroupName> = vector().0.into_keys().collect();
        let back = ModelVector::from_safetensors(&bytes, &manifest(), &groups).unwrap();
        assert_eq!(back.sha256(), vector().sha256());
        assert_eq!(back, vector());
    }

    #[test]
    fn the_hash_is_sha256_over_groups_in_name_order() {
        let mut flat = Vec::new();
        for values in vector().0.values() {
            flat.extend(values_to_bytes(values));
        }
        assert_eq!(vector().sha256(), Digest::of(&flat));
    }

    #[test]
    fn values_that_do_not_fit_the_manifest_are_refused() {
        let mut short = vector();
        short.0.insert(GroupName::trunk(), vec![1.0]);
        assert_eq!(
            short.check(&manifest()).unwrap_err().code(),
            "model_wrong_length"
        );
        let mut unknown = vector();
        unknown.0.insert("stem/y".parse().unwrap(), vec![1.0]);
        assert_eq!(
            unknown.check(&manifest()).unwrap_err().code(),
            "model_unknown_group"
        );
    }
}

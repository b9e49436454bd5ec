//! Sums updates chunk by chunk from files: memory is a chunk, whatever the model and the number of sites.

use std::collections::{BTreeMap, BTreeSet};

use consilium_core::vector::{bytes_to_values, values_to_bytes};
use consilium_core::{Digest, GroupName, SiteId, Study};
use consilium_store::server::{BlobReader, Blobs, ServerStoreError};
use consilium_strategies::{ExactSum, RefuseValue, contributors_of, weights};
use sha2::{Digest as _, Sha256};

/// Values read at a time, 256 KiB: what is done with them stays in a processor's cache.
pub const CHUNK: usize = 1 << 16;

/// Why a sum failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AggregateError {
    /// A file failed.
    #[error(transparent)]
    Store(#[from] ServerStoreError),
    /// A value that the border should have refused.
    #[error(transparent)]
    Value(#[from] RefuseValue),
}

impl AggregateError {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => error.code(),
            Self::Value(refusal) => refusal.code(),
        }
    }

    /// Whether trying again may help: there may be room, or the database may answer.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Store(ServerStoreError::DiskFull { .. } | ServerStoreError::Database { .. })
        )
    }
}

/// Where each of `groups` begins in a file that holds them one after the other, and its length.
#[must_use]
pub fn places<'a>(
    study: &Study,
    groups: impl IntoIterator<Item = &'a GroupName>,
) -> BTreeMap<GroupName, (u64, usize)> {
    let lengths = study.manifest.group_lengths();
    let mut start = 0;
    let mut places = BTreeMap::new();
    for group in groups {
        let length = lengths.get(group).copied().unwrap_or_default();
        places.insert(group.clone(), (start, length));
        start += length as u64;
    }
    places
}

/// A global model that was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summed {
    /// Its hash.
    pub model: Digest,
    /// SHA-256 of each of its groups, little-endian f32.
    pub groups: BTreeMap<GroupName, Digest>,
}

/// Adds the contributors' updates to `model` and stores the next one; the same bits as
/// [`consilium_strategies::average`]. Every blob is read as a whole, and must be what its name says.
///
/// # Errors
/// [`AggregateError`]; then nothing is stored.
pub fn aggregate(
    study: &Study,
    blobs: &Blobs,
    model: Digest,
    contributors: &BTreeMap<SiteId, Digest>,
) -> Result<Summed, AggregateError> {
    let names: Vec<SiteId> = contributors.keys().cloned().collect();
    let mut updates: Vec<Update> = contributors
        .iter()
        .filter_map(|(site, digest)| {
            let participant = study.participant(site)?;
            Some(Update {
                site,
                groups: study.shared_groups(participant),
                reader: blobs.reader(digest),
            })
        })
        .collect();
    let mut before = blobs.reader(&model);
    let mut writer = blobs.create()?;
    let mut groups = BTreeMap::new();
    let mut sum = ExactSum::new(0);
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    for (group, (_, length)) in places(study, &study.federated_groups()) {
        let weights = contributors_of(study, &group, &names)
            .map(|present| weights(study, &present))
            .unwrap_or_default();
        let mut hasher = Sha256::new();
        for offset in (0..length).step_by(CHUNK) {
            let count = CHUNK.min(length - offset);
            let mut read = |reader: &mut BlobReader, values: &mut Vec<f32>| {
                bytes.resize(4 * count, 0);
                reader.read(&mut bytes)?;
                values.clear();
                values.extend(bytes_to_values(&bytes));
                Ok::<_, ServerStoreError>(())
            };
            sum.reset(count);
            for update in &mut updates {
                // The blobs hold their groups in this order, so that each is read from end to end.
                if update.groups.contains(&group) {
                    read(&mut update.reader, &mut values)?;
                    if let Some(weight) = weights.get(update.site) {
                        sum.add(0, &values, *weight)?;
                    }
                }
            }
            read(&mut before, &mut values)?;
            sum.apply(&mut values);
            let bytes = values_to_bytes(&values);
            hasher.update(&bytes);
            writer.append(&bytes)?;
        }
        groups.insert(group, digest_of(hasher));
    }
    for update in updates {
        update.reader.finish()?;
    }
    before.finish()?;
    let model = writer.finish()?;
    Ok(Summed { model, groups })
}

/// A contributor's update while it is added.
struct Update<'a> {
    site: &'a SiteId,
    groups: BTreeSet<GroupName>,
    reader: BlobReader,
}

/// SHA-256 of each group of a stored model, which must be what its name says.
///
/// # Errors
/// [`ServerStoreError`] for a missing or damaged blob.
pub fn group_digests(
    study: &Study,
    blobs: &Blobs,
    model: Digest,
) -> Result<BTreeMap<GroupName, Digest>, ServerStoreError> {
    let mut reader = blobs.reader(&model);
    let mut groups = BTreeMap::new();
    let mut bytes = Vec::new();
    for (group, (_, length)) in places(study, &study.federated_groups()) {
        let mut hasher = Sha256::new();
        for offset in (0..length).step_by(CHUNK) {
            bytes.resize(4 * CHUNK.min(length - offset), 0);
            reader.read(&mut bytes)?;
            hasher.update(&bytes);
        }
        groups.insert(group, digest_of(hasher));
    }
    reader.finish()?;
    Ok(groups)
}

fn digest_of(hasher: Sha256) -> Digest {
    <[u8; 32]>::from(hasher.finalize()).into()
}

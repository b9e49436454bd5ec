//! Sums updates chunk by chunk from files: memory is a chunk, whatever the model and the number of sites.

use std::collections::BTreeMap;

use consilium_core::{Digest, GroupName, SiteId, Study};
use consilium_store::server::{Blobs, ServerStoreError};
use consilium_strategies::{ExactSum, RefuseValue, contributors_of, weights};

/// Values per chunk: one mebibyte.
pub const CHUNK: usize = 1 << 18;

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

/// Adds the contributors' updates to `model` and stores the next one; the same bits as
/// [`consilium_strategies::average`].
///
/// # Errors
/// [`AggregateError`]; then nothing is stored.
pub fn aggregate(
    study: &Study,
    blobs: &Blobs,
    model: Digest,
    contributors: &BTreeMap<SiteId, Digest>,
) -> Result<Digest, AggregateError> {
    let federated = study.federated_groups();
    let names: Vec<SiteId> = contributors.keys().cloned().collect();
    let updates: BTreeMap<&SiteId, _> = contributors
        .keys()
        .filter_map(|site| study.participant(site))
        .map(|participant| {
            let places = places(study, &study.shared_groups(participant));
            (&participant.site, places)
        })
        .collect();
    let mut writer = blobs.create()?;
    let mut sum = ExactSum::new(0);
    for (group, (start, length)) in places(study, &federated) {
        let present = contributors_of(study, &group, &names);
        let weights = present
            .map(|present| weights(study, &present))
            .unwrap_or_default();
        for offset in (0..length).step_by(CHUNK) {
            let count = CHUNK.min(length - offset);
            let mut values = blobs.read(&model, start + offset as u64, count)?;
            sum.reset(count);
            for (site, weight) in &weights {
                let (begins, _) = updates[site][&group];
                let update = blobs.read(&contributors[site], begins + offset as u64, count)?;
                sum.add(0, &update, *weight)?;
            }
            sum.apply(&mut values);
            writer.append(&values)?;
        }
    }
    Ok(writer.finish()?)
}

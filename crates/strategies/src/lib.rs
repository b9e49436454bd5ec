//! How updates become the next global model.
//!
//! [`weights`] says what each contributor's update weighs inside a group; [`ExactSum`] adds weighted
//! updates so that neither arrival order, nor chunking, nor the number of threads changes a bit.
//! [`average`] joins the two for groups that are in memory.
//!
//! It does not know where updates are stored or how they arrived.

mod exact_sum;
mod weights;

pub use exact_sum::{ExactSum, LIMIT, RefuseValue, check_values};
pub use weights::weights;

use std::collections::BTreeMap;

use consilium_core::{GroupName, ModelVector, SiteId, Study};

/// The contributors that hold `group`, or `None` when they are fewer than the minimum: then the group
/// is neither aggregated nor published in this round.
#[must_use]
pub fn contributors_of(
    study: &Study,
    group: &GroupName,
    contributors: &[SiteId],
) -> Option<Vec<SiteId>> {
    let holders = study.holders();
    let holders = holders.get(group)?;
    let present: Vec<SiteId> = contributors
        .iter()
        .filter(|site| holders.contains(*site))
        .cloned()
        .collect();
    (present.len() >= study.aggregation.minimum_holders as usize).then_some(present)
}

/// The next global model from `updates` (local minus global values per site, federated groups only).
///
/// # Errors
/// [`RefuseValue`] for a value that is not finite or out of fixed-point range.
pub fn average(
    study: &Study,
    global: &ModelVector,
    updates: &BTreeMap<SiteId, ModelVector>,
) -> Result<ModelVector, RefuseValue> {
    let contributors: Vec<SiteId> = updates.keys().cloned().collect();
    let mut next = global.clone();
    for (group, values) in &mut next.0 {
        let Some(present) = contributors_of(study, group, &contributors) else {
            continue;
        };
        let weights = weights(study, &present);
        let mut sum = ExactSum::new(values.len());
        for (site, weight) in &weights {
            if let Some(delta) = updates[site].0.get(group) {
                sum.add(0, delta, *weight)?;
            }
        }
        sum.apply(values);
    }
    Ok(next)
}

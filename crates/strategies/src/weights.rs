//! What each contributor's update weighs inside a group.

use std::collections::BTreeMap;

use consilium_core::study::WeightRule;
use consilium_core::{SiteId, Study};

/// Weights of `contributors` (all of them hold the group), summing to 1 up to rounding.
///
/// They depend on the declared patients and on who contributed, never on what was realised at a site.
/// The sums run in the study's site order, so that the weights are the same bits wherever they are computed.
#[must_use]
pub fn weights(study: &Study, contributors: &[SiteId]) -> BTreeMap<SiteId, f64> {
    let present: Vec<_> = study
        .sites
        .iter()
        .filter(|participant| contributors.contains(&participant.site))
        .collect();
    let class_of = |index: usize| (&present[index].modality, &present[index].task);
    // What a site weighs inside its class, and which class that is.
    let (raw, classes): (Vec<f64>, Vec<usize>) = match study.aggregation.weights {
        WeightRule::EqualSite => (vec![1.0; present.len()], vec![0; present.len()]),
        WeightRule::DeclaredPatients => (
            present
                .iter()
                .map(|p| f64::from(p.declared_patients))
                .collect(),
            vec![0; present.len()],
        ),
        WeightRule::EqualModality => {
            let mut keys: Vec<_> = (0..present.len()).map(class_of).collect();
            keys.sort();
            keys.dedup();
            let class = |index| keys.partition_point(|key| *key < class_of(index));
            (
                present
                    .iter()
                    .map(|p| f64::from(p.declared_patients))
                    .collect(),
                (0..present.len()).map(class).collect(),
            )
        }
    };
    let number_of_classes = classes.iter().max().map_or(0, |last| last + 1);
    let mut totals = vec![0.0; number_of_classes];
    for (value, class) in raw.iter().zip(&classes) {
        totals[*class] += value;
    }
    present
        .iter()
        .zip(raw.iter().zip(&classes))
        .map(|(participant, (value, class))| {
            let weight = value / totals[*class] / number_of_classes as f64;
            (participant.site.clone(), weight)
        })
        .collect()
}

//! Measures of order: do the scores of the positives lie above those of the negatives?
//!
//! Both take scores of any scale, because only their order counts, and are `None` where a class is absent.

/// Area under the ROC curve: the share of (positive, negative) pairs in which the positive has the larger
/// score, equal scores counting one half (Mann-Whitney). Exact: pairs are counted as integers.
///
/// `labels` and `scores` have one entry per row; the shorter one decides. `None` without both classes.
#[must_use]
pub fn auroc(labels: &[bool], scores: &[f64]) -> Option<f64> {
    let rows = by_score(labels, scores);
    let positives = rows.iter().filter(|row| row.1).count() as u128;
    let negatives = rows.len() as u128 - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    // Twice the number of pairs in the right order, so that a tie adds the integer 1.
    let mut twice_won = 0_u128;
    let mut negatives_below = 0_u128;
    for tied in rows.chunk_by(|a, b| a.0 == b.0) {
        let tied_positives = tied.iter().filter(|row| row.1).count() as u128;
        let tied_negatives = tied.len() as u128 - tied_positives;
        twice_won += tied_positives * (2 * negatives_below + tied_negatives);
        negatives_below += tied_negatives;
    }
    Some(twice_won as f64 / (2 * positives * negatives) as f64)
}

/// Average precision: the sum over distinct thresholds of (step in recall) x precision, without
/// interpolation. `None` without positives or without negatives, like [`auroc`].
#[must_use]
pub fn average_precision(labels: &[bool], scores: &[f64]) -> Option<f64> {
    let rows = by_score(labels, scores);
    let positives = rows.iter().filter(|row| row.1).count();
    if positives == 0 || positives == rows.len() {
        return None;
    }
    let (mut found, mut seen, mut area) = (0, 0, 0.0);
    for tied in rows.chunk_by(|a, b| a.0 == b.0).rev() {
        let step = tied.iter().filter(|row| row.1).count();
        found += step;
        seen += tied.len();
        area += step as f64 / positives as f64 * (found as f64 / seen as f64);
    }
    Some(area)
}

/// Pairs of score and label, ascending by score.
fn by_score(labels: &[bool], scores: &[f64]) -> Vec<(f64, bool)> {
    let mut rows: Vec<_> = scores.iter().copied().zip(labels.iter().copied()).collect();
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_class_alone_has_no_order_to_measure() {
        assert_eq!(auroc(&[true, true], &[0.1, 0.9]), None);
        assert_eq!(average_precision(&[false, false], &[0.1, 0.9]), None);
        assert_eq!(auroc(&[], &[]), None);
    }

    #[test]
    fn minus_zero_ties_with_zero() {
        assert_eq!(auroc(&[true, false], &[-0.0, 0.0]), Some(0.5));
    }

    proptest! {
        #[test]
        fn exchanging_the_classes_mirrors_the_area(rows in prop::collection::vec((any::<bool>(), 0_u8..6), 1..40)) {
            let labels: Vec<bool> = rows.iter().map(|row| row.0).collect();
            let scores: Vec<f64> = rows.iter().map(|row| f64::from(row.1)).collect();
            let mirrored: Vec<bool> = labels.iter().map(|label| !label).collect();
            match (auroc(&labels, &scores), auroc(&mirrored, &scores)) {
                (Some(area), Some(mirror)) => prop_assert!((area + mirror - 1.0).abs() < 1e-12),
                (area, mirror) => prop_assert_eq!(area, mirror),
            }
        }

        #[test]
        fn a_monotone_transformation_changes_nothing(rows in prop::collection::vec((any::<bool>(), -3.0_f64..3.0), 1..40)) {
            let labels: Vec<bool> = rows.iter().map(|row| row.0).collect();
            let scores: Vec<f64> = rows.iter().map(|row| row.1).collect();
            let transformed: Vec<f64> = scores.iter().map(|score| 2.0 * score + 1.0).collect();
            prop_assert_eq!(auroc(&labels, &scores), auroc(&labels, &transformed));
            prop_assert_eq!(average_precision(&labels, &scores), average_precision(&labels, &transformed));
        }
    }
}

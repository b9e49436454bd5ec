//! Networks against simple models on the same folds.

use consilium::evaluate::{Evaluation, Options, evaluate};
use consilium::scenario::Loaded;
use consilium_data::Part;
use consilium_models::DeviceChoice;
use consilium_ops::OperatorError;

fn on_small(
    sites: &[&str],
    development: bool,
    threads: usize,
) -> Result<Evaluation, OperatorError> {
    let small = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/small.toml");
    let options = Options {
        folds: 3,
        sites: sites.iter().map(|site| site.parse().unwrap()).collect(),
        development,
        threads,
        device: DeviceChoice::Cpu,
    };
    evaluate(&Loaded::read(small)?, &options)
}

#[test]
fn every_baseline_is_compared_on_every_fold_and_threads_change_nothing() {
    let loaded = Loaded::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/small.toml")).unwrap();
    let site = loaded.scenario.sites.keys().next().unwrap().to_string();
    let found = on_small(&[&site], false, 2).unwrap();
    assert!(!found.comparisons.is_empty());
    for row in &found.comparisons {
        assert_eq!(row.site.to_string(), site);
        assert_eq!(row.network_folds.len(), 3);
        assert_eq!(row.baseline_folds.len(), 3);
        // A constant prediction cannot rank anybody.
        assert!(
            row.constant_folds
                .iter()
                .flatten()
                .all(|&value| value == 0.5)
        );
        let difference = row.difference.as_ref().unwrap();
        assert!(difference.interval.lower <= difference.mean);
        assert_eq!(row.within_margin, Some(difference.mean >= -found.margin));
    }
    assert_eq!(found, on_small(&[&site], false, 1).unwrap());
    assert!(found.to_text().contains(&site));
}

#[test]
fn while_a_recipe_is_chosen_the_test_part_stays_closed() {
    let loaded = Loaded::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/small.toml")).unwrap();
    let site = loaded.scenario.sites.keys().next().unwrap();
    let cohort = loaded.cohort(site).unwrap();
    let closed = cohort.patients_in(Part::Test);
    assert!(closed > 0);
    let found = on_small(&[site.as_str()], true, 2).unwrap();
    for row in &found.comparisons {
        assert_eq!(row.units, cohort.patients() - closed);
    }
}

#[test]
fn a_site_that_the_scenario_does_not_have_is_refused_with_the_names_it_has() {
    let error = on_small(&["nowhere"], false, 1).unwrap_err();
    assert_eq!(error.code, "scenario_site");
    assert!(error.hint.contains("give one of"));
}

//! The lists of `accountant_misc.json`.

use dp_rs::accounting::gdp::Approximation;
use dp_rs::accounting::pld::LossProfile;
use dp_rs::accounting::rdp::{RenyiCurve, conversion, whole_orders};
use dp_rs::accounting::{overflow_probability, zcdp as concentrated};
use dp_rs::adjacency::Adjacency;
use dp_rs::correlated::tree;
use dp_rs::event::{Event, Mechanism, Repeated};

use super::accountant::{above, file_orders, poisson};
use super::case::Case;

fn loss_epsilon(ledger: &[Repeated], delta: f64) -> f64 {
    LossProfile::of(ledger).unwrap().epsilon(delta).value
}

/// "pld": <= value*1.003+2e-3, >= value*0.995
pub fn loss_column(case: &Case, key: &str, got: f64) {
    if case.has(key) {
        let value = case.number(key);
        case.between(key, got, value * 0.995, above(value));
    }
}

pub fn without_replacement(case: &Case) {
    let (units, batch) = (case.whole("n"), case.whole("m"));
    let (sigma, steps) = (case.number("sigma"), case.whole("steps"));
    let delta = case.number("delta");
    let q = batch as f64 / units as f64;
    for (key, adjacency) in [
        ("pld_poisson_replace_one", Adjacency::ReplaceOne),
        ("pld_poisson_add_remove", Adjacency::AddRemove),
    ] {
        let entry = [poisson(q, sigma, steps, adjacency)];
        loss_column(case, key, loss_epsilon(&entry, delta));
    }
    // Our multiplier is over the clip norm; the other column is over the replacement sensitivity 2C.
    let prefix = "rdp_wor_replace_one_orders_2_64_if_sigma_is_sigma_over_";
    for (suffix, multiplier) in [("actual_sensitivity", 2.0 * sigma), ("clip_norm", sigma)] {
        let key = format!("{prefix}{suffix}");
        let mechanism = Mechanism::FixedBatch {
            noise_multiplier: multiplier,
            units,
            batch,
        };
        let event = Event::new(mechanism).unwrap();
        let ledger = [event.repeated(steps, Adjacency::ReplaceOne)];
        let got = RenyiCurve::of(&ledger, &whole_orders(64))
            .unwrap()
            .epsilon(delta);
        let expected = case.field(&key);
        case.near(&key, got.epsilon, expected["eps"].as_f64().unwrap(), 1e-9);
        case.near(
            suffix,
            got.order,
            expected["order"].as_f64().unwrap(),
            1e-12,
        );
    }
}

pub fn patient_level(case: &Case) {
    let (q, sigma, steps) = (case.number("q"), case.number("sigma"), case.whole("steps"));
    let (records, delta) = (case.whole("records_per_patient"), case.number("delta"));
    let record = loss_epsilon(&[poisson(q, sigma, steps, Adjacency::AddRemove)], delta);
    loss_column(case, "eps_record_level_pld", record);
    let event = Event::mixture_of_gaussians(sigma, q, records as u32).unwrap();
    let patient = loss_epsilon(&[event.repeated(steps, Adjacency::AddRemove)], delta);
    loss_column(case, "eps_patient_level_mixture_pld", patient);
    let crude = case.number("eps_patient_level_crude_bound_pld");
    case.between("patient level", patient, record, crude);
}

pub fn truncated_poisson(case: &Case) {
    let (units, cap) = (case.whole("n"), case.whole("physical_batch_cap"));
    let (q, sigma, steps) = (case.number("q"), case.number("sigma"), case.whole("steps"));
    let delta = case.number("delta");
    case.expect(
        "p_overflow_given_in",
        overflow_probability(units, q, cap),
        1e-9,
    );
    let mechanism = Mechanism::TruncatedPoisson {
        noise_multiplier: sigma,
        sampling_rate: q,
        units,
        max_batch: cap,
    };
    let event = Event::new(mechanism).unwrap();
    let got = loss_epsilon(&[event.repeated(steps, Adjacency::ZeroOut)], delta);
    loss_column(case, "eps_truncated_pld_zero_out", got);
    let plain = loss_epsilon(&[poisson(q, sigma, steps, Adjacency::ZeroOut)], delta);
    loss_column(case, "eps_untruncated_pld_zero_out", plain);
}

pub fn gdp_approximation(case: &Case) {
    let (q, sigma, steps) = (case.number("q"), case.number("sigma"), case.whole("steps"));
    let delta = case.number("delta");
    let poissonised = Approximation::poisson(sigma, q, steps);
    case.expect("mu_poisson", poissonised.approximate_mu(), 1e-9);
    case.expect("eps_poisson", poissonised.approximate_epsilon(delta), 1e-9);
    let uniform = Approximation::uniform(sigma, q, steps);
    case.expect("mu_uniform", uniform.approximate_mu(), 1e-9);
    case.expect("eps_uniform", uniform.approximate_epsilon(delta), 1e-9);
    let bound = loss_epsilon(&[poisson(q, sigma, steps, Adjacency::AddRemove)], delta);
    loss_column(case, "pld_bound", bound);
}

pub fn zcdp(case: &Case) {
    let (rho, delta) = (case.number("rho"), case.number("delta"));
    case.expect("eps_simple", concentrated::simple_epsilon(rho, delta), 1e-9);
    let optimal = concentrated::epsilon(rho, delta);
    case.expect("eps_optimal", optimal.epsilon, 1e-9);
    // The minimum is flat; the order is known to about the root of the epsilon's precision.
    // The files' orders are up to 2e-8 off the root of the derivative: a flat minimum was searched there.
    case.expect("order", optimal.order, 1e-7);
}

pub fn conversion(case: &Case) {
    let (orders, rdp) = (case.numbers("orders"), case.numbers("rdp"));
    let delta = case.number("delta");
    let improved = conversion::improved(&orders, &rdp, delta);
    case.expect("eps_improved", improved.epsilon, 1e-12);
    case.expect("order_improved", improved.order, 1e-12);
    case.expect(
        "eps_classic",
        conversion::classic(&orders, &rdp, delta).epsilon,
        1e-12,
    );
    case.expect(
        "delta_at_eps_1",
        conversion::delta(&orders, &rdp, 1.0),
        1e-12,
    );
}

pub fn tree_aggregation(case: &Case) {
    let (sigma, delta) = (case.number("node_sigma"), case.number("delta"));
    let (steps, trees) = (case.whole("steps_per_tree"), case.whole("trees"));
    case.expect("tree_depth", f64::from(tree::depth(steps)), 0.0);
    let rho = tree::releases(steps, trees) / (2.0 * sigma * sigma);
    case.expect("rho_zcdp", rho, 1e-9);
    let mechanism = Mechanism::TreeAggregation {
        noise_multiplier: sigma,
        steps,
        trees,
    };
    let event = Event::new(mechanism).unwrap();
    let ledger = [event.repeated(1, Adjacency::ZeroOut)];
    let rdp = RenyiCurve::of(&ledger, &file_orders())
        .unwrap()
        .epsilon(delta);
    case.expect("rdp_dp_accounting_default_orders", rdp.epsilon, 1e-9);
    case.expect(
        "eps_exact_gaussian_equivalent",
        loss_epsilon(&ledger, delta),
        1e-9,
    );
}

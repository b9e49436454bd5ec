//! The lists of `accountant.json`.

use dp_rs::accounting::calibration::{Target, noise_multiplier};
use dp_rs::accounting::pld::LossProfile;
use dp_rs::accounting::rdp::conversion::{AtOrder, classic};
use dp_rs::accounting::rdp::{RenyiCurve, whole_orders};
use dp_rs::accounting::{gaussian, gdp, zcdp};
use dp_rs::adjacency::Adjacency;
use dp_rs::event::{Event, Repeated};
use serde_json::Value;

use super::case::Case;

/// "1.1, 1.2, ..., 10.9, 11, 12, ..., 63, 128, 256, 512, 1024"
pub fn file_orders() -> Vec<f64> {
    let tenths = (11..110).map(|k| f64::from(k) / 10.0);
    let whole = (11..64).map(f64::from);
    let far = [128.0, 256.0, 512.0, 1024.0];
    tenths.chain(whole).chain(far).collect()
}

pub fn poisson(q: f64, sigma: f64, steps: u64, adjacency: Adjacency) -> Repeated {
    let event = Event::poisson_gaussian(sigma, q).unwrap();
    event.repeated(steps, adjacency)
}

pub fn gaussian_ledger(sigma: f64, steps: u64, adjacency: Adjacency) -> [Repeated; 1] {
    [Event::gaussian(sigma).unwrap().repeated(steps, adjacency)]
}

/// `eps <= reference * 1.003 + 2e-3`
pub fn above(reference: f64) -> f64 {
    reference * 1.003 + 2e-3
}

fn at_order(case: &Case, what: &str, got: AtOrder, expected: &Value, tolerance: f64) {
    case.near(
        &format!("{what} eps"),
        got.epsilon,
        expected["eps"].as_f64().unwrap(),
        tolerance,
    );
    case.near(
        &format!("{what} order"),
        got.order,
        expected["order"].as_f64().unwrap(),
        1e-12,
    );
}

/// The two RDP columns; returns the smaller epsilon.
fn renyi_columns(case: &Case, ledger: &[Repeated], delta: f64) -> f64 {
    let mut smallest = f64::INFINITY;
    if case.has("rdp_integer_orders_2_256") {
        let expected = case.field("rdp_integer_orders_2_256");
        let curve = RenyiCurve::of(ledger, &whole_orders(256)).unwrap();
        let got = curve.epsilon(delta);
        at_order(case, "integer", got, expected, 1e-9);
        let old = classic(curve.orders(), curve.divergences(), delta);
        if let Some(value) = expected["eps_classic_conversion"].as_f64() {
            case.near("integer classic", old.epsilon, value, 1e-9);
        }
        if let Some(order) = expected["order_classic"].as_f64() {
            case.near("integer classic order", old.order, order, 1e-12);
        }
        smallest = smallest.min(got.epsilon);
    }
    if case.has("rdp_exact_on_default_orders") {
        let expected = case.field("rdp_exact_on_default_orders");
        let got = RenyiCurve::of(ledger, &file_orders())
            .unwrap()
            .epsilon(delta);
        at_order(case, "default grid", got, expected, 1e-7);
        smallest = smallest.min(got.epsilon);
    }
    smallest
}

pub fn poisson_gaussian(case: &Case) {
    let delta = case.number("delta");
    let (q, sigma, steps) = (case.number("q"), case.number("sigma"), case.whole("steps"));
    let ledger = [poisson(q, sigma, steps, Adjacency::AddRemove)];
    let rdp = renyi_columns(case, &ledger, delta);
    let losses = LossProfile::of(&ledger).unwrap();
    let epsilon = losses.epsilon(delta).value;
    let low = case.number("true_eps_lower_bound");
    case.between("pld", epsilon, low, above(case.number("reference_eps")));
    case.check(
        epsilon <= rdp + 1e-6,
        format!("pld {epsilon} above rdp {rdp}"),
    );
    // Upper values of a pessimistic grid: ours may be tighter, but not below what the bound implies.
    let at_low = losses.delta(low).value;
    case.check(
        at_low >= delta,
        format!("delta {at_low} at the lower bound of epsilon"),
    );
    let got = losses.delta(1.0).value;
    case.between(
        "delta at 1",
        got,
        0.0,
        case.number("pld_delta_at_eps1") * 1.003,
    );
}

pub fn gaussian_full_batch(case: &Case) {
    let delta = case.number("delta");
    let (sigma, steps) = (case.number("sigma"), case.whole("steps"));
    let ledger = gaussian_ledger(sigma, steps, Adjacency::AddRemove);
    let losses = LossProfile::of(&ledger).unwrap();
    let mu = gdp::smallest_mu(&losses, delta).unwrap();
    let rho = mu * mu / 2.0;
    case.expect("mu_gdp", mu, 1e-9);
    case.expect("rho_zcdp", rho, 1e-9);
    case.expect("eps_exact", losses.epsilon(delta).value, 1e-9);
    case.expect("delta_exact_at_eps_1", losses.delta(1.0).value, 1e-9);
    let replace = gaussian_ledger(sigma, steps, Adjacency::ReplaceOne);
    let replaced = LossProfile::of(&replace).unwrap().epsilon(delta).value;
    case.expect("eps_exact_replace_one", replaced, 1e-9);
    case.expect("eps_zcdp_simple", zcdp::simple_epsilon(rho, delta), 1e-9);
    let optimal = zcdp::epsilon(rho, delta);
    case.expect("eps_zcdp_optimal_conversion", optimal.epsilon, 1e-9);
    // The files' orders are up to 2e-8 off the root of the derivative: a flat minimum was searched there.
    case.expect("order_zcdp_optimal", optimal.order, 1e-7);
    renyi_columns(case, &ledger, delta);
    if case.has("pld_connect_the_dots_h1e-4") {
        let dots = losses.with_mesh(1e-4).epsilon(delta).value;
        let reference = case.number("pld_connect_the_dots_h1e-4");
        case.between(
            "dots",
            dots,
            gaussian::epsilon(mu, delta) - 1e-12,
            above(reference),
        );
        case.near("dots", dots, reference, 1e-7);
    }
}

pub fn heterogeneous(case: &Case) {
    let delta = case.number("delta");
    let entries = case.field("ledger").as_array().unwrap();
    let ledger: Vec<_> = entries
        .iter()
        .map(|entry| {
            assert_eq!(entry["mech"], "poisson_gaussian", "{}", case.name());
            let number = |key: &str| entry[key].as_f64().unwrap();
            poisson(
                number("q"),
                number("sigma"),
                number("steps") as u64,
                Adjacency::AddRemove,
            )
        })
        .collect();
    let rdp = renyi_columns(case, &ledger, delta);
    let epsilon = LossProfile::of(&ledger).unwrap().epsilon(delta).value;
    let low = case.numbers("prv_lower_est_upper")[0];
    let reference = case.number("pld_connect_the_dots_h1e-4");
    case.between("pld", epsilon, low, above(reference));
    case.check(
        epsilon <= rdp + 1e-6,
        format!("pld {epsilon} above rdp {rdp}"),
    );
}

pub fn rdp_curve(case: &Case) {
    let orders = case.numbers("orders");
    let ledger = [poisson(
        case.number("q"),
        case.number("sigma"),
        1,
        Adjacency::AddRemove,
    )];
    let curve = RenyiCurve::of(&ledger, &orders).unwrap();
    for ((order, got), expected) in orders
        .iter()
        .zip(curve.divergences())
        .zip(case.numbers("rdp_exact"))
    {
        let tolerance = if order.fract() == 0.0 { 1e-9 } else { 1e-7 };
        case.near(&format!("order {order}"), *got, expected, tolerance);
    }
}

pub fn calibration(case: &Case) {
    let (epsilon, delta) = (case.number("target_eps"), case.number("delta"));
    let (q, steps) = (case.number("q"), case.whole("steps"));
    let ledger = |sigma: f64| Ok(vec![poisson(q, sigma, steps, Adjacency::AddRemove)]);
    let target = Target::new(epsilon, delta, Adjacency::AddRemove).unwrap();
    let found = noise_multiplier(target, ledger).unwrap();
    let held = found.guarantee.epsilon;
    case.check(
        held <= epsilon,
        format!("eps(sigma) = {held} above the target"),
    );
    case.expect("sigma_pld_h1e-4", found.value, 1e-4);
    case.expect("sigma_exact", found.value, 1e-4);
    if case.has("sigma_classic_formula") {
        let classic = (2.0 * steps as f64 * (1.25 / delta).ln()).sqrt() / epsilon;
        case.expect("sigma_classic_formula", classic, 1e-9);
    }
    case.expect(
        "sigma_rdp_integer_orders_2_256",
        whole_order_noise(epsilon, delta, q, steps),
        1e-4,
    );
    let at = |sigma: f64| {
        let entry = [poisson(q, sigma, steps, Adjacency::AddRemove)];
        LossProfile::of(&entry).unwrap().epsilon(delta).value
    };
    if case.has("eps_at_sigma_pld") {
        let sigma = case.number("sigma_pld_h1e-4");
        case.expect("eps_at_sigma_pld", at(sigma), 1e-4);
        case.expect("eps_at_sigma_pld_minus_1e-3", at(sigma - 1e-3), 1e-4);
    }
}

/// The column is for orders 2 to 256 only, which the calibration does not offer.
fn whole_order_noise(epsilon: f64, delta: f64, q: f64, steps: u64) -> f64 {
    let orders = whole_orders(256);
    let meets = |sigma: f64| {
        let entry = [poisson(q, sigma, steps, Adjacency::AddRemove)];
        RenyiCurve::of(&entry, &orders)
            .unwrap()
            .epsilon(delta)
            .epsilon
            <= epsilon
    };
    let (mut low, mut high) = (0.1, 1e4);
    while high / low > 1.0 + 1e-7 {
        let middle = f64::sqrt(low * high);
        if meets(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

//! The lists of `discrete_mechanisms.json`.

use dp_rs::accounting::distributed::{
    DiscreteGaussianSum, RoundedNorm, scale_from_bits, skellam_renyi,
};
use dp_rs::accounting::pld::{LossProfile, discrete_gaussian_masses};
use dp_rs::accounting::rdp::{RenyiCurve, whole_orders};
use dp_rs::adjacency::Adjacency;
use dp_rs::event::{Event, Mechanism};

use super::case::Case;
use super::misc::loss_column;

pub fn rounding(case: &Case) {
    let (clip, granularity) = (case.number("clip"), case.number("granularity"));
    let norm = RoundedNorm::conditional(
        clip,
        1.0 / granularity,
        case.number("beta"),
        case.whole("padded_dim"),
    );
    case.expect("l2_bound_after_rounding_in_grid_units", norm.l2, 1e-9);
    case.expect("l2_bound_after_rounding", norm.l2 * granularity, 1e-9);
    case.expect("l1_bound_after_rounding_in_grid_units", norm.l1, 1e-9);
    case.expect("inflation", norm.l2 * granularity / clip, 1e-9);
}

fn renyi_columns(case: &Case, mechanism: Mechanism, variance: f64) {
    let (rounds, delta) = (case.whole("rounds"), case.number("delta"));
    let curve = |mechanism: Mechanism| {
        let event = Event::new(mechanism).unwrap();
        let ledger = [event.repeated(rounds, Adjacency::ZeroOut)];
        RenyiCurve::of(&ledger, &whole_orders(256)).unwrap()
    };
    let ours = curve(mechanism);
    let per_release = |order: usize| ours.divergences()[order - 2];
    // The file gives the divergences of all rounds for some lists and of one for others.
    for (key, order) in [("rdp_order_2", 2), ("rdp_order_32", 32)] {
        case.expect(key, per_release(order), 1e-9);
    }
    let best = ours.epsilon(delta);
    case.expect("eps", best.epsilon, 1e-9);
    case.expect("order", best.order, 1e-12);
    let sensitivity = case.number("l2_sensitivity_grid");
    let continuous = curve(Mechanism::Gaussian {
        noise_multiplier: variance.sqrt() / sensitivity,
    });
    let same_variance = continuous.epsilon(delta).epsilon;
    case.expect("eps_continuous_gaussian_same_variance", same_variance, 1e-9);
}

pub fn distributed_gaussian(case: &Case) {
    let (sites, deviation) = (case.whole("sites"), case.number("local_sigma_grid"));
    let dimension = case.whole("dim");
    let sum = DiscreteGaussianSum {
        sites,
        deviation,
        dimension,
    };
    case.expect("tau", sum.tau(), 1e-9);
    let mechanism = Mechanism::DistributedDiscreteGaussian {
        standard_deviation: deviation,
        sites,
        clip_norm: case.number("l2_sensitivity_grid"),
        clip_norm_l1: case.number("l1_sensitivity_grid"),
        dimension,
    };
    renyi_columns(case, mechanism, sites as f64 * deviation * deviation);
}

pub fn skellam(case: &Case) {
    let variance = case.number("aggregate_variance_grid");
    case.field("dim");
    let mechanism = Mechanism::Skellam {
        variance,
        clip_norm: case.number("l2_sensitivity_grid"),
        clip_norm_l1: case.number("l1_sensitivity_grid"),
    };
    renyi_columns(case, mechanism, variance);
}

fn above_exact(case: &Case, bound: f64) {
    let exact = case.number("exact_renyi_divergence");
    case.check(
        bound >= exact,
        format!("bound {bound} below the exact {exact}"),
    );
    case.expect("bound", bound, 1e-9);
}

pub fn gaussian_in_one_dimension(case: &Case) {
    let sum = DiscreteGaussianSum {
        sites: case.whole("sites"),
        deviation: case.number("local_sigma"),
        dimension: 1,
    };
    let shift = case.number("shift");
    above_exact(case, sum.renyi(case.number("order"), shift, shift));
}

pub fn skellam_in_one_dimension(case: &Case) {
    let shift = case.number("shift");
    let order = case.whole("order") as u32;
    above_exact(
        case,
        skellam_renyi(order, case.number("variance"), shift, shift),
    );
}

pub fn masses(case: &Case) {
    let sigma = case.number("sigma");
    let masses = discrete_gaussian_masses(sigma, (40.0 * sigma).ceil() as u64);
    for (key, x) in [("p0", 0), ("p1", 1), ("p2", 2)] {
        case.expect(key, masses[x], 1e-9);
    }
    let two_sided = |from: usize, f: &dyn Fn(f64) -> f64| -> f64 {
        let terms = masses.iter().enumerate().skip(from).rev();
        2.0 * terms.map(|(x, mass)| f(x as f64) * mass).sum::<f64>()
    };
    case.expect("variance", two_sided(1, &|x| x * x), 1e-9);
    let outside = (3.0 * sigma).floor() as usize + 1;
    case.expect("P_abs_gt_3sigma", two_sided(outside, &|_| 1.0), 1e-9);
}

pub fn loss_distribution(case: &Case) {
    let (sigma, shift) = (case.number("sigma"), case.number("sensitivity"));
    let (count, delta) = (case.whole("compositions"), case.number("delta"));
    let event = Event::new(Mechanism::DiscreteGaussian {
        standard_deviation: sigma,
        clip_norm: shift,
        dimension: 1,
    });
    let ledger = [event.unwrap().repeated(count, Adjacency::AddRemove)];
    loss_column(
        case,
        "eps_pld",
        LossProfile::of(&ledger).unwrap().epsilon(delta).value,
    );
    let curve = RenyiCurve::of(&ledger, &[2.0]).unwrap();
    case.expect("rho_zcdp", curve.divergences()[0] / 2.0, 1e-9);
}

pub fn scale(case: &Case) {
    let scale = scale_from_bits(
        case.whole("bits") as u32,
        case.whole("sites"),
        case.number("clip"),
        case.number("local_sigma"),
        case.whole("padded_dim"),
        case.number("k_stddevs"),
    );
    let scale = scale.expect("enough bits");
    case.expect("scale", scale, 1e-9);
    case.expect("granularity", 1.0 / scale, 1e-9);
}

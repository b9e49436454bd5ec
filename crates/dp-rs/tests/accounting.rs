//! Laws that every accountant obeys, whatever the numbers.

use dp_rs::accounting::calibration::{self, Target};
use dp_rs::accounting::pld::LossProfile;
use dp_rs::accounting::rdp::{RenyiCurve, default_orders, whole_orders};
use dp_rs::accounting::{Accountant, AccountingError, Method, Profile, gaussian, gdp};
use dp_rs::adjacency::Adjacency::{self, AddRemove, ReplaceOne, ZeroOut};
use dp_rs::event::{Event, Mechanism, Repeated};
use proptest::prelude::*;

/// Wide enough for quick tests; every grid gives a valid upper bound.
const MESH: f64 = 2e-3;

fn poisson(noise: f64, rate: f64, steps: u64, adjacency: Adjacency) -> Repeated {
    let event = Event::poisson_gaussian(noise, rate).unwrap();
    event.repeated(steps, adjacency)
}

fn losses(ledger: &[Repeated]) -> LossProfile {
    LossProfile::of(ledger).unwrap()
}

fn coarse(ledger: &[Repeated], delta: f64) -> f64 {
    losses(ledger).with_mesh(MESH).epsilon(delta).value
}

fn renyi(ledger: &[Repeated], delta: f64) -> f64 {
    RenyiCurve::of(ledger, &default_orders())
        .unwrap()
        .epsilon(delta)
        .epsilon
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn splitting_an_entry_changes_nothing(
        noise in 0.6..3.0, rate in 0.005..0.3, first in 1_u64..200, second in 1_u64..200,
    ) {
        let whole = [poisson(noise, rate, first + second, AddRemove)];
        let halves = [poisson(noise, rate, first, AddRemove), poisson(noise, rate, second, AddRemove)];
        prop_assert_eq!(coarse(&whole, 1e-5), coarse(&halves, 1e-5));
        let (one, two) = (renyi(&whole, 1e-5), renyi(&halves, 1e-5));
        prop_assert!((one - two).abs() <= 1e-12 * one);
    }

    #[test]
    fn the_order_of_entries_changes_nothing(noise in 0.6..3.0, rate in 0.01..0.3) {
        let a = poisson(noise, rate, 50, AddRemove);
        let b = poisson(noise * 1.5, rate / 2.0, 80, AddRemove);
        let forth = coarse(&[a.clone(), b.clone()], 1e-5);
        let back = coarse(&[b, a], 1e-5);
        prop_assert!((forth - back).abs() <= 1e-9 * forth);
    }

    #[test]
    fn epsilon_grows_with_steps_and_rate_and_falls_with_noise_and_delta(
        noise in 0.7..3.0, rate in 0.01..0.2, steps in 10_u64..300,
    ) {
        for epsilon in [coarse, renyi] {
            let base = epsilon(&[poisson(noise, rate, steps, AddRemove)], 1e-5);
            prop_assert!(base <= epsilon(&[poisson(noise, rate, steps + steps / 5 + 1, AddRemove)], 1e-5));
            prop_assert!(base <= epsilon(&[poisson(noise, rate * 1.1, steps, AddRemove)], 1e-5));
            prop_assert!(base >= epsilon(&[poisson(noise * 1.1, rate, steps, AddRemove)], 1e-5));
            prop_assert!(base >= epsilon(&[poisson(noise, rate, steps, AddRemove)], 2e-5));
        }
    }

    #[test]
    fn loss_distributions_are_tighter_than_renyi_bounds(
        noise in 0.7..3.0, rate in 0.01..0.3, steps in 1_u64..300, log_delta in -12.0..-2.0_f64,
    ) {
        for adjacency in [AddRemove, ReplaceOne] {
            let ledger = [poisson(noise, rate, steps, adjacency)];
            let delta = 10_f64.powf(log_delta);
            prop_assert!(losses(&ledger).epsilon(delta).value <= renyi(&ledger, delta) + 1e-6);
        }
    }

    #[test]
    fn loss_distributions_are_above_the_unsampled_single_step(
        noise in 0.7..3.0, rate in 0.05..0.5, steps in 1_u64..50,
    ) {
        // One step of sampling at least tells what a randomised response of the same total variation
        // does: delta(0) of the composition is at least that of one step, q times the Gaussian's.
        let single = rate * gaussian::delta(1.0 / noise, 0.0);
        let composed = losses(&[poisson(noise, rate, steps, AddRemove)]).delta(0.0).value;
        prop_assert!(composed >= single * (1.0 - 1e-9));
        if steps == 1 {
            prop_assert!((composed - single).abs() <= 1e-6 * single + 1e-9);
        }
    }

    #[test]
    fn the_grid_agrees_with_the_exact_gaussian_at_its_points(noise in 0.5..8.0, point in 1_u32..40) {
        // At a grid point connect-the-dots is exact, but for the tails, of which each end gives up 1e-9 of delta to
        // the infinite loss: never below, and hardly above.
        let epsilon = f64::from(point) * 32.0 * MESH;
        let ledger = [Event::gaussian(noise).unwrap().repeated(1, AddRemove)];
        let dots = losses(&ledger).with_mesh(MESH).delta(epsilon).value;
        let exact = gaussian::delta(1.0 / noise, epsilon);
        if exact > 1e-12 {
            let ratio = dots / exact;
            prop_assert!((1.0 - 1e-11..1.0 + 1e-8).contains(&ratio), "{} {}", dots, exact);
        }
    }

    #[test]
    fn add_remove_and_zero_out_have_the_same_numbers(noise in 0.7..3.0, rate in 0.01..0.3) {
        let epsilon = |adjacency| coarse(&[poisson(noise, rate, 100, adjacency)], 1e-5);
        prop_assert_eq!(epsilon(AddRemove), epsilon(ZeroOut));
    }

    #[test]
    fn epsilon_and_delta_are_inverse(noise in 0.7..3.0, rate in 0.01..0.3, log_delta in -25.0..-2.0_f64) {
        let profile = losses(&[poisson(noise, rate, 100, AddRemove)]).with_mesh(MESH);
        let delta = 10_f64.powf(log_delta);
        let epsilon = profile.epsilon(delta).value;
        if epsilon > 0.0 {
            let back = profile.delta(epsilon).value;
            prop_assert!((back / delta - 1.0).abs() < 1e-5, "{} {}", back, delta);
        }
    }

    #[test]
    fn calibrated_noise_meets_its_target_and_hardly_less_does_not(
        epsilon in 0.3..8.0, rate in 0.01..0.3, steps in 10_u64..300,
    ) {
        let target = Target::new(epsilon, 1e-5, AddRemove).unwrap().by(Accountant::Rdp);
        let ledger = |noise| Ok(vec![poisson(noise, rate, steps, AddRemove)]);
        let found = calibration::noise_multiplier(target, ledger).unwrap();
        prop_assert!(found.guarantee.epsilon <= epsilon);
        prop_assert!(renyi(&ledger(found.value * (1.0 - 1e-4)).unwrap(), 1e-5) > epsilon);
    }
}

#[test]
fn replacing_doubles_the_sensitivity_of_every_mechanism() {
    let doubled = |mechanism: Mechanism, half: Mechanism| {
        let orders = whole_orders(8);
        let curve = |mechanism, adjacency| {
            let ledger = [Event::new(mechanism).unwrap().repeated(3, adjacency)];
            RenyiCurve::of(&ledger, &orders)
                .unwrap()
                .divergences()
                .to_vec()
        };
        let (replaced, halved) = (curve(mechanism, ReplaceOne), curve(half, ZeroOut));
        for (a, b) in replaced.iter().zip(&halved) {
            assert!((a - b).abs() <= 1e-12 * b, "{a} {b}");
        }
    };
    let gaussian = |noise_multiplier| Mechanism::Gaussian { noise_multiplier };
    doubled(gaussian(2.0), gaussian(1.0));
    let laplace = |scale| Mechanism::Laplace { scale };
    doubled(laplace(2.0), laplace(1.0));
    let discrete = |clip_norm| Mechanism::DiscreteGaussian {
        standard_deviation: 5.0,
        clip_norm,
        dimension: 7,
    };
    doubled(discrete(1.5), discrete(3.0));
    let skellam = |clip_norm| Mechanism::Skellam {
        variance: 100.0,
        clip_norm,
        clip_norm_l1: 4.0 * clip_norm,
    };
    doubled(skellam(2.0), skellam(4.0));
    let sum = |clip_norm| Mechanism::DistributedDiscreteGaussian {
        standard_deviation: 4.0,
        sites: 5,
        clip_norm,
        clip_norm_l1: 4.0 * clip_norm,
        dimension: 16,
    };
    doubled(sum(2.0), sum(4.0));
    let tree = |noise_multiplier| Mechanism::TreeAggregation {
        noise_multiplier,
        steps: 100,
        trees: 2,
    };
    doubled(tree(8.0), tree(4.0));
}

#[test]
fn replacing_under_sampling_is_neither_free_nor_half_the_noise() {
    let epsilon = |noise, adjacency| {
        losses(&[poisson(noise, 0.01, 1000, adjacency)])
            .epsilon(1e-5)
            .value
    };
    let replaced = epsilon(1.0, ReplaceOne);
    assert!((replaced - 2.84).abs() < 0.01, "{replaced}");
    assert!(replaced > 1.5 * epsilon(1.0, AddRemove));
    assert!(replaced < epsilon(0.5, AddRemove));
}

#[test]
fn both_directions_are_taken() {
    // Removing is the larger direction at small deltas, adding at large ones; each alone would be too
    // small somewhere. The exact profile of one step is known in both.
    let (noise, rate) = (0.5, 0.1);
    let profile = losses(&[poisson(noise, rate, 1, AddRemove)]);
    let upper = |x: f64| 0.5 * libm_erfc(x / noise / std::f64::consts::SQRT_2);
    let remove = |e: f64| {
        let x = noise * noise * ((e.exp_m1() + rate) / rate).ln() + 0.5;
        (1.0 - rate) * upper(x) + rate * upper(x - 1.0) - e.exp() * upper(x)
    };
    let add = |e: f64| {
        let inside = (-e).exp_m1() + rate;
        if inside <= 0.0 {
            return 0.0;
        }
        let x = noise * noise * (inside / rate).ln() + 0.5;
        let below = |x: f64| upper(-x);
        below(x) - e.exp() * ((1.0 - rate) * below(x) + rate * below(x - 1.0))
    };
    let mut won = [false; 2];
    for k in 0..40 {
        let epsilon = f64::from(k) * 0.05;
        let expected = remove(epsilon).max(add(epsilon));
        won[usize::from(add(epsilon) > remove(epsilon))] = true;
        let got = profile.delta(epsilon).value;
        assert!(
            got >= expected * (1.0 - 1e-9) && got <= expected * 1.001 + 1e-9,
            "{epsilon}: {got} {expected}"
        );
    }
    assert!(won[0]);
    // Composed, the mirrored pair must agree with the reversed one, so the max is at least each.
    let ten = losses(&[poisson(noise, rate, 10, AddRemove)])
        .delta(0.5)
        .value;
    assert!(ten >= profile.delta(0.5).value);
}

fn libm_erfc(x: f64) -> f64 {
    statrs::function::erf::erfc(x)
}

#[test]
fn renyi_divergences_grow_with_the_order_down_to_little_noise() {
    // Losses in the thousands overflow a plain exponential; a lost term would be a lost cost.
    let orders = [1.05, 1.5, 2.0, 2.1, 3.0, 3.1, 10.0, 10.9];
    for noise in [0.02, 0.05, 0.1, 0.3, 1.0, 10.0] {
        for adjacency in [AddRemove, ReplaceOne] {
            let ledger = [poisson(noise, 0.1, 1, adjacency)];
            let curve = RenyiCurve::of(&ledger, &orders).unwrap();
            assert!(
                curve.divergences().windows(2).all(|pair| pair[0] < pair[1]),
                "{curve:?}"
            );
        }
        let several = Event::mixture_of_gaussians(noise, 0.4, 4).unwrap();
        let ledger = [several.repeated(1, AddRemove)];
        let curve = RenyiCurve::of(&ledger, &orders).unwrap();
        assert!(
            curve.divergences().windows(2).all(|pair| pair[0] < pair[1]),
            "{curve:?}"
        );
    }
}

#[test]
fn far_numbers_are_answered_without_panic_or_optimism() {
    for (noise, rate, steps, delta) in [
        (0.001, 0.1, 1, 1e-5),
        (0.05, 0.01, 10, 1e-5),
        (0.3, 0.5, 1000, 1e-5),
        (20.0, 0.999_999, 100, 1e-5),
        (5.0, 1e-7, 1_000_000, 1e-6),
        (1000.0, 0.5, 10, 1e-5),
        (1e6, 1e-9, 1, 1e-300),
        (1.0, 0.01, 1000, 0.999),
    ] {
        for adjacency in [AddRemove, ReplaceOne] {
            let ledger = [poisson(noise, rate, steps, adjacency)];
            let answer = Profile::of(&ledger, adjacency).unwrap().epsilon(delta);
            let (tight, loose) = (answer.unwrap().epsilon, renyi(&ledger, delta));
            assert!(
                tight >= 0.0 && tight <= loose * 1.0001 + 1e-6,
                "{noise} {rate} {steps}: {tight} {loose}"
            );
        }
    }
}

#[test]
fn sharing_one_sample_is_not_two_samples() {
    let joint = losses(&[poisson(1.0, 0.02, 500, AddRemove)])
        .epsilon(1e-5)
        .value;
    assert!((joint - 2.7734).abs() < 1e-3);
}

#[test]
fn entries_of_another_adjacency_are_refused() {
    let ledger = [
        poisson(1.0, 0.1, 5, AddRemove),
        poisson(1.0, 0.1, 5, ReplaceOne),
    ];
    let mixed = |result: Result<(), AccountingError>| {
        assert!(matches!(
            result,
            Err(AccountingError::MixedAdjacency { .. })
        ));
    };
    mixed(LossProfile::of(&ledger).map(drop));
    mixed(RenyiCurve::of(&ledger, &default_orders()).map(drop));
    mixed(Profile::of(&ledger, AddRemove).map(drop));
    mixed(Profile::of(&ledger[..1], ReplaceOne).map(drop));
}

#[test]
fn mechanisms_without_a_guarantee_under_a_relation_are_refused() {
    let refused = |mechanism: Mechanism, adjacency| {
        let ledger = [Event::new(mechanism).unwrap().repeated(1, adjacency)];
        let error = Profile::of(&ledger, adjacency).unwrap_err();
        assert!(
            matches!(error, AccountingError::Adjacency { .. }),
            "{error}"
        );
    };
    let batch = Mechanism::FixedBatch {
        noise_multiplier: 1.0,
        units: 100,
        batch: 10,
    };
    refused(batch.clone(), AddRemove);
    refused(batch, ZeroOut);
    let truncated = Mechanism::TruncatedPoisson {
        noise_multiplier: 1.0,
        sampling_rate: 0.1,
        units: 100,
        max_batch: 20,
    };
    refused(truncated.clone(), AddRemove);
    refused(truncated, ReplaceOne);
    let tree = Mechanism::TreeAggregation {
        noise_multiplier: 1.0,
        steps: 8,
        trees: 1,
    };
    refused(tree, AddRemove);
}

#[test]
fn edge_cases_are_zero_or_infinite_and_never_nan() {
    let epsilon = |entry: Repeated, delta| {
        let ledger = [entry];
        let profile = Profile::of(&ledger, AddRemove).unwrap();
        let answers = [Accountant::Pld, Accountant::Rdp]
            .map(|by| profile.epsilon_by(by, delta).unwrap().epsilon);
        assert_eq!(answers[0], answers[1]);
        answers[0]
    };
    assert_eq!(epsilon(poisson(1.0, 0.0, 10, AddRemove), 1e-5), 0.0);
    assert_eq!(epsilon(poisson(1.0, 0.1, 0, AddRemove), 1e-5), 0.0);
    assert_eq!(
        epsilon(poisson(0.0, 0.1, 10, AddRemove), 1e-5),
        f64::INFINITY
    );
    assert_eq!(epsilon(poisson(0.0, 0.0, 10, AddRemove), 1e-5), 0.0);
    assert_eq!(epsilon(poisson(0.0, 0.1, 0, AddRemove), 1e-5), 0.0);
    assert_eq!(
        epsilon(poisson(1.0, 0.1, 10, AddRemove), 0.0),
        f64::INFINITY
    );
    assert_eq!(epsilon(poisson(1.0, 0.0, 10, AddRemove), 0.0), 0.0);
    assert_eq!(
        epsilon(Event::non_private().repeated(1, AddRemove), 1e-5),
        f64::INFINITY
    );
    let whole = Profile::of(&[poisson(2.0, 1.0, 4, AddRemove)], AddRemove).unwrap();
    let exact = gaussian::epsilon(1.0, 1e-5);
    assert!((whole.epsilon(1e-5).unwrap().epsilon - exact).abs() < 1e-12);
    assert_eq!(
        Profile::of(&[], AddRemove)
            .unwrap()
            .epsilon(1e-5)
            .unwrap()
            .epsilon,
        0.0
    );
    for delta in [-1e-9, 1.1, f64::NAN] {
        assert!(matches!(
            whole.epsilon(delta),
            Err(AccountingError::Delta(_))
        ));
    }
}

#[test]
fn laplace_noise_is_pure_up_to_its_epsilon() {
    let ledger = [Event::laplace(2.0).unwrap().repeated(1, AddRemove)];
    let profile = losses(&ledger);
    assert_eq!(profile.epsilon(0.0).value, 0.5);
    for epsilon in [0.1, 0.25, 0.4] {
        let exact = -((epsilon - 0.5) / 2.0_f64).exp_m1();
        let got = profile.delta(epsilon).value;
        assert!((got / exact - 1.0).abs() < 1e-4, "{got} {exact}");
    }
    let composed = [Event::laplace(2.0).unwrap().repeated(30, AddRemove)];
    assert!(losses(&composed).epsilon(1e-6).value <= renyi(&composed, 1e-6));
    assert!(losses(&composed).epsilon(1e-6).value < 15.0);
}

#[test]
fn several_records_cost_more_than_one_in_both_accountants() {
    for (noise, rate, records) in [(2.0, 0.05, 3), (0.7, 0.3, 8), (1.0, 0.9, 20)] {
        let several = Event::mixture_of_gaussians(noise, rate, records).unwrap();
        let ledger = [several.repeated(20, AddRemove)];
        let (tight, loose) = (losses(&ledger).epsilon(1e-5).value, renyi(&ledger, 1e-5));
        let one = losses(&[poisson(noise, rate, 20, AddRemove)])
            .epsilon(1e-5)
            .value;
        assert!(one < tight && tight <= loose, "{one} {tight} {loose}");
    }
    let single = Event::mixture_of_gaussians(1.0, 0.1, 1)
        .unwrap()
        .repeated(9, ReplaceOne);
    assert_eq!(
        coarse(&[single], 1e-5),
        coarse(&[poisson(1.0, 0.1, 9, ReplaceOne)], 1e-5)
    );
}

#[test]
fn a_ledger_with_only_renyi_bounds_falls_back_and_says_so() {
    let ledger = [
        Event::zcdp(0.01).unwrap().repeated(1, ZeroOut),
        poisson(1.0, 0.02, 10, ZeroOut),
    ];
    let profile = Profile::of(&ledger, ZeroOut).unwrap();
    let guarantee = profile.epsilon(1e-5).unwrap();
    assert!(matches!(guarantee.method, Method::Rdp { .. }));
    let asked = profile.epsilon_by(Accountant::Pld, 1e-5);
    assert_eq!(asked, Err(AccountingError::NoLossDistribution));
}

#[test]
fn an_optimum_at_the_end_of_the_orders_is_reported() {
    let ledger = [Event::gaussian(1000.0).unwrap().repeated(1, AddRemove)];
    let curve = RenyiCurve::of(&ledger, &whole_orders(8)).unwrap();
    assert!(curve.is_at_the_end(curve.epsilon(1e-5)));
    let ledger = [Event::gaussian(2.0).unwrap().repeated(1, AddRemove)];
    let curve = RenyiCurve::of(&ledger, &default_orders()).unwrap();
    assert!(!curve.is_at_the_end(curve.epsilon(1e-5)));
}

#[test]
fn the_smallest_mu_dominates_the_profile_and_the_limit_formula_does_not() {
    let ledger = [poisson(0.7, 0.001, 10_000, AddRemove)];
    let profile = losses(&ledger).with_mesh(2e-4);
    let mu = gdp::smallest_mu(&profile, 1e-6).unwrap();
    for epsilon in [0.0, 0.3, 0.7, 1.2, 1.6] {
        assert!(gaussian::delta(mu, epsilon) >= profile.delta(epsilon).value * (1.0 - 1e-6));
    }
    let limit = gdp::Approximation::poisson(0.7, 0.001, 10_000);
    assert!(limit.approximate_epsilon(1e-6) < profile.epsilon(1e-6).value);
    assert!(limit.approximate_mu() < mu);
}

#[test]
fn steps_and_rate_are_the_largest_that_meet_the_target() {
    let target = Target::new(2.0, 1e-5, AddRemove).unwrap();
    let steps = calibration::steps(target, |n| Ok(vec![poisson(1.0, 0.02, n, AddRemove)])).unwrap();
    assert!(steps.guarantee.epsilon <= 2.0);
    let one_more = losses(&[poisson(1.0, 0.02, steps.value + 1, AddRemove)]);
    assert!(one_more.epsilon(1e-5).value > 2.0);
    let rate = calibration::sampling_rate(target, |q| {
        let event = Event::poisson_gaussian(1.0, q)?;
        Ok(vec![event.repeated(500, AddRemove)])
    });
    let rate = rate.unwrap();
    assert!(rate.guarantee.epsilon <= 2.0 && rate.guarantee.epsilon > 1.999);
}

#[test]
fn impossible_targets_are_refused() {
    for epsilon in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(Target::new(epsilon, 1e-5, AddRemove).is_err());
    }
    let target = Target::new(1.0, 0.0, AddRemove).unwrap();
    let noise = calibration::noise_multiplier(target, |s| Ok(vec![poisson(s, 0.1, 10, AddRemove)]));
    assert!(matches!(noise, Err(AccountingError::Unreachable { .. })));
    let target = Target::new(0.1, 1e-6, AddRemove).unwrap();
    let steps = calibration::steps(target, |n| Ok(vec![poisson(0.5, 0.5, n, AddRemove)]));
    assert!(matches!(steps, Err(AccountingError::Unreachable { .. })));
}

#[test]
fn fields_out_of_range_are_refused_by_name_with_a_remedy() {
    let refused = |mechanism: Mechanism, field: &str| {
        let error = Event::new(mechanism).unwrap_err();
        assert_eq!(error.field, field);
        assert!(!error.remedy.is_empty());
    };
    for noise_multiplier in [-1.0, f64::NAN, f64::INFINITY] {
        refused(Mechanism::Gaussian { noise_multiplier }, "noise_multiplier");
    }
    for sampling_rate in [-0.1, 1.1, f64::NAN] {
        let mechanism = Mechanism::PoissonGaussian {
            noise_multiplier: 1.0,
            sampling_rate,
        };
        refused(mechanism, "sampling_rate");
    }
    let batch = Mechanism::FixedBatch {
        noise_multiplier: 1.0,
        units: 10,
        batch: 11,
    };
    refused(batch, "batch");
}

#[test]
fn ledgers_are_read_strictly() {
    let read = |text: &str| serde_json::from_str::<Repeated>(text).map_err(|e| e.to_string());
    let good = r#"{"event":{"mechanism":"poisson-gaussian","noise_multiplier":1.1,"sampling_rate":0.01},
        "count":5,"adjacency":"add-remove"}"#;
    let entry = read(good).unwrap();
    assert_eq!(
        read(&serde_json::to_string(&entry).unwrap()).unwrap(),
        entry
    );
    let unknown = read(&good.replace("poisson-gaussian", "magic")).unwrap_err();
    assert!(unknown.contains("unknown variant `magic`"), "{unknown}");
    let range = read(&good.replace("0.01", "1.5")).unwrap_err();
    assert!(range.contains("sampling_rate is 1.5"), "{range}");
    for bad in [
        good.replace("\"count\"", "\"counts\""),
        good.replace("1.1,", "1.1,\"sensitivity\":2.0,"),
        good.replace("\"adjacency\":\"add-remove\"", "\"count\":5"),
        good.replace("add-remove", "either"),
        r#"{"event":{"mechanism":"non-private","why":1},"count":1,"adjacency":"zero-out"}"#
            .to_owned(),
    ] {
        assert!(read(&bad).is_err(), "{bad}");
    }
}

#[test]
fn a_guarantee_carries_what_must_be_said_with_it() {
    let profile = Profile::of(&[poisson(1.0, 0.02, 500, AddRemove)], AddRemove).unwrap();
    let json = serde_json::to_value(profile.epsilon(1e-5).unwrap()).unwrap();
    for key in ["epsilon", "delta", "adjacency", "accountant", "mesh"] {
        assert!(!json[key].is_null(), "{key}: {json}");
    }
    let json = serde_json::to_value(profile.epsilon(0.0).unwrap()).unwrap();
    assert_eq!(json["epsilon"], "infinity");
}

#[test]
fn more_steps_than_can_be_counted_cost_no_finite_number_and_no_panic() {
    for steps in [1 << 53, u64::MAX] {
        let event = Event::poisson_gaussian(1.0, 0.02).unwrap();
        let events = [event.repeated(steps, AddRemove)];
        let profile = Profile::of(&events, AddRemove).unwrap();
        match profile.epsilon(1e-5) {
            Ok(guarantee) => assert!(guarantee.epsilon > 1e9, "{}", guarantee.epsilon),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

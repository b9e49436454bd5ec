//! A clipped contribution is within its bound, whatever it was.

use dp_rs::clipping::{
    ClipRule, Clipper, ClippingError, Factor, QuantileClip, QuantileClipConfig, norm,
};
use dp_rs::noise::{Purpose, RootKey, Stream};
use proptest::prelude::*;

fn stream(seed: u64) -> Stream {
    RootKey::simulation(seed).stream(Purpose::CountNoise, &[])
}

fn any_value() -> impl Strategy<Value = f32> {
    prop_oneof![
        -10.0_f32..10.0,
        any::<f32>(),
        Just(0.0),
        Just(f32::MIN_POSITIVE)
    ]
}

proptest! {
    #[test]
    fn no_contribution_exceeds_the_sensitivity(
        values in prop::collection::vec(any_value(), 2..40),
        clip_norm in prop_oneof![1e-6_f64..10.0, Just(1e-3), Just(1.0)],
        cut in 0.0_f64..1.0,
    ) {
        let (a, b) = values.split_at((values.len() as f64 * cut) as usize);
        let rules = [
            ClipRule::flat(clip_norm).unwrap(),
            ClipRule::automatic(clip_norm).unwrap(),
            ClipRule::normalised(clip_norm).unwrap(),
            ClipRule::per_group(vec![clip_norm, 2.0 * clip_norm]).unwrap(),
            ClipRule::per_group_uniform(clip_norm, 2).unwrap(),
        ];
        for rule in rules {
            let bound = rule.sensitivity() * (1.0 + 1e-6);
            let mut clipper = Clipper::new(rule);
            let mut sum = vec![0.0_f32; values.len()];
            let (c, d) = sum.split_at_mut(a.len());
            clipper.add_groups(&[a, b], &mut [c, d]).unwrap();
            prop_assert!(norm(&sum) <= bound, "{:?}: {} > {bound}", clipper.rule(), norm(&sum));
            let finite = values.iter().all(|v| v.is_finite());
            prop_assert_eq!(clipper.not_finite(), u64::from(!finite));
            prop_assert!(finite || sum.iter().all(|&v| v == 0.0));
        }
    }

    #[test]
    fn a_short_contribution_is_left_alone_by_flat_clipping(
        values in prop::collection::vec(-0.1_f32..0.1, 1..50),
    ) {
        let mut clipper = Clipper::new(ClipRule::flat(1.0).unwrap());
        let mut sum = vec![0.0_f32; values.len()];
        clipper.add(&values, &mut sum).unwrap();
        prop_assert_eq!(sum, values);
        prop_assert_eq!(clipper.clipped(), 0);
    }
}

#[test]
fn factors_are_the_published_ones() {
    let scale =
        |rule: Result<ClipRule, ClippingError>, norm| match rule.unwrap().factor(norm).unwrap() {
            Factor::Scale(scale) => scale,
            Factor::Drop => panic!("dropped"),
        };
    assert_eq!(scale(ClipRule::flat(2.0), 8.0), 0.25);
    assert_eq!(scale(ClipRule::flat(2.0), 1.0), 1.0);
    assert_eq!(scale(ClipRule::automatic(2.0), 8.0), 2.0 / 8.01);
    assert_eq!(scale(ClipRule::automatic(2.0), 0.0), 200.0);
    assert_eq!(scale(ClipRule::normalised(2.0), 8.0), 0.25);
    assert_eq!(scale(ClipRule::normalised(2.0), 0.0), 0.0);
    assert_eq!(
        ClipRule::flat(2.0).unwrap().factor(f64::NAN).unwrap(),
        Factor::Drop
    );
    assert_eq!(
        ClipRule::flat(2.0).unwrap().factor(f64::INFINITY).unwrap(),
        Factor::Drop
    );
}

#[test]
fn groups_add_their_squares() {
    assert_eq!(
        ClipRule::per_group(vec![3.0, 4.0]).unwrap().sensitivity(),
        5.0
    );
    let uniform = ClipRule::per_group_uniform(2.0, 9).unwrap();
    assert!((uniform.sensitivity() - 2.0).abs() < 1e-12);
    assert_eq!(
        uniform.factors(&[1.0]).unwrap_err().code(),
        "clipping_wrong_groups"
    );
}

#[test]
fn rules_without_meaning_are_refused_in_code_and_in_files() {
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(ClipRule::flat(bad).is_err());
        assert!(ClipRule::automatic(bad).is_err());
        assert!(ClipRule::normalised(bad).is_err());
        assert!(ClipRule::per_group(vec![1.0, bad]).is_err());
    }
    assert!(ClipRule::per_group(vec![]).is_err());
    let rule = ClipRule::automatic(1.5).unwrap();
    let text = serde_json::to_string(&rule).unwrap();
    assert_eq!(
        text,
        r#"{"rule":"automatic","clip_norm":1.5,"stabiliser":0.01}"#
    );
    assert_eq!(serde_json::from_str::<ClipRule>(&text).unwrap(), rule);
    for text in [
        r#"{"rule":"flat","clip_norm":0}"#,
        r#"{"rule":"flat","clip_norm":1,"sensitivity":1e-4}"#,
    ] {
        assert!(serde_json::from_str::<ClipRule>(text).is_err());
    }
}

#[test]
fn lengths_are_checked_before_anything_is_added() {
    let mut clipper = Clipper::new(ClipRule::flat(1.0).unwrap());
    let mut sum = [0.0_f32; 2];
    assert!(clipper.add(&[1.0], &mut sum).is_err());
    assert_eq!(sum, [0.0, 0.0]);
    assert_eq!(format!("{clipper:?}").matches("clipped").count(), 0);
}

#[test]
fn gradient_and_count_share_one_multiplier() {
    let clip = QuantileClip::new(QuantileClipConfig::new(1.0, 100.0)).unwrap();
    assert_eq!(clip.joint_multiplier(), 1.0);
    // Count with standard deviation 5 and sensitivity 1/2: multiplier 10.
    let joint = (clip.gradient_multiplier().powi(-2) + 10.0_f64.powi(-2)).powf(-0.5);
    assert!((joint - 1.0).abs() < 1e-12);
    assert!(clip.gradient_multiplier() > 1.0);
}

#[test]
fn a_count_that_spends_the_whole_budget_is_refused() {
    for z in [10.0, 11.0] {
        let refused = QuantileClip::new(QuantileClipConfig::new(z, 100.0)).unwrap_err();
        assert_eq!(refused.code(), "clipping_count_too_precise");
    }
    let changes: [fn(&mut QuantileClipConfig); 6] = [
        |c| c.target = 1.0,
        |c| c.initial = 1e-9,
        |c| c.expected_batch = 0.0,
        |c| c.noise_multiplier = f64::NAN,
        |c| c.count_std = -1.0,
        |c| c.learning_rate = 0.0,
    ];
    for change in changes {
        let mut config = QuantileClipConfig::new(1.0, 100.0);
        change(&mut config);
        assert!(QuantileClip::new(config).is_err());
    }
}

#[test]
fn the_clip_norm_finds_the_quantile() {
    // Norms uniform on (0, 2): the median is 1. The noise on the share has standard deviation 1/20, which moves the
    // norm by 1 % per step; the mean of the last 100 steps is within 5 %.
    let mut clip = QuantileClip::new(QuantileClipConfig::new(1.0, 200.0)).unwrap();
    let norms: Vec<f64> = (0..200).map(|i| (f64::from(i) + 0.5) / 100.0).collect();
    let mut stream = stream(1);
    let mut mean = 0.0;
    for step in 0..300 {
        clip.update(&norms, &mut stream).unwrap();
        if step >= 200 {
            mean += clip.clip_norm() / 100.0;
        }
    }
    assert!((mean - 1.0).abs() < 0.05, "{mean}");
}

#[test]
fn an_empty_step_moves_the_norm_by_noise_alone_and_bounds_hold() {
    let mut config = QuantileClipConfig::new(1.0, 200.0);
    (config.minimum, config.maximum) = (0.09, 0.11);
    let mut clip = QuantileClip::new(config).unwrap();
    let mut stream = stream(2);
    for _ in 0..200 {
        clip.update(&[], &mut stream).unwrap();
        assert!((0.09..=0.11).contains(&clip.clip_norm()));
    }
    for _ in 0..50 {
        clip.update(&vec![f64::NAN; 200], &mut stream).unwrap();
    }
    // Units without a norm count as above it.
    assert_eq!(clip.clip_norm(), 0.11);
}

//! Our kernels and Burn's own operations on generated inputs, without any file: the features, and the
//! gradient of every tensor.

use std::collections::BTreeMap;

use super::*;
use crate::net::blocks::Settings;
use crate::{Activation, EhpalNet, Modality, SParam, ScoreScale, SiteNetwork};

const RECORDS: usize = 3;

fn wave(len: usize, phase: f32) -> Vec<f32> {
    (0..len)
        .map(|i| (i as f32 * 0.737 + phase).sin() + (i as f32 * 0.091).cos())
        .collect()
}

/// Features, and the gradients of their weighted sum by the name of the tensor.
fn run(spec: &EhpalNet, precision: Precision) -> (Vec<f64>, BTreeMap<String, Vec<f64>>) {
    let device = Device::flex().autodiff();
    let mut network = SiteNetwork::with_settings(spec, Settings::of(spec), &device);
    let specs = network.manifest().tensors.clone();
    // Away from the initial values, of which many are 0 or 1.
    let mut rest = network.groups().0;
    let weights: BTreeMap<&str, Vec<f32>> = (specs.iter())
        .map(|spec| {
            let values: Vec<f32> = rest
                .get_mut(&spec.group)
                .unwrap()
                .drain(..spec.len())
                .collect();
            let moved = values.iter().zip(wave(values.len(), 0.3));
            let moved = moved.map(|(value, by)| value + 0.05 * by).collect();
            (spec.name.as_str(), moved)
        })
        .collect();
    *network.parts = fill(*network.parts.clone(), &specs, precision, &device, |spec| {
        weights[spec.name.as_str()].clone()
    });
    let inputs = [1.0, 2.0, 3.0, 4.0].map(|phase| {
        let shape = [1, spec.side, spec.side, RECORDS];
        precision.tensor(&wave(shape.iter().product(), phase), shape, &device)
    });
    let (features, _) = network.features_of_four(&inputs, false);
    let dims = features.dims();
    let direction = precision.tensor(&wave(dims.iter().product(), 9.0), dims, &device);
    let mut gradients = (features.0.clone() * direction).sum().backward();
    let found = collect(&*network.parts, &mut gradients);
    let names = specs.into_iter().map(|spec| spec.name);
    (host(features.0), names.zip(found).collect())
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

#[test]
fn kernels_agree_with_burn_in_features_and_in_the_gradient_of_every_tensor() {
    let recommended = |width, side| EhpalNet {
        width,
        side,
        ..EhpalNet::from_json(&serde_json::json!({
            "modalities": (1..=4)
                .map(|slot| (slot.to_string(), Modality::Image { slot, channels: 1 }))
                .collect::<BTreeMap<_, _>>(),
            "tasks": {"task": {"kind": "labels", "n": 1}},
        }))
        .unwrap()
    };
    let reference = EhpalNet {
        mhcf_act: Activation::Gelu,
        score_scale: ScoreScale::One,
        guard_eps2: 0.0,
        s_param: SParam::Raw,
        ..recommended(8, 32)
    };
    for spec in [recommended(8, 32), recommended(16, 64), reference] {
        let (features, gradients) = run(&spec, Precision::Single);
        let (expected, exact) = run(&spec, Precision::Double);
        let error = length(features.iter().zip(&expected).map(|(a, b)| a - b));
        let scale = length(expected.iter().copied());
        // What `ehpal-net.md` section 12 allows a whole model in single precision.
        let tolerance = Precision::Single.gradient();
        assert!(error < tolerance * scale, "features: {error} of {scale}");
        let mean = length(exact.values().flatten().copied()) / (exact.len() as f64).sqrt();
        for (name, exact) in &exact {
            let error = length(gradients[name].iter().zip(exact).map(|(a, b)| a - b));
            let scale = length(exact.iter().copied());
            // Rounding sends a few values the other way through a ReLU or a maximum, and a gradient far below
            // the others carries their rounding; a wrong formula is off by the size of the gradient.
            assert!(
                error < 1e-3 * scale + 1e-6 * mean,
                "width {}, {name}: {error:.2e} of {scale:.2e}",
                spec.width
            );
        }
    }
}

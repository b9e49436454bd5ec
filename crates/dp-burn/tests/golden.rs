//! Every case of `CONSILIUM_GOLDEN/dp/layers.json`: squared norms per parameter and row, clipped sums, and sums
//! with automatic clipping, in f64 (relative 1e-10) and f32 (relative 1e-4).
//!
//! Cases of a kind that nothing here knows are printed by name.

mod common;

use std::io::Write as _;
use std::path::PathBuf;

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{DType, Device, Tensor};
use common::tensor;
use dp_burn::{Layers, Recorder, Taps, Units};
use dp_rs::gradients::UnitGradients;
use serde_json::Value;

/// A relative `CONSILIUM_GOLDEN` starts at the workspace, where `cargo test` is typed, not at this crate.
fn golden_file() -> Option<PathBuf> {
    let workspace = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let asked = std::env::var_os("CONSILIUM_GOLDEN");
    let root = asked.clone().unwrap_or("../shared/data/golden".into());
    let file = workspace.join(root).join("dp/layers.json");
    if file.is_file() {
        return Some(file);
    }
    assert!(asked.is_none(), "{} is not there", file.display());
    say(&format!(
        "skipped: {} is not there; set CONSILIUM_GOLDEN",
        file.display()
    ));
    None
}

/// Straight to the descriptor: the test harness keeps what passing tests print to itself.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Values in order, and the shape of a nested list.
fn array(value: &Value) -> (Vec<f64>, Vec<usize>) {
    match value.as_array() {
        None => (vec![value.as_f64().unwrap()], Vec::new()),
        Some(list) => {
            let parts: Vec<_> = list.iter().map(array).collect();
            let mut shape = vec![list.len()];
            shape.extend(&parts[0].1);
            (
                parts.into_iter().flat_map(|(values, _)| values).collect(),
                shape,
            )
        }
    }
}

fn shaped<const D: usize>(value: &Value, dtype: DType) -> Tensor<D> {
    let (values, shape) = array(value);
    tensor(values, shape.try_into().unwrap(), dtype)
}

fn parameter<const D: usize>(value: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(value.autodiff().require_grad())
}

fn pair(value: &Value) -> [usize; 2] {
    let (values, _) = array(value);
    [values[0] as usize, values[1] as usize]
}

#[derive(Module, Debug)]
struct Scale {
    factor: Param<Tensor<1>>,
}

/// The layers of the file; the sums come back in the order of these names.
enum Net {
    Linear(Linear),
    Conv(Conv2d),
    Transposed(ConvTranspose2d),
    LayerNorm(LayerNorm),
    Scale(Scale),
}

fn net(case: &Value, dtype: DType) -> Option<(Net, &'static [&'static str])> {
    let device = Device::flex().autodiff();
    let params = &case["params"];
    let (_, shape) = array(
        &params["w"]
            .as_array()
            .map_or(Value::from(0.0), |_| params["w"].clone()),
    );
    let bias = || {
        params
            .get("b")
            .map(|bias| parameter(shaped::<1>(bias, dtype)))
    };
    let description = case["description"].as_str()?;
    let weight_and_bias: &[&str] = if params.get("b").is_some() {
        &["w", "b"]
    } else {
        &["w"]
    };
    Some(if description.starts_with("linear") {
        let mut layer = LinearConfig::new(shape[1], shape[0]).init(&device);
        // The file stores [outputs, inputs].
        layer.weight = parameter(shaped::<2>(&params["w"], dtype).transpose());
        layer.bias = bias();
        (Net::Linear(layer), weight_and_bias)
    } else if description.starts_with("conv2d") {
        let groups = case["groups"].as_u64()? as usize;
        let [top, left] = pair(&case["padding"]);
        let mut layer = Conv2dConfig::new([shape[1] * groups, shape[0]], [shape[2], shape[3]])
            .with_groups(groups)
            .with_stride(pair(&case["stride"]))
            .with_dilation(pair(&case["dilation"]))
            .with_padding(PaddingConfig2d::Explicit(top, left, top, left))
            .init(&device);
        layer.weight = parameter(shaped(&params["w"], dtype));
        layer.bias = bias();
        (Net::Conv(layer), weight_and_bias)
    } else if description.starts_with("transposed conv2d") {
        let mut layer = ConvTranspose2dConfig::new([shape[0], shape[1]], [shape[2], shape[3]])
            .with_stride(pair(&case["stride"]))
            .with_padding(pair(&case["padding"]))
            .with_padding_out(pair(&case["output_padding"]))
            .with_dilation(pair(&case["dilation"]))
            .init(&device);
        layer.weight = parameter(shaped(&params["w"], dtype));
        layer.bias = bias();
        (Net::Transposed(layer), weight_and_bias)
    } else if description.starts_with("layer norm") {
        let (_, shape) = array(&params["g"]);
        let mut layer = LayerNormConfig::new(shape[0])
            .with_epsilon(case["eps"].as_f64()?)
            .init(&device);
        layer.gamma = parameter(shaped(&params["g"], dtype));
        layer.beta = bias();
        (Net::LayerNorm(layer), &["g", "b"])
    } else if description.starts_with("scalar") {
        let (values, _) = array(&params["s"]);
        let factor = parameter(tensor(values, [1], dtype));
        (Net::Scale(Scale { factor }), &["s"])
    } else {
        return None;
    })
}

/// The loss whose gradient at the output is `grad_output`, row by row.
fn against<const D: usize>(output: Tensor<D>, gradient: &Value) -> Tensor<1> {
    let dtype = output.dtype();
    let [rows, len] = [output.dims()[0], output.dims()[1..].iter().product()];
    let losses: Tensor<D> = output * shaped(gradient, dtype);
    losses.reshape([rows, len]).sum_dim(1).reshape([rows])
}

fn book(net: &Net, case: &Value, dtype: DType, recorder: Recorder) -> dp_burn::BookKeeping {
    let rows = case["input"].as_array().unwrap().len();
    let units = Units::per_row(rows).unwrap();
    let gradient = &case["grad_output"];
    let input = &case["input"];
    match net {
        Net::Linear(layer) => recorder.gradients(layer, &units, |layer, taps: &mut Taps<'_>| {
            against(taps.linear(layer, shaped::<3>(input, dtype)), gradient)
        }),
        Net::Conv(layer) => recorder.gradients(layer, &units, |layer, taps| {
            against(taps.conv2d(layer, shaped(input, dtype)), gradient)
        }),
        Net::Transposed(layer) => recorder.gradients(layer, &units, |layer, taps| {
            against(taps.conv_transpose2d(layer, shaped(input, dtype)), gradient)
        }),
        Net::LayerNorm(layer) => recorder.gradients(layer, &units, |layer, taps| {
            against(taps.layer_norm(layer, shaped::<3>(input, dtype)), gradient)
        }),
        Net::Scale(layer) => recorder.gradients(layer, &units, |layer, taps| {
            against(
                taps.scale(&layer.factor, shaped::<2>(input, dtype)),
                gradient,
            )
        }),
    }
    .unwrap()
}

/// The file's values of a sum in the order and layout of our parameters.
fn expected(net: &Net, names: &[&str], sums: &Value) -> Vec<f64> {
    let mut all = Vec::new();
    for name in names {
        let (values, shape) = array(&sums[*name]);
        match net {
            Net::Linear(_) if *name == "w" => {
                for input in 0..shape[1] {
                    all.extend((0..shape[0]).map(|output| values[output * shape[1] + input]));
                }
            }
            _ => all.extend(values),
        }
    }
    all
}

fn close(id: &str, what: &str, got: &[f64], expected: &[f64], relative: f64) {
    assert_eq!(got.len(), expected.len(), "{id}: {what}");
    let scale = common::norm(expected) / (expected.len() as f64).sqrt();
    for (got, expected) in got.iter().zip(expected) {
        let difference = (got - expected).abs();
        assert!(
            difference <= relative * expected.abs().max(scale),
            "{id}: {what}: {got} instead of {expected}"
        );
    }
}

#[test]
fn layers_agree_with_the_reference_values() {
    let Some(file) = golden_file() else { return };
    let file: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut checked = 0;
    for case in file["cases"].as_array().unwrap() {
        let id = case["id"].as_str().unwrap();
        for (dtype, relative) in [(DType::F64, 1e-10), (DType::F32, 1e-4)] {
            let Some((net, names)) = net(case, dtype) else {
                say(&format!("not covered yet: {id} ({})", case["description"]));
                break;
            };
            for recorder in [Recorder::new(), Recorder::new().with_generic_operations()] {
                let book = || book(&net, case, dtype, recorder);
                for (index, name) in names.iter().enumerate() {
                    let squares = &case["per_sample_sq_norm"][*name];
                    close(
                        id,
                        name,
                        &book().squared_norms_of(index),
                        &array(squares).0,
                        relative,
                    );
                }
                let norms: Vec<f64> = book().squared_norms().iter().map(|s| s.sqrt()).collect();
                let wanted = array(&case["per_sample_norm_all_params"]).0;
                close(id, "norm", &norms, &wanted, relative);
                let clip = case["clip_norm"].as_f64().unwrap();
                type Factor = fn(f64, f64) -> f64;
                let rules: [(&str, Factor); 2] = [
                    ("clipped_sum", |clip, norm| (clip / norm).min(1.0)),
                    ("auto_s_gamma_0.01_sum", |clip, norm| clip / (norm + 0.01)),
                ];
                for (sum, factor) in rules {
                    let factors: Vec<f64> = norms.iter().map(|&norm| factor(clip, norm)).collect();
                    let got = match dtype {
                        DType::F64 => book().weighted_sum_f64(&factors),
                        _ => book()
                            .weighted_sum(&factors)
                            .into_iter()
                            .map(f64::from)
                            .collect(),
                    };
                    close(id, sum, &got, &expected(&net, names, &case[sum]), relative);
                }
            }
            checked += 1;
        }
    }
    assert!(checked > 0, "no case was known");
}

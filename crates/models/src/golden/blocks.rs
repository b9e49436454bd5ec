use super::*;
use crate::kernel::arrange::Activation;
use crate::kernel::gates::Formulas;
use crate::net::blocks::{Emrc, LateFusion, MacFusion, Settings, Sir};
use crate::net::layers::{DenseConv, Norm, NormRule, Pointwise};
use crate::op::{Flow, Map, generic};
use crate::{EhpalNet, SParam, ScoreScale};
use burn::module::Module;
use std::path::PathBuf;

fn reference(norm: NormRule, activation: Activation) -> Settings {
    Settings {
        norm,
        activation,
        score_scale: ScoreScale::One,
        guard_eps2: 0.0,
        s_param: SParam::Raw,
    }
}

#[test]
fn golden_blocks_match_the_reference() {
    let Some(files) = files() else { return };
    for path in files
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "npz"))
    {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let file = Npz::read(path);
        let has = |prefix: &str| file.0.keys().any(|key| key.starts_with(prefix));
        let kind = if has("w_emrc.") {
            emrc(&file);
            "EMRC"
        } else if has("w_sir.") {
            sir(&file);
            "SIR"
        } else if has("guarded_out1") {
            zero_guard(&file, &files);
            "MACFusion with guards"
        } else if has("w_psi_real") {
            macfusion(&file);
            "MACFusion"
        } else if has("shuffle_in") {
            primitives(&file);
            "primitives"
        } else if file.has("conv_out") && file.has("pool_out") {
            stem(&file);
            "stem"
        } else if file.has("scale1") && file.has("concat_out") {
            late_fusion(&file);
            "LF"
        } else if file.has("in_big") || file.has("in_small") {
            s_constraint(&file);
            "projection of S"
        } else if file.has("feat") && file.has("logits1") {
            full::heads(&file);
            "heads and losses"
        } else if file.0.keys().any(|key| key.ends_with("_risk")) {
            full::cox_cases(&file);
            "Cox"
        } else if file.has("gap") {
            "arrays of a full model, tested with it"
        } else if file
            .0
            .keys()
            .all(|key| key.starts_with(['x', 'y']) && key[1..].parse::<usize>().is_ok())
        {
            dct(&file);
            "DCT"
        } else {
            say(&format!("not covered: {name}"));
            continue;
        };
        say(&format!("{name}: {kind}"));
    }
}

/// A block with two outputs, as one pass.
fn run_pair(
    x: [&Tensor<4>; 2],
    generic: bool,
    forward: impl FnOnce(&mut Flow, [&Map; 2]) -> [Map; 2],
) -> [Tensor<4>; 2] {
    let mut flow = if generic {
        Flow::generic()
    } else {
        Flow::like(x[0])
    };
    let x = x.map(|x| flow.input(x));
    let y = forward(&mut flow, x.each_ref());
    let channels = y[0].dims()[0];
    let both = flow.concat(&[&y[0], &y[1]]);
    let both = flow.finish(&both);
    [
        both.clone().slice(burn::tensor::s![0..channels]),
        both.slice(burn::tensor::s![channels..2 * channels]),
    ]
}

/// A layer by itself, as one pass.
fn run_one(
    x: &Tensor<4>,
    generic: bool,
    forward: impl FnOnce(&mut Flow, &Map) -> Map,
) -> Tensor<4> {
    let mut flow = if generic {
        Flow::generic()
    } else {
        Flow::like(x)
    };
    let x = flow.input(x);
    let y = forward(&mut flow, &x);
    flow.finish(&y)
}

/// Forward, all gradients and per-sample gradient norms of a block with two streams.
fn two_streams<M: Module>(
    file: &Npz,
    precision: Precision,
    create: impl Fn(&mut Init<'_>) -> M,
    forward: impl Fn(&M, &mut Flow, [&Map; 2]) -> [Map; 2],
    generic: bool,
) {
    let device = Device::flex().autodiff();
    let weight = |spec: &TensorSpec| converted(file.get(&format!("w_{}", spec.name)), &spec.shape);
    let loaded = Loaded::new(precision, &device, create, weight);
    let run = |inputs: [&Npy; 2], cots: [&Npy; 2]| {
        let x = inputs.map(|input| precision.map(input, &device).require_grad());
        let y = run_pair(x.each_ref(), generic, |flow, x| {
            forward(&loaded.module, flow, x)
        });
        let cots = cots.map(|cot| precision.map(cot, &device));
        let loss = (y[0].clone() * cots[0].clone()).sum() + (y[1].clone() * cots[1].clone()).sum();
        let value = host(loss.clone())[0];
        (x, y, value, loss.backward())
    };
    let arrays = |name: &str| [file.get(&format!("{name}1")), file.get(&format!("{name}2"))];
    let (x, y, value, mut gradients) = run(arrays("in"), arrays("cot"));
    for (i, y) in y.into_iter().enumerate() {
        let name = format!("out{}", i + 1);
        close(
            &format!("{precision:?} {name}"),
            &nhwc(y),
            &file.get(&name).values,
            precision.block(),
        );
    }
    let expected = f64::from(file.get("loss").scalar());
    let size: f64 = file
        .get("cot1")
        .values
        .iter()
        .map(|v| f64::from(v.abs()))
        .sum();
    assert!(
        (value - expected).abs() <= precision.gradient() * size.max(expected.abs()),
        "{value} {expected}"
    );
    for (i, x) in x.iter().enumerate() {
        let name = format!("g_in{}", i + 1);
        let gradient = nhwc(x.grad_remove(&mut gradients).unwrap());
        close(
            &format!("{precision:?} {name}"),
            &gradient,
            &file.get(&name).values,
            precision.gradient(),
        );
    }
    let found = loaded.gradients(&mut gradients);
    let mut compared = 0;
    for (spec, gradient) in loaded.specs.iter().zip(&found) {
        let name = format!("g_{}", spec.name);
        if file.has(&name) {
            let expected = converted(file.get(&name), &spec.shape);
            close(
                &format!("{precision:?} {name}"),
                gradient,
                &expected,
                precision.gradient(),
            );
            compared += 1;
        }
    }
    let stored = file
        .0
        .keys()
        .filter(|key| key.starts_with("g_") && !key.starts_with("g_in"))
        .count();
    assert_eq!(compared, stored, "every stored gradient is compared");
    if !file.has("persample_grad_sqnorm") {
        return;
    }
    let expected = &file.get("persample_grad_sqnorm").values;
    let norms: Vec<f64> = (0..expected.len())
        .map(|b| {
            let one = |name: &str| arrays(name).map(|array| array.record(b));
            let (inputs, cots) = (one("in"), one("cot"));
            let (_, _, _, mut gradients) = run(inputs.each_ref(), cots.each_ref());
            loaded
                .gradients(&mut gradients)
                .iter()
                .flatten()
                .map(|g| g * g)
                .sum()
        })
        .collect();
    close(
        &format!("{precision:?} per-sample norms"),
        &norms,
        expected,
        precision.gradient(),
    );
}

fn emrc(file: &Npz) {
    let kernel = |stream: &str| {
        file.get(&format!("w_emrc.{stream}.mhcf1.gpc.kernel"))
            .dims::<4>()
    };
    let (a, b) = (kernel("a"), kernel("b"));
    let (c, f) = ([8 * a[2], 8 * b[2]], a[3]);
    let stride = file.get("in1").shape[1].div_ceil(file.get("out1").shape[1]);
    let norm = if file.has("w_emrc.a.mid_norm.moving_mean") {
        NormRule::Batch
    } else {
        NormRule::Fixed(8)
    };
    let create = |norm, activation| {
        move |init: &mut Init<'_>| {
            init.at("emrc", |init| {
                Emrc::new(init, c, f, stride, reference(norm, activation))
            })
        }
    };
    for precision in Precision::ALL {
        two_streams(
            file,
            precision,
            create(norm, Activation::Relu),
            Emrc::forward,
            norm == NormRule::Batch,
        );
        let device = Device::flex();
        let weight =
            |spec: &TensorSpec| converted(file.get(&format!("w_{}", spec.name)), &spec.shape);
        let x = ["in1", "in2"].map(|name| precision.map(file.get(name), &device));
        for (prefix, norm, activation) in [
            ("gelu_", norm, Activation::Gelu),
            ("train_", NormRule::BatchStatistics, Activation::Relu),
        ] {
            if !file.has(&format!("{prefix}out1")) {
                continue;
            }
            let loaded = Loaded::new(precision, &device, create(norm, activation), weight);
            let generic = norm != NormRule::Fixed(8);
            let outputs = run_pair(x.each_ref(), generic, |flow, x| {
                loaded.module.forward(flow, x)
            });
            for (i, y) in outputs.into_iter().enumerate() {
                let name = format!("{prefix}out{}", i + 1);
                close(
                    &format!("{precision:?} {name}"),
                    &nhwc(y),
                    &file.get(&name).values,
                    precision.block(),
                );
            }
        }
    }
}

fn sir(file: &Npz) {
    let outputs: Vec<usize> = (1..)
        .map_while(|unit| file.0.get(&format!("w_sir.a.unit{unit}.mix1.bias")))
        .map(|bias| bias.values.len())
        .collect();
    let c = file.get("in1").shape[3];
    let shrink = file.get("in1").shape[1].div_ceil(file.get("out1").shape[1]);
    let stride = if shrink == 1 { 1 } else { 2 };
    for precision in Precision::ALL {
        let create =
            |init: &mut Init<'_>| init.at("sir", |init| Sir::new(init, c, &outputs, stride));
        two_streams(file, precision, create, Sir::forward, false);
    }
}

fn macfusion(file: &Npz) {
    let f = file.get("w_S").values.len();
    let set = reference(NormRule::Group, Activation::Relu);
    let formulas = Formulas {
        score_scale: 1.0,
        guard_eps2: 0.0,
        sigmoid_s: false,
    };
    for precision in Precision::ALL {
        two_streams(
            file,
            precision,
            |init| MacFusion::new(init, f, set),
            |unit, _, x| {
                let x = x.map(|x| match x {
                    Map::Tensor(tensor) => tensor.clone(),
                    Map::Tape(..) => unreachable!("a generic pass"),
                });
                generic::unit(x.each_ref(), &unit.tensors(), formulas).map(Map::Tensor)
            },
            true,
        );
    }
    gates_of_one_unit(file, f, formulas);
}

/// The kernel's single unit against the file's outputs, gradients and intermediate maps.
fn gates_of_one_unit(file: &Npz, f: usize, formulas: Formulas) {
    use crate::kernel::{arrange, gates};
    let names = [
        "psi_real",
        "psi_imag",
        "S",
        "curvature_log",
        "lorentz_alpha",
        "hyper_beta",
        "hyper_gate",
        "hyper_gate1",
        "cross_gate",
        "output_gate",
    ];
    let slices: Vec<&[f32]> = names
        .iter()
        .map(|name| file.get(&format!("w_{name}")).values.as_slice())
        .collect();
    let unit = gates::Unit::from_slices(&slices);
    let [batch, height, width, _] = file.get("in1").dims();
    let pixels = height * width;
    let maps = |name: &str| [1, 2].map(|i| file.get(&format!("{name}{i}")).permuted(&[3, 1, 2, 0]));
    let (x, cot) = (maps("in"), maps("cot"));
    let pooled = x.each_ref().map(|x| {
        let mut y = vec![0.0; f * batch];
        arrange::pixel_sum(x, None, pixels, batch, 1.0 / pixels as f32, &mut y);
        y
    });
    let dct = gates::dct_matrix(f);
    let saved = gates::forward([&pooled[0], &pooled[1]], unit, &dct, batch, formulas);
    let double = |values: &[f32]| -> Vec<f64> { values.iter().map(|&v| f64::from(v)).collect() };
    let dgates = [0, 1].map(|i| arrange::gate_gradient(&x[i], &cot[i], pixels, batch));
    let (da, gradients) = gates::backward(
        &saved,
        unit,
        &dct,
        batch,
        formulas,
        [&dgates[0], &dgates[1]],
    );
    for i in 0..2 {
        let out = file.get(&format!("out{}", i + 1)).permuted(&[3, 1, 2, 0]);
        close(
            "kernel out",
            &double(&arrange::apply_gate(&x[i], &saved.gates[i], pixels, batch)),
            &out,
            1e-5,
        );
        let direct = arrange::apply_gate(&cot[i], &saved.gates[i], pixels, batch);
        let through = arrange::pixel_spread(&da[i], None, pixels, batch, 1.0 / pixels as f32);
        let gradient: Vec<f64> = direct
            .iter()
            .zip(through)
            .map(|(a, b)| f64::from(a + b))
            .collect();
        let expected = file.get(&format!("g_in{}", i + 1)).permuted(&[3, 1, 2, 0]);
        close("kernel input gradient", &gradient, &expected, 1e-4);
        let [d, re, im, a, q] = saved.maps(i);
        for (name, values) in [
            ("d", d),
            ("psi_re", re),
            ("psi_im", im),
            ("A", a),
            ("qbias", q),
        ] {
            let name = format!("mid_{name}{}", i + 1);
            close(
                &name,
                &double(values),
                &file.get(&name).permuted(&[1, 0]),
                1e-5,
            );
        }
        let [r, lorentz, poincare, h, _] = saved.scores(i);
        for (name, values) in [
            ("r", r),
            ("lorentz", lorentz),
            ("poincare", poincare),
            ("h", h),
        ] {
            let name = format!("mid_{name}{}", i + 1);
            close(&name, values, &file.get(&name).values, 1e-5);
        }
        let used = file.get(&format!("mid_time{}", i + 1));
        close("mid_time", saved.scores(1 - i)[4], &used.values, 1e-5);
    }
    for (index, name) in names.iter().enumerate() {
        let name = format!("g_{name}");
        close(
            &format!("kernel {name}"),
            &double(&gradients.total(index)),
            &file.get(&name).values,
            1e-4,
        );
    }
}

/// The guarded result for a stream that is zero, with the weights of the plain case of the same inputs.
fn zero_guard(file: &Npz, files: &[PathBuf]) {
    let weights = files
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "npz"))
        .map(|path| Npz::read(path))
        .find(|plain| {
            plain.has("w_psi_real")
                && plain
                    .0
                    .get("in1")
                    .is_some_and(|x| x.values == file.get("in1").values)
        })
        .expect("the case without guards has the weights");
    let f = weights.get("w_S").values.len();
    let guard_eps2 = file.get("guard_eps2").scalar();
    let device = Device::flex();
    for precision in Precision::ALL {
        let set = reference(NormRule::Group, Activation::Relu);
        let weight = |spec: &TensorSpec| weights.get(&format!("w_{}", spec.name)).values.clone();
        let loaded = Loaded::new(
            precision,
            &device,
            |init| MacFusion::new(init, f, set),
            weight,
        );
        let x = ["in1", "in2"].map(|name| precision.map(file.get(name), &device));
        for guard in [0.0, guard_eps2] {
            let formulas = Formulas {
                score_scale: 1.0,
                guard_eps2: guard,
                sigmoid_s: false,
            };
            let outputs = generic::unit(x.each_ref(), &loaded.module.tensors(), formulas);
            for (i, y) in outputs.into_iter().enumerate() {
                if guard > 0.0 {
                    let name = format!("guarded_out{}", i + 1);
                    close(&name, &nhwc(y), &file.get(&name).values, precision.block());
                    continue;
                }
                // Without guards the same records are not a number as in the reference.
                let flags = file.get("ref_out_is_nan");
                let batch = flags.shape[1];
                for (b, record) in nhwc(y)
                    .chunks_exact(file.get("in1").values.len() / batch)
                    .enumerate()
                {
                    let nan = record.iter().any(|v| v.is_nan());
                    assert_eq!(
                        nan,
                        flags.values[i * batch + b] != 0.0,
                        "output {i} record {b}"
                    );
                }
            }
        }
    }
}

fn primitives(file: &Npz) {
    let device = Device::flex();
    for precision in Precision::ALL {
        for case in file.0.keys().filter_map(|key| key.strip_prefix("x_")) {
            let number = |mark: char| -> Option<usize> {
                case.split('_')
                    .find_map(|part| part.strip_prefix(mark))
                    .and_then(|n| n.parse().ok())
            };
            let x = precision.map(file.get(&format!("x_{case}")), &device);
            let (w, expected) = (
                file.get(&format!("w_{case}")),
                file.get(&format!("y_{case}")),
            );
            let y = if let (Some(k), Some(dilation)) = (number('k'), number('d')) {
                let shape = [w.shape[2], k, k];
                let w = Param::from_tensor(precision.tensor(&converted(w, &shape), shape, &device));
                let stride = number('s').unwrap();
                run_one(&x, false, |flow, x| {
                    flow.depthwise(x, &w, None, stride, dilation)
                })
            } else {
                let shape = [w.shape[3], w.shape[2]];
                let groups = number('g').unwrap();
                let w = Param::from_tensor(precision.tensor(&converted(w, &shape), shape, &device));
                run_one(&x, false, |flow, x| {
                    let x = if number('s') == Some(2) {
                        flow.subsample(x)
                    } else {
                        x.clone()
                    };
                    flow.pointwise(&x, &w, None, groups)
                })
            };
            close(
                &format!("{precision:?} {case}"),
                &nhwc(y),
                &expected.values,
                precision.block(),
            );
        }
        let channels = |name: &str| {
            let array = file.get(name);
            let n = array.values.len();
            (precision.tensor(&array.values, [n, 1, 1, 1], &device), n)
        };
        let (x, n) = channels("shuffle_in");
        let third = |i: i32| {
            x.clone()
                .slice(burn::tensor::s![i * n as i32 / 3..(i + 1) * n as i32 / 3])
        };
        let mut flow = Flow::like(&x);
        let thirds = [0, 1, 2].map(|i| flow.input(&third(i)));
        let y = flow.shuffle_concat(&thirds.each_ref());
        let y = flow.finish(&y);
        close("shuffle", &host(y), &file.get("shuffle_out").values, 0.0);
        let (x, _) = channels("gelu_x");
        let zeros = x.zeros_like();
        let y = run_one(&x, false, |flow, x| {
            let zeros = flow.input(&zeros);
            flow.add_activate(x, &zeros, Activation::Gelu)
        });
        close(
            "gelu",
            &host(y),
            &file.get("gelu_y").values,
            precision.block(),
        );
    }
}

fn dct(file: &Npz) {
    for (name, x) in file.0.iter().filter(|(name, _)| name.starts_with('x')) {
        let [rows, f] = x.dims();
        let matrix = crate::kernel::gates::dct_matrix(f);
        let y: Vec<f64> = (0..rows * f)
            .map(|at| {
                let (row, k) = (at / f, at % f);
                (0..f)
                    .map(|n| f64::from(matrix[k * f + n]) * f64::from(x.values[row * f + n]))
                    .sum()
            })
            .collect();
        close(name, &y, &file.get(&name.replace('x', "y")).values, 1e-6);
    }
}

fn stem(file: &Npz) {
    let [_, _, channels, width] = file.get("kernel").dims();
    let device = Device::flex();
    for precision in Precision::ALL {
        let x = precision.map(file.get("x"), &device);
        let create = |init: &mut Init<'_>| DenseConv::new(init, channels, width, [7, 7], [2, 2]);
        let weight = |spec: &TensorSpec| converted(file.get(&spec.name), &spec.shape);
        let conv = Loaded::new(precision, &device, create, weight).module;
        let conv = run_one(&x, false, |flow, x| conv.forward(flow, x));
        let norm = |rule| {
            let create = |init: &mut Init<'_>| Norm::new(init, width, rule);
            Loaded::new(precision, &device, create, weight).module
        };
        let (batch, group) = (norm(NormRule::Batch), norm(NormRule::Fixed(8)));
        for (name, y) in [
            ("conv_out", conv.clone()),
            (
                "bn_out",
                run_one(&conv, true, |flow, x| batch.forward(flow, x)),
            ),
            (
                "gn8_out",
                run_one(&conv, false, |flow, x| group.forward(flow, x)),
            ),
            ("pool_out", {
                let y = run_one(&conv, true, |flow, x| batch.forward_relu(flow, x));
                run_one(&y, false, |flow, x| flow.max_pool(x))
            }),
        ] {
            close(
                &format!("{precision:?} {name}"),
                &nhwc(y),
                &file.get(name).values,
                precision.block(),
            );
        }
    }
}

fn late_fusion(file: &Npz) {
    #[derive(Module, Debug)]
    struct Both {
        lf: LateFusion,
        conv: Pointwise,
    }
    let f = file.get("bias").values.len();
    let device = Device::flex().autodiff();
    for precision in Precision::ALL {
        let create = |init: &mut Init<'_>| Both {
            lf: LateFusion::new(init),
            conv: Pointwise::new(init, 2 * f, f, 8, true),
        };
        let stored = |name: &str| name.replace("global_", "");
        let weight = |spec: &TensorSpec| converted(file.get(&stored(&spec.name)), &spec.shape);
        let loaded = Loaded::new(precision, &device, create, weight);
        let x = ["in1", "in2"].map(|name| precision.map(file.get(name), &device).require_grad());
        let pass = |with_conv: bool| {
            let mut flow = Flow::like(&x[0]);
            let x = x.each_ref().map(|x| flow.input(x));
            let merged = loaded.module.lf.forward(&mut flow, x.each_ref());
            let y = if with_conv {
                loaded.module.conv.forward(&mut flow, &merged)
            } else {
                merged
            };
            flow.finish(&y)
        };
        let (merged, y) = (pass(false), pass(true));
        close(
            "concat_out",
            &nhwc(merged),
            &file.get("concat_out").values,
            precision.block(),
        );
        close(
            "conv_out",
            &nhwc(y.clone()),
            &file.get("conv_out").values,
            precision.block(),
        );
        let mut gradients = (y * precision.map(file.get("cot"), &device))
            .sum()
            .backward();
        for (i, x) in x.iter().enumerate() {
            let name = format!("g_in{}", i + 1);
            let gradient = nhwc(x.grad_remove(&mut gradients).unwrap());
            close(
                &name,
                &gradient,
                &file.get(&name).values,
                precision.gradient(),
            );
        }
        for (spec, gradient) in loaded.specs.iter().zip(loaded.gradients(&mut gradients)) {
            let name = format!("g_{}", stored(&spec.name));
            let expected = converted(file.get(&name), &spec.shape);
            close(
                &format!("{precision:?} {name}"),
                &gradient,
                &expected,
                precision.gradient(),
            );
        }
    }
}

fn s_constraint(file: &Npz) {
    for (name, input) in file.0.iter().filter(|(name, _)| name.starts_with("in_")) {
        let mut s = input.values.clone();
        crate::train::project_s(&mut s);
        let got: Vec<f64> = s.iter().map(|&v| f64::from(v)).collect();
        close(
            name,
            &got,
            &file.get(&name.replace("in_", "out_")).values,
            1e-6,
        );
    }
}

#[test]
fn the_default_specification_uses_the_recommended_settings() {
    let spec: EhpalNet = serde_json::from_str(r#"{"modalities": {}, "tasks": {}}"#).unwrap();
    let set = Settings::of(&spec);
    assert_eq!(
        (set.norm, set.activation),
        (NormRule::Group, Activation::Relu)
    );
    assert_eq!(
        (set.score_scale, set.s_param),
        (ScoreScale::InverseUnits, SParam::Sigmoid)
    );
    assert_eq!(
        (spec.guard_eps2, spec.dropout, spec.width, spec.side),
        (1e-6, 0.25, 8, 32)
    );
}

use super::*;
use std::collections::BTreeMap;

use consilium_core::TaskKey;

use crate::kernel::arrange::Activation;
use crate::loss::{Targets, Ties, activate, cox, loss};
use crate::net::blocks::Settings;
use crate::net::layers::NormRule;
use crate::{EhpalNet, Modality, NormKind, SParam, ScoreScale, SiteNetwork, Task};

fn key(text: &str) -> TaskKey {
    text.parse().unwrap()
}

/// Classes when the recorded outputs are the softmax of the logits, labels when their sigmoid, else Cox.
fn task_of(logits: &[f32], outputs: &[f32]) -> Task {
    let n = logits.len();
    let near = |task: &Task| {
        let got = activate(task, logits, 1);
        got[0]
            .iter()
            .zip(outputs)
            .all(|(a, b)| (a - b).abs() < 1e-4)
    };
    [Task::Classes { n: n.max(2) }, Task::Labels { n }]
        .into_iter()
        .find(|task| task.outputs() == n && near(task))
        .unwrap_or(Task::Cox)
}

fn one_label(task: &Task, labels: &[usize]) -> Targets {
    match *task {
        Task::Labels { n } => Targets::Labels(
            labels
                .iter()
                .flat_map(|&label| (0..n).map(move |l| if l == label { 1.0 } else { 0.0 }))
                .collect(),
        ),
        _ => Targets::Classes(labels.to_vec()),
    }
}

pub(super) fn heads(file: &Npz) {
    let device = Device::flex();
    let feat = file.get("feat");
    let [batch, features] = feat.dims();
    for precision in Precision::ALL {
        let x = precision.tensor(&feat.permuted(&[1, 0]), [features, batch], &device);
        let mut total = 0.0;
        let mut count = 0;
        for head in (1..).take_while(|head| file.has(&format!("w{head}"))) {
            let array = |name: &str| file.get(&format!("{name}{head}"));
            let (w, logits, labels) = (array("w"), array("logits"), array("label"));
            let outputs = w.shape[1];
            let kernel = precision.tensor(&w.values, [features, outputs], &device);
            let bias = precision.tensor(&array("b").values, [outputs, 1], &device);
            let z = kernel.transpose().matmul(x.clone()) + bias;
            close(
                &format!("logits{head}"),
                &host(z.clone().transpose()),
                &logits.values,
                precision.block(),
            );
            let task = task_of(&logits.values[..outputs], &array("prob").values[..outputs]);
            let single: Vec<f32> = host(z.clone()).iter().map(|&v| v as f32).collect();
            let got: Vec<f64> = activate(&task, &single, batch)
                .into_iter()
                .flatten()
                .map(f64::from)
                .collect();
            close(
                &format!("prob{head}"),
                &got,
                &array("prob").values,
                Precision::Single.block(),
            );
            let labels: Vec<usize> = labels.values.iter().map(|&v| v as usize).collect();
            let per_sample: Vec<f64> = (0..batch)
                .map(|b| {
                    let z = z.clone().slice(burn::tensor::s![.., b..b + 1]);
                    let targets = one_label(&task, &labels[b..b + 1]);
                    let (sum, weight) = loss(&key("t"), &task, &z, &targets, None).unwrap();
                    host(sum)[0] / weight
                })
                .collect();
            let name = format!("per_sample_loss{head}");
            close(
                &name,
                &per_sample,
                &array("per_sample_loss").values,
                precision.block(),
            );
            let targets = one_label(&task, &labels);
            let (sum, weight) = loss(&key("t"), &task, &z, &targets, None).unwrap();
            let mean = host(sum)[0] / weight;
            close(
                &format!("mean_loss{head}"),
                &[mean],
                &array("mean_loss").values,
                precision.block(),
            );
            total += mean;
            count += 1;
        }
        assert!(count > 0);
        close(
            "total_loss_025",
            &[0.25 * total],
            &file.get("total_loss_025").values,
            precision.block(),
        );
    }
    if file.has("corner_prob") {
        say("not covered: corner_* (losses of exact 0/1 probabilities; ours start from logits)");
    }
}

pub(super) fn cox_cases(file: &Npz) {
    let device = Device::flex().autodiff();
    let cases: Vec<&str> = file
        .0
        .keys()
        .filter_map(|key| key.strip_suffix("_risk"))
        .collect();
    for precision in Precision::ALL {
        for case in &cases {
            let array = |name: &str| file.get(&format!("{case}_{name}"));
            let (time, risk) = (&array("time").values, &array("risk").values);
            let event: Vec<bool> = array("event").values.iter().map(|&e| e != 0.0).collect();
            let n = time.len();
            let eta = precision.tensor(risk, [1, n], &device).require_grad();
            let value = reference_cox(&eta, time, &event);
            let expected = array("loss");
            // The terms of the sum have the size of the risks.
            let floor = risk
                .iter()
                .fold(expected.scalar().abs(), |top, r| top.max(r.abs().min(10.0)));
            let got = host(value.clone())[0];
            assert!(
                (got - f64::from(expected.scalar())).abs() <= precision.block() * f64::from(floor),
                "{case}: {got}"
            );
            let gradient = eta
                .grad(&value.backward())
                .map_or_else(|| vec![0.0; n], host);
            let stored = &array("grad").values;
            // Differences of numbers of size 1 that cancel: only their absolute error means something.
            if stored.iter().all(|&g| g.abs() < 1e-6) {
                let worst = gradient.iter().fold(0.0_f64, |worst, g| worst.max(g.abs()));
                assert!(worst <= precision.gradient(), "{case}: {gradient:?}");
            } else {
                close(
                    &format!("{precision:?} {case} gradient"),
                    &gradient,
                    stored,
                    precision.gradient(),
                );
            }
            for (name, ties) in [("breslow", Ties::Breslow), ("efron", Ties::Efron)] {
                if let Some(expected) = file.0.get(&format!("{case}_{name}")) {
                    let (sum, events) = cox(&eta, time, &event, &vec![true; n], ties);
                    let got = host(sum)[0] / events;
                    close(
                        &format!("{case} {name}"),
                        &[got],
                        &expected.values,
                        precision.block(),
                    );
                }
            }
            // Without ties and away from the clip, the order-independent loss is the reference's.
            if case.starts_with("noties") {
                let (sum, events) = cox(&eta, time, &event, &vec![true; n], Ties::Breslow);
                close(
                    case,
                    &[host(sum)[0] / events],
                    &expected.values,
                    precision.block(),
                );
            }
        }
    }
}

/// The reference's loss (section 4): clipped risks, order of the batch among equal times.
fn reference_cox(eta: &Tensor<2>, time: &[f32], event: &[bool]) -> Tensor<1> {
    let n = time.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| time[b].total_cmp(&time[a]));
    let mut inside = vec![0.0_f32; n * n];
    for (position, &i) in order.iter().enumerate() {
        for &j in &order[..=position] {
            inside[i * n + j] = 1.0;
        }
    }
    let constant = |values: Vec<f32>, shape: [usize; 2]| {
        Tensor::<2>::from_data(TensorData::new(values, shape), (&eta.device(), eta.dtype()))
    };
    let p = eta.clone().clamp(-10.0, 10.0);
    let sums = constant(inside, [n, n])
        .matmul(p.clone().exp().transpose())
        .reshape([1, n]);
    let events: Vec<f32> = event.iter().map(|&e| if e { 1.0 } else { 0.0 }).collect();
    let count: f32 = events.iter().sum();
    ((p - (sums + 1e-8).log()) * constant(events, [1, n]))
        .sum()
        .neg()
        / (1e-8 + count)
}

#[test]
fn golden_full_models_match_the_reference() {
    let Some(files) = files() else { return };
    for path in files
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
    {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let value: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        if value.get("stages").is_some() && value.get("parameters").is_some() {
            say(&format!("{name}: full model"));
            full(&value, &files);
        } else {
            say(&format!(
                "not covered: {name} (not a model: concordance is tested in consilium-evaluation)"
            ));
        }
    }
}

fn floats(value: &serde_json::Value) -> Vec<f32> {
    match value {
        serde_json::Value::Array(values) => values.iter().flat_map(floats).collect(),
        other => vec![other.as_f64().unwrap() as f32],
    }
}

/// The values of a named tensor by the recipe of the golden README.
fn recipe(base_seed: u64, name: &str, len: usize, offset: f64, scale: f64) -> Vec<f32> {
    const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
    let fnv = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let seed = base_seed.wrapping_mul(STEP).wrapping_add(fnv);
    (0..len as u64)
        .map(|i| {
            let mut z = seed.wrapping_add((i + 1).wrapping_mul(STEP));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            let u = (z >> 40) as f64 / f64::from(1 << 23) - 1.0;
            (offset + scale * u) as f32
        })
        .collect()
}

#[test]
fn golden_recipe_gives_the_numbers_of_the_readme() {
    let u = recipe(606, "input1", 3, 0.0, 1.0);
    assert_eq!(u, [0.595_243_2, 0.942_268_7, 0.864_617_47]);
    assert_eq!(
        recipe(606, "stem1.conv.kernel", 1, 0.0, 1.0),
        [-0.879_961_13]
    );
}

fn full(case: &serde_json::Value, files: &[PathBuf]) {
    let base_seed = case["base_seed"].as_u64().unwrap();
    let mut weights = BTreeMap::<String, Npy>::new();
    let mut trainable = 0;
    for parameter in case["parameters"].as_array().unwrap() {
        let name = parameter["name"].as_str().unwrap();
        let shape: Vec<usize> = floats(&parameter["shape"])
            .iter()
            .map(|&n| n as usize)
            .collect();
        let len = shape.iter().product();
        let number = |key: &str| parameter[key].as_f64().unwrap();
        let values = recipe(base_seed, name, len, number("offset"), number("scale"));
        let dead = name.contains(".pcmfa.") && name.contains("global_scale");
        if !dead && !name.contains(".moving_") {
            trainable += len;
        }
        weights.insert(name.to_owned(), Npy { shape, values });
    }
    let stages = case["stages"].as_array().unwrap();
    let first = stages
        .iter()
        .find(|stage| stage["name"] == "stem1.norm")
        .unwrap();
    let side = 2 * floats(&first["shape"])[1] as usize;
    let width = weights["stem1.conv.bias"].values.len();
    let channels = weights["stem1.conv.kernel"].shape[2];
    let logits: Vec<Vec<f32>> = case["logits"]
        .as_array()
        .unwrap()
        .iter()
        .map(floats)
        .collect();
    let outputs: Vec<Vec<f32>> = case["outputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(floats)
        .collect();
    let heads = (1..)
        .take_while(|h| weights.contains_key(&format!("head{h}.bias")))
        .count();
    // The JSON may list fewer heads than the model has; the arrays file then has the others.
    let batch_norm = weights.contains_key("stem1.norm.moving_mean");
    let arrays = files
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "npz"))
        .map(|path| Npz::read(path))
        .find(|npz| {
            npz.has("gap")
                && npz
                    .get("logits1")
                    .values
                    .iter()
                    .zip(&logits[0])
                    .all(|(a, b)| (a - b).abs() < 1e-5)
        })
        .expect("the arrays of the model");
    let tasks: Vec<Task> = (0..heads)
        .map(|h| match (logits.get(h), outputs.get(h)) {
            (Some(logits), Some(outputs)) => task_of(logits, outputs),
            _ => task_of(
                &arrays.get(&format!("logits{}", h + 1)).values,
                &arrays.get(&format!("prob{}", h + 1)).values,
            ),
        })
        .collect();
    let v2 = tasks.contains(&Task::Cox);
    let groups: usize = case["norm"]
        .as_str()
        .and_then(|text| text.split_once(" groups"))
        .and_then(|(before, _)| before.rsplit(' ').next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(8);
    let settings = Settings {
        norm: if batch_norm {
            NormRule::Batch
        } else {
            NormRule::Fixed(groups)
        },
        activation: if v2 {
            Activation::Gelu
        } else {
            Activation::Relu
        },
        score_scale: ScoreScale::One,
        guard_eps2: 0.0,
        s_param: SParam::Raw,
    };
    let spec = EhpalNet {
        width,
        side,
        norm: if batch_norm {
            NormKind::Batch
        } else {
            NormKind::Group
        },
        mhcf_act: settings.activation,
        score_scale: settings.score_scale,
        guard_eps2: 0.0,
        s_param: settings.s_param,
        dropout: 0.0,
        modalities: (1..=4)
            .map(|m| {
                (
                    format!("{m}").parse().unwrap(),
                    Modality::Image { slot: m, channels },
                )
            })
            .collect(),
        tasks: tasks
            .iter()
            .enumerate()
            .map(|(h, task)| (key(&format!("{}", h + 1)), task.clone()))
            .collect(),
    };
    // stem.1.conv.kernel here is stem1.conv.kernel there.
    let stored = |name: &str| {
        name.replacen("stem.", "stem", 1)
            .replacen("head.", "head", 1)
    };
    let weight = |spec: &TensorSpec| match weights.get(&stored(&spec.name)) {
        Some(array) => converted(array, &spec.shape),
        // Ours only: vectors of single-modality training.
        None => vec![0.0; spec.len()],
    };
    for precision in Precision::ALL {
        let device = Device::flex().autodiff();
        let mut network = SiteNetwork::with_settings(&spec, settings, &device);
        let specs = network.manifest().tensors.clone();
        let ours: usize = specs
            .iter()
            .filter(|spec| {
                weights.contains_key(&stored(&spec.name)) && !spec.name.contains(".moving_")
            })
            .map(TensorSpec::len)
            .sum();
        assert_eq!(ours, trainable, "trainable values without the dead scalars");
        let missing: Vec<&String> = weights
            .keys()
            .filter(|name| !specs.iter().any(|spec| &stored(&spec.name) == *name))
            .filter(|name| !(name.contains(".pcmfa.") && name.contains("global_scale")))
            .collect();
        assert!(
            missing.is_empty(),
            "tensors that we do not have: {missing:?}"
        );
        *network.parts = fill(*network.parts.clone(), &specs, precision, &device, weight);
        let inputs = [1, 2, 3, 4].map(|m| {
            let shape = vec![1, side, side, channels];
            let len = shape.iter().product();
            let values = recipe(base_seed, &format!("input{m}"), len, 0.5, 0.5);
            precision.map(&Npy { shape, values }, &device)
        });
        let (features, maps) = network.features_of_four(&inputs, true);
        for stage in stages {
            check_stage(stage, &maps, precision);
        }
        let gap = host(crate::op::pixel_mean(&features.0, None));
        close("gap", &gap, &arrays.get("gap").values, precision.gradient());
        let mut total: Option<Tensor<1>> = None;
        for (h, task) in tasks.iter().enumerate() {
            let task_key = key(&format!("{}", h + 1));
            let z = network.logits(&task_key, &features, None).unwrap();
            let expected = &arrays.get(&format!("logits{}", h + 1)).values;
            close(
                &format!("logits{}", h + 1),
                &host(z.clone()),
                expected,
                precision.gradient(),
            );
            let single: Vec<f32> = host(z.clone()).iter().map(|&v| v as f32).collect();
            let got: Vec<f64> = activate(task, &single, 1)[0]
                .iter()
                .map(|&v| f64::from(v))
                .collect();
            let expected = &arrays.get(&format!("prob{}", h + 1)).values;
            close(
                &format!("prob{}", h + 1),
                &got,
                expected,
                precision.gradient(),
            );
            if let Some(label) = case["labels"].get(h).and_then(serde_json::Value::as_u64) {
                let targets = one_label(task, &[label as usize]);
                let (sum, weight) = loss(&task_key, task, &z, &targets, None).unwrap();
                let mean = sum / weight;
                let expected = floats(&case["loss_heads"][h]);
                close(
                    "head loss",
                    &host(mean.clone()),
                    &expected,
                    precision.gradient(),
                );
                let part = mean * 0.25;
                total = Some(match total {
                    Some(total) => total + part,
                    None => part,
                });
            }
        }
        let Some(total) = total else { continue };
        close(
            "loss",
            &host(total.clone()),
            &floats(&case["loss_total"]),
            precision.gradient(),
        );
        let mut gradients = total.backward();
        let found = collect(&*network.parts, &mut gradients);
        let norms: Vec<f64> = case["grad_l2"]
            .as_object()
            .unwrap()
            .values()
            .filter_map(|v| v.as_f64())
            .collect();
        let rms = (norms.iter().map(|n| n * n).sum::<f64>() / norms.len() as f64).sqrt();
        let mut all = 0.0;
        for (spec, gradient) in specs.iter().zip(found) {
            let square: f64 = gradient.iter().map(|g| g * g).sum();
            let Some(expected) = case["grad_l2"].get(stored(&spec.name)) else {
                continue;
            };
            all += square;
            let expected = expected.as_f64().unwrap();
            let error = (square.sqrt() - expected).abs();
            if precision == Precision::Double {
                // The stated rule over the list of norms, and ten times it for each norm by itself.
                assert!(
                    error <= 1e-6 * rms && error <= 1e-5 * expected,
                    "{}: {} expected {expected}",
                    spec.name,
                    square.sqrt()
                );
            }
        }
        close(
            "gradient norm",
            &[all.sqrt()],
            &floats(&case["grad_l2_total"]),
            precision.gradient(),
        );
    }
}

fn check_stage(stage: &serde_json::Value, maps: &BTreeMap<String, Vec<f64>>, precision: Precision) {
    let name = stage["name"].as_str().unwrap();
    let map = maps
        .get(name)
        .unwrap_or_else(|| panic!("stage {name} was not seen"));
    let number = |key: &str| stage[key].as_f64().unwrap();
    let rms = number("rms");
    let n = map.len() as f64;
    let mean = map.iter().sum::<f64>() / n;
    let square = map.iter().map(|v| v * v).sum::<f64>() / n;
    let low = map.iter().copied().fold(f64::INFINITY, f64::min);
    let high = map.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let tolerance = precision.gradient() * rms;
    let check = |what: &str, got: f64, expected: f64| {
        assert!(
            (got - expected).abs() <= tolerance,
            "{name} {what}: {got} expected {expected}, rms {rms}"
        );
    };
    check("mean", mean, number("mean"));
    check("rms", square.sqrt(), rms);
    check("min", low, number("min"));
    check("max", high, number("max"));
    for (at, expected) in floats(&stage["first4"]).iter().enumerate() {
        check("first4", map[at], f64::from(*expected));
    }
    let probes = floats(&stage["probe_index"]);
    for (at, expected) in probes.iter().zip(floats(&stage["probe_value"])) {
        check("probe", map[*at as usize], f64::from(expected));
    }
}

//! A small network learns a rule from 400 patients under a plan: `cargo run -p dp-burn --example private_training`.
//!
//! Patients have one to three records each; a patient is the unit. The keys come from the operating system, so the
//! figures differ a little from run to run.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::{log_softmax, relu};
use burn::tensor::{Device, Int, Tensor, TensorData};
use dp_burn::{
    Grouping, Layers, Parameters, Plain, RowLosses, Units, gradient_descent, unit_gradients, verify,
};
use dp_rs::adjacency::Adjacency;
use dp_rs::clipping::ClipRule;
use dp_rs::noise::{NoiseLevel, RootKey};
use dp_rs::plan::{Clip, Plan, PlanSettings, Unit};

#[derive(Module, Debug)]
struct Net {
    hidden: Linear,
    head: Linear,
}

impl Net {
    fn forward(&self, layers: &mut impl Layers, x: Tensor<2>) -> Tensor<2> {
        let x = relu(layers.linear(&self.hidden, x));
        layers.linear(&self.head, x)
    }
}

/// Records, whether the sum of the features is positive, and one over the records of the same patient.
struct Batch {
    x: Tensor<2>,
    class: Tensor<2, Int>,
    weight: Tensor<1>,
    units: Vec<usize>,
}

impl RowLosses<Net> for Batch {
    fn losses(&self, net: &Net, layers: &mut impl Layers) -> Tensor<1> {
        let logits = net.forward(layers, self.x.clone());
        let losses = log_softmax(logits, 1).gather(1, self.class.clone()).neg();
        losses.reshape([self.units.len()]) * self.weight.clone()
    }
}

const FEATURES: usize = 4;

/// The records of these patients.
fn batch(patients: &[usize]) -> Batch {
    let device = Device::flex();
    let (mut x, mut class, mut weight, mut units) = (vec![], vec![], vec![], vec![]);
    for (unit, &patient) in patients.iter().enumerate() {
        let records = 1 + patient % 3;
        for record in 0..records {
            let value =
                |i: usize| ((patient * 37 + record * 101 + i * 53) % 200) as f32 / 100.0 - 1.0;
            let features: Vec<f32> = (0..FEATURES).map(value).collect();
            class.push(i64::from(features.iter().sum::<f32>() > 0.0));
            x.extend(features);
            weight.push(1.0 / records as f32);
            units.push(unit);
        }
    }
    let rows = units.len();
    Batch {
        x: Tensor::from_data(TensorData::new(x, [rows, FEATURES]), &device),
        class: Tensor::from_data(TensorData::new(class, [rows, 1]), &device),
        weight: Tensor::from_data(TensorData::new(weight, [rows]), &device),
        units,
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const PATIENTS: usize = 400;
    let device = Device::flex().autodiff();
    let mut net = Net {
        hidden: LinearConfig::new(FEATURES, 16).init(&device),
        head: LinearConfig::new(16, 2).init(&device),
    };
    let values = Parameters::of(&net, Grouping::Flat)?.values();
    let probe = batch(&[0, 1, 2, 3]);
    verify(&net, &Units::from_rows(probe.units.clone())?, &probe, 1e-3)?;

    let plan = Plan::new(PlanSettings {
        unit: Unit::Patient,
        adjacency: Adjacency::AddRemove,
        clip: Clip::Fixed(ClipRule::flat(1.0)?),
        noise_multiplier: 1.0,
        noise_level: NoiseLevel::Hardened,
        sampling_rate: 0.2,
        expected_units: 80.0,
        max_records: 3.try_into()?,
    })?;
    let key = RootKey::from_operating_system()?;
    let mut training = plan.begin()?;
    for round in 0..60_u8 {
        let mut step = training.step(&key, &[b"example", &[round]], PATIENTS);
        for patients in step.chunks(32.try_into()?) {
            let batch = batch(&patients);
            let units = Units::from_rows(batch.units.clone())?;
            let gradients = unit_gradients(&net, &units, |net, taps| batch.losses(net, taps))?;
            step.add(gradients)?;
        }
        net = gradient_descent(net, &step.finish(values)?, 0.8)?;
    }
    let spent = training.transcript().guarantee(1e-4)?;

    let all: Vec<usize> = (0..PATIENTS).collect();
    let all = batch(&all);
    let predicted = net.forward(&mut Plain, all.x.clone()).argmax(1);
    let right = predicted
        .equal(all.class)
        .float()
        .mean()
        .into_scalar::<f32>();
    println!(
        "epsilon {:.2} at delta 1e-4, {:.0} % right",
        spent.epsilon,
        100.0 * right
    );
    Ok(())
}

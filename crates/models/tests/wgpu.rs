//! A few steps of EHPAL-Net on a GPU through WebGPU beside the same steps on the processor.
//!
//! The two share formulas and host code only: the processor runs our own kernels with hand-written gradients,
//! `wgpu` runs Burn's operations and its autodiff. A software Vulkan driver is enough. Whoever builds with the
//! feature asks for the device, so its absence fails.
#![cfg(feature = "wgpu")]

mod sites;

use consilium_models::{ClipGroups, DeviceChoice, OptimiserRule, PatientGradients, Trainer};
use dp_rs::adjacency::Adjacency;
use dp_rs::clipping::ClipRule;
use dp_rs::noise::{NoiseLevel, RootKey};
use dp_rs::plan::{Clip, Plan, PlanSettings, Unit};
use sites::{Site, random, sites, sites_of, spec};

const STEPS: u32 = 3;

/// Largest relative distance of two gradients in single precision: twice what each may be off the exact one.
const GRADIENT: f64 = 2e-4;

/// SGD: Adam divides by the root of the second moment and so magnifies rounding where it is near zero.
fn trainer(site: &Site, device: DeviceChoice) -> Trainer {
    let rule = OptimiserRule::Sgd {
        rate: 0.01,
        weight_decay: 0.0,
    };
    site.trainer(&spec(), rule, &device.open().expect("the device"))
}

/// Euclidean distance over the length of `b`.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let (mut distance, mut length) = (0.0, 0.0);
    for (&a, &b) in a.iter().zip(b) {
        distance += (f64::from(a) - f64::from(b)).powi(2);
        length += f64::from(b).powi(2);
    }
    (distance / length).sqrt()
}

#[test]
fn steps_on_images_and_tables_equal_those_of_the_processor() {
    let [image, row, _] = sites();
    for site in [image, row] {
        let name = &site.modality;
        let mut gpu = trainer(&site, DeviceChoice::Wgpu);
        let mut cpu = trainer(&site, DeviceChoice::Cpu);
        let views = site.views();
        let batch = site.batch(&views);
        let mut losses = Vec::new();
        for step in 0..STEPS {
            // From the same weights, or rounding would grow from step to step.
            gpu.load(&cpu.network().groups()).unwrap();
            let dropout = || random("dropout", step);
            let (on_gpu, gpu_loss) = gpu.gradient(&batch, &mut dropout()).unwrap();
            let (on_cpu, cpu_loss) = cpu.gradient(&batch, &mut dropout()).unwrap();
            let loss = (gpu_loss.sum / cpu_loss.sum - 1.0).abs();
            let gradient = relative(&on_gpu, &on_cpu);
            println!(
                "{name} step {step}: loss {:.6}, relative difference {loss:.1e}; gradient {gradient:.1e}",
                cpu_loss.sum
            );
            assert!(loss < 1e-5, "{name} step {step}: loss");
            assert!(gradient < GRADIENT, "{name} step {step}: gradient");
            for trainer in [&mut gpu, &mut cpu] {
                trainer.step(&batch, 1.0, &mut dropout()).unwrap();
            }
            let weights = |trainer: &Trainer| -> Vec<f32> {
                trainer
                    .network()
                    .groups()
                    .0
                    .into_values()
                    .flatten()
                    .collect()
            };
            let moved = relative(&weights(&gpu), &weights(&cpu));
            assert!(moved < 1e-5, "{name} step {step}: weights {moved:.1e}");
            losses.push(cpu_loss.sum);
        }
        assert_ne!(losses[0], losses[2], "{name}: the steps did something");
    }
}

/// A value next to 0 can pass a ReLU on one device and not on the other. The loss does not feel it, but the
/// gradient of that batch changes by up to some per cent; signals meet this in one batch of four. A wrong
/// formula would change every batch, so the middle one decides, within what our kernels may be off Burn's
/// operations on the processor.
#[test]
fn losses_and_gradients_on_signals_equal_those_of_the_processor() {
    let mut gradients: Vec<f64> = (0..5)
        .map(|draw| {
            let [_, _, site] = sites_of(draw);
            let views = site.views();
            let gradient = |device| {
                trainer(&site, device)
                    .gradient(&site.batch(&views), &mut random("dropout", 0))
                    .unwrap()
            };
            let (on_gpu, gpu_loss) = gradient(DeviceChoice::Wgpu);
            let (on_cpu, cpu_loss) = gradient(DeviceChoice::Cpu);
            let loss = (gpu_loss.sum / cpu_loss.sum - 1.0).abs();
            let gradient = relative(&on_gpu, &on_cpu);
            println!("signal draw {draw}: loss {loss:.1e}, gradient {gradient:.1e}");
            assert!(loss < 1e-5, "draw {draw}: loss");
            gradient
        })
        .collect();
    gradients.sort_by(f64::total_cmp);
    assert!(gradients[2] < 1e-3, "{gradients:?}");
}

#[test]
fn the_same_steps_twice_on_the_device_give_the_same_bytes() {
    let [site, ..] = sites();
    let train = || {
        let mut trainer = trainer(&site, DeviceChoice::Wgpu);
        let views = site.views();
        for step in 0..STEPS {
            trainer
                .step(&site.batch(&views), 1.0, &mut random("dropout", step))
                .unwrap();
        }
        trainer.network().groups()
    };
    assert_eq!(train(), train());
}

/// Norms and clipped sums come from one pass over all patients on the processor and from a pass for each
/// patient here; sampling and noise are drawn on the host, the same for both.
#[test]
fn a_private_step_equals_that_of_the_processor() {
    let [site, ..] = sites();
    let plan = Plan::new(PlanSettings {
        unit: Unit::Patient,
        adjacency: Adjacency::AddRemove,
        clip: Clip::Fixed(ClipRule::flat(0.5).unwrap()),
        noise_multiplier: 1e-3,
        noise_level: NoiseLevel::Hardened,
        sampling_rate: 1.0,
        expected_units: 4.0,
        max_records: 2.try_into().unwrap(),
    })
    .unwrap();
    let views = site.views();
    let mean = |device| {
        let trainer = trainer(&site, device);
        let network = trainer.network();
        let mut dropout = random("dropout", 0);
        let gradients: PatientGradients = network
            .patient_gradients(
                &site.batch(&views),
                &[0, 0, 1, 1, 2, 2, 3, 3],
                |_| true,
                ClipGroups::All,
                &mut dropout,
            )
            .unwrap();
        let mut training = plan.begin().unwrap();
        let mut step = training.step(&RootKey::simulation(1), &[b"step"], 4);
        step.add(gradients).unwrap();
        let parameters = network.manifest().tensors.iter().map(|tensor| tensor.len());
        step.finish(parameters.sum()).unwrap()
    };
    let difference = relative(&mean(DeviceChoice::Wgpu), &mean(DeviceChoice::Cpu));
    println!("private step: {difference:.1e}");
    assert!(difference < GRADIENT, "{difference:.1e}");
}

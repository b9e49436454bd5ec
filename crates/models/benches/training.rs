//! Training speed of EHPAL-Net on one thread: records per second, and multiply-accumulates per second as a
//! fraction of a large matrix product on the same machine in the same run.

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

use std::hint::black_box;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use consilium_core::{Seed, TaskKey};
use consilium_models::{
    Array, Batch, ClipGroups, EhpalNet, Modality, OptimiserRule, SiteNetwork, Targets, Task,
    Trainer, View,
};
use dp_rs::adjacency::Adjacency;
use dp_rs::clipping::ClipRule;
use dp_rs::noise::{NoiseLevel, RootKey};
use dp_rs::plan::{Clip, Plan, PlanSettings, Unit};

fn main() {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("one thread");
    pool.install(run);
}

fn run() {
    let peak = matrix_product();
    println!(
        "matrix product 1024^3, f32, one thread: {:.1} GMAC/s",
        peak / 1e9
    );
    println!(
        "{:>5} {:>5} {:>6} {:>9} {:>10} {:>8} {:>9} {:>11} {:>8}",
        "width",
        "side",
        "batch",
        "ms/step",
        "records/s",
        "GMAC/s",
        "of peak",
        "private ms",
        "ratio"
    );
    for (width, side, batch) in [(8, 32, 16), (8, 32, 32), (16, 64, 16), (32, 64, 16)] {
        let ([seconds, private], macs) = training(width, side, batch);
        // Forward, input gradient and weight gradient: three products per multiply-accumulate.
        let rate = 3.0 * macs * batch as f64 / seconds;
        println!(
            "{width:>5} {side:>5} {batch:>6} {:>9.2} {:>10.0} {:>8.2} {:>8.1}% {:>11.2} {:>8.2}",
            seconds * 1e3,
            batch as f64 / seconds,
            rate / 1e9,
            100.0 * rate / peak,
            private * 1e3,
            private / seconds
        );
    }
}

/// Multiply-accumulates per second of a large product.
fn matrix_product() -> f64 {
    let device = Device::flex();
    let n = 1024;
    let x = Tensor::<2>::ones([n, n], &device);
    let best = (0..6)
        .map(|_| {
            let start = Instant::now();
            black_box(x.clone().matmul(x.clone()).into_data());
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    (n * n * n) as f64 / best
}

/// Best seconds per step over several, plain and private with one record a patient, taken in turn; and
/// multiply-accumulates of one record with two views.
fn training(width: usize, side: usize, batch: usize) -> ([f64; 2], f64) {
    let task: TaskKey = "bench".parse().expect("a name");
    let modality = "image".parse().expect("a name");
    let spec = EhpalNet {
        width,
        side,
        ..EhpalNet::from_json(&serde_json::json!({
            "modalities": {"image": Modality::Image { slot: 1, channels: 1 }},
            "tasks": {"bench": Task::Labels { n: 1 }},
        }))
        .expect("a specification")
    };
    let device = Device::flex().autodiff();
    let network = SiteNetwork::whole(&spec, Seed(1), "bench", &device).expect("a network");
    let macs = consilium_models::macs_per_record(&spec, &modality).expect("a modality");
    let mut trainer = Trainer::new(
        network,
        OptimiserRule::Adam {
            rate: 1e-3,
            weight_decay: 0.0,
        },
    )
    .expect("gradients");
    let image = |phase: f32| {
        let values = (0..batch * side * side)
            .map(|i| ((i as f32) * 0.37 + phase).sin())
            .collect();
        Array::new(vec![batch, 1, side, side], values).expect("a shape")
    };
    let (a, b) = (image(0.0), image(0.1));
    let views = [View {
        modality: &modality,
        a: &a,
        b: Some(&b),
    }];
    let targets = Targets::Labels((0..batch).map(|i| (i % 2) as f32).collect());
    let mut dropout = consilium_core::seed::stream(Seed(1), &consilium_core::StreamKey::default());
    let steps = if width * side > 512 { 6 } else { 20 };
    let plan = Plan::new(PlanSettings {
        unit: Unit::Patient,
        adjacency: Adjacency::AddRemove,
        clip: Clip::Fixed(ClipRule::flat(1.0).expect("a clip")),
        noise_multiplier: 1.0,
        noise_level: NoiseLevel::Fast,
        sampling_rate: 1.0,
        expected_units: batch as f64,
        max_records: std::num::NonZeroU32::MIN,
    })
    .expect("a plan");
    let key = RootKey::simulation(1);
    let patients: Vec<usize> = (0..batch).collect();
    let batch = Batch {
        views: &views,
        absent: [false; 4],
        task: &task,
        targets: &targets,
        mask: None,
    };
    let mut best = [f64::INFINITY; 2];
    for _ in 0..steps {
        let start = Instant::now();
        black_box(trainer.step(&batch, 1.0, &mut dropout).expect("a step"));
        best[0] = best[0].min(start.elapsed().as_secs_f64());
        let start = Instant::now();
        let mut training = plan.begin().expect("a plan");
        let mut step = training.step(&key, &[], patients.len());
        let network = trainer.network();
        let gradients = network
            .patient_gradients(&batch, &patients, |_| true, ClipGroups::All, &mut dropout)
            .expect("gradients");
        step.add(gradients).expect("the drawn patients");
        let parameters = network.manifest().tensors.iter().map(|tensor| tensor.len());
        let mean = step.finish(parameters.sum()).expect("noise");
        trainer.apply(&mean, |_| true, 1.0).expect("a step");
        best[1] = best[1].min(start.elapsed().as_secs_f64());
    }
    (best, macs)
}

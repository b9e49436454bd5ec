//! Nanoseconds per value of each noise level, beside a draw-by-draw Gaussian and a memory copy, in one run.
//!
//! `cargo bench -p dp-rs --bench noise`

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::Instant;

use chacha20::{ChaCha12Rng, ChaCha20Rng};
use dp_rs::noise::{
    DiscreteGaussian, NoiseLevel, NoiseVector, Purpose, RootKey, Stream, add_noise,
};
use dp_rs::sampling::PoissonSampler;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::StandardNormal;

/// The size of a small network's gradient.
const VALUES: usize = 400_000;

fn main() {
    let mut values = vec![0.0_f32; VALUES];
    let source = vec![1.0_f32; VALUES];
    let copy = fastest(VALUES, || {
        black_box(&mut values).copy_from_slice(black_box(&source))
    });
    // The usual way: one ziggurat draw after another.
    let mut statistical = ChaCha12Rng::from_seed([1; 32]);
    let naive = fastest(VALUES, || {
        for value in &mut values {
            *value += statistical.sample::<f32, _>(StandardNormal);
        }
    });
    let mut secure = ChaCha20Rng::from_seed([1; 32]);
    let four_naive = fastest(VALUES, || {
        for value in &mut values {
            let sum: f64 = (0..4)
                .map(|_| secure.sample::<f64, _>(StandardNormal))
                .sum();
            *value += (sum / 2.0) as f32;
        }
    });
    println!("{:<42} {copy:8.2} ns", "memory copy");
    println!("{:<42} {naive:8.2} ns", "one by one, f32, ChaCha12");
    println!(
        "{:<42} {four_naive:8.2} ns",
        "one by one, four f64 summed, ChaCha20"
    );

    let level = |level| {
        let mut stream = stream();
        let mut values = vec![0.0_f32; VALUES];
        fastest(VALUES, || {
            // The standard deviation is valid.
            add_noise(level, black_box(&mut values), 1.0, &mut stream).expect("valid");
        })
    };
    report("fast", level(NoiseLevel::Fast), naive);
    report("hardened", level(NoiseLevel::Hardened), four_naive);
    for (name, noise, naive) in [
        ("fast, two threads", NoiseLevel::Fast, naive),
        ("hardened, two threads", NoiseLevel::Hardened, four_naive),
    ] {
        let mut stream = stream();
        let threads = NonZeroUsize::MIN.saturating_add(1);
        let time = fastest(VALUES, || {
            NoiseVector::new(noise, 1.0, &mut stream)
                .expect("valid")
                .add_to_parallel(black_box(&mut values), threads);
        });
        report(name, time, naive);
    }

    for bits in [2_u32, 10, 20] {
        let gaussian = DiscreteGaussian::new(1 << (2 * bits), 1).expect("in range");
        let mut stream = stream();
        let mut steps = vec![0_i64; VALUES / 20];
        let time = fastest(steps.len(), || {
            gaussian
                .add_to(black_box(&mut steps), &mut stream)
                .expect("small sums");
        });
        report(
            &format!("exact, standard deviation 2^{bits} steps"),
            time,
            naive,
        );
    }

    let mut stream = stream();
    let sampler = PoissonSampler::new(0.01).expect("a rate");
    let time = fastest(VALUES, || {
        black_box(sampler.sample(VALUES, &mut stream));
    });
    println!("{:<42} {time:8.2} ns", "Poisson sampling, per unit");
}

fn stream() -> Stream {
    RootKey::simulation(1).stream(Purpose::GradientNoise, &[])
}

fn report(name: &str, time: f64, naive: f64) {
    println!(
        "{name:<42} {time:8.2} ns  {:6.2} times one by one",
        time / naive
    );
}

/// Nanoseconds per value of the fastest of several runs.
fn fastest(values: usize, mut work: impl FnMut()) -> f64 {
    (0..7)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64() * 1e9 / values as f64
        })
        .fold(f64::INFINITY, f64::min)
}

//! Throughput of the exact sum beside a plain memory copy, in one run.
//!
//! `cargo bench -p consilium-strategies --bench exact_sum`

use std::hint::black_box;
use std::time::Instant;

use consilium_strategies::ExactSum;

const VALUES: usize = 30_000_000;
/// Values per chunk: one mebibyte, as on the wire.
const CHUNK: usize = 262_144;

fn main() {
    let update: Vec<f32> = (0..VALUES)
        .map(|i| (i % 1013) as f32 * 1e-4 - 0.05)
        .collect();
    let mut copy = vec![0.0_f32; VALUES];
    let gigabytes = (VALUES * 4) as f64 / 1e9;

    let copied = fastest(|| black_box(&mut copy).copy_from_slice(black_box(&update)));
    let mut sum = ExactSum::new(CHUNK);
    let mut global = vec![0.0_f32; CHUNK];
    let sites = 8;
    let added = fastest(|| {
        for chunk in update.chunks(CHUNK) {
            sum.reset(chunk.len());
            for _ in 0..sites {
                // The range was checked to fit when the constants above were chosen.
                sum.add(0, black_box(chunk), 1.0 / f64::from(sites))
                    .expect("values are in range");
            }
            sum.apply(&mut global[..chunk.len()]);
        }
    }) / f64::from(sites);
    println!("memory copy          {:6.2} GB/s", gigabytes / copied);
    println!(
        "exact sum, per site  {:6.2} GB/s  ratio {:.2}",
        gigabytes / added,
        copied / added
    );
}

fn fastest(mut work: impl FnMut()) -> f64 {
    (0..5)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}

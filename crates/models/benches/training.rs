//! Training speed of EHPAL-Net on one thread: records per second, and multiply-accumulates per second as a
//! fraction of a large matrix product on the same machine in the same run; and private steps beside them.

mod setup;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

use std::hint::black_box;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use dp_rs::noise::NoiseLevel;
use setup::Site;

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
        "{:>5} {:>5} {:>6} {:>9} {:>10} {:>8} {:>9} {:>8} {:>6} {:>11} {:>6}",
        "width",
        "side",
        "batch",
        "ms/step",
        "records/s",
        "GMAC/s",
        "of peak",
        "fast ms",
        "ratio",
        "hardened ms",
        "ratio"
    );
    for (width, side, batch) in [
        (8, 32, 16),
        (8, 32, 32),
        (16, 32, 16),
        (16, 64, 16),
        (32, 64, 16),
    ] {
        let ([seconds, fast, hardened], macs) = training(width, side, batch);
        // Forward, input gradient and weight gradient: three products per multiply-accumulate.
        let rate = 3.0 * macs * batch as f64 / seconds;
        println!(
            "{width:>5} {side:>5} {batch:>6} {:>9.2} {:>10.0} {:>8.2} {:>8.1}% {:>8.2} {:>6.2} {:>11.2} {:>6.2}",
            seconds * 1e3,
            batch as f64 / seconds,
            rate / 1e9,
            100.0 * rate / peak,
            fast * 1e3,
            fast / seconds,
            hardened * 1e3,
            hardened / seconds
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

/// Best seconds per step over several, plain and private with one record a patient at two levels of noise, taken in
/// turn; and multiply-accumulates of one record with two views.
fn training(width: usize, side: usize, batch: usize) -> ([f64; 3], f64) {
    let mut site = Site::new(width, side, batch);
    let steps = if width * side > 512 { 6 } else { 20 };
    let mut best = [f64::INFINITY; 3];
    for _ in 0..steps {
        for (kind, best) in best.iter_mut().enumerate() {
            let start = Instant::now();
            match kind {
                0 => site.plain(),
                1 => site.private(NoiseLevel::Fast, batch),
                _ => site.private(NoiseLevel::Hardened, batch),
            }
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    (best, site.macs)
}

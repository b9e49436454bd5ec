//! A private step against a plain one: `cargo bench -p dp-burn --bench private_step`.
//!
//! Rounds of plain steps, clipping alone, and private steps at two noise levels alternate; printed is the best round
//! of each, by the clock and by the processor time of the thread, which tells more when the machine is busy. Set `RAYON_NUM_THREADS=1` for one thread,
//! and compare with `benches/opacus_step.py`.

mod networks;

use std::hint::black_box;
use std::time::{Duration, Instant};

use dp_burn::{Grouping, Parameters};
use dp_rs::noise::NoiseLevel;
use networks::{Net, Private, batch, cnn, mlp, plain};

/// An allocator that keeps its pages: with the system's, both steps spend a tenth of their time on page faults.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 30;

const KINDS: [&str; 4] = ["plain", "no noise", "fast", "hardened"];

fn measure<N: Net>(name: &str, mut net: N, rows: usize, inputs: usize, steps: u32) {
    let (x, classes) = batch(rows, inputs);
    let parameters = Parameters::of(&net, Grouping::Flat).expect("trainable");
    let levels = [None, Some(NoiseLevel::Fast), Some(NoiseLevel::Hardened)];
    let mut private = levels.map(|noise| Private::new(&net, rows, noise));
    let mut fastest = [Duration::MAX; KINDS.len()];
    let mut on_processor = [Duration::MAX; KINDS.len()];
    for _ in 0..ROUNDS {
        for kind in 0..KINDS.len() {
            let (start, before) = (Instant::now(), processor_time());
            for _ in 0..steps {
                net = black_box(match kind {
                    0 => plain(net, &x, &classes),
                    _ => private[kind - 1].step(net, &x, &classes),
                });
            }
            fastest[kind] = fastest[kind].min(start.elapsed() / steps);
            if let (Some(before), Some(after)) = (before, processor_time()) {
                on_processor[kind] = on_processor[kind].min((after - before) / steps);
            }
        }
    }
    println!("{name}: {} values, batch {rows}", parameters.values());
    for (what, times) in [("elapsed", fastest), ("processor", on_processor)] {
        let plain = times[0].as_secs_f64();
        print!("  {what}:");
        for (kind, time) in KINDS.iter().zip(times.map(|time| time.as_secs_f64())) {
            print!(" {kind} {:.2} ms ({:.2})", time * 1e3, time / plain);
        }
        println!();
    }
}

/// What the kernel counted for this thread, in ticks of some milliseconds: nearly free of what else the machine
/// does. Linux only.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

fn main() {
    measure("CNN 3-32-64-128, 64x64", cnn(), 32, 3 * 64 * 64, 2);
    measure("MLP 256-512-512-10", mlp(), 64, 256, 20);
}

//! A private step, without noise, against a plain one: `cargo bench -p dp-burn --bench private_step`.
//!
//! Rounds of plain and private steps alternate; the first figure is the fastest of them, the second tells the same
//! when the machine is busy. Set `RAYON_NUM_THREADS=1` for
//! one thread, and compare with `benches/opacus.py`.

mod networks;

use std::hint::black_box;
use std::time::{Duration, Instant};

use dp_burn::{Grouping, Parameters, Units};
use networks::{Net, batch, cnn, mlp, plain, private};

/// An allocator that keeps its pages: with the system's, both steps spend a tenth of their time on page faults.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 40;

fn measure<N: Net>(name: &str, mut net: N, rows: usize, inputs: usize) {
    let (x, classes) = batch(rows, inputs);
    let units = Units::per_row(rows).expect("rows");
    let parameters = Parameters::of(&net, Grouping::Flat).expect("trainable");
    let mut fastest = [Duration::MAX; 2];
    let mut on_processor = [Duration::ZERO; 2];
    for _ in 0..ROUNDS {
        for kind in [0, 1] {
            let (start, before) = (Instant::now(), processor_time());
            net = black_box(match kind {
                0 => plain(net, &x, &classes),
                _ => private(net, &units, &x, &classes),
            });
            fastest[kind] = fastest[kind].min(start.elapsed());
            if let (Some(before), Some(after)) = (before, processor_time()) {
                on_processor[kind] += (after - before) / ROUNDS as u32;
            }
        }
    }
    println!("{name}: {} values, batch {rows}", parameters.values());
    for (what, times) in [
        ("fastest, elapsed", fastest),
        ("mean, processor time of this thread", on_processor),
    ] {
        let [plain, private] = times.map(|time| time.as_secs_f64() * 1e3);
        // The kernel counts in ticks of some milliseconds: shorter steps it cannot tell.
        if what.starts_with("fastest") || plain > 10.0 {
            let ratio = private / plain;
            println!("  {what}: plain {plain:.2} ms, private {private:.2} ms, ratio {ratio:.2}");
        }
    }
}

/// What the kernel counted for this thread: free of what else the machine does. Linux only.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

fn main() {
    measure("CNN 3-32-64-128, 64x64", cnn(), 32, 3 * 64 * 64);
    measure("MLP 256-512-512-10", mlp(), 64, 256);
}

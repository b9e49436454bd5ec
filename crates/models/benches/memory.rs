//! Peak memory of plain and private steps of EHPAL-Net for growing batches, width 16 at 32x32:
//! `cargo bench -p consilium-models --bench memory`.
//!
//! Every figure comes from a process of its own: the kernel's high-water mark after two steps, less that of a
//! process that only makes network and batch. A private step takes up to 16 patients at once, however many were
//! drawn; a plain step takes its batch at once. Linux only.

mod setup;

use std::process::Command;

use dp_rs::noise::NoiseLevel;
use setup::Site;

const WIDTH: usize = 16;
const SIDE: usize = 32;
const CHUNK: usize = 16;

fn run(kind: &str, batch: usize) {
    let mut site = Site::new(WIDTH, SIDE, batch);
    for _ in 0..2 {
        match kind {
            "plain" => site.plain(),
            "private" => site.private(NoiseLevel::Hardened, CHUNK),
            "whole" => site.private(NoiseLevel::Hardened, batch),
            _ => {}
        }
    }
}

fn high_water_kib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn peak(kind: &str, batch: usize) -> Option<f64> {
    let program = std::env::current_exe().ok()?;
    let output = Command::new(program)
        .args([kind, &batch.to_string()])
        .env("RAYON_NUM_THREADS", "1")
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    if let [kind, batch] = arguments.as_slice() {
        run(kind, batch.parse().expect("a number of records"));
        println!("{}", high_water_kib().unwrap_or(f64::NAN));
        return;
    }
    if high_water_kib().is_none() {
        println!("skipped: this system does not tell a process's peak memory");
        return;
    }
    println!("EHPAL-Net, width {WIDTH}, side {SIDE}, MiB over network and batch");
    println!(
        "{:>6} {:>9} {:>20} {:>16}",
        "batch", "plain", "private, 16 at once", "private at once"
    );
    for batch in [16, 32, 64, 128] {
        let base = peak("nothing", batch).unwrap_or(f64::NAN);
        let of = |kind| (peak(kind, batch).unwrap_or(f64::NAN) - base) / 1024.0;
        println!(
            "{batch:>6} {:>9.1} {:>20.1} {:>16.1}",
            of("plain"),
            of("private"),
            of("whole")
        );
    }
}

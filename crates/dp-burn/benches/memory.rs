//! Peak memory of plain and private steps for growing batches: `cargo bench -p dp-burn --bench memory`.
//!
//! Every figure comes from a process of its own: the kernel's high-water mark after three steps, less that of a
//! process that only makes the network. Beside it, what one gradient per unit would take. Linux only.

mod networks;

use std::process::Command;

use dp_burn::{Grouping, Parameters};
use dp_rs::noise::NoiseLevel;
use networks::{Net, Private, batch, cnn, mlp, plain};

fn run<N: Net>(mut net: N, kind: &str, rows: usize, inputs: usize) {
    let (x, classes) = batch(rows, inputs);
    let mut private = Private::new(&net, rows, Some(NoiseLevel::Hardened));
    for _ in 0..3 {
        net = match kind {
            "plain" => plain(net, &x, &classes),
            "private" => private.step(net, &x, &classes),
            _ => net,
        };
    }
}

fn high_water_kib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn peak(net: &str, kind: &str, rows: usize) -> Option<f64> {
    let program = std::env::current_exe().ok()?;
    let rows = rows.to_string();
    let output = Command::new(program)
        .args([net, kind, &rows])
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    if let [net, kind, rows] = arguments.as_slice() {
        let rows = rows.parse().expect("a number of rows");
        match net.as_str() {
            "CNN" => run(cnn(), kind, rows, 3 * 64 * 64),
            _ => run(mlp(), kind, rows, 256),
        }
        println!("{}", high_water_kib().unwrap_or(f64::NAN));
        return;
    }
    if high_water_kib().is_none() {
        println!("skipped: this system does not tell a process's peak memory");
        return;
    }
    let values = |net: &str| match net {
        "CNN" => Parameters::of(&cnn(), Grouping::Flat),
        _ => Parameters::of(&mlp(), Grouping::Flat),
    };
    for net in ["CNN", "MLP"] {
        let values = values(net).expect("trainable").values();
        for rows in [16, 32, 64, 128] {
            let base = peak(net, "nothing", rows).unwrap_or(f64::NAN);
            let of = |kind| (peak(net, kind, rows).unwrap_or(f64::NAN) - base) / 1024.0;
            let gradients = (rows * values * 4) as f64 / f64::from(1 << 20);
            println!(
                "{net}, batch {rows}: plain {:.1} MiB, private {:.1} MiB; one gradient per unit {gradients:.1} MiB",
                of("plain"),
                of("private"),
            );
        }
    }
}

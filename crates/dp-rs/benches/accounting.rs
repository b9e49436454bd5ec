//! Time of the accountants beside their limits, in one run.
//!
//! `cargo bench -p dp-rs --bench accounting`

use std::hint::black_box;
use std::time::Instant;

use dp_rs::accounting::calibration::{Target, noise_multiplier};
use dp_rs::accounting::pld::LossProfile;
use dp_rs::accounting::rdp::{RenyiCurve, default_orders};
use dp_rs::adjacency::Adjacency::AddRemove;
use dp_rs::event::{Event, Repeated};

const DELTA: f64 = 1e-6;

fn main() {
    let training = [poisson(1.0, 0.01, 10_000)];
    let orders = default_orders();
    compare("Renyi curve, 10 000 steps", 1e-3, || {
        black_box(RenyiCurve::of(black_box(&training), &orders).expect("valid ledger"));
    });
    compare("loss distribution, 10 000 steps", 0.1, || {
        epsilon(&training)
    });
    let mixed: Vec<_> = (0..10)
        .map(|k| poisson(0.8 + 0.1 * f64::from(k), 0.01 + 0.002 * f64::from(k), 1000))
        .collect();
    compare("loss distribution, ten events of 1000 steps", 1.0, || {
        epsilon(&mixed)
    });
    compare("loss distribution, rate 1e-4, 50 000 steps", 1.0, || {
        epsilon(&[poisson(0.7, 1e-4, 50_000)]);
    });
    let target = Target::new(2.0, DELTA, AddRemove).expect("valid target");
    compare("calibration of noise, 10 000 steps", 2.0, || {
        let found = noise_multiplier(target, |noise| {
            Ok(vec![
                Event::poisson_gaussian(noise, 0.01)?.repeated(10_000, AddRemove),
            ])
        });
        black_box(found.expect("reachable target"));
    });
}

fn poisson(noise: f64, rate: f64, steps: u64) -> Repeated {
    let event = Event::poisson_gaussian(noise, rate).expect("valid event");
    event.repeated(steps, AddRemove)
}

fn epsilon(ledger: &[Repeated]) {
    let profile = LossProfile::of(black_box(ledger)).expect("valid ledger");
    black_box(profile.epsilon(DELTA));
}

fn compare(name: &str, limit: f64, mut work: impl FnMut()) {
    let seconds = (0..5)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    println!(
        "{name:45} {:9.3} ms  limit {:6.0} ms  ratio {:.2}",
        seconds * 1e3,
        limit * 1e3,
        seconds / limit
    );
}

//! Four seconds of a three-axis accelerometer at 32 Hz: rest, walking, running or cycling.
//!
//! People differ in pace, vigour and in how they wear the device.

use std::f32::consts::TAU;

use rand::{Rng, RngExt as _};

use super::{Hospital, Kind, Record, between, normal, rounded, scale};
use crate::manifest::{ModalityKind, TaskKind};
use crate::read::columns::Target;

const SAMPLES: usize = 128;
const RATE: f32 = 32.0;
const WINDOWS_PER_PATIENT: usize = 2;

pub(super) fn kind() -> Kind {
    Kind {
        modality: "accelerometer3.v1",
        modality_kind: ModalityKind::Signal,
        task: "classes.activity.v1",
        task_kind: TaskKind::Classes,
        classes: &["rest", "walk", "run", "cycle"],
        about: "accelerometer windows of four activities",
        shape: vec![3, SAMPLES],
        names: ["x", "y", "z"].map(str::to_owned).to_vec(),
        scales: vec![scale("z", 1.0, 0.5), scale("*", 0.0, 0.5)],
        patient,
    }
}

/// Frequency in Hz, strength in g, and share of the second harmonic.
const ACTIVITIES: [[f32; 3]; 4] = [
    [0.3, 0.03, 0.0],
    [1.8, 0.28, 0.6],
    [2.6, 0.55, 0.4],
    [1.2, 0.25, 0.1],
];

fn patient(hospital: &Hospital, stream: &mut dyn Rng) -> Vec<Record> {
    let pace = between(0.78, 1.22, stream);
    let vigour = (0.35 * normal(stream)).exp();
    let tilt: [f32; 3] = std::array::from_fn(|_| 0.35 * normal(stream));
    let noise = match hospital.number {
        0 => 0.18,
        _ => 0.12 + 0.12 * hospital.drawn[0],
    };
    (0..WINDOWS_PER_PATIENT)
        .map(|_| {
            let class = stream.random_range(0..ACTIVITIES.len() as u32);
            let [frequency, strength, harmonic] = ACTIVITIES[class as usize];
            let phase = between(0.0, TAU, stream);
            let along: [f32; 3] = match class {
                // The legs turn in a plane; steps go up and down.
                3 => [0.9, 0.5, 0.2],
                _ => [0.4, 0.2, 0.9],
            };
            let mut values = Vec::with_capacity(3 * SAMPLES);
            for axis in 0..3 {
                let gravity = if axis == 2 { 1.0 } else { 0.0 } + tilt[axis];
                let amount = strength * vigour * (along[axis] + 0.3 * tilt[axis]);
                let lag = axis as f32 * 0.7;
                for sample in 0..SAMPLES {
                    let angle = TAU * frequency * pace * sample as f32 / RATE + phase + lag;
                    let swing = angle.sin() + harmonic * (2.0 * angle).sin();
                    values.push(rounded(gravity + amount * swing + noise * normal(stream)));
                }
            }
            Record {
                values,
                target: Target::Class(class),
            }
        })
        .collect()
}

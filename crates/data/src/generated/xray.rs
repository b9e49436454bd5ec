//! Chest X-rays: two dark lungs in a bright body, ribs and a heart; some have one or two soft opacities.
//!
//! Hospitals differ in their scanner: gamma, contrast, noise and darkening towards the border.

use std::f32::consts::TAU;

use rand::Rng;

use super::{Hospital, Kind, Record, between, happens, normal};
use crate::manifest::{ModalityKind, PublicScale, TaskKind};
use crate::read::columns::Target;

const SIDE: usize = 32;

pub(super) fn kind() -> Kind {
    Kind {
        modality: "cxr2d.v1",
        modality_kind: ModalityKind::Image,
        task: "binary.opacity.v1",
        task_kind: TaskKind::Binary,
        classes: &["clear", "opacity"],
        about: "chest X-rays with or without an opacity",
        shape: vec![1, SIDE, SIDE],
        names: vec!["grey".to_owned()],
        scales: vec![PublicScale {
            of: vec!["grey".to_owned()],
            range: Some([0.0, 255.0]),
            mean: None,
            standard_deviation: None,
            missing: None,
        }],
        patient,
    }
}

/// How one scanner shows what is there, and how many of its patients are ill.
struct Scanner {
    gamma: f32,
    contrast: f32,
    noise: f32,
    vignette: f32,
    ill: f32,
}

fn scanner(hospital: &Hospital) -> Scanner {
    let [gamma, contrast, noise, vignette, ill] = match hospital.number {
        0 => [1.0, 1.0, 0.03, 0.0, 0.5],
        1 => [0.75, 0.8, 0.05, 0.25, 0.4],
        2 => [1.35, 1.15, 0.04, 0.1, 0.55],
        _ => {
            let [a, b, c, d] = hospital.drawn;
            [
                0.7 + 0.7 * a,
                0.8 + 0.4 * b,
                0.03 + 0.03 * c,
                0.3 * d,
                0.35 + 0.25 * b,
            ]
        }
    };
    Scanner {
        gamma,
        contrast,
        noise,
        vignette,
        ill,
    }
}

/// A soft round spot.
struct Spot {
    x: f32,
    y: f32,
    width: f32,
    strength: f32,
}

impl Spot {
    fn in_lung(width: f32, strength: f32, stream: &mut dyn Rng) -> Self {
        let side = if happens(0.5, stream) { 1.0 } else { -1.0 };
        Self {
            x: side * between(0.3, 0.54, stream),
            y: between(-0.45, 0.45, stream),
            width,
            strength,
        }
    }

    fn at(&self, x: f32, y: f32) -> f32 {
        let distance = (x - self.x).powi(2) + (y - self.y).powi(2);
        self.strength * (-distance / (2.0 * self.width.powi(2))).exp()
    }
}

fn patient(hospital: &Hospital, stream: &mut dyn Rng) -> Vec<Record> {
    let scanner = scanner(hospital);
    let ill = happens(scanner.ill, stream);
    let spots = spots(ill, stream);
    let (shift_x, shift_y) = (between(-0.08, 0.08, stream), between(-0.08, 0.08, stream));
    let (wide, tall) = (between(0.25, 0.31, stream), between(0.5, 0.62, stream));
    let (air, tissue) = (between(0.17, 0.27, stream), between(0.56, 0.68, stream));
    let (rib_phase, rib_count) = (between(0.0, TAU, stream), between(13.0, 17.0, stream));
    let haze: [[f32; 3]; 3] =
        std::array::from_fn(|_| [normal(stream), normal(stream), between(0.0, TAU, stream)]);
    let mut values = Vec::with_capacity(SIDE * SIDE);
    for row in 0..SIDE {
        for column in 0..SIDE {
            let x = (column as f32 + 0.5) / SIDE as f32 * 2.0 - 1.0;
            let y = (row as f32 + 0.5) / SIDE as f32 * 2.0 - 1.0;
            let (bx, by) = (x - shift_x, y - shift_y);
            let body = inside(bx, by, 0.0, 0.1, 0.92, 1.15, 0.06);
            let lungs = inside(bx, by, -0.42, 0.0, wide, tall, 0.12)
                + inside(bx, by, 0.42, 0.0, wide, tall, 0.12);
            let heart = inside(bx, by, 0.14, 0.32, 0.26, 0.26, 0.15);
            let ribs = 0.03 * (rib_count * by + 2.0 * bx.abs() + rib_phase).sin();
            let haze: f32 = (haze.iter())
                .map(|[u, v, phase]| 0.025 * (2.0 * (u * bx + v * by) + phase).sin())
                .sum();
            let spots: f32 = spots.iter().map(|spot| spot.at(bx, by)).sum();
            let lung = air + ribs + spots;
            let lungs = lungs.min(1.0) * (1.0 - 0.8 * heart);
            let seen = body * (lungs * lung + (1.0 - lungs) * tissue + haze) + 0.03;
            values.push(pixel(&scanner, seen, x, y, stream));
        }
    }
    vec![Record {
        values,
        target: Target::Class(u32::from(ill)),
    }]
}

/// Opacities of the ill; smaller, fainter spots (vessels, a nipple) of some others.
fn spots(ill: bool, stream: &mut dyn Rng) -> Vec<Spot> {
    if ill {
        let strength = between(0.14, 0.42, stream);
        let count = if happens(0.4, stream) { 2 } else { 1 };
        (0..count)
            .map(|_| Spot::in_lung(between(0.12, 0.2, stream), strength, stream))
            .collect()
    } else if happens(0.5, stream) {
        vec![Spot::in_lung(
            between(0.05, 0.09, stream),
            between(0.06, 0.22, stream),
            stream,
        )]
    } else {
        Vec::new()
    }
}

/// 1 inside an ellipse, 0 outside, with a soft border.
fn inside(x: f32, y: f32, cx: f32, cy: f32, rx: f32, ry: f32, soft: f32) -> f32 {
    let distance = (((x - cx) / rx).powi(2) + ((y - cy) / ry).powi(2)).sqrt();
    1.0 / (1.0 + ((distance - 1.0) / soft).exp())
}

/// What the scanner records, 0 to 255.
fn pixel(scanner: &Scanner, seen: f32, x: f32, y: f32, stream: &mut dyn Rng) -> f32 {
    let curved = seen.clamp(0.0, 1.0).powf(scanner.gamma);
    let stretched = 0.45 + (curved - 0.45) * scanner.contrast;
    let darkened = stretched * (1.0 - scanner.vignette * (x * x + y * y) / 2.0);
    let recorded = darkened + scanner.noise * normal(stream);
    (recorded.clamp(0.0, 1.0) * 255.0).round()
}

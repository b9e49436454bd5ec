//! Intensive-care rows: four failing organs drive 24 values and the risk of death.
//!
//! Hospitals differ in case mix (which organs fail, how often patients die), in the calibration of their
//! devices and in how many laboratory values they order.

use rand::Rng;

use super::{Hospital, Kind, Record, between, happens, normal, rounded, scale};
use crate::manifest::{ModalityKind, TaskKind};
use crate::read::columns::Target;

pub(super) fn kind() -> Kind {
    Kind {
        modality: "icu24.v1",
        modality_kind: ModalityKind::Icu,
        task: "binary.icu-mortality.v1",
        task_kind: TaskKind::Binary,
        classes: &["survived", "died"],
        about: "intensive-care values of the first day with mortality",
        shape: vec![COLUMNS.len()],
        names: COLUMNS
            .iter()
            .map(|column| column.name.to_owned())
            .collect(),
        scales: (COLUMNS.iter())
            .map(|column| scale(column.name, column.level, column.spread))
            .collect(),
        patient,
    }
}

/// One recorded value: its usual level and spread, and how it follows circulation, kidney, lung and liver.
struct Column {
    name: &'static str,
    level: f32,
    spread: f32,
    follows: [f32; 4],
    laboratory: bool,
}

const fn column(
    name: &'static str,
    level: f32,
    spread: f32,
    follows: [f32; 4],
    laboratory: bool,
) -> Column {
    Column {
        name,
        level,
        spread,
        follows,
        laboratory,
    }
}

const COLUMNS: [Column; 24] = [
    column("age", 63.0, 14.0, [0.2, 0.2, 0.1, 0.1], false),
    column("hr", 90.0, 18.0, [0.6, 0.0, 0.2, 0.0], false),
    column("map", 78.0, 13.0, [-0.7, 0.0, 0.0, 0.0], false),
    column("sbp", 120.0, 21.0, [-0.7, 0.1, 0.0, 0.0], false),
    column("dbp", 62.0, 12.0, [-0.5, 0.0, 0.0, 0.0], false),
    column("resp", 20.0, 5.0, [0.2, 0.0, 0.6, 0.0], false),
    column("temp", 37.0, 0.7, [0.1, 0.0, 0.1, 0.1], false),
    column("o2sat", 96.0, 3.0, [-0.1, 0.0, -0.7, 0.0], false),
    column("fio2", 40.0, 14.0, [0.1, 0.0, 0.7, 0.0], false),
    column("gcs", 12.5, 2.5, [-0.3, 0.0, -0.2, -0.3], false),
    column("urine", 90.0, 45.0, [-0.3, -0.6, 0.0, 0.0], false),
    column("lact", 2.2, 1.2, [0.7, 0.0, 0.0, 0.3], true),
    column("ph", 7.36, 0.08, [-0.4, -0.3, -0.3, 0.0], true),
    column("bicar", 24.0, 4.0, [-0.3, -0.5, 0.0, 0.0], true),
    column("crea", 1.3, 0.7, [0.0, 0.8, 0.0, 0.0], true),
    column("bun", 25.0, 13.0, [0.1, 0.7, 0.0, 0.0], true),
    column("k", 4.2, 0.6, [0.0, 0.5, 0.0, 0.0], true),
    column("na", 139.0, 4.5, [0.0, 0.1, 0.0, -0.1], true),
    column("glu", 145.0, 45.0, [0.2, 0.0, 0.0, 0.1], true),
    column("bili", 1.2, 0.8, [0.0, 0.0, 0.0, 0.8], true),
    column("alb", 3.0, 0.6, [0.0, -0.1, 0.0, -0.6], true),
    column("plt", 205.0, 85.0, [0.0, 0.0, 0.0, -0.6], true),
    column("hgb", 10.8, 1.9, [-0.1, -0.2, 0.0, -0.1], true),
    column("wbc", 12.0, 5.0, [0.3, 0.0, 0.3, 0.0], true),
];

/// Who is treated, and how it is measured.
struct CaseMix {
    /// Mean failure of each organ.
    failing: [f32; 4],
    /// Log-odds of death at average failure.
    baseline: f32,
    /// Share of laboratory values that are not ordered.
    not_ordered: f32,
    /// Calibration: shift in spreads, of alternating sign over the columns.
    calibration: f32,
}

fn case_mix(hospital: &Hospital) -> CaseMix {
    match hospital.number {
        0 => CaseMix {
            failing: [0.0, 0.0, 0.0, 0.0],
            baseline: -1.1,
            not_ordered: 0.2,
            calibration: 0.0,
        },
        1 => CaseMix {
            failing: [0.7, 0.1, -0.2, -0.3],
            baseline: -1.8,
            not_ordered: 0.35,
            calibration: 0.4,
        },
        2 => CaseMix {
            failing: [0.2, -0.4, 0.5, 0.3],
            baseline: -1.1,
            not_ordered: 0.1,
            calibration: -0.3,
        },
        _ => {
            let [a, b, c, d] = hospital.drawn;
            CaseMix {
                failing: [a - 0.5, b - 0.5, c - 0.5, d - 0.5],
                baseline: -1.4 + 0.6 * a,
                not_ordered: 0.1 + 0.3 * b,
                calibration: 0.8 * (c - 0.5),
            }
        }
    }
}

fn patient(hospital: &Hospital, stream: &mut dyn Rng) -> Vec<Record> {
    let mix = case_mix(hospital);
    let organ: [f32; 4] = std::array::from_fn(|at| mix.failing[at] + normal(stream));
    let logit = mix.baseline
        + 1.6 * organ[0]
        + 1.2 * organ[1]
        + 1.4 * organ[2]
        + 0.9 * organ[3]
        + 0.4 * organ[0] * organ[2];
    let died = happens(1.0 / (1.0 + (-logit).exp()), stream);
    let severity = organ.iter().sum::<f32>() / 4.0;
    let values = (COLUMNS.iter().enumerate())
        .map(|(at, column)| {
            let driven: f32 = column.follows.iter().zip(organ).map(|(f, o)| f * o).sum();
            let explained: f32 = column.follows.iter().map(|f| f * f).sum();
            let own = (1.0 - explained).max(0.2).sqrt() * normal(stream);
            let device = if at % 2 == 0 {
                mix.calibration
            } else {
                -mix.calibration
            };
            let device = if column.name == "age" { 0.0 } else { device };
            let value = column.level + column.spread * (driven + own + device);
            // More is measured of those who are worse.
            let skipped = (mix.not_ordered - 0.08 * severity).clamp(0.02, 0.6);
            let skipped = if column.laboratory { skipped } else { 0.03 };
            // Drawn always, so that a gap does not move the next draw.
            let missing = between(0.0, 1.0, stream) < skipped && column.name != "age";
            if missing { f32::NAN } else { rounded(value) }
        })
        .collect();
    vec![Record {
        values,
        target: Target::Class(u32::from(died)),
    }]
}

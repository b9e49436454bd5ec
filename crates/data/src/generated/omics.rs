//! Expression of 64 genes: three of four pathways change the hazard, the other genes do not.

use rand::Rng;

use super::{Hospital, Kind, Record, between, normal, rounded, scale};
use crate::manifest::{ModalityKind, TaskKind};
use crate::read::columns::Target;

const GENES: usize = 64;
const PATHWAYS: usize = 4;
const GENES_PER_PATHWAY: usize = 9;

/// Log hazard ratio for one standard deviation of each pathway.
const HAZARD: [f32; PATHWAYS] = [1.0, -0.8, 0.6, 0.0];

pub(super) fn kind() -> Kind {
    Kind {
        modality: "omics64.v1",
        modality_kind: ModalityKind::Omics,
        task: "survival.overall.v1",
        task_kind: TaskKind::Survival,
        classes: &[],
        about: "expression of 64 genes with survival",
        shape: vec![GENES],
        names: (1..=GENES).map(|gene| format!("gene{gene:02}")).collect(),
        scales: vec![scale("*", 0.0, 1.0)],
        patient,
    }
}

fn patient(hospital: &Hospital, stream: &mut dyn Rng) -> Vec<Record> {
    let pathway: [f32; PATHWAYS] = std::array::from_fn(|_| normal(stream));
    let batch_effect = match hospital.number {
        0 => 0.0,
        _ => 0.6 * (hospital.drawn[0] - 0.5),
    };
    let values = (0..GENES)
        .map(|gene| {
            let own = normal(stream);
            let member = gene / GENES_PER_PATHWAY;
            // The first genes of a pathway follow it most.
            let value = match pathway.get(member) {
                Some(pathway) => {
                    let follows = 0.85 - 0.05 * (gene % GENES_PER_PATHWAY) as f32;
                    follows * pathway + (1.0 - follows * follows).sqrt() * own
                }
                None => own,
            };
            rounded(value + batch_effect)
        })
        .collect();
    let risk: f32 = pathway.iter().zip(HAZARD).map(|(p, h)| p * h).sum();
    // Weibull with shape 1.3 and median about 30 months at average risk.
    let uniform = between(1e-6, 1.0, stream);
    let time = 40.0 * (-uniform.ln() * (-risk).exp()).powf(1.0 / 1.3);
    let followed = between(6.0, 90.0, stream);
    vec![Record {
        values,
        target: Target::Survival {
            time: rounded(time.min(followed)).max(0.1),
            event: time <= followed,
        },
    }]
}

//! Three sites that hold one modality each, with every kind of stem.

// Every test file uses another part of it.
#![allow(dead_code)]

use burn::tensor::Device;
use consilium_core::seed::stream;
use consilium_core::{ModalityKey, Seed, StreamKey, TaskKey};
use consilium_models::{
    Array, Batch, EhpalNet, OptimiserRule, SiteNetwork, Targets, Trainer, View,
};
use rand::{Rng, RngExt as _};
use serde_json::json;

/// Records of a site.
pub const RECORDS: usize = 8;

/// A site: its modality, its task, two views of its records, what they should be predicted as.
pub struct Site {
    pub modality: ModalityKey,
    pub task: TaskKey,
    pub views: [Array; 2],
    pub targets: Targets,
}

pub fn spec() -> EhpalNet {
    EhpalNet::from_json(&json!({
        "width": 8,
        "side": 32,
        "modalities": {
            "image": {"kind": "image", "slot": 1, "channels": 1},
            "row": {"kind": "table", "slot": 2, "features": 12},
            "signal": {"kind": "signal", "slot": 3, "channels": 2, "length": 96},
        },
        "tasks": {
            "classes": {"kind": "classes", "n": 3},
            "label": {"kind": "labels", "n": 1},
            "survival": {"kind": "cox"},
        },
    }))
    .unwrap()
}

/// The sites with the records of draw 0.
pub fn sites() -> [Site; 3] {
    sites_of(0)
}

/// The sites with other records for each draw.
pub fn sites_of(draw: u32) -> [Site; 3] {
    let site = |modality: &str, task: &str, shape: &[usize], targets| Site {
        modality: modality.parse().unwrap(),
        task: task.parse().unwrap(),
        views: [1, 2].map(|step| {
            let mut shape = shape.to_vec();
            shape.insert(0, RECORDS);
            let mut random = random("view", step + 2 * draw);
            let values = (0..shape.iter().product())
                .map(|_| random.random_range(-1.7_f32..1.7))
                .collect();
            Array::new(shape, values).unwrap()
        }),
        targets,
    };
    let labels = Targets::Labels(vec![0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
    let survival = Targets::Survival {
        time: vec![3.0, 1.0, 4.0, 2.0, 8.0, 6.0, 7.0, 5.0],
        event: vec![true, true, false, true, true, false, true, true],
    };
    let classes = Targets::Classes(vec![0, 2, 1, 1, 0, 2, 2, 0]);
    [
        site("image", "label", &[1, 32, 32], labels),
        site("row", "survival", &[12], survival),
        site("signal", "classes", &[2, 96], classes),
    ]
}

/// A named stream of random numbers.
pub fn random(purpose: &str, step: u32) -> impl Rng {
    let key = StreamKey {
        purpose,
        step,
        ..StreamKey::default()
    };
    stream(Seed(7), &key)
}

impl Site {
    pub fn trainer(&self, spec: &EhpalNet, rule: OptimiserRule, device: &Device) -> Trainer {
        let (modality, task) = ([&self.modality], [&self.task]);
        let device = device.clone().autodiff();
        let network = SiteNetwork::new(spec, modality, task, Seed(5), "study", &device);
        Trainer::new(network.unwrap(), rule).unwrap()
    }

    pub fn views(&self) -> [View<'_>; 1] {
        [View {
            modality: &self.modality,
            a: &self.views[0],
            b: Some(&self.views[1]),
        }]
    }

    /// All records, with one slot that holds the learned absent embedding.
    pub fn batch<'a>(&'a self, views: &'a [View<'a>]) -> Batch<'a> {
        Batch {
            views,
            absent: [false, false, false, true],
            task: &self.task,
            targets: &self.targets,
            mask: None,
        }
    }
}

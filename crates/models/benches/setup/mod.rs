//! The network, the batch and the steps that the benches share.

#![allow(dead_code)] // Every bench uses another part of it.

use std::hint::black_box;
use std::num::NonZeroUsize;

use burn::tensor::Device;
use consilium_core::{ModalityKey, Seed, StreamKey, TaskKey, seed::stream};
use consilium_models::{
    Array, Batch, ClipGroups, EhpalNet, Modality, OptimiserRule, SiteNetwork, Targets, Task,
    Trainer, View,
};
use dp_rs::adjacency::Adjacency;
use dp_rs::clipping::ClipRule;
use dp_rs::noise::{NoiseLevel, RootKey};
use dp_rs::plan::{Clip, Plan, PlanSettings, Unit};

/// A site with images, one record a patient.
pub struct Site {
    trainer: Trainer,
    modality: ModalityKey,
    task: TaskKey,
    views: [Array; 2],
    targets: Targets,
    /// Multiply-accumulates of one record with two views.
    pub macs: f64,
}

impl Site {
    pub fn new(width: usize, side: usize, batch: usize) -> Self {
        let task: TaskKey = "bench".parse().expect("a name");
        let modality = "image".parse().expect("a name");
        let spec = EhpalNet {
            width,
            side,
            ..EhpalNet::from_json(&serde_json::json!({
                "modalities": {"image": Modality::Image { slot: 1, channels: 1 }},
                "tasks": {"bench": Task::Labels { n: 1 }},
            }))
            .expect("a specification")
        };
        let device = Device::flex().autodiff();
        let network = SiteNetwork::whole(&spec, Seed(1), "bench", &device).expect("a network");
        let rule = OptimiserRule::Adam {
            rate: 1e-3,
            weight_decay: 0.0,
        };
        let image = |phase: f32| {
            let values = (0..batch * side * side).map(|i| ((i as f32) * 0.37 + phase).sin());
            Array::new(vec![batch, 1, side, side], values.collect()).expect("a shape")
        };
        Self {
            macs: consilium_models::macs_per_record(&spec, &modality).expect("a modality"),
            trainer: Trainer::new(network, rule).expect("gradients"),
            modality,
            task,
            views: [image(0.0), image(0.1)],
            targets: Targets::Labels((0..batch).map(|i| (i % 2) as f32).collect()),
        }
    }

    fn records(&self) -> usize {
        self.views[0].shape()[0]
    }

    /// A step without privacy, on all records at once.
    pub fn plain(&mut self) {
        let mut dropout = stream(Seed(1), &StreamKey::default());
        let [a, b] = &self.views;
        let views = [View {
            modality: &self.modality,
            a,
            b: Some(b),
        }];
        let batch = Batch {
            views: &views,
            absent: [false; 4],
            task: &self.task,
            targets: &self.targets,
            mask: None,
        };
        let loss = self.trainer.step(&batch, 1.0, &mut dropout);
        black_box(loss.expect("a step"));
    }

    /// A private step that draws every patient and takes up to `chunk` of them at once.
    pub fn private(&mut self, noise_level: NoiseLevel, chunk: usize) {
        let mut dropout = stream(Seed(1), &StreamKey::default());
        let network = self.trainer.network();
        let plan = Plan::new(PlanSettings {
            unit: Unit::Patient,
            adjacency: Adjacency::AddRemove,
            clip: Clip::Fixed(ClipRule::flat(1.0).expect("a clip")),
            noise_multiplier: 1.0,
            noise_level,
            sampling_rate: 1.0,
            expected_units: self.records() as f64,
            max_records: std::num::NonZeroU32::MIN,
        });
        let mut training = plan.and_then(|plan| plan.begin()).expect("a plan");
        let mut step = training.step(&RootKey::simulation(1), &[], self.records());
        for records in step.chunks(NonZeroUsize::new(chunk).expect("a chunk")) {
            let part = |array: &Array| {
                let one: usize = array.shape()[1..].iter().product();
                let mut shape = array.shape().to_vec();
                shape[0] = records.len();
                let values = records
                    .iter()
                    .flat_map(|&record| &array.values()[record * one..(record + 1) * one]);
                Array::new(shape, values.copied().collect()).expect("a shape")
            };
            let Targets::Labels(labels) = &self.targets else {
                unreachable!("the task has labels")
            };
            let targets = Targets::Labels(records.iter().map(|&record| labels[record]).collect());
            let [a, b] = [0, 1].map(|view| part(&self.views[view]));
            let views = [View {
                modality: &self.modality,
                a: &a,
                b: Some(&b),
            }];
            let batch = Batch {
                views: &views,
                absent: [false; 4],
                task: &self.task,
                targets: &targets,
                mask: None,
            };
            let patients: Vec<usize> = (0..records.len()).collect();
            let groups = ClipGroups::All;
            let gradients =
                network.patient_gradients(&batch, &patients, |_| true, groups, &mut dropout);
            step.add(gradients.expect("gradients"))
                .expect("the drawn patients");
        }
        let parameters = network.manifest().tensors.iter().map(|tensor| tensor.len());
        let mean = step.finish(parameters.sum()).expect("noise");
        self.trainer.apply(&mean, |_| true, 1.0).expect("a step");
    }
}

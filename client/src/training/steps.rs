//! One step after the other: which records, which views of them, and what the network learns from that.

use consilium_core::seed::stream;
use consilium_core::{Participant, RoundPlan, StreamKey, TensorSpec};
use consilium_data::{Examples, augment};
use consilium_models::{Array, Batch, ClipGroups, View};
use dp_rs::noise::Purpose;
use dp_rs::plan::{PlanError, Step, Transcript};
use rand::{Rng, RngExt as _};

use super::private::{CHUNK, PrivateSteps};
use super::{SiteTraining, from_model, model_targets};
use crate::work::{Progress, WorkError};

impl SiteTraining {
    /// One optimiser step; a function of the model and of (round, attempt, step) only.
    pub(super) fn step(&mut self, round: u32, attempt: u32, step: u32) -> Result<(), WorkError> {
        let draw = |purpose| self.stream(purpose, round, attempt, step);
        let chosen: Vec<usize> = self
            .sampler
            .batch(&mut draw("batch"))
            .into_iter()
            .map(|index| self.records.train[index])
            .collect();
        let mut streams = ["view-a", "view-b"].map(draw);
        let (absent, mut dropout) = (self.absent(&mut draw("absent")), draw("dropout"));
        let drawn = self.drawn(&chosen, &mut streams)?;
        let factor = self.rate_factor(round, step);
        let view = drawn.view(&self.participant);
        let batch = drawn.batch(std::slice::from_ref(&view), absent, &self.participant);
        let (threads, trainer) = (&self.threads, &mut self.trainer);
        threads
            .install(|| trainer.step(&batch, factor, &mut dropout))
            .map_err(from_model)?;
        Ok(())
    }

    /// The private steps of one round.
    pub(super) fn private_round(
        &mut self,
        private: &PrivateSteps,
        plan: &RoundPlan,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Transcript, WorkError> {
        let (round, attempt, steps) = (plan.round, plan.attempt, self.settings.local_steps);
        let (mut training, key) = (private.begin()?, private.key()?);
        for step in 0..steps {
            let context = [round, attempt, step].map(u32::to_le_bytes);
            let context: [&[u8]; 5] = [
                self.study.as_bytes(),
                self.participant.site.as_str().as_bytes(),
                &context[0],
                &context[1],
                &context[2],
            ];
            let drawn = training.step(&key, &context, private.records_of.len());
            let draw = |purpose| -> Box<dyn Rng + Send> {
                if private.draws_in_secret() {
                    Box::new(key.stream(Purpose::Named(purpose), &context))
                } else {
                    Box::new(self.stream(purpose, round, attempt, step))
                }
            };
            let mean = self.private_gradient(private, drawn, &draw)?;
            let factor = self.rate_factor(round, step);
            let (trainer, settings) = (&mut self.trainer, &self.settings);
            trainer
                .apply(&mean, |tensor| settings.trains_privately(tensor), factor)
                .map_err(from_model)?;
            progress(Progress {
                step: step + 1,
                steps,
            });
        }
        Ok(training.transcript())
    }

    /// The noisy mean gradient of the patients that a step drew.
    fn private_gradient(
        &self,
        private: &PrivateSteps,
        mut step: Step<'_>,
        draw: &dyn Fn(&'static str) -> Box<dyn Rng + Send>,
    ) -> Result<Vec<f32>, WorkError> {
        let mut streams = ["view-a", "view-b"].map(draw);
        let (absent, mut dropout) = (self.absent(&mut draw("absent")), draw("dropout"));
        let groups = if private.clips_groups() {
            ClipGroups::ParameterGroups
        } else {
            ClipGroups::All
        };
        for patients in step.chunks(CHUNK.try_into().expect("not zero")) {
            let (mut chosen, mut patient_of) = (Vec::new(), Vec::new());
            for (place, &patient) in patients.iter().enumerate() {
                let records = &private.records_of[patient];
                for index in step.records_of(patient, records.len()) {
                    chosen.push(records[index]);
                    patient_of.push(place);
                }
            }
            let drawn = self.drawn(&chosen, &mut streams)?;
            let view = drawn.view(&self.participant);
            let batch = drawn.batch(std::slice::from_ref(&view), absent, &self.participant);
            let network = self.trainer.network();
            let trained = |tensor: &TensorSpec| self.settings.trains_privately(tensor);
            self.threads.install(|| {
                let gradients =
                    network.patient_gradients(&batch, &patient_of, trained, groups, &mut dropout);
                gradients
                    .map_err(from_model)
                    .and_then(|gradients| step.add(gradients).map_err(from_plan))
            })?;
        }
        let manifest = self.trainer.network().manifest();
        let trained = manifest
            .tensors
            .iter()
            .filter(|tensor| self.settings.trains_privately(tensor));
        step.finish(trained.map(|tensor| tensor.len()).sum())
            .map_err(from_plan)
    }

    fn stream(&self, purpose: &str, round: u32, attempt: u32, step: u32) -> impl Rng + use<> {
        let key = StreamKey {
            study: &self.study,
            attempt,
            purpose,
            round,
            step,
            site: self.participant.site.as_str(),
        };
        stream(self.seed, &key)
    }

    fn absent(&self, random: &mut impl Rng) -> [bool; 4] {
        std::array::from_fn(|_| random.random_bool(self.settings.absent_probability))
    }

    /// The rate of a step as a part of the highest.
    fn rate_factor(&self, round: u32, step: u32) -> f32 {
        let done = (round - 1) * self.settings.local_steps + step;
        let all = self.rounds * self.settings.local_steps;
        (self.settings.rate_at(done, all) / self.settings.learning_rate) as f32
    }

    /// Two views of the chosen records, and what they should be predicted as.
    fn drawn(&self, chosen: &[usize], streams: &mut [impl Rng; 2]) -> Result<Drawn, WorkError> {
        let mut views = [
            array(&self.records.examples, chosen)?,
            array(&self.records.examples, chosen)?,
        ];
        for (view, random) in views.iter_mut().zip(streams) {
            let shape = &self.records.examples.shape;
            for record in view.values_mut().chunks_exact_mut(shape.iter().product()) {
                augment(record, shape, &self.augmentation, random).map_err(|error| WorkError {
                    code: error.code(),
                    message: error.to_string(),
                    hint: "give the augmentation of the modality's own kind".into(),
                })?;
            }
        }
        let targets = self
            .records
            .examples
            .targets
            .select(chosen)
            .map_err(|error| WorkError {
                code: error.code(),
                message: error.to_string(),
                hint: String::new(),
            })?;
        let targets = model_targets(&self.task, &targets)?;
        Ok(Drawn { views, targets })
    }
}

/// The records of a step.
struct Drawn {
    views: [Array; 2],
    targets: consilium_models::Targets,
}

impl Drawn {
    fn view<'a>(&'a self, participant: &'a Participant) -> View<'a> {
        View {
            modality: &participant.modality,
            a: &self.views[0],
            b: Some(&self.views[1]),
        }
    }

    fn batch<'a>(
        &'a self,
        views: &'a [View<'a>],
        absent: [bool; 4],
        participant: &'a Participant,
    ) -> Batch<'a> {
        Batch {
            views,
            absent,
            task: &participant.task,
            targets: &self.targets,
            mask: None,
        }
    }
}

pub(super) fn array(examples: &Examples, records: &[usize]) -> Result<Array, WorkError> {
    let chosen = examples.select(records).map_err(|error| WorkError {
        code: error.code(),
        message: error.to_string(),
        hint: String::new(),
    })?;
    let mut shape = vec![records.len()];
    shape.extend(&chosen.shape);
    Array::new(shape, chosen.values).map_err(from_model)
}

fn from_plan(error: PlanError) -> WorkError {
    WorkError {
        code: error.code(),
        message: error.to_string(),
        hint: String::new(),
    }
}

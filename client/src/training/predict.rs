//! Predictions of a network for records of a cohort.

use consilium_core::seed::stream;
use consilium_core::{ModelVector, Participant, Seed, StreamKey, Study};
use consilium_data::Examples;
use consilium_models::{DeviceChoice, EhpalNet, Prediction, SiteNetwork, Task, View};
use rayon::ThreadPool;

use super::steps::array;
use super::{from_model, one_thread};
use crate::work::{Progress, WorkError};

/// Records predicted in one pass.
const AT_ONCE: usize = 64;

/// A finished network that only predicts.
pub struct Predictor {
    network: SiteNetwork,
    study: String,
    seed: Seed,
    participant: Participant,
    task: Task,
    threads: ThreadPool,
}

impl Predictor {
    /// The participant's part of the study's network with the values of `model`, which has all its groups.
    ///
    /// # Errors
    /// [`WorkError`] when the settings cannot be read, the values do not fit, or the device is absent.
    pub fn new(
        study: &Study,
        participant: &Participant,
        model: &ModelVector,
        device: DeviceChoice,
    ) -> Result<Self, WorkError> {
        let spec = EhpalNet::from_json(&study.model.settings).map_err(from_model)?;
        let device = device.open().map_err(from_model)?;
        let mut network = SiteNetwork::new(
            &spec,
            [&participant.modality],
            [&participant.task],
            study.seed(),
            study.name.as_str(),
            &device,
        )
        .map_err(from_model)?;
        network.load(model).map_err(from_model)?;
        Ok(Self {
            network,
            study: study.name.to_string(),
            seed: study.seed(),
            participant: participant.clone(),
            task: spec.tasks[&participant.task].clone(),
            threads: one_thread()?,
        })
    }

    /// The task.
    #[must_use]
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// Predictions for `records`, in that order, from `passes` dropout passes, or deterministic for 0. The
    /// same study, model, records and passes give the same predictions.
    ///
    /// # Errors
    /// [`WorkError`] for a record that does not exist or does not fit the network.
    pub fn predict(
        &self,
        examples: &Examples,
        records: &[usize],
        passes: usize,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Prediction>, WorkError> {
        let who = Who {
            study: &self.study,
            seed: self.seed,
            participant: &self.participant,
            threads: &self.threads,
        };
        predict(&self.network, who, examples, records, passes, progress)
    }
}

/// Whose predictions they are, which names the stream of the dropout masks, and where they are computed.
#[derive(Clone, Copy)]
pub(super) struct Who<'a> {
    pub(super) study: &'a str,
    pub(super) seed: Seed,
    pub(super) participant: &'a Participant,
    pub(super) threads: &'a ThreadPool,
}

/// As [`Predictor::predict`], with a network that the caller holds.
pub(super) fn predict(
    network: &SiteNetwork,
    who: Who<'_>,
    examples: &Examples,
    records: &[usize],
    passes: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Prediction>, WorkError> {
    let key = StreamKey {
        study: who.study,
        purpose: "predict",
        site: who.participant.site.as_str(),
        ..StreamKey::default()
    };
    let mut dropout = stream(who.seed, &key);
    let mut predictions = Vec::with_capacity(records.len());
    for chunk in records.chunks(AT_ONCE) {
        let a = array(examples, chunk)?;
        let view = View {
            modality: &who.participant.modality,
            a: &a,
            b: None,
        };
        let task = &who.participant.task;
        let more = who
            .threads
            .install(|| network.predict(&[view], task, passes, &mut dropout))
            .map_err(from_model)?;
        predictions.extend(more);
        progress(Progress {
            step: predictions.len() as u32,
            steps: records.len() as u32,
        });
    }
    Ok(predictions)
}

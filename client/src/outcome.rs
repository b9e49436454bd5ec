//! What a finished study leaves at a site: `metrics.json` in the state folder.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use consilium_core::{Digest, SiteId, Study, StudyId};
use consilium_store::site::{Accepted, SiteStore, SiteStoreError, StoredMetric};
use serde::{Deserialize, Serialize};

use crate::agent::AgentError;
use crate::work::MetricValue;

/// The end of a study at one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The study.
    pub study: StudyId,
    /// Digest of its document.
    pub study_sha256: Digest,
    /// This site.
    pub site: SiteId,
    /// Hash of the final global model.
    pub final_model_sha256: Digest,
    /// Hash of the groups that stayed here, as of the last round this site contributed to.
    pub local_groups_sha256: Digest,
    /// The last round that used this site's update.
    pub rounds_used: u32,
    /// Bytes of model values that crossed the border of this site, repeated transfers included.
    pub traffic: Traffic,
    /// Metrics of the joined model on this site's records. They stay here.
    pub metrics: Vec<MetricValue>,
}

/// Bytes of model values, in and out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Received.
    pub down: u64,
    /// Delivered.
    pub up: u64,
}

impl From<consilium_store::site::Traffic> for Traffic {
    fn from(traffic: consilium_store::site::Traffic) -> Self {
        Self {
            down: traffic.down,
            up: traffic.up,
        }
    }
}

impl Outcome {
    /// The outcome of a study that had been finished by an earlier process.
    pub(crate) async fn stored(
        store: &SiteStore,
        site: &SiteId,
        study: &Study,
        accepted: &Accepted,
        model: Digest,
    ) -> Result<Self, SiteStoreError> {
        let own = store
            .local_groups(&study.name, study.schedule.rounds)
            .await?;
        let metrics = store.metrics(&study.name).await?;
        Ok(Self {
            study: study.name.clone(),
            study_sha256: accepted.digest,
            site: site.clone(),
            final_model_sha256: model,
            local_groups_sha256: own.groups.sha256(),
            rounds_used: accepted.participation.advanced_to,
            traffic: accepted.traffic.into(),
            metrics: metrics
                .into_iter()
                .map(|stored| MetricValue {
                    split: stored.split,
                    metric: stored.metric,
                    value: stored.value,
                })
                .collect(),
        })
    }

    pub(crate) fn stored_metrics(&self) -> Vec<StoredMetric> {
        let stored = |value: &MetricValue| StoredMetric {
            split: value.split.clone(),
            metric: value.metric.clone(),
            value: value.value,
        };
        self.metrics.iter().map(stored).collect()
    }

    /// Writes the file whole or not at all.
    ///
    /// # Errors
    /// [`AgentError::File`] with the operating system's words.
    pub fn write(&self, path: &Path) -> Result<(), AgentError> {
        let partial = path.with_extension("json.partial");
        let write = || {
            let mut file = File::create(&partial)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            std::fs::rename(&partial, path)
        };
        write().map_err(|error: std::io::Error| AgentError::File {
            path: path.to_owned(),
            error,
        })
    }
}

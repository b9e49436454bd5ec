//! The ledger as it lies in the state folder.

use consilium_core::study::PrivacyMode;
use consilium_core::{Study, StudyId};
use consilium_rounds::Sealed;
use consilium_store::site::{PrivacyEvent, SiteStore};
use dp_rs::ledger::{Entry, Ledger};
use dp_rs::plan::Transcript;

use super::Refusal;
use crate::agent::AgentError;

/// Everything that this site has spent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// Every private release, of all studies.
    pub ledger: Ledger,
    /// The studies that sent updates without protection; what they cost has no number.
    pub unprotected: Vec<StudyId>,
}

impl Standing {
    /// Reads the ledger and checks its chain.
    ///
    /// # Errors
    /// [`Refusal::BrokenLedger`], [`Refusal::UnreadableEntry`], or what the database says.
    pub async fn read(store: &SiteStore) -> Result<Self, AgentError> {
        let mut entries = Vec::new();
        for PrivacyEvent {
            sequence, document, ..
        } in store.privacy_ledger().await?
        {
            let entry: Entry =
                serde_json::from_str(&document).map_err(|error| Refusal::UnreadableEntry {
                    sequence,
                    problem: error.to_string(),
                })?;
            entries.push(entry);
        }
        let ledger = Ledger::from_entries(entries).map_err(Refusal::from)?;
        let mut unprotected = Vec::new();
        for name in store.studies().await? {
            let Some(accepted) = store.accepted(&name).await? else {
                continue;
            };
            let trained =
                accepted.participation.advanced_to > 0 || accepted.participation.sealed.is_some();
            // A study that cannot be read was checked when it was accepted, by a program that knew it.
            let study = serde_json::from_slice::<Study>(&accepted.document);
            let open = study.is_ok_and(|study| study.privacy == PrivacyMode::NoneSimulationOnly);
            if open && (trained || accepted.traffic.up > 0) {
                unprotected.push(name);
            }
        }
        Ok(Self {
            ledger,
            unprotected,
        })
    }

    /// The private steps that made a sealed update, if its entry is in the ledger.
    #[must_use]
    pub fn released(&self, study: &StudyId, sealed: Sealed) -> Option<&Transcript> {
        let digest = sealed.digest.to_string();
        let entry = self.ledger.entries().iter().rev().find(|entry| {
            let record = &entry.record;
            record.study == study.as_str()
                && (record.round, record.attempt) == (sealed.round, sealed.attempt)
                && record.release.as_deref() == Some(digest.as_str())
        });
        entry.map(|entry| &entry.record.transcript)
    }

    /// The delta of the total: the configured one, else the smallest that was agreed, in the ledger or `now`.
    #[must_use]
    pub fn delta(&self, configured: Option<f64>, now: Option<f64>) -> f64 {
        let agreed = self
            .ledger
            .entries()
            .iter()
            .filter_map(|entry| entry.record.delta);
        configured
            .or_else(|| agreed.chain(now).reduce(f64::min))
            .unwrap_or(USUAL_DELTA)
    }
}

/// As a row of the store.
pub(crate) fn row(study: &StudyId, entry: &Entry) -> PrivacyEvent {
    PrivacyEvent {
        sequence: entry.sequence,
        study: study.clone(),
        // Cannot fail: plain numbers and text.
        document: serde_json::to_string(entry).expect("an entry serialises"),
    }
}

/// Where nothing was agreed and nothing configured.
const USUAL_DELTA: f64 = 1e-5;

//! The ledger as it lies in the state folder.

use consilium_core::study::PrivacyMode;
use consilium_core::{Study, StudyId};
use consilium_rounds::{LedgerHead, Sealed};
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
    /// Heads of this ledger that servers have counter-signed, with the study of each.
    pub countersigned: Vec<(StudyId, LedgerHead)>,
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
        let receipts = store.receipts().await?.into_iter();
        Ok(Self {
            ledger,
            unprotected,
            countersigned: receipts.map(|(study, head, _)| (study, head)).collect(),
        })
    }

    /// How long the ledger is and the hash of its newest entry; nothing where it has none.
    #[must_use]
    pub fn head(&self) -> Option<LedgerHead> {
        let newest = self.ledger.entries().last()?;
        Some(LedgerHead {
            length: newest.sequence,
            head: newest.sha256.parse().ok()?,
        })
    }

    /// Takes note of a head that a server has counter-signed.
    pub fn keep(&mut self, study: StudyId, known: LedgerHead) {
        let noted = (study, known);
        if !self.countersigned.contains(&noted) {
            self.countersigned.push(noted);
        }
    }

    /// Heads that were counter-signed, and that this ledger neither holds nor has settled.
    pub fn uncovered(&self) -> impl Iterator<Item = &(StudyId, LedgerHead)> {
        let heads = self.countersigned.iter();
        heads.filter(|(_, known)| !self.holds(known) && !self.has_settled(known))
    }

    /// The most releases that may be missing from a ledger that does not hold `known`: all since the newest entry
    /// that the server of that study has seen and that is here.
    #[must_use]
    pub fn missing(&self, study: &StudyId, known: &LedgerHead) -> u64 {
        let seen = self.countersigned.iter();
        let seen = seen.filter(|(of, seen)| of == study && seen.length < known.length);
        let common = seen.filter(|(_, seen)| self.holds(seen));
        known.length - common.map(|(_, seen)| seen.length).max().unwrap_or(0)
    }

    /// Refuses a ledger that does not hold `known`.
    ///
    /// # Errors
    /// [`Refusal::LedgerBehind`].
    pub fn check(&self, study: &StudyId, known: &LedgerHead) -> Result<(), Refusal> {
        if self.holds(known) || self.has_settled(known) {
            return Ok(());
        }
        Err(Refusal::LedgerBehind {
            study: study.clone(),
            entries: self.ledger.len() as u64,
            known: known.length,
            missing: self.missing(study, known),
        })
    }

    /// Refuses a ledger that does not hold every head that was ever counter-signed.
    ///
    /// # Errors
    /// [`Refusal::LedgerBehind`].
    pub fn check_all(&self) -> Result<(), Refusal> {
        match self.uncovered().next() {
            Some((study, known)) => self.check(study, known),
            None => Ok(()),
        }
    }

    fn holds(&self, known: &LedgerHead) -> bool {
        let at = usize::try_from(known.length - 1).unwrap_or(usize::MAX);
        let entry = self.ledger.entries().get(at);
        entry.is_some_and(|entry| entry.sha256 == known.head.to_string())
    }

    fn has_settled(&self, known: &LedgerHead) -> bool {
        let head = known.head.to_string();
        self.ledger.entries().iter().any(|entry| {
            let purpose = &entry.record.purpose;
            let heads = purpose
                .strip_prefix(SETTLEMENT)
                .and_then(|rest| rest.split(':').next());
            heads.is_some_and(|heads| heads.split(", ").any(|settled| settled == head))
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

/// How the purpose of an entry begins that stands for missing ones; the heads that it settles follow.
pub(super) const SETTLEMENT: &str = "settlement of ledger head ";

/// Where nothing was agreed and nothing configured.
const USUAL_DELTA: f64 = 1e-5;

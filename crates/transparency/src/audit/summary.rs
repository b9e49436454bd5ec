//! What a whole log says, in numbers.

use std::collections::BTreeMap;

use consilium_core::clock::Timestamp;
use consilium_core::{Digest, SiteId, StudyId};
use serde::Serialize;

use super::{Finding, Log};
use crate::entry::{AgreedBudget, Entry, Event, LedgerLength};
use crate::head::{Head, Witnessed};

/// A log that was found whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Audited {
    /// The study.
    pub study: Option<StudyId>,
    /// SHA-256 of its document.
    pub study_sha256: Option<Digest>,
    /// How updates are protected, in the document's word.
    pub privacy: String,
    /// Entries.
    pub entries: u64,
    /// Root over all of them.
    pub root: Option<Digest>,
    /// Entries of each kind.
    pub kinds: BTreeMap<String, u64>,
    /// Entries that this version cannot read; their hashes hold all the same.
    pub unreadable: u64,
    /// Time of the first and the last entry, by the server's clock.
    pub period: Option<(Timestamp, Timestamp)>,
    /// Numbers of entries that are dated before the one before them: the server's clock was set back.
    pub clock_went_back: Vec<u64>,
    /// Rounds with a new model.
    pub rounds: u32,
    /// Attempts that closed without one.
    pub failed_attempts: u32,
    /// The newest released model.
    pub model: Option<Digest>,
    /// Signed heads.
    pub heads: u64,
    /// Entries that a site has counter-signed; for those after them there is the server's word alone.
    pub witnessed: u64,
    /// Every site of the study.
    pub sites: BTreeMap<SiteId, SiteSummary>,
}

/// What a log says about one site.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SiteSummary {
    /// Whether it has accepted the study.
    pub accepted: bool,
    /// Updates that came in time.
    pub updates: u64,
    /// Those that entered a model.
    pub used: u64,
    /// Updates that were refused.
    pub refused: u64,
    /// The code with which it has withdrawn, unless it came back.
    pub withdrawn: Option<String>,
    /// What its patients may spend in this study at most; nothing where nothing is protected.
    pub agreed: Option<AgreedBudget>,
    /// The private steps of each update, as the site stated them.
    #[serde(skip)]
    pub statements: Vec<serde_json::Value>,
    /// The newest head of its privacy ledger that it has shown.
    pub ledger: Option<LedgerLength>,
    /// Entries that it has seen and counter-signed.
    pub witnessed: u64,
}

/// Adds up what the entries say; what one contradicts of another is found here.
pub(super) fn of(
    entries: &[&[u8]],
    log: &Log,
    heads: &[Head],
    witnessed: &[Witnessed],
    newest: BTreeMap<&str, u64>,
) -> Result<Audited, Finding> {
    let mut audited = Audited {
        entries: log.tree.len(),
        root: Some(log.tree.root()),
        heads: heads.len() as u64,
        witnessed: newest.values().copied().max().unwrap_or(0),
        ..Audited::default()
    };
    let mut received = BTreeMap::new();
    for (index, bytes) in (0..).zip(entries) {
        let Some(Entry { at, event }) = Entry::read(bytes) else {
            audited.unreadable += 1;
            continue;
        };
        let (first, last) = audited.period.unwrap_or((at, at));
        if at < last {
            audited.clock_went_back.push(index);
        }
        audited.period = Some((first, at));
        *audited.kinds.entry(event.kind().into()).or_default() += 1;
        if let Event::UpdateReceived {
            site,
            round,
            attempt,
            update,
            ..
        } = &event
        {
            received.insert((site.clone(), *round, *attempt), *update);
        }
        if let Event::Aggregated {
            round,
            attempt,
            updates,
            ..
        } = &event
        {
            for (site, update) in updates {
                if received.get(&(site.clone(), *round, *attempt)) != Some(update) {
                    let problem = format!(
                        "entry {index} sums an update of site {site} in round {round} that was not received before"
                    );
                    return Err(Finding::new("log_contradiction", index, problem));
                }
            }
        }
        audited.count(event);
    }
    for seen in witnessed {
        let site = audited.sites.entry(seen.site.clone()).or_default();
        site.witnessed = seen.head.size.max(site.witnessed);
    }
    Ok(audited)
}

impl Audited {
    fn site(&mut self, site: SiteId) -> &mut SiteSummary {
        self.sites.entry(site).or_default()
    }

    fn count(&mut self, event: Event) {
        match event {
            Event::StudyCreated {
                name,
                study,
                privacy,
                sites,
                ..
            } => {
                (self.study, self.study_sha256, self.privacy) = (Some(name), Some(study), privacy);
                for (site, agreed) in sites {
                    self.site(site).agreed = agreed;
                }
            }
            Event::StudyAccepted { site, .. } => self.site(site).accepted = true,
            Event::StudyWithdrawn { site, code, .. } => self.site(site).withdrawn = Some(code),
            Event::StudyRejoined { site } => self.site(site).withdrawn = None,
            Event::UpdateReceived { site, privacy, .. } => {
                let site = self.site(site);
                site.updates += 1;
                site.statements.extend(privacy);
            }
            Event::UpdateRefused { site, .. } => self.site(site).refused += 1,
            Event::Budget { site, ledger } => self.site(site).ledger = Some(ledger),
            Event::Aggregated { updates, .. } => {
                self.rounds += 1;
                for site in updates.into_keys() {
                    self.site(site).used += 1;
                }
            }
            Event::ModelReleased { model, .. } => self.model = Some(model),
            Event::RoundFailed { .. } => self.failed_attempts += 1,
            _ => {}
        }
    }
}

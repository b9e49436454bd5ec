//! The server's log as it is shown: heads, proofs, and what sites have counter-signed.
//!
//! The rows in the store are the log; what is here is only their tree, which catches up before it is used. So an
//! entry may be appended by whoever changes the state, and by another program beside the server.

mod told;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use consilium_certs::{CertificateError, Role, Signer, TrustAnchor, fingerprint};
use consilium_core::clock::Clock;
use consilium_core::study::PrivacyMode;
use consilium_core::{Digest, SiteId, Study};
use consilium_store::server::{ServerStore, ServerStoreError, WitnessedHead};
use consilium_transparency::{
    Acceptance, AgreedBudget, CommittedRound, Entry, Event, Found, Head, MOST_OTHERS, Other,
    Signed, Statement, Tree, View, Witnessed, leaf_hash,
};
use dp_rs::agreement::Agreement;
use tokio::sync::Mutex;

pub use told::told;

/// Most updates that a site may ask for at a time.
pub const MOST_UPDATES: usize = 64;

/// Why the log cannot be shown, or a counter-signature taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The database.
    #[error(transparent)]
    Store(#[from] ServerStoreError),
    /// A head cannot be signed.
    #[error(transparent)]
    Signing(#[from] CertificateError),
    /// A counter-signature that is none, or of another site.
    #[error("the counter-signature is not acceptable: {0}")]
    BadWitness(String),
    /// An acceptance that is none, or of another site or document.
    #[error("the acceptance is not acceptable: {0}")]
    BadAcceptance(String),
    /// A counter-signature of a head that this server has not signed.
    #[error("this server has not signed the head that was counter-signed")]
    UnknownHead,
}

impl LogError {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => error.code(),
            Self::Signing(error) => error.code(),
            Self::BadWitness(_) => "log_witness_refused",
            Self::BadAcceptance(_) => "acceptance_refused",
            Self::UnknownHead => "log_head_unknown",
        }
    }
}

/// The log of one server.
pub struct Log {
    store: ServerStore,
    signer: Signer,
    anchor: TrustAnchor,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
}

/// What was read of the rows.
#[derive(Default)]
struct Known {
    tree: Tree,
    /// The entry of each update.
    updates: BTreeMap<(SiteId, u32, u32), u64>,
    /// The entry that opened each attempt at a round.
    opened: BTreeMap<(u32, u32), u64>,
    /// The attempt that committed each round, and its entry.
    aggregated: BTreeMap<u32, (u32, u64)>,
    /// Written acceptances.
    acceptances: BTreeMap<SiteId, Signed>,
    /// What is known of who was let in and out, as JSON.
    members: BTreeSet<String>,
    /// Sites that take part in the study.
    accepted: BTreeSet<SiteId>,
    /// The newest configuration.
    configuration: Option<Event>,
    /// The newest head.
    head: Option<Signed>,
    /// The newest counter-signature of each site.
    witnessed: BTreeMap<SiteId, WitnessedHead>,
}

impl Log {
    /// Opens the log in `store`, which has its first entry, and notes with what the server runs.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn open(
        store: ServerStore,
        signer: Signer,
        anchor: TrustAnchor,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ServerStoreError> {
        let configuration = Event::Configuration {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            certificate: fingerprint(&signer.certificate()),
            authority: Digest::of(&anchor.certificates().collect::<Vec<_>>().concat()),
        };
        let mut known = Known {
            head: store.newest_log_head().await?,
            ..Known::default()
        };
        for newest in store.newest_witnesses().await? {
            if let Some(seen) = newest.witnessed.says::<Witnessed>() {
                known.witnessed.insert(seen.site, newest);
            }
        }
        known.catch_up(&store).await?;
        let log = Self {
            store,
            signer,
            anchor,
            clock,
            known: Mutex::default(),
        };
        if known.configuration.as_ref() != Some(&configuration) {
            log.append(configuration).await?;
        }
        *log.known.lock().await = known;
        Ok(log)
    }

    /// An event, dated now.
    #[must_use]
    pub fn entry(&self, event: Event) -> Entry {
        let at = self.clock.now();
        Entry { at, event }
    }

    /// Appends an event that changes nothing else in the store.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn append(&self, event: Event) -> Result<(), ServerStoreError> {
        self.store.append_to_log(&[self.entry(event)]).await
    }

    /// Notes that a site has accepted the study, once.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn accepted(&self, site: &SiteId, study: Digest) -> Result<(), ServerStoreError> {
        let mut known = self.known.lock().await;
        if known.accepted.contains(site) {
            return Ok(());
        }
        known.catch_up(&self.store).await?;
        if known.accepted.contains(site) {
            return Ok(());
        }
        let site = site.clone();
        self.append(Event::StudyAccepted { site, study }).await?;
        known.catch_up(&self.store).await
    }

    /// Appends those of `events`, of who was let in and out, that the log does not hold yet.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn note_members(&self, events: Vec<Event>) -> Result<(), ServerStoreError> {
        let mut known = self.known.lock().await;
        known.catch_up(&self.store).await?;
        for event in events {
            if !known.members.contains(&member(&event)) {
                self.append(event).await?;
                known.catch_up(&self.store).await?;
            }
        }
        Ok(())
    }

    /// Takes the written acceptance of `site`, once.
    ///
    /// # Errors
    /// [`LogError`] for one that is not of this site and study.
    pub async fn accept(
        &self,
        site: &SiteId,
        study: Digest,
        signed: &Signed,
    ) -> Result<(), LogError> {
        let bad = |problem: &str| LogError::BadAcceptance(problem.to_owned());
        let said: Acceptance = self.said(site, signed).map_err(|problem| bad(&problem))?;
        if said.site != *site {
            return Err(bad("it is of another site"));
        }
        if said.study != study {
            return Err(bad("it is of another document"));
        }
        let mut known = self.known.lock().await;
        known.catch_up(&self.store).await?;
        if known.acceptances.get(site) == Some(signed) {
            return Ok(());
        }
        let event = Event::AcceptanceSigned {
            site: site.clone(),
            acceptance: signed.clone(),
        };
        self.append(event).await?;
        Ok(known.catch_up(&self.store).await?)
    }

    /// What was signed with the key of `site`, whose certificate is valid now, and was when the statement says that it
    /// was signed: by that the others judge it.
    fn said<T: Statement>(&self, site: &SiteId, signed: &Signed) -> Result<T, String> {
        self.anchor
            .holder(&signed.certificate, Role::Site, self.clock.now())
            .map_err(|error| error.to_string())?;
        let (said, holder) = signed.verified::<T>(&self.anchor)?;
        // Others are shown it: it is as short as it can be.
        if said.bytes() != signed.statement {
            return Err("it is not in its own form".into());
        }
        if holder != site.as_str() {
            return Err("it is of another site".into());
        }
        Ok(said)
    }

    /// A signed head over all entries: the newest one where it still covers them, or a new one.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn head(&self) -> Result<Signed, LogError> {
        let mut known = self.known.lock().await;
        self.sign(&mut known).await
    }

    async fn sign(&self, known: &mut Known) -> Result<Signed, LogError> {
        known.catch_up(&self.store).await?;
        let covers = |signed: &&Signed| {
            let said = signed.says::<Head>();
            said.is_some_and(|head| head.place() == (known.tree.len(), known.tree.root()))
                && signed.certificate[..] == self.signer.certificate()[..]
        };
        if let Some(signed) = known.head.as_ref().filter(covers) {
            return Ok(signed.clone());
        }
        let head = Head {
            // Cannot be absent: the study's first entry was written with the study.
            log: known.tree.leaf(0).unwrap_or_else(|| leaf_hash(b"")),
            size: known.tree.len(),
            root: known.tree.root(),
            at: self.clock.now(),
        };
        let signed = self.signer.state(&head)?;
        self.store.keep_log_head(&head, &signed).await?;
        known.head = Some(signed.clone());
        Ok(signed)
    }

    /// What `site` is shown, who has seen the first `seen` entries, asks for these updates of its own, and goes on
    /// from the round `committed`.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn view(
        &self,
        site: &SiteId,
        seen: u64,
        updates: &[(u32, u32)],
        committed: u32,
    ) -> Result<View, LogError> {
        let mut known = self.known.lock().await;
        let head = self.sign(&mut known).await?;
        let tree = &known.tree;
        let size = tree.len();
        let mut found = Vec::new();
        for (round, attempt) in updates.iter().take(MOST_UPDATES) {
            let at = known.updates.get(&(site.clone(), *round, *attempt));
            if let Some(index) = at {
                found.extend(self.find(tree, *index).await?);
            }
        }
        let committed = match known.round(committed) {
            Some((opened, aggregated)) => {
                let opened = self.find(tree, opened).await?;
                let aggregated = self.find(tree, aggregated).await?;
                opened.zip(aggregated)
            }
            None => None,
        };
        let others = known.witnessed.iter().filter(|(other, _)| *other != site);
        let mut others: Vec<_> = others
            .map(|(_, seen)| (seen.head.says::<Head>().map_or(0, |head| head.size), seen))
            .collect();
        others.sort_by_key(|(seen, _)| Reverse(*seen));
        others.truncate(MOST_OTHERS);
        let other = |(seen, WitnessedHead { head, witnessed }): (u64, &WitnessedHead)| Other {
            head: head.clone(),
            witnessed: witnessed.clone(),
            consistency: tree.consistency(seen, size).unwrap_or_default(),
        };
        Ok(View {
            head,
            // A site that has seen more is shown what there is, and judges.
            consistency: tree.consistency(seen, size).unwrap_or_default(),
            updates: found,
            others: others.into_iter().map(other).collect(),
            committed: committed.map(|(opened, aggregated)| CommittedRound { opened, aggregated }),
        })
    }

    /// An entry with the path to the root of the whole tree.
    async fn find(&self, tree: &Tree, index: u64) -> Result<Option<Found>, LogError> {
        let entry = self.store.log_entry(index).await?;
        let found = entry.zip(tree.inclusion(index, tree.len()));
        Ok(found.map(|(entry, path)| Found { index, entry, path }))
    }

    /// Takes a counter-signature of `site`: its own, and of a head that this server has signed, so that nobody
    /// can make the others believe that they were shown another log.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn witness(&self, site: &SiteId, signed: &Signed) -> Result<(), LogError> {
        let bad = |problem: &str| LogError::BadWitness(problem.to_owned());
        let seen: Witnessed = self.said(site, signed).map_err(|problem| bad(&problem))?;
        if seen.site != *site {
            return Err(bad("it is of another site"));
        }
        let mut known = self.known.lock().await;
        let head = self.store.keep_witness(site, &seen.head, signed).await?;
        let newest = WitnessedHead {
            head: head.ok_or(LogError::UnknownHead)?,
            witnessed: signed.clone(),
        };
        // A repeated call may come late.
        let size = |seen: &WitnessedHead| seen.head.says::<Head>().map_or(0, |head| head.size);
        if known.witnessed.get(site).map_or(0, size) <= seen.head.size {
            known.witnessed.insert(site.clone(), newest);
        }
        Ok(())
    }
}

impl Known {
    /// The entries that opened and committed a round.
    fn round(&self, round: u32) -> Option<(u64, u64)> {
        let (attempt, aggregated) = self.aggregated.get(&round)?;
        let opened = self.opened.get(&(round, *attempt))?;
        Some((*opened, *aggregated))
    }

    /// Reads the rows that have come since.
    async fn catch_up(&mut self, store: &ServerStore) -> Result<(), ServerStoreError> {
        for bytes in store.log_from(self.tree.len()).await? {
            let index = self.tree.len();
            self.tree.push(leaf_hash(&bytes));
            match Entry::read(&bytes).map(|entry| entry.event) {
                Some(Event::UpdateReceived {
                    site,
                    round,
                    attempt,
                    ..
                }) => {
                    self.updates.insert((site, round, attempt), index);
                }
                Some(Event::PlanOpened { round, attempt, .. }) => {
                    self.opened.insert((round, attempt), index);
                }
                Some(Event::Aggregated { round, attempt, .. }) => {
                    self.aggregated.insert(round, (attempt, index));
                }
                Some(
                    event @ (Event::EnrolmentRequested { .. }
                    | Event::EnrolmentApproved { .. }
                    | Event::CertificateRevoked { .. }),
                ) => {
                    self.members.insert(member(&event));
                }
                Some(Event::AcceptanceSigned { site, acceptance }) => {
                    self.acceptances.insert(site, acceptance);
                }
                Some(Event::StudyAccepted { site, .. }) => {
                    self.accepted.insert(site);
                }
                Some(configuration @ Event::Configuration { .. }) => {
                    self.configuration = Some(configuration);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// An event by which it is found again.
fn member(event: &Event) -> String {
    // Cannot fail: plain numbers and text.
    serde_json::to_string(event).expect("an event serialises")
}

/// The first entry of a study's log.
#[must_use]
pub fn first_entry(study: &Study, clock: &dyn Clock) -> Entry {
    let agreed = |privacy: &serde_json::Value| {
        let agreement: Agreement = serde_json::from_value(privacy.clone()).ok()?;
        let Agreement { epsilon, delta, .. } = agreement;
        Some(AgreedBudget { epsilon, delta })
    };
    let sites = study.sites.iter().map(|participant| {
        let agreed = participant.privacy.as_ref().and_then(agreed);
        (participant.site.clone(), agreed)
    });
    Entry {
        at: clock.now(),
        event: Event::StudyCreated {
            name: study.name.clone(),
            study: study.digest(),
            rounds: study.schedule.rounds,
            privacy: privacy_word(study.privacy),
            sites: sites.collect(),
        },
    }
}

/// The word of the study document.
fn privacy_word(mode: PrivacyMode) -> String {
    let word = serde_json::to_value(mode).ok();
    let word = word.as_ref().and_then(|word| word.as_str());
    word.unwrap_or_default().to_owned()
}

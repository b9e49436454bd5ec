//! The shell around the study's state machine: load, handle, store, carry out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use consilium_certs::{CertificateError, Signer, TrustAnchor};
use consilium_core::clock::Clock;
use consilium_core::{Digest, GroupName, Participant, RoundPlan, SiteId, Study};
use consilium_proto::Refused;
use consilium_rounds::{
    Assignment, Cause, Coordination, Countersigned, Effect, Event, LedgerHead, Outcome, Phase,
    Receipt, RejectUpdate, Withdrawal,
};
use consilium_store::server::{BlobWriter, Blobs, ServerStore, ServerStoreError};
use consilium_transparency::{Event as Logged, LedgerLength};
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::aggregate::{self, Summed, places};
use crate::initial::InitialModel;
use crate::log::{Log, first_entry, told};

/// Pause before what failed for a while is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// SHA-256 of each federated group of one model, little-endian f32.
pub type GroupDigests = BTreeMap<GroupName, Digest>;

/// A running study.
pub struct Consortium {
    study: Study,
    /// Its digest.
    digest: Digest,
    /// Where each federated group begins in a model's blob, and its number of values.
    places: BTreeMap<GroupName, (u64, usize)>,
    /// The document, byte for byte as every site accepts it.
    document: Vec<u8>,
    store: ServerStore,
    blobs: Blobs,
    clock: Arc<dyn Clock>,
    coordination: Arc<Mutex<Coordination>>,
    /// Held from the moment a blob is in place until the state names it, and while unnamed blobs are removed.
    naming: Arc<Mutex<()>>,
    /// The upload of each site that runs, or ran last: dropping its sender ends it.
    uploads: std::sync::Mutex<BTreeMap<SiteId, oneshot::Sender<()>>>,
    /// Counts changes of the state; waiting calls look at it.
    changes: watch::Sender<u64>,
    /// SHA-256 of the groups of the models that were asked for, computed once for each.
    digests: Mutex<BTreeMap<Digest, Arc<GroupDigests>>>,
    /// What each site has of the ended study.
    served: Mutex<BTreeMap<SiteId, BTreeSet<GroupName>>>,
    /// The highest head that each site has shown of its privacy ledger, as it is stored.
    ledgers: Mutex<BTreeMap<SiteId, LedgerHead>>,
    /// Signs what is said about them.
    signer: Signer,
    /// What has happened, in a form that cannot be rewritten.
    log: Log,
    /// Sites that have asked this process for work.
    heard: std::sync::Mutex<BTreeSet<SiteId>>,
    /// Nobody needs this server any more.
    finished: watch::Sender<bool>,
    /// What runs beside the calls.
    tasks: std::sync::Mutex<JoinSet<()>>,
}

impl Consortium {
    /// Opens the state, starts the study when it is new, and takes up again what a killed process left.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn open(
        study: Study,
        initial: &InitialModel,
        store: ServerStore,
        blobs: Blobs,
        clock: Arc<dyn Clock>,
        signer: Signer,
        anchor: TrustAnchor,
    ) -> Result<Arc<Self>, ServerStoreError> {
        let first = first_entry(&study, &*clock);
        let coordination = store.load_or_create(&study, &first).await?;
        let (log_store, log_clock) = (store.clone(), Arc::clone(&clock));
        let log = Log::open(log_store, signer.clone(), anchor, log_clock).await?;
        if !blobs.contains(&study.initial_model_sha256) && coordination.committed_rounds() == 0 {
            store_initial(initial, &study, &blobs)?;
        }
        let served = store.served().await?;
        let ledgers = store.ledger_heads().await?;
        let effects = coordination.resume();
        let consortium = Arc::new(Self {
            document: serde_json::to_vec(&study).expect("plain numbers and text"),
            digest: study.digest(),
            places: places(&study, &study.federated_groups()),
            study,
            store,
            blobs,
            clock,
            coordination: Arc::new(Mutex::new(coordination)),
            naming: Arc::default(),
            uploads: std::sync::Mutex::default(),
            changes: watch::Sender::new(0),
            digests: Mutex::default(),
            served: Mutex::new(served),
            ledgers: Mutex::new(ledgers),
            signer,
            log,
            heard: std::sync::Mutex::default(),
            finished: watch::Sender::new(false),
            tasks: std::sync::Mutex::default(),
        });
        consortium.carry_out(effects);
        let now = consortium.clock.now();
        consortium.take(Event::Started { now }).await?;
        Ok(consortium)
    }

    /// The study.
    #[must_use]
    pub fn study(&self) -> &Study {
        &self.study
    }

    /// Digest of the study document.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The study document.
    #[must_use]
    pub fn document(&self) -> &[u8] {
        &self.document
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Models and updates.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Where the study stands.
    pub async fn coordination(&self) -> Coordination {
        self.coordination.lock().await.clone()
    }

    /// Changes of the state, for calls that wait.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until the study has ended and nobody needs this server any more: every site has the final
    /// model, or knows that the study failed if it had asked this process for work; at most one round's
    /// deadline after the end, for a site that is gone may never come back. Returns how the study ended.
    ///
    /// # Errors
    /// Why the study failed, and the same in words.
    pub async fn until_finished(&self) -> Result<Digest, (Cause, String)> {
        let mut changes = self.changes.subscribe();
        let coordination = loop {
            let coordination = self.coordination().await;
            if coordination.end().is_some() {
                break coordination;
            }
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        };
        let mut finished = self.finished.subscribe();
        let patience = Duration::from_secs(self.study.schedule.deadline_seconds);
        let waited = tokio::time::timeout(patience, finished.wait_for(|finished| *finished)).await;
        if waited.is_err() {
            let waiting: Vec<String> = self.unserved().await;
            tracing::warn!(sites = waiting.join(", "), "no longer waiting for sites");
        }
        match (coordination.end(), coordination.failure()) {
            (Some(Err(reason)), Some(cause)) => Err((cause, reason)),
            _ => Ok(coordination.model),
        }
    }

    /// Sites that need something from the ended study yet.
    async fn unserved(&self) -> Vec<String> {
        let (failed, gone) = {
            let coordination = self.coordination.lock().await;
            let withdrawn = coordination.withdrawn.iter();
            let gone: BTreeSet<SiteId> = withdrawn
                .filter(|(_, withdrawal)| !withdrawal.may_return)
                .map(|(site, _)| site.clone())
                .collect();
            (coordination.failure().is_some(), gone)
        };
        let served = self.served.lock().await;
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let needs = |participant: &&Participant| {
            let has = served.get(&participant.site);
            let shared = self.study.shared_groups(participant);
            let complete = has.is_some_and(|has| shared.is_subset(has));
            !complete
                && !gone.contains(&participant.site)
                && (!failed || heard.contains(&participant.site))
        };
        let waiting = self.study.sites.iter().filter(needs);
        waiting
            .map(|participant| participant.site.to_string())
            .collect()
    }

    /// Lets [`Consortium::until_finished`] end once the study has ended and everybody is served.
    async fn look_whether_finished(&self) {
        let ended = self.coordination.lock().await.end().is_some();
        if ended && self.unserved().await.is_empty() {
            self.finished.send_replace(true);
        }
    }

    /// A site begins to send an update; what it returns is ready once a newer upload of this site begins. A
    /// connection may have been lost without a word, so that the newer one counts.
    pub fn begin_upload(&self, site: &SiteId) -> oneshot::Receiver<()> {
        let (running, superseded) = oneshot::channel();
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.insert(site.clone(), running);
        superseded
    }

    /// A site asks for work.
    pub fn hear(&self, site: &SiteId) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.insert(site.clone());
    }

    /// Whether an update would enter the open round; `Ok(false)` when this very update is already there.
    ///
    /// # Errors
    /// [`RejectUpdate`], as storing it would.
    pub async fn admits(
        &self,
        site: &SiteId,
        (round, attempt): (u32, u32),
        digest: Digest,
    ) -> Result<bool, RejectUpdate> {
        let coordination = self.coordination.lock().await;
        coordination.admits(&self.study, site, round, attempt, digest)
    }

    /// What a site is told now, without the digests of the model's groups.
    pub async fn assignment(&self, site: &SiteId, sealed: Option<(u32, u32)>) -> Assignment {
        let coordination = self.coordination.lock().await;
        Assignment {
            sealed_was_used: sealed
                .and_then(|(round, attempt)| coordination.sealed_was_used(site, round, attempt)),
            plan: coordination.open_plan().cloned(),
            end: coordination.end(),
            groups: BTreeMap::new(),
            ledger: None,
        }
    }

    /// Takes the head of a site's privacy ledger: it is stored when this returns true. False for a ledger behind
    /// the one that was seen before.
    ///
    /// # Errors
    /// [`ServerStoreError`]; then the former head stands.
    pub async fn keep_ledger_head(
        &self,
        site: &SiteId,
        ledger: LedgerHead,
    ) -> Result<bool, ServerStoreError> {
        let mut ledgers = self.ledgers.lock().await;
        match ledgers.get(site) {
            Some(known) if *known == ledger => return Ok(true),
            Some(known) if !ledger.follows(known) => return Ok(false),
            _ => {}
        }
        let told = self.log.entry(Logged::Budget {
            site: site.clone(),
            ledger: LedgerLength {
                length: ledger.length,
                head: ledger.head,
            },
        });
        self.store.keep_ledger_head(site, &ledger, &told).await?;
        ledgers.insert(site.clone(), ledger);
        Ok(true)
    }

    /// The signed word about a site's ledger; nothing before its first head.
    ///
    /// # Errors
    /// [`CertificateError`] when signing fails.
    pub async fn receipt(&self, site: &SiteId) -> Result<Option<Receipt>, CertificateError> {
        let Some(ledger) = self.ledgers.lock().await.get(site).copied() else {
            return Ok(None);
        };
        let said = Countersigned {
            study: self.digest,
            site: site.clone(),
            ledger,
            at: self.clock.now(),
        };
        // Cannot fail: plain numbers and text.
        let statement = serde_json::to_vec(&said).expect("a statement serialises");
        let signature = self.signer.sign(&Receipt::signed_bytes(&statement))?;
        Ok(Some(Receipt {
            statement,
            scheme: signature.scheme,
            signature: signature.bytes,
            certificate: Vec::new(),
        }))
    }

    /// Takes an event: the new state is stored, and the log tells of it, before its effects are carried out.
    ///
    /// # Errors
    /// [`ServerStoreError`]; then the former state stands.
    pub async fn take(self: &Arc<Self>, event: Event) -> Result<(), ServerStoreError> {
        // A task of its own: a peer that goes away must not leave a stored state that this process does not
        // know, and would log again.
        let coordination = Arc::clone(&self.coordination).lock_owned().await;
        let this = Arc::clone(self);
        let taking = async move { this.take_with(coordination, event, None).await };
        to_its_end(tokio::spawn(taking)).await
    }

    /// As [`Consortium::take`], with the privacy statement of an update.
    async fn take_with(
        self: &Arc<Self>,
        mut coordination: OwnedMutexGuard<Coordination>,
        event: Event,
        statement: Option<serde_json::Value>,
    ) -> Result<(), ServerStoreError> {
        let mut next = coordination.clone();
        let effects = match next.handle(&self.study, event.clone()) {
            Ok(effects) => effects,
            Err(unexpected) => {
                tracing::warn!(%unexpected, "event ignored");
                return Ok(());
            }
        };
        if next == *coordination {
            return Ok(());
        }
        let told: Vec<_> = told(&event, &coordination, &next, statement)
            .into_iter()
            .map(|event| self.log.entry(event))
            .collect();
        let known = coordination.closed.len();
        self.store.save(&next, known, &told).await?;
        let closed = next.closed.len() > known;
        for (site, withdrawal) in &next.withdrawn {
            if coordination.withdrawn.get(site) != Some(withdrawal) {
                let Withdrawal { round, attempt, .. } = withdrawal;
                let (code, reason) = (&withdrawal.code, &withdrawal.reason);
                tracing::warn!(%site, round, attempt, error.code = code, reason, "site withdrew");
            }
        }
        for site in coordination.withdrawn.keys() {
            if !next.withdrawn.contains_key(site) {
                tracing::info!(%site, "site returned");
            }
        }
        for record in &next.closed[coordination.closed.len()..] {
            let contributors = record.received.len();
            let (round, attempt, missing) = (record.round, record.attempt, record.missing.len());
            for (site, why) in &record.why_missing {
                tracing::warn!(round, attempt, %site, why = %why, "site missing");
            }
            let outcome = serde_json::to_string(&record.outcome).unwrap_or_default();
            tracing::info!(
                round,
                attempt,
                contributors,
                missing,
                outcome,
                "round closed"
            );
        }
        *coordination = next;
        drop(coordination);
        self.carry_out(effects);
        self.changes.send_modify(|count| *count += 1);
        // Every round has its head, also when nobody asks.
        if closed && let Err(error) = self.log.head().await {
            tracing::error!(%error, error.code = error.code(), "head of the log not signed");
        }
        Ok(())
    }

    /// Makes an update durable and enters it into its round.
    ///
    /// # Errors
    /// [`ServerStoreError`]; then the update is not in the round and can be sent again.
    pub async fn store_update(
        self: &Arc<Self>,
        mut writer: BlobWriter<'_>,
        site: SiteId,
        (round, attempt): (u32, u32),
        statement: Option<serde_json::Value>,
    ) -> Result<(), ServerStoreError> {
        // The long part: other updates may be named meanwhile.
        tokio::task::block_in_place(|| writer.sync())?;
        let naming = Arc::clone(&self.naming).lock_owned().await;
        let digest = tokio::task::block_in_place(|| writer.finish())?;
        let event = Event::UpdateStored {
            site,
            round,
            attempt,
            digest,
        };
        // A task of its own: a peer that goes away must not leave a blob in place without its name, or a
        // stored state that this process does not know.
        let this = Arc::clone(self);
        to_its_end(tokio::spawn(async move {
            let coordination = Arc::clone(&this.coordination).lock_owned().await;
            let taken = this.take_with(coordination, event, statement).await;
            drop(naming);
            taken
        }))
        .await
    }

    /// Looks at the clock until the study has ended.
    pub async fn watch_the_clock(self: Arc<Self>) {
        while self.coordination.lock().await.end().is_none() {
            let now = self.clock.now();
            if let Err(error) = self.take(Event::Clock { now }).await {
                tracing::error!(%error, error.code = error.code(), "state not stored");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Does something beside the calls, until it is done or [`Consortium::stop`].
    pub(crate) fn work(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Ends what runs beside the calls: nothing changes the state any more when this returns.
    pub(crate) async fn stop(&self) {
        let mut tasks = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        tasks.shutdown().await;
        // An event that is being stored is stored to its end.
        drop(self.coordination.lock().await);
    }

    fn carry_out(self: &Arc<Self>, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Announce(plan) => {
                    tracing::info!(round = plan.round, attempt = plan.attempt, "round opened");
                }
                Effect::Aggregate { plan, contributors } => {
                    let consortium = Arc::clone(self);
                    self.work(async move { consortium.aggregate(plan, contributors).await });
                }
                Effect::ForgetUpdates { .. } => {
                    let consortium = Arc::clone(self);
                    self.work(async move { consortium.forget().await });
                }
                Effect::AnnounceEnd => {
                    let consortium = Arc::clone(self);
                    self.work(async move { consortium.announce_end().await });
                }
            }
        }
    }

    async fn announce_end(&self) {
        match self.coordination.lock().await.end() {
            Some(Ok(model)) => tracing::info!(%model, "study finished"),
            Some(Err(reason)) => {
                tracing::error!(reason, error.code = "study_failed", "study failed")
            }
            None => {}
        }
        self.look_whether_finished().await;
    }

    /// Sums on a thread of its own and reports. On a full disk or a failing database it tries again until
    /// that is over; what is lost or wrong ends the study.
    async fn aggregate(self: Arc<Self>, plan: RoundPlan, contributors: BTreeMap<SiteId, Digest>) {
        tracing::info!(round = plan.round, attempt = plan.attempt, "aggregating");
        loop {
            let (this, model, from) = (Arc::clone(&self), plan.model, contributors.clone());
            // The clean-up of the round before must not take the new model for an old one.
            let naming = self.naming.lock().await;
            let summed = tokio::task::spawn_blocking(move || {
                aggregate::aggregate(&this.study, &this.blobs, model, &from)
            })
            .await;
            match summed {
                Ok(Ok(Summed { model, groups })) => {
                    self.digests.lock().await.insert(model, groups.into());
                    let (round, attempt, now) = (plan.round, plan.attempt, self.clock.now());
                    let event = Event::Aggregated {
                        round,
                        attempt,
                        model,
                        now,
                    };
                    match self.take(event).await {
                        Ok(()) => return,
                        Err(error) => tracing::error!(%error, "state not stored"),
                    }
                }
                Ok(Err(error)) if error.may_pass() => {
                    tracing::error!(%error, error.code = error.code(), "sum failed, tried again");
                }
                Ok(Err(error)) => {
                    return self.give_up(&plan, error.code(), error.to_string()).await;
                }
                Err(panic) if panic.is_panic() => {
                    return self.give_up(&plan, "internal", panic.to_string()).await;
                }
                // The program ends.
                Err(_) => return,
            }
            drop(naming);
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Ends the study: the round's updates cannot be summed.
    async fn give_up(self: &Arc<Self>, plan: &RoundPlan, code: &str, problem: String) {
        let (round, attempt) = (plan.round, plan.attempt);
        tracing::error!(round, attempt, error.code = code, problem, "sum failed");
        loop {
            let event = Event::SumFailed {
                round,
                attempt,
                code: code.to_owned(),
                problem: problem.clone(),
            };
            match self.take(event).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(%error, error.code = error.code(), "state not stored")
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Removes every blob but the models of the last two rounds and the updates of the open one.
    async fn forget(self: Arc<Self>) {
        // Nothing is named meanwhile: what is wanted now is all that is wanted until it is let go.
        let naming = Arc::clone(&self.naming).lock_owned().await;
        let wanted = self.wanted(&*self.coordination.lock().await);
        let mut digests = self.digests.lock().await;
        digests.retain(|model, _| wanted.contains(model));
        drop(digests);
        // The guard goes along: removing goes on to its end even when this task does not.
        let removed = blocking(move || {
            let removed = self.blobs.keep_only(&wanted);
            drop(naming);
            removed
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, error.code = error.code(), "old updates not removed");
        }
    }

    /// The blobs that a state needs, or may need yet.
    fn wanted(&self, coordination: &Coordination) -> BTreeSet<Digest> {
        let mut wanted = BTreeSet::from([self.study.initial_model_sha256, coordination.model]);
        let committed = coordination.closed.iter().rev();
        let committed = committed.filter_map(|record| match record.outcome {
            Outcome::Committed { model } => Some(model),
            _ => None,
        });
        wanted.extend(committed.take(2));
        match &coordination.phase {
            Phase::Training { received, .. } => wanted.extend(received.values()),
            Phase::Aggregating {
                plan, contributors, ..
            } => {
                wanted.insert(plan.model);
                wanted.extend(contributors.values());
            }
            _ => {}
        }
        wanted
    }

    /// Where `group` begins in a model's blob and its number of values; `None` when it is not federated.
    #[must_use]
    pub fn place(&self, group: &GroupName) -> Option<(u64, usize)> {
        self.places.get(group).copied()
    }

    /// Digests of the groups of a stored model. They are known since the model was summed, or else taken
    /// once from its blob, which must be what its name says.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn group_digests(
        self: &Arc<Self>,
        model: Digest,
    ) -> Result<Arc<GroupDigests>, ServerStoreError> {
        let mut digests = self.digests.lock().await;
        if let Some(known) = digests.get(&model) {
            return Ok(Arc::clone(known));
        }
        let this = Arc::clone(self);
        let found = blocking(move || aggregate::group_digests(&this.study, &this.blobs, model));
        let found = Arc::new(found.await?);
        digests.insert(model, Arc::clone(&found));
        Ok(found)
    }

    /// A site has streamed `group` of `model` to the end, or was told of a failure (`None`).
    pub async fn count_served(&self, site: &SiteId, streamed: Option<(&GroupName, &Digest)>) {
        let end = self.coordination.lock().await.end();
        let Some(participant) = self.study.participant(site) else {
            return;
        };
        let got = match (end, streamed) {
            (Some(Ok(last)), Some((group, model))) if last == *model => {
                BTreeSet::from([group.clone()])
            }
            (Some(Err(_)), None) => self.study.shared_groups(participant),
            _ => return,
        };
        // Only the end of this process waits for it: a failure costs one more wait after a restart.
        if let Err(error) = self.store.serve(site, &got).await {
            tracing::warn!(%error, error.code = error.code(), "not recorded that a site is served");
        }
        self.served
            .lock()
            .await
            .entry(site.clone())
            .or_default()
            .extend(got);
        self.look_whether_finished().await;
    }
}

/// What a task gives that nobody aborts. A panic there goes on here.
async fn to_its_end<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The program ends, and with it everybody who waits.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Runs what reads and writes files on a thread that may wait. A panic there goes on here.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    to_its_end(tokio::task::spawn_blocking(work)).await
}

/// Stores the initial model as the first blob.
fn store_initial(
    initial: &InitialModel,
    study: &Study,
    blobs: &Blobs,
) -> Result<(), ServerStoreError> {
    let path = || initial.path().to_owned();
    let mut writer = blobs.create()?;
    for chunk in initial.chunks() {
        let chunk = chunk.map_err(|error| ServerStoreError::File {
            path: path(),
            error,
        })?;
        writer.append(&chunk)?;
    }
    if writer.digest() != study.initial_model_sha256 {
        // It was right a moment ago: somebody has written to it.
        return Err(ServerStoreError::Corrupt { path: path() });
    }
    writer.finish()?;
    Ok(())
}

/// A refusal because of the store, for the peer. It may pass unless something that was stored is lost.
#[must_use]
pub fn store_refusal(error: &ServerStoreError) -> Refused {
    tracing::error!(%error, error.code = error.code(), "store failed");
    let message = "the server cannot store or read values";
    Refused {
        retryable: !error.is_loss(),
        ..Refused::new(error.code(), message, error.hint())
    }
}

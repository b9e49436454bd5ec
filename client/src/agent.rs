//! The site's loop: ask for work, train, seal, deliver, learn what became of it.
//!
//! [`Agent::join`] accepts the study (or compares it with the one accepted before), [`Agent::run`] follows
//! it to its end. Between two steps everything that matters is in the [`SiteStore`]: an agent that is
//! killed anywhere and started again sends the same bytes and ends with the same model.
//!
//! It does not know how messages travel ([`Peer`]) or how the network learns ([`LocalWork`]).

mod countersigned;
mod error;
mod faults;
mod halting;
mod leaving;
mod permitting;
mod spending;
mod witness;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use consilium_core::clock::Clock;
use consilium_core::{
    Digest, GroupName, ModelVector, Participant, RoundPlan, SiteId, Study, StudyId,
};
use consilium_ops::OperatorError;
use consilium_rounds::{LedgerHead, Participation, Sealed, SiteEffect};
use consilium_store::site::{Accepted, Fate, SiteStore, Version};
use consilium_transparency::{Entry, Event, Frontier};
use tracing::{info, warn};

pub use error::AgentError;
use faults::{Fault, injected};
use worker::{Begin, Worker};

use crate::outcome::Outcome;
use crate::pause::pause;
use crate::peer::{Attempt, Peer, PeerError, Question, Uploaded, Wanted};
use crate::preparation::Preparation;
use crate::privacy::{CohortFacts, Protection, Refusal, Standing, row};
use crate::work::{LocalWork, WorkError};

/// Makes the site's work, once the study is known.
pub type MakeWork =
    Box<dyn FnOnce(&Study, &Participant) -> Result<Box<dyn LocalWork>, WorkError> + Send>;

/// Reads the cohort, once the policy permits the study: what it is, and the work with its records.
pub type OpenCohort = Box<dyn FnOnce() -> Result<(CohortFacts, MakeWork), OperatorError> + Send>;

/// What an agent is told before it meets the server.
#[derive(Clone, Debug, PartialEq)]
pub struct Errand {
    /// This site.
    pub site: SiteId,
    /// The study to take part in.
    pub study: StudyId,
    /// Where the results are written.
    pub metrics_file: PathBuf,
    /// The policy file. It is read again before every round and before an update leaves.
    pub policy: PathBuf,
}

/// A site in the middle of a study.
pub struct Agent<P> {
    errand: Errand,
    store: SiteStore,
    peer: P,
    /// What the entries of the ledger are dated by.
    clock: Arc<dyn Clock>,
    study: Study,
    participant: Participant,
    shared: BTreeSet<GroupName>,
    lengths: BTreeMap<GroupName, usize>,
    participation: Participation,
    worker: Worker,
    /// What this site agreed to, in a private study.
    protection: Option<Protection>,
    /// What this site has spent, as it lies in the store.
    standing: Arc<Standing>,
    /// Whether this site had stopped, in this process or an earlier one, and has not gone on since.
    halted: bool,
    /// The plan that the server has told of last.
    plan: Option<RoundPlan>,
    /// The head of this site's ledger that the server has counter-signed to this process.
    confirmed: Option<LedgerHead>,
    /// The attempt that the server has told of.
    known: Option<Attempt>,
    /// Digests of the shared groups in the model that the server's last answer names.
    digests: BTreeMap<GroupName, Digest>,
    /// The update that the server has confirmed to this process.
    delivered: Option<Sealed>,
    /// The edge of the tree over this site's own log.
    own_log: Frontier,
}

/// What joining a study led to.
pub enum Joined<P> {
    /// There is work to do.
    Agent(Box<Agent<P>>),
    /// This site had finished the study before.
    Finished(Outcome),
}

impl<P: Peer> Agent<P> {
    /// Fetches the study and accepts it, or takes up where an earlier process stopped.
    ///
    /// # Errors
    /// [`AgentError`]; the study that was accepted before stays as it was.
    pub async fn join(
        errand: Errand,
        store: SiteStore,
        mut peer: P,
        clock: Arc<dyn Clock>,
        open_cohort: OpenCohort,
    ) -> Result<Joined<P>, AgentError> {
        let before = store.accepted(&errand.study).await?;
        if let Some(accepted) = &before
            && let Some(model) = accepted.final_model
        {
            let study = read_study(&errand.study, &accepted.document)?;
            let outcome = Outcome::stored(&store, &errand.site, &study, accepted, model).await?;
            info!(study = %study.name, model = %model, "study was finished before");
            return Ok(Joined::Finished(outcome));
        }
        let document = peer.study(&errand.study).await?;
        let study = read_study(&errand.study, &document)?;
        let digest = study.digest();
        if let Some(accepted) = &before
            && accepted.digest != digest
        {
            return Err(AgentError::StudyChanged {
                study: study.name,
                got: digest,
                accepted: accepted.digest,
            });
        }
        let Some(participant) = study.participant(&errand.site).cloned() else {
            return Err(AgentError::NotAParticipant {
                study: study.name,
                site: errand.site,
            });
        };
        let name = study.name.clone();
        let halted = halting::tell_again(&store, &mut peer, &name, digest).await?;
        let ready = Ready::make(
            &errand,
            &store,
            &*clock,
            study,
            &document,
            participant,
            before,
            open_cohort,
        );
        match ready.await {
            Ok(ready) => {
                permitting::show_acceptance(&store, &mut peer, &name, digest).await?;
                let agent = ready.agent(errand, store, peer, clock, halted.is_some());
                Ok(Joined::Agent(Box::new(agent)))
            }
            Err(error) => {
                witness::note_refusal(&store, &*clock, &name, &error).await;
                halting::halt(&store, &mut peer, &name, digest, None, &error).await;
                Err(error)
            }
        }
    }

    /// Follows the study to its end.
    ///
    /// # Errors
    /// [`AgentError`]; a new agent on the same store goes on where this one stopped.
    pub async fn run(mut self) -> Result<Outcome, AgentError> {
        let ended = self.follow().await;
        if let Err(error) = &ended {
            let (name, digest) = (&self.study.name, self.participation.study);
            let plan = self.plan.as_ref();
            witness::note_refusal(&self.store, &*self.clock, name, error).await;
            halting::halt(&self.store, &mut self.peer, name, digest, plan, error).await;
        }
        ended
    }

    async fn follow(&mut self) -> Result<Outcome, AgentError> {
        let mut refusals = 0;
        loop {
            match self.step().await {
                Ok(Step::Finished(outcome)) => return Ok(*outcome),
                Ok(Step::Worked) => refusals = 0,
                // A server that answers at once with nothing new must not keep both sides busy.
                Ok(Step::Idle) => {
                    refusals = 0;
                    tokio::time::sleep(IDLE_PAUSE).await;
                }
                Err(AgentError::Peer(refused)) if refused.may_pass() => {
                    let pause = pause(&self.errand.site, refusals);
                    warn!(
                        error.code = refused.code(),
                        %refused,
                        retry_in_seconds = pause.as_secs_f32(),
                        "refused for now"
                    );
                    tokio::time::sleep(pause).await;
                    refusals += 1;
                    // Ask as if nothing had been told: the server answers at once with what there is to do.
                    self.known = None;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for work and does it.
    async fn step(&mut self) -> Result<Step, AgentError> {
        let question = Question {
            study: self.participation.study,
            sealed: self.participation.sealed.map(attempt_of),
            known: self.known,
        };
        let assignment = self.peer.assignment(&question).await?;
        if assignment.plan.is_some() {
            self.plan.clone_from(&assignment.plan);
        }
        // Before anything is trained, or sent again.
        if let Some(receipt) = &assignment.ledger {
            self.countersigned(receipt).await?;
        }
        let mut participation = self.participation.clone();
        let effects = participation.assigned(&self.study, &assignment)?;
        self.known = assignment.plan.as_ref().map(|plan| Attempt {
            round: plan.round,
            attempt: plan.attempt,
        });
        self.digests.clone_from(&assignment.groups);
        let mut step = Step::Idle;
        if participation != self.participation {
            let fate = effects.iter().find_map(fate);
            if let (Some(Fate::Committed { .. }), Some(sealed)) = (fate, self.participation.sealed)
            {
                self.confirmed(sealed).await?;
            }
            self.store
                .settle(&self.study.name, &participation, fate)
                .await?;
            self.participation = participation;
            step = Step::Worked;
        }
        for effect in effects {
            match effect {
                SiteEffect::AdvanceLocalState { round } => info!(round, "round committed"),
                SiteEffect::RollBack { round, attempt } => {
                    warn!(round, attempt, "update not used");
                }
                SiteEffect::Train(plan) => {
                    if self.waited_for_its_hours().await? {
                        continue;
                    }
                    self.train(&plan).await?;
                    step = Step::Worked;
                }
                SiteEffect::Upload(sealed) if self.delivered == Some(sealed) => {}
                SiteEffect::Upload(sealed) => {
                    if let Some(plan) = &assignment.plan {
                        self.witness(plan.round - 1, plan.model).await?;
                    }
                    self.deliver(sealed).await?;
                }
                SiteEffect::Finish(Ok(model)) => {
                    return Ok(Step::Finished(Box::new(self.finish(model).await?)));
                }
                SiteEffect::Finish(Err(reason)) => return Err(AgentError::StudyFailed(reason)),
            }
        }
        Ok(step)
    }

    async fn train(&mut self, plan: &RoundPlan) -> Result<(), AgentError> {
        let (round, attempt) = (plan.round, plan.attempt);
        info!(round, attempt, "round received");
        self.permitted().await?;
        let admitted = self.admitted().await?;
        self.witness(round - 1, plan.model).await?;
        self.go_on().await?;
        let global = self.model(plan.model, round - 1).await?;
        let own = self
            .store
            .local_groups(&self.study.name, self.participation.advanced_to)
            .await?;
        let excluded = self.store.excluded().await?;
        let trained = (self.worker)
            .train(plan.clone(), excluded, global, own.groups)
            .await?;
        leaving::leaves(&self.study, &self.participant, &trained.update)?;
        leaving::stays(&self.study, &self.participant, &trained.local)?;
        let mut participation = self.participation.clone();
        let digest = trained.update.sha256();
        let upload = participation.seal(plan, digest);
        // Cannot fail: plain numbers and text.
        let stated = (trained.privacy.as_ref())
            .map(|steps| serde_json::to_value(steps).expect("a transcript serialises"));
        let note = self.note(Event::UpdateSealed {
            study: self.study.name.clone(),
            round,
            attempt,
            update: digest,
            privacy: stated,
        });
        let record = self.record(plan, admitted.as_ref(), trained.privacy, digest)?;
        let entry = record.map(|record| self.entry(record));
        let (name, store) = (self.study.name.clone(), self.store.clone());
        let event = entry.as_ref().map(|entry| row(&name, entry));
        let (update, local) = (&trained.update, &trained.local);
        let late = injected(Fault::LedgerAfterSend);
        let now = event.as_ref().filter(|_| !late);
        store
            .seal(&name, &participation, update, local, now, &note)
            .await?;
        if let Some(entry) = entry {
            let standing = Arc::make_mut(&mut self.standing);
            standing.ledger.push(entry).map_err(Refusal::from)?;
        }
        self.participation = participation.clone();
        info!(round, attempt, digest = %digest, "update sealed");
        if let SiteEffect::Upload(sealed) = upload {
            self.deliver(sealed).await?;
        }
        if late {
            store
                .seal(&name, &participation, update, local, event.as_ref(), &note)
                .await?;
        }
        Ok(())
    }

    /// Sends the sealed update.
    async fn deliver(&mut self, sealed: Sealed) -> Result<(), AgentError> {
        let name = &self.study.name;
        let (round, attempt) = (sealed.round, sealed.attempt);
        let update = Arc::new(self.store.sealed_update(name, sealed.digest).await?);
        // Checked again at the door: what was read back from the disk is what leaves, it is permitted, and it is
        // paid for.
        leaving::leaves(&self.study, &self.participant, &update)?;
        if !self.may_send(&update).await? {
            return Ok(());
        }
        let name = &self.study.name;
        let privacy = self.standing.released(name, sealed).cloned();
        if self.protection.is_some() && privacy.is_none() {
            return Err(Refusal::NotRecorded {
                study: name.clone(),
                round,
                attempt,
            }
            .into());
        }
        let (study, site) = (self.participation.study, &self.errand.site);
        let ledger = self.ledger_head();
        let is_private = privacy.is_some();
        match self
            .peer
            .upload(study, site, sealed, Arc::clone(&update), privacy, ledger)
            .await
        {
            Ok(Uploaded {
                already_stored,
                ledger,
            }) => {
                if !already_stored {
                    let bytes = 4 * update.len() as u64;
                    self.store.count_delivered(name, bytes).await?;
                }
                self.confirmed(sealed).await?;
                self.delivered = Some(sealed);
                info!(round, attempt, already_stored, "update uploaded");
                match ledger {
                    Some(receipt) => self.countersigned(&receipt).await?,
                    None if is_private => {
                        warn!(
                            round,
                            attempt, "the server has not counter-signed the ledger"
                        );
                    }
                    None => {}
                }
                Ok(())
            }
            Err(error) if error.is_too_late() => {
                // The next answer says what became of the round.
                warn!(
                    round,
                    attempt,
                    error.code = error.code(),
                    "update came too late"
                );
                self.delivered = Some(sealed);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn finish(&mut self, model: Digest) -> Result<Outcome, AgentError> {
        let name = self.study.name.clone();
        let rounds = self.study.schedule.rounds;
        self.witness(rounds, model).await?;
        let global = self.model(model, rounds).await?;
        let own = self.store.local_groups(&name, rounds).await?;
        let excluded = self.store.excluded().await?;
        let metrics = (self.worker)
            .evaluate(excluded, global, own.groups.clone())
            .await?;
        let accepted = self.store.accepted(&name).await?;
        let outcome = Outcome {
            study: name.clone(),
            study_sha256: self.participation.study,
            site: self.errand.site.clone(),
            final_model_sha256: model,
            local_groups_sha256: own.groups.sha256(),
            rounds_used: self.participation.advanced_to,
            traffic: accepted
                .map(|accepted| accepted.traffic.into())
                .unwrap_or_default(),
            metrics,
        };
        outcome.write(&self.errand.metrics_file)?;
        self.store
            .finish(&name, model, &outcome.stored_metrics())
            .await?;
        info!(study = %name, model = %model, local = %outcome.local_groups_sha256, "study finished");
        Ok(outcome)
    }

    /// The shared groups of global model `model`, which committed `round`.
    async fn model(&mut self, model: Digest, round: u32) -> Result<ModelVector, AgentError> {
        let name = &self.study.name;
        if let Some((received, version)) = self.store.received(name).await?
            && received == model
        {
            return Ok(version.groups);
        }
        let mut groups = ModelVector::default();
        for group in &self.shared {
            let digest = self.digests.get(group).ok_or_else(|| {
                PeerError::Nonsense(format!("group {group} was announced without its digest"))
            })?;
            let wanted = Wanted {
                study: self.participation.study,
                model,
                group: group.clone(),
                // Cannot be absent: a checked study has every group of a participant in its manifest.
                length: self.lengths[group],
                digest: *digest,
            };
            let values = self.peer.group(&wanted).await?;
            if let Some(position) = values.iter().position(|value| !value.is_finite()) {
                return Err(AgentError::NotFinite {
                    group: group.clone(),
                    position,
                });
            }
            groups.0.insert(group.clone(), values);
        }
        // A site that shares every group of the model sees all that its hash covers.
        let whole = self.shared == self.study.federated_groups();
        if whole && groups.sha256() != model {
            return Err(AgentError::OtherModel {
                got: groups.sha256(),
                announced: model,
            });
        }
        let version = Version { round, groups };
        self.store.receive(name, model, &version).await?;
        Ok(version.groups)
    }
}

/// What a site needs before it asks for its first round.
struct Ready {
    study: Study,
    participant: Participant,
    participation: Participation,
    worker: Worker,
    protection: Option<Protection>,
    standing: Standing,
    own_log: Frontier,
}

impl Ready {
    /// Holds the study against the policy, checks what it would spend, makes the work, and accepts it unless it was
    /// accepted `before`. Nothing of the cohort is read before the policy permits it.
    #[allow(clippy::too_many_arguments, reason = "what joining has found out")]
    async fn make(
        errand: &Errand,
        store: &SiteStore,
        clock: &dyn Clock,
        study: Study,
        document: &[u8],
        participant: Participant,
        before: Option<Accepted>,
        open_cohort: OpenCohort,
    ) -> Result<Self, AgentError> {
        let policy = permitting::read(&errand.policy)?;
        policy.judge(&study, &participant)?;
        permitting::accepted(store, &study.name, study.digest()).await?;
        let standing = Standing::read(store).await?;
        standing.check_all()?;
        let opened = tokio::task::spawn_blocking(open_cohort).await;
        let opened = opened.map_err(|_| AgentError::WorkPanicked)?;
        let (cohort, make_work) = opened.map_err(AgentError::Site)?;
        let protection = Protection::of(&study, &participant, policy.privacy, &cohort)?;
        // A study that was accepted before may have something to send or to fetch that costs nothing any more.
        if let (None, Some(protection)) = (&before, &protection) {
            protection.admit(&standing, &protection.one_step())?;
        }
        let (worker, begin) = Worker::start(make_work, &study, &participant).await?;
        let Begin {
            initial,
            preparation,
        } = begin;
        if let (None, Some(protection)) = (&before, &protection) {
            let cost = worker.round_cost();
            let cost = cost.ok_or_else(|| Refusal::Missing(study.name.clone()))?;
            protection.admit(&standing, cost)?;
            if let Some(sites) = protection.sites().filter(|sites| *sites < FEW_SITES) {
                warn!(
                    sites,
                    "whole sites hide in each other badly below {FEW_SITES} sites: expect a useless model"
                );
            }
            if let Err(short) = protection.fits_as_a_whole(&standing) {
                warn!(error.code = short.code(), %short, "the study will halt here before its end");
            }
        }
        let participation = match before {
            Some(accepted) if changed(&accepted, preparation.as_ref()) => {
                return Err(AgentError::CohortChanged { study: study.name });
            }
            Some(accepted) => accepted.participation,
            None => {
                leaving::stays(&study, &participant, &initial)?;
                let preparation =
                    preparation.map(|p| serde_json::to_string(&p).expect("plain numbers and text"));
                let note = Entry {
                    at: clock.now(),
                    event: Event::StudyAccepted {
                        site: errand.site.clone(),
                        study: study.digest(),
                    },
                };
                store
                    .accept(&study, document, &initial, preparation.as_deref(), &note)
                    .await?;
                info!(study = %study.name, digest = %study.digest(), "study accepted");
                Participation::new(&study)
            }
        };
        Ok(Self {
            study,
            participant,
            participation,
            worker,
            protection,
            standing,
            own_log: witness::own_log(store).await?,
        })
    }

    fn agent<P>(
        self,
        errand: Errand,
        store: SiteStore,
        peer: P,
        clock: Arc<dyn Clock>,
        halted: bool,
    ) -> Agent<P> {
        let Self {
            study,
            participant,
            participation,
            worker,
            protection,
            standing,
            own_log,
        } = self;
        Agent {
            shared: study.shared_groups(&participant),
            lengths: study.manifest.group_lengths(),
            errand,
            store,
            peer,
            clock,
            study,
            participant,
            participation,
            worker,
            protection,
            standing: Arc::new(standing),
            halted,
            plan: None,
            confirmed: None,
            known: None,
            digests: BTreeMap::new(),
            delivered: None,
            own_log,
        }
    }
}

/// Reads a study document and refuses one that contradicts itself or its name.
pub(crate) fn read_study(name: &StudyId, document: &[u8]) -> Result<Study, AgentError> {
    let study: Study =
        serde_json::from_slice(document).map_err(|error| AgentError::UnreadableStudy {
            study: name.clone(),
            problem: error.to_string(),
        })?;
    study.check()?;
    let problem = if &study.name != name {
        format!("it is the document of study {}", study.name)
    } else if study.digest() != Digest::of(document) {
        "its bytes are not in the form that its digest is taken of".to_owned()
    } else {
        return Ok(study);
    };
    Err(AgentError::UnreadableStudy {
        study: name.clone(),
        problem,
    })
}

/// Whether the records are others than those with which the study was accepted.
fn changed(accepted: &Accepted, now: Option<&Preparation>) -> bool {
    match (&accepted.preparation, now) {
        (Some(text), Some(now)) => serde_json::from_str(text).ok().as_ref() != Some(now),
        _ => false,
    }
}

fn attempt_of(sealed: Sealed) -> Attempt {
    Attempt {
        round: sealed.round,
        attempt: sealed.attempt,
    }
}

fn fate(effect: &SiteEffect) -> Option<Fate> {
    match effect {
        SiteEffect::AdvanceLocalState { round } => Some(Fate::Committed { round: *round }),
        SiteEffect::RollBack { .. } => Some(Fate::Dropped),
        _ => None,
    }
}

/// What came of one answer of the server.
enum Step {
    /// Nothing new.
    Idle,
    /// The site stands somewhere else now.
    Worked,
    /// The study is over.
    Finished(Box<Outcome>),
}

/// Below this many sites, noise that hides a whole site drowns what the others learned (`differential-privacy.md` 2.2).
pub const FEW_SITES: usize = 20;

const IDLE_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;

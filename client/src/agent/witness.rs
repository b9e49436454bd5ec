//! The server's log, held against what this site has seen of it, and this site's own.
//!
//! Before anything is trained or leaves, and before the study ends here, the log must continue every head that was
//! seen before, hold every update that the server has confirmed, tell of the round that is gone on from, and be the
//! one that the other sites were shown: everybody who took part in that round must have counter-signed it. Then this site signs that it has seen it. A process that is killed in between asks again: nothing is lost by
//! seeing a head twice.

use consilium_core::clock::Clock;
use consilium_core::{Digest, StudyId};
use consilium_rounds::Sealed;
use consilium_store::site::{Delivered, SiteStore};
use consilium_transparency::{
    Entry, Event, Expected, Frontier, Head, Rewritten, Signed, View, Wanted, Witnessed, leaf_hash,
};
use tracing::{debug, warn};

use super::{Agent, AgentError};
use crate::peer::{Attempt, Peer};

/// Most updates that are looked for at a time.
const MOST_UPDATES: u32 = 64;

impl<P: Peer> Agent<P> {
    /// Sees the newest head of the server's log, in which the round `committed` must have ended with `model`, and
    /// counter-signs it.
    ///
    /// # Errors
    /// [`AgentError::Log`] for a log that was rewritten: what shows it is kept, and nothing goes on.
    pub(super) async fn witness(
        &mut self,
        committed: u32,
        model: Digest,
    ) -> Result<(), AgentError> {
        let (name, study) = (self.study.name.clone(), self.participation.study);
        let seen = self.store.newest_head(&name).await?;
        let unproved = self.store.unproved(&name, MOST_UPDATES).await?;
        let attempts: Vec<_> = unproved.iter().map(attempt_of).collect();
        let known = seen.map_or(0, |head| head.size);
        let view = self.peer.read_log(study, known, &attempts, committed);
        let view = view.await?;
        let expected = (committed > 0).then_some(Expected {
            site: &self.errand.site,
            round: committed,
            model,
            quorum: self.study.schedule.quorum,
        });
        let wanted: Vec<_> = unproved
            .iter()
            .map(|delivered| self.wanted(delivered))
            .collect();
        match view.judge(seen.as_ref(), &wanted, expected.as_ref()) {
            Ok((head, positions)) => {
                let found: Vec<_> = unproved.into_iter().zip(positions).collect();
                if seen != Some(head) || !found.is_empty() {
                    let (log, size, root) = (head.log, head.size, head.root);
                    let note = self.note(Event::HeadSeen {
                        study: name.clone(),
                        log,
                        size,
                        root,
                    });
                    let kept = self
                        .store
                        .keep_head(&name, &head, &view.head, &found, &note);
                    kept.await?;
                }
                self.counter_sign(head).await
            }
            Err(rewritten) => {
                self.keep_evidence(&view, &rewritten).await?;
                Err(rewritten.into())
            }
        }
    }

    async fn counter_sign(&mut self, head: Head) -> Result<(), AgentError> {
        for bytes in self.store.log_from(self.own_log.len()).await? {
            self.own_log.push(leaf_hash(&bytes));
        }
        let seen = Witnessed {
            site: self.errand.site.clone(),
            head,
            own: (self.own_log.len(), self.own_log.root()),
            at: self.clock.now(),
        };
        let signed = self
            .peer
            .witness_log(self.participation.study, &seen)
            .await?;
        self.store.keep_witness(&self.study.name, &signed).await?;
        debug!(size = head.size, root = %head.root, "log counter-signed");
        Ok(())
    }

    /// Keeps what the server has signed and must not have.
    async fn keep_evidence(&self, view: &View, rewritten: &Rewritten) -> Result<(), AgentError> {
        let name = &self.study.name;
        let note = self.note(Event::Refused {
            study: name.clone(),
            code: rewritten.code().to_owned(),
        });
        let mut heads: Vec<Signed> = vec![view.head.clone()];
        let mut witnessed = None;
        if let Rewritten::SplitView { other, .. } = rewritten {
            let other = &view.others[*other];
            heads.push(other.head.clone());
            witnessed = Some(&other.witnessed);
        }
        let code = rewritten.code();
        let kept = self
            .store
            .keep_evidence(name, code, &heads, witnessed, &note);
        Ok(kept.await?)
    }

    /// The server has confirmed an update: from now on it must be in its log.
    pub(super) async fn confirmed(&self, sealed: Sealed) -> Result<(), AgentError> {
        let delivered = Delivered {
            round: sealed.round,
            attempt: sealed.attempt,
            update: sealed.digest,
        };
        Ok(self.store.delivered(&self.study.name, &delivered).await?)
    }

    /// An event of this site's own log, dated now.
    pub(super) fn note(&self, event: Event) -> Entry {
        let at = self.clock.now();
        Entry { at, event }
    }

    fn wanted(&self, delivered: &Delivered) -> Wanted {
        Wanted {
            site: self.errand.site.clone(),
            round: delivered.round,
            attempt: delivered.attempt,
            update: delivered.update,
        }
    }
}

fn attempt_of(delivered: &Delivered) -> Attempt {
    Attempt {
        round: delivered.round,
        attempt: delivered.attempt,
    }
}

/// The site's own log as it lies in its store.
pub(super) async fn own_log(store: &SiteStore) -> Result<Frontier, AgentError> {
    let mut own = Frontier::default();
    for entry in store.log_from(0).await? {
        own.push(leaf_hash(&entry));
    }
    Ok(own)
}

/// Notes in the site's own log that it stops because of `error`. What goes wrong here is logged: the error itself
/// is what the operator must see.
pub(super) async fn note_refusal(
    store: &SiteStore,
    clock: &dyn Clock,
    study: &StudyId,
    error: &AgentError,
) {
    // What shows that a log was rewritten is kept with its note.
    if error.withdrawal(None).is_none() || matches!(error, AgentError::Log(_)) {
        return;
    }
    let note = Entry {
        at: clock.now(),
        event: Event::Refused {
            study: study.clone(),
            code: error.code().to_owned(),
        },
    };
    if let Err(error) = store.append_to_log(&[note]).await {
        warn!(%error, error.code = error.code(), "not noted in the own log that this site stops");
    }
}

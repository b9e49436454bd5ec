//! What a reader is shown of a log, and how the reader judges it.

use consilium_core::{Digest, SiteId};

use crate::entry::{Entry, Event};
use crate::head::{Head, Notary, Signed, Witnessed};
use crate::proof::{verify_consistency, verify_inclusion};
use crate::tree::leaf_hash;

/// The newest head with what proves that it continues what the reader has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The newest head.
    pub head: Signed,
    /// From the head that the reader has seen to it.
    pub consistency: Vec<Digest>,
    /// The entries of the updates that the reader asked for; those that are not in the log are not here.
    pub updates: Vec<Found>,
    /// What the other sites have counter-signed last, the newest first.
    pub others: Vec<Other>,
    /// The entries of the committed round that the reader asked for.
    pub committed: Option<CommittedRound>,
}

/// Most counter-signatures in one view, so that it fits into a message.
pub const MOST_OTHERS: usize = 600;

/// How a committed round is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedRound {
    /// That it was opened.
    pub opened: Found,
    /// Whose updates were summed, and to which model.
    pub aggregated: Found,
}

/// An entry with the path that proves its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub index: u64,
    /// Its bytes.
    pub entry: Vec<u8>,
    /// From its leaf to the newest head.
    pub path: Vec<Digest>,
}

impl Found {
    /// What it tells, if it is in the log of `head`.
    fn event(&self, head: &Head) -> Option<Event> {
        let leaf = leaf_hash(&self.entry);
        verify_inclusion(leaf, self.index, head.size, &self.path, head.root).ok()?;
        Entry::read(&self.entry).map(|entry| entry.event)
    }
}

/// A head that another site was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// As the server has signed it.
    pub head: Signed,
    /// As the site has.
    pub witnessed: Signed,
    /// From it to the newest head.
    pub consistency: Vec<Digest>,
}

/// An update that must be in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The site.
    pub site: SiteId,
    /// The round.
    pub round: u32,
    /// The attempt at it.
    pub attempt: u32,
    /// SHA-256 of its values.
    pub update: Digest,
}

/// A committed round that a site was told of, and goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected<'a> {
    /// The site that reads.
    pub site: &'a SiteId,
    /// The round.
    pub round: u32,
    /// Its model, as the site was told.
    pub model: Digest,
    /// Updates without which it could not be committed.
    pub quorum: u32,
}

/// Why a view is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rewritten {
    /// The head, or a counter-signature, is not of its form.
    #[error("the view of the log cannot be read: {0}")]
    Unreadable(&'static str),
    /// A log that begins with another entry.
    #[error("the server shows another log than before: it begins with another entry")]
    OtherLog,
    /// Fewer entries than were seen.
    #[error("the server's log has {now} entries; {seen} were seen before")]
    Shorter {
        /// Entries now.
        now: u64,
        /// Entries that were seen.
        seen: u64,
    },
    /// The entries that were seen are not the beginning.
    #[error(
        "the server's log does not continue the {seen} entries that were seen before: one of them was altered, \
         removed or moved"
    )]
    NotContinued {
        /// Entries that were seen.
        seen: u64,
    },
    /// An update that the server has confirmed is not there.
    #[error("the update of round {round}, attempt {attempt} is not in the server's log")]
    UpdateMissing {
        /// The round.
        round: u32,
        /// The attempt.
        attempt: u32,
    },
    /// The round that the site is to go on from is not there, or with another model.
    #[error("round {round}, with the model that this site was told of, is not in the server's log")]
    RoundMissing {
        /// The round.
        round: u32,
    },
    /// A site took part in a round, and has not counter-signed this log since the round was opened.
    #[error(
        "site {site} took part in round {round}, and the server does not show that it has seen this log since"
    )]
    NotWitnessed {
        /// The site.
        site: SiteId,
        /// The round.
        round: u32,
    },
    /// Another site was shown a log that this one does not continue.
    #[error("site {site} was shown another log than this site")]
    SplitView {
        /// The other site.
        site: SiteId,
        /// Position of its counter-signature in [`View::others`].
        other: usize,
    },
}

impl Rewritten {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "log_unreadable",
            Self::OtherLog | Self::Shorter { .. } | Self::NotContinued { .. } => "log_rewritten",
            Self::UpdateMissing { .. } => "log_update_missing",
            Self::RoundMissing { .. } => "log_round_missing",
            Self::NotWitnessed { .. } => "log_not_witnessed",
            Self::SplitView { .. } => "log_split_view",
        }
    }
}

impl View {
    /// Whether every signature is of whom it should be.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_signatures(&self, notary: &dyn Notary) -> Result<(), String> {
        self.head.verified::<Head>(notary)?;
        for Other {
            head, witnessed, ..
        } in &self.others
        {
            head.verified::<Head>(notary)?;
            let (seen, holder) = witnessed.verified::<Witnessed>(notary)?;
            if holder != seen.site.as_str() {
                return Err(format!(
                    "a counter-signature of site {} is signed by {holder}",
                    seen.site
                ));
            }
        }
        Ok(())
    }

    /// The new head, if it continues `seen` and everything that other sites were shown, holds what is wanted and
    /// the round that is expected, and was seen by everybody who took part in that; and the number of the entry of
    /// each wanted update. Signatures are checked elsewhere.
    ///
    /// # Errors
    /// [`Rewritten`].
    pub fn judge(
        &self,
        seen: Option<&Head>,
        wanted: &[Wanted],
        expected: Option<&Expected<'_>>,
    ) -> Result<(Head, Vec<u64>), Rewritten> {
        let head: Head = (self.head.says()).ok_or(Rewritten::Unreadable("its head"))?;
        if let Some(seen) = seen {
            if seen.log != head.log {
                return Err(Rewritten::OtherLog);
            }
            let (now, seen) = (head.place(), seen.place());
            if now.0 < seen.0 {
                let (now, seen) = (now.0, seen.0);
                return Err(Rewritten::Shorter { now, seen });
            }
            verify_consistency(seen, now, &self.consistency)
                .map_err(|_| Rewritten::NotContinued { seen: seen.0 })?;
        }
        for (position, other) in self.others.iter().enumerate() {
            self.compare(&head, position, other)?;
        }
        if let Some(expected) = expected {
            self.was_witnessed(&head, expected)?;
        }
        let found = wanted.iter().map(|wanted| self.find(&head, wanted));
        Ok((head, found.collect::<Result<_, _>>()?))
    }

    fn compare(&self, head: &Head, position: usize, other: &Other) -> Result<(), Rewritten> {
        let unreadable = Rewritten::Unreadable("a counter-signature");
        let (shown, seen) = match (other.head.says::<Head>(), other.witnessed.says()) {
            (Some(shown), Some::<Witnessed>(seen)) if seen.head == shown => (shown, seen),
            _ => return Err(unreadable),
        };
        let continued = shown.log == head.log
            && verify_consistency(shown.place(), head.place(), &other.consistency).is_ok();
        if continued {
            return Ok(());
        }
        Err(Rewritten::SplitView {
            site: seen.site,
            other: position,
        })
    }

    /// A site counter-signs the log before it trains, so that its update in a round shows that it has seen the log
    /// since the round was opened. A server that shows two logs needs as many sites as the quorum in each.
    fn was_witnessed(&self, head: &Head, expected: &Expected<'_>) -> Result<(), Rewritten> {
        let Expected {
            site,
            round,
            model,
            quorum,
        } = *expected;
        let missing = || Rewritten::RoundMissing { round };
        let committed = self.committed.as_ref().ok_or_else(missing)?;
        let opened = committed.opened.event(head).ok_or_else(missing)?;
        let aggregated = committed.aggregated.event(head).ok_or_else(missing)?;
        let (
            Event::PlanOpened {
                round: of_plan,
                attempt: of_attempt,
                ..
            },
            Event::Aggregated {
                round: of_sum,
                attempt,
                updates,
                model: summed,
            },
        ) = (opened, aggregated)
        else {
            return Err(missing());
        };
        if (of_plan, of_attempt) != (round, attempt)
            || of_sum != round
            || summed != model
            || updates.len() < quorum as usize
        {
            return Err(missing());
        }
        // A consortium too large for one message is compared in part.
        if self.others.len() >= MOST_OTHERS {
            return Ok(());
        }
        let since = committed.opened.index;
        for other in updates.keys().filter(|other| *other != site) {
            let has_seen = self.others.iter().any(|shown| {
                let seen = shown.witnessed.says::<Witnessed>();
                seen.is_some_and(|seen| seen.site == *other && seen.head.size > since)
            });
            if !has_seen {
                let site = other.clone();
                return Err(Rewritten::NotWitnessed { site, round });
            }
        }
        Ok(())
    }

    /// The number of the entry that says that this very update has come.
    fn find(&self, head: &Head, wanted: &Wanted) -> Result<u64, Rewritten> {
        let is_there = |found: &&Found| {
            let Some(Event::UpdateReceived {
                site,
                round,
                attempt,
                update,
                ..
            }) = found.event(head)
            else {
                return false;
            };
            let says = Wanted {
                site,
                round,
                attempt,
                update,
            };
            says == *wanted
        };
        let found = self.updates.iter().find(is_there);
        let missing = Rewritten::UpdateMissing {
            round: wanted.round,
            attempt: wanted.attempt,
        };
        found.map(|found| found.index).ok_or(missing)
    }
}

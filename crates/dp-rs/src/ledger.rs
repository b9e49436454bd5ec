//! An append-only list of what was released, chained so that a changed entry is found, and the budget it is
//! held against.
//!
//! A [`Ledger`] belongs to one set of protected units (the patients of one hospital, the users of one
//! service), over everything that is ever computed from them: every training, every statistic, every failed
//! attempt. Composition belongs to the data, not to the job. A [`Record`] says
//! what was released, an [`Entry`] is a record in its place in the chain, an [`Account`] is what some entries
//! amount to, and [`Account::admit`] says whether a further release stays inside a [`Budget`], counted with
//! all the releases before it ([`Agreement::admit`](crate::agreement::Agreement::admit) also counts its steps). No
//! epsilon is stored: a better accountant can judge an old ledger again.
//!
//! The chain finds an entry that was changed, moved or taken from the middle. It cannot find that the newest
//! entries are missing, or that all of it was written anew: compare [`Ledger::head`] with one that was kept
//! elsewhere for that.
//!
//! Writing is the caller's part, in this order: [`Account::admit`], compute, [`Ledger::append`], store the
//! entry durably, and only then let the result out. An entry too many costs accuracy, one too few the
//! guarantee.
//!
//! ```
//! use dp_rs::adjacency::Adjacency;
//! use dp_rs::event::Event;
//! use dp_rs::ledger::{Budget, Ledger, Moment, NotAdmitted, Record};
//! use dp_rs::noise::{NoiseLevel, Randomness};
//! use dp_rs::plan::{Transcript, Unit};
//!
//! let budget = Budget::new(1.0, 1e-5)?;
//! let round = Event::poisson_gaussian(1.0, 0.01)?.repeated(50, Adjacency::AddRemove);
//! let mut ledger = Ledger::default();
//! let refused = loop {
//!     match ledger.total()?.admit(Unit::Patient, &round, budget) {
//!         Ok(spending) => assert!(spending.epsilon() <= 1.0),
//!         Err(refused) => break refused,
//!     }
//!     // Train; then, before anything of it leaves, with the time of a clock:
//!     let now = Moment::from_unix_milliseconds(1_772_366_400_000);
//!     let record = Record {
//!         study: "heart".into(),
//!         round: ledger.len() as u32 + 1,
//!         attempt: 1,
//!         purpose: "training".into(),
//!         release: None,
//!         delta: Some(1e-5),
//!         transcript: Transcript {
//!             unit: Unit::Patient,
//!             events: round.clone(),
//!             noise_level: NoiseLevel::Hardened,
//!             randomness: Randomness::OperatingSystem,
//!             against: Default::default(),
//!         },
//!     };
//!     ledger.append(record, now);
//! };
//! assert!(matches!(refused, NotAdmitted::Exhausted(_)));
//! assert!(ledger.len() > 3);
//!
//! // What is read back is checked.
//! let stored = serde_json::to_string(ledger.entries())?;
//! assert_eq!(Ledger::from_entries(serde_json::from_str(&stored)?)?, ledger);
//! let forged = stored.replacen("\"count\":50", "\"count\":5", 1);
//! assert!(Ledger::from_entries(serde_json::from_str(&forged)?).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod account;
mod budget;
mod entry;
mod moment;

use std::collections::BTreeSet;

pub use account::{Account, MixedLedger, Spending};
pub use budget::{Budget, Exhausted, InvalidBudget, NotAdmitted, StepsExhausted};
pub use entry::{Entry, Record};
pub use moment::{InvalidMoment, Moment};

use entry::GENESIS;

/// Everything that was released about one set of units, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    entries: Vec<Entry>,
}

/// Why a list of entries is not a ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BrokenLedger {
    /// Entries are missing, twice there, or in another order.
    #[error(
        "entry {expected} of the ledger has sequence number {got}: entries are missing or were moved"
    )]
    Sequence {
        /// The number it should have, from 1.
        expected: u64,
        /// The number it has.
        got: u64,
    },
    /// An entry that does not follow the one before it.
    #[error("entry {sequence} of the ledger does not follow the entry before it")]
    Previous {
        /// Its number.
        sequence: u64,
    },
    /// An entry whose contents are not those that were hashed.
    #[error("entry {sequence} of the ledger was changed after it was written")]
    Changed {
        /// Its number.
        sequence: u64,
    },
}

impl BrokenLedger {
    /// Stable name of the error, for logs and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Sequence { .. } => "ledger_sequence",
            Self::Previous { .. } => "ledger_chain",
            Self::Changed { .. } => "ledger_changed",
        }
    }
}

impl Ledger {
    /// Takes entries that were stored, oldest first, after checking numbers and chain.
    ///
    /// # Errors
    /// [`BrokenLedger`], naming the first entry that is not as it was written.
    pub fn from_entries(entries: Vec<Entry>) -> Result<Self, BrokenLedger> {
        let mut previous = GENESIS;
        for (entry, expected) in entries.iter().zip(1..) {
            let sequence = entry.sequence;
            if sequence != expected {
                let got = sequence;
                return Err(BrokenLedger::Sequence { expected, got });
            }
            if entry.previous != previous {
                return Err(BrokenLedger::Previous { sequence });
            }
            if !entry.is_intact() {
                return Err(BrokenLedger::Changed { sequence });
            }
            previous = &entry.sha256;
        }
        Ok(Self { entries })
    }

    /// Adds a record at the end and returns its entry, which is to be stored before the release leaves.
    pub fn append(&mut self, record: Record, at: Moment) -> &Entry {
        let entry = self.following(record, at);
        self.entries.push(entry);
        &self.entries[self.entries.len() - 1]
    }

    /// The entry that [`Ledger::append`] would add; the ledger stays as it is until the entry is stored and
    /// [pushed](Ledger::push).
    #[must_use]
    pub fn following(&self, record: Record, at: Moment) -> Entry {
        Entry::new(self.entries.len() as u64 + 1, at, self.head(), record)
    }

    /// Adds an entry that was made by [`Ledger::following`] and is stored now.
    ///
    /// # Errors
    /// [`BrokenLedger`] for an entry that does not follow the last one.
    pub fn push(&mut self, entry: Entry) -> Result<(), BrokenLedger> {
        let (sequence, expected) = (entry.sequence, self.entries.len() as u64 + 1);
        if sequence != expected {
            let got = sequence;
            return Err(BrokenLedger::Sequence { expected, got });
        }
        if entry.previous != self.head() {
            return Err(BrokenLedger::Previous { sequence });
        }
        if !entry.is_intact() {
            return Err(BrokenLedger::Changed { sequence });
        }
        self.entries.push(entry);
        Ok(())
    }

    /// All entries, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing was ever released.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Hash of the newest entry, or 64 zeros. Whoever keeps it elsewhere can tell a ledger that was cut short or
    /// written anew.
    #[must_use]
    pub fn head(&self) -> &str {
        self.entries.last().map_or(GENESIS, |entry| &entry.sha256)
    }

    /// Numbers of the entries whose time is before that of the entry before them: the clock was set back between
    /// the two, or one of them was written with a wrong clock. The order of the entries is that of the chain.
    #[must_use]
    pub fn clock_went_back(&self) -> Vec<u64> {
        let pairs = self.entries.windows(2);
        pairs
            .filter(|pair| pair[1].at < pair[0].at)
            .map(|pair| pair[1].sequence)
            .collect()
    }

    /// The names of all studies with an entry.
    #[must_use]
    pub fn studies(&self) -> BTreeSet<&str> {
        let names = self.entries.iter().map(|entry| entry.record.study.as_str());
        names.collect()
    }

    /// What all entries amount to: the number that the protected units are interested in.
    ///
    /// # Errors
    /// [`MixedLedger`] when entries are stated for different units or neighbours: their epsilons mean different
    /// things and are never summed.
    pub fn total(&self) -> Result<Account, MixedLedger> {
        Account::of(&self.entries)
    }

    /// What the entries of one study amount to, and nothing else.
    ///
    /// # Errors
    /// As [`Ledger::total`].
    pub fn study(&self, name: &str) -> Result<Account, MixedLedger> {
        Account::of(
            self.entries
                .iter()
                .filter(|entry| entry.record.study == name),
        )
    }
}

#[cfg(test)]
mod tests;

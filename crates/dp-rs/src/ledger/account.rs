//! What some entries of a ledger amount to.

use serde::Serialize;

use super::Moment;
use super::budget::{Budget, Exhausted, NotAdmitted};
use super::entry::Entry;
use crate::accounting::{Accountant, AccountingError, Guarantee, Profile};
use crate::adjacency::Adjacency;
use crate::event::Repeated;
use crate::noise::{NoiseLevel, Randomness};
use crate::plan::Unit;
use crate::release::Against;

/// Entries of one unit and one adjacency, equal events merged: as fast to account for as their number of
/// *different* mechanisms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    protects: Option<(Unit, Adjacency)>,
    events: Vec<Repeated>,
    noise_levels: Vec<NoiseLevel>,
    simulated: bool,
    against: Against,
    releases: usize,
    period: Option<(Moment, Moment)>,
}

/// Entries that cannot be accounted for together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the ledger protects each {} under {}, the release each {} under {}: they are never summed; state the \
     release for the same unit and adjacency, or use a ledger of other people",
    .ledger.0, .ledger.1, .other.0, .other.1
)]
pub struct MixedLedger {
    /// Unit and adjacency of the first entry.
    pub ledger: (Unit, Adjacency),
    /// Of one that differs.
    pub other: (Unit, Adjacency),
}

/// A guarantee and its cross-check.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spending {
    /// By loss distributions where they are known, otherwise by Renyi divergences.
    pub guarantee: Guarantee,
    /// By Renyi divergences: never far below, usually somewhat above.
    pub cross_check: Guarantee,
}

impl Spending {
    /// The epsilon of the guarantee.
    #[must_use]
    pub fn epsilon(&self) -> f64 {
        self.guarantee.epsilon
    }
}

impl Account {
    /// Merges entries.
    ///
    /// # Errors
    /// [`MixedLedger`].
    pub fn of<'e>(entries: impl IntoIterator<Item = &'e Entry>) -> Result<Self, MixedLedger> {
        let mut account = Self::default();
        for entry in entries {
            let transcript = &entry.record.transcript;
            account.add(transcript.unit, &transcript.events)?;
            account.releases += 1;
            account.against = account.against.weaker(transcript.against);
            let (first, last) = account.period.unwrap_or((entry.at, entry.at));
            account.period = Some((first.min(entry.at), last.max(entry.at)));
            account.simulated |= transcript.randomness == Randomness::SimulationSeeded;
            if !account.noise_levels.contains(&transcript.noise_level) {
                account.noise_levels.push(transcript.noise_level);
            }
        }
        Ok(account)
    }

    fn add(&mut self, unit: Unit, events: &Repeated) -> Result<(), MixedLedger> {
        let other = (unit, events.adjacency);
        match self.protects {
            Some(ledger) if ledger != other => return Err(MixedLedger { ledger, other }),
            _ => self.protects = Some(other),
        }
        match self
            .events
            .iter_mut()
            .find(|known| known.event == events.event)
        {
            Some(known) => known.count = known.count.saturating_add(events.count),
            None => self.events.push(events.clone()),
        }
        Ok(())
    }

    /// Unit and adjacency of all entries; nothing where there is none.
    #[must_use]
    pub fn protects(&self) -> Option<(Unit, Adjacency)> {
        self.protects
    }

    /// The events, equal ones merged, in the order of their first release: the list that accountants take.
    #[must_use]
    pub fn events(&self) -> &[Repeated] {
        &self.events
    }

    /// Number of entries.
    #[must_use]
    pub fn releases(&self) -> usize {
        self.releases
    }

    /// The earliest and the latest moment of an entry; nothing where there is none.
    #[must_use]
    pub fn period(&self) -> Option<(Moment, Moment)> {
        self.period
    }

    /// Every noise level that was used.
    #[must_use]
    pub fn noise_levels(&self) -> &[NoiseLevel] {
        &self.noise_levels
    }

    /// Whether any randomness came from a seed: the numbers then describe a simulation and protect nobody.
    #[must_use]
    pub fn is_simulated(&self) -> bool {
        self.simulated
    }

    /// From whom the entries protect, all of them together.
    #[must_use]
    pub fn against(&self) -> Against {
        self.against
    }

    /// The privacy of these entries together, at `delta`. Nothing was spent where there is no entry.
    ///
    /// The composition theorems behind it assume mechanisms that were fixed in advance. Releases of a work that
    /// was planned beforehand and may stop early are of that kind. Works whose noise or sampling was chosen
    /// after looking at the results of earlier ones are not; the cross-check is what a Renyi filter would say.
    ///
    /// # Errors
    /// [`AccountingError`] for a delta that is none, or a mechanism without a guarantee under this adjacency.
    pub fn spending(&self, delta: f64) -> Result<Option<Spending>, AccountingError> {
        let Some((_, adjacency)) = self.protects else {
            return Ok(None);
        };
        let profile = Profile::of(&self.events, adjacency)?;
        Ok(Some(Spending {
            guarantee: profile.epsilon(delta)?,
            cross_check: profile.epsilon_by(Accountant::Rdp, delta)?,
        }))
    }

    /// The epsilon of [`Account::spending`], 0 where there is no entry.
    ///
    /// # Errors
    /// As [`Account::spending`].
    pub fn epsilon(&self, delta: f64) -> Result<f64, AccountingError> {
        Ok(self.spending(delta)?.map_or(0.0, |spent| spent.epsilon()))
    }

    /// Whether `events` may be released as well: what would be spent *with* them must be within the budget.
    ///
    /// # Errors
    /// [`NotAdmitted::Exhausted`] with what is spent, what was asked and the budget; [`NotAdmitted::Mixed`] for
    /// events stated for another unit or adjacency; [`NotAdmitted::Accounting`].
    pub fn admit(
        &self,
        unit: Unit,
        events: &Repeated,
        budget: Budget,
    ) -> Result<Spending, NotAdmitted> {
        let (delta, adjacency) = (budget.delta(), events.adjacency);
        let mut with = self.clone();
        with.add(unit, events)?;
        let Some(spending) = with.spending(delta)? else {
            // Cannot happen: it holds the new events.
            return Err(AccountingError::NoLossDistribution.into());
        };
        // Written so that a NaN is not within the budget.
        if spending.epsilon() <= budget.epsilon() {
            return Ok(spending);
        }
        let alone = Profile::of(std::slice::from_ref(events), adjacency)?;
        Err(NotAdmitted::Exhausted(Exhausted {
            spent: self.epsilon(delta)?,
            asked: alone.epsilon(delta)?.epsilon,
            together: spending.epsilon(),
            budget,
        }))
    }

    /// How often `events` may be released beside what was, before the budget is exhausted; at most `most`.
    ///
    /// # Errors
    /// As [`Account::admit`], but for an exhausted budget, which is 0 times.
    pub fn affordable(
        &self,
        unit: Unit,
        events: &Repeated,
        budget: Budget,
        most: u64,
    ) -> Result<u64, NotAdmitted> {
        let fits = |times: u64| {
            let count = events.count.saturating_mul(times);
            let repeated = Repeated {
                count,
                ..events.clone()
            };
            match self.admit(unit, &repeated, budget) {
                Ok(_) => Ok(true),
                Err(NotAdmitted::Exhausted(_)) => Ok(false),
                Err(other) => Err(other),
            }
        };
        // Largest that fits and smallest that does not, as far as known.
        let (mut low, mut high) = (0, most.saturating_add(1));
        let mut step = 1;
        while low + 1 < high {
            let middle = if low + step < high {
                low + step
            } else {
                low + (high - low) / 2
            };
            if fits(middle)? {
                low = middle;
                step = step.saturating_mul(2);
            } else {
                high = middle;
                step = 1.max((high - low) / 2);
            }
        }
        Ok(low)
    }
}

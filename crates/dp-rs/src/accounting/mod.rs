//! Accountants: from a list of events to the privacy it costs.
//!
//! A [`Profile`] is a pure function of the ledger. It answers by loss distributions ([`pld`]), the tight
//! accountant, where they are known, and by Renyi divergences ([`rdp`]) as the cross-check and where
//! only those are known. Every answer is a [`Guarantee`] that carries what a statement needs beside the
//! number. [`calibration`] turns the question round.
//!
//! Both accountants assume parameters that were fixed in advance, or at least chosen independently of
//! what was released. [`gdp`] holds an approximation that is *not* a guarantee.
//!
//! ```
//! use dp_rs::accounting::Profile;
//! use dp_rs::adjacency::Adjacency;
//! use dp_rs::event::Event;
//!
//! let step = Event::poisson_gaussian(1.0, 0.02)?;
//! let ledger = [step.repeated(500, Adjacency::AddRemove)];
//! let guarantee = Profile::of(&ledger, Adjacency::AddRemove)?.epsilon(1e-5)?;
//! assert!((guarantee.epsilon - 2.7734).abs() < 1e-3);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod calibration;
pub mod distributed;
pub(crate) mod dominating;
pub mod gaussian;
pub mod gdp;
mod guarantee;
pub(crate) mod pair;
pub mod pld;
pub mod rdp;
pub mod zcdp;

pub use dominating::overflow_probability;
pub use guarantee::{Accountant, Guarantee, Method, Profile};

use crate::adjacency::Adjacency;
use crate::event::{InvalidEvent, Repeated};

/// A ledger cannot be accounted for as asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AccountingError {
    /// Two entries are stated for different neighbours.
    #[error("the ledger mixes {first} with {second}: account for one relation at a time")]
    MixedAdjacency {
        /// The relation asked for, or that of the first entry.
        first: Adjacency,
        /// Of an entry that differs.
        second: Adjacency,
    },
    /// A mechanism has no guarantee under this relation.
    #[error("{mechanism} cannot be accounted for under {adjacency}: {remedy}")]
    Adjacency {
        /// Name in the ledger.
        mechanism: &'static str,
        /// Relation that was asked for.
        adjacency: Adjacency,
        /// What to do instead.
        remedy: &'static str,
    },
    /// Only Renyi bounds are known of an event.
    #[error("the ledger has an event without a loss distribution: use the rdp accountant")]
    NoLossDistribution,
    /// Unusable list of Renyi orders.
    #[error("the list of orders is not usable: give finite increasing numbers from above 1 to 1e6")]
    Orders,
    /// Not a probability.
    #[error("delta is {0}: use a number from 0 to 1, at most one tenth of one over the units")]
    Delta(f64),
    /// Not an epsilon.
    #[error("epsilon is {0}: use a finite number, zero or larger")]
    Epsilon(f64),
    /// A calibration made an event that is out of range.
    #[error(transparent)]
    Event(#[from] InvalidEvent),
    /// No value in the range that is searched meets the target.
    #[error(
        "epsilon {target} is out of reach: {quantity} {value} still gives {epsilon}; \
         allow a larger epsilon or delta, fewer steps or a smaller sampling rate"
    )]
    Unreachable {
        /// What was searched.
        quantity: &'static str,
        /// The most private value that was tried.
        value: f64,
        /// Epsilon there.
        epsilon: f64,
        /// Epsilon that was asked for.
        target: f64,
    },
}

/// The relation of all entries; `None` for an empty ledger.
pub(crate) fn common_adjacency(ledger: &[Repeated]) -> Result<Option<Adjacency>, AccountingError> {
    let Some(first) = ledger.first().map(|entry| entry.adjacency) else {
        return Ok(None);
    };
    match ledger.iter().find(|entry| entry.adjacency != first) {
        Some(other) => Err(AccountingError::MixedAdjacency {
            first,
            second: other.adjacency,
        }),
        None => Ok(Some(first)),
    }
}

/// Refuses what is not a probability; NaN as well.
pub(crate) fn check_delta(delta: f64) -> Result<(), AccountingError> {
    if (0.0..=1.0).contains(&delta) {
        Ok(())
    } else {
        Err(AccountingError::Delta(delta))
    }
}

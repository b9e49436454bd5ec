//! Accountants: from a list of events to the privacy it costs.
//!
//! An accountant is a pure function of the ledger. [`epsilon`] is the answer to report: the tight
//! accountant ([`pld`]) where it applies, Renyi bounds ([`rdp`]) where only those are known, with
//! everything that a statement needs beside the number.

pub mod distributed;
pub(crate) mod dominating;
pub mod gaussian;
pub(crate) mod pair;
pub mod pld;
pub mod rdp;

use crate::adjacency::Adjacency;
use crate::event::Repeated;

/// A ledger cannot be accounted for as asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AccountingError {
    /// Two entries are stated for different neighbours.
    #[error("the ledger mixes {first} with {second}: account for one relation at a time")]
    MixedAdjacency {
        /// Of the first entry.
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

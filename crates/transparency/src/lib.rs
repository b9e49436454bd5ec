//! A log that nobody can rewrite without being noticed.
//!
//! Every event that changes what may be learned from data is an [`Entry`]; entries are the leaves of a Merkle
//! [`Tree`] (RFC 6962, RFC 9162). The keeper of the log signs its [`Head`]s; whoever has seen one asks for a
//! [consistency proof](verify_consistency) to the next, so that nothing that was seen can be removed, altered or
//! put elsewhere, and signs what was seen ([`Witnessed`]), so that two readers who are shown different logs find
//! out when they compare. [`check`] does all of this offline, with an export and the authority's fingerprint.
//!
//! Nothing here reads a clock, a key or a file: signatures are judged by [`Notary`].

mod audit;
mod entry;
mod export;
mod head;
mod proof;
mod tree;
mod view;

pub use audit::{Audited, Finding, SiteSummary, check};
pub use entry::{AgreedBudget, Entry, Event, LedgerLength};
pub use export::{Line, UnreadableExport, read_export, write_line};
pub use head::{Acceptance, Head, Notary, Role, Signed, Statement, Witnessed};
pub use proof::{BrokenProof, verify_consistency, verify_inclusion};
pub use tree::{Frontier, Tree, empty_root, leaf_hash, node_hash};
pub use view::{CommittedRound, Expected, Found, MOST_OTHERS, Other, Rewritten, View, Wanted};

//! The life of a study and of its rounds, on both sides, without any input or output.
//!
//! [`Coordination`] is the server's side: it takes an [`Event`] and returns the next state and the
//! [`Effect`]s that the caller has to carry out. [`Participation`] is a site's side in the same form.
//! Both are plain data: the shell around them loads the state, calls `handle`, stores state and effects in
//! one transaction, and then carries the effects out. Repeating any event is harmless.
//!
//! They do not know about sockets, clocks, files or the database; a simulation in one process, the server
//! and the site agent drive the same objects.

mod coordination;
mod countersigned;
mod participation;
mod withdrawal;

pub use coordination::{
    Cause, Coordination, Effect, Event, Outcome, Phase, RejectUpdate, RoundRecord, Unexpected,
};
pub use countersigned::{Countersigned, LedgerHead, Receipt};
pub use participation::{Assignment, Participation, RefusePlan, Sealed, SiteEffect};
pub use withdrawal::{InvalidWithdrawal, Missing, Withdrawal};

//! Mistakes that would void the guarantee of a site, to be made on purpose by this crate's own tests.
//!
//! Each is a branch that exists in test builds only; a test makes it and must notice.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The update is sent first, and its ledger entry written afterwards.
    LedgerAfterSend,
}

#[cfg(test)]
thread_local! {
    static INJECTED: std::cell::Cell<Option<Fault>> = const { std::cell::Cell::new(None) };
}

/// Whether the mistake is to be made here; never outside of this crate's tests.
#[cfg(not(test))]
pub(super) const fn injected(_: Fault) -> bool {
    false
}

/// Whether the mistake is to be made in this thread.
#[cfg(test)]
pub(super) fn injected(fault: Fault) -> bool {
    INJECTED.get() == Some(fault)
}

/// Makes the mistake in this thread from now on.
#[cfg(test)]
pub(super) fn inject(fault: Option<Fault>) {
    INJECTED.set(fault);
}

//! Mistakes that silently void a guarantee, to be made on purpose by this crate's own tests.
//!
//! Each of them is a branch that exists in test builds only; a test runs with every one of them and must notice.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Every record is clipped, not every patient.
    RecordsAsPatients,
    /// A network that normalises over the batch is not refused.
    BatchNormUnchecked,
    /// Squared norms of uses and records added, instead of the norm of their sum.
    CrossTermsDropped,
}

#[cfg(test)]
thread_local! {
    static INJECTED: std::cell::Cell<Option<Fault>> = const { std::cell::Cell::new(None) };
}

/// Whether the mistake is to be made here; never outside of this crate's tests.
#[cfg(not(test))]
pub(crate) const fn injected(_: Fault) -> bool {
    false
}

/// Whether the mistake is to be made in this thread.
#[cfg(test)]
pub(crate) fn injected(fault: Fault) -> bool {
    INJECTED.get() == Some(fault)
}

/// Runs `work` with the mistake.
#[cfg(test)]
pub(crate) fn with<R>(fault: Fault, work: impl FnOnce() -> R) -> R {
    INJECTED.set(Some(fault));
    let result = work();
    INJECTED.set(None);
    result
}

#[cfg(test)]
mod tests;

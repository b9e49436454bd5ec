//! Mistakes that silently void a guarantee, to be made on purpose by this crate's own tests.
//!
//! Each of them is a branch that exists in test builds only; a test runs with every one of them and must notice.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Every record is clipped, not every patient.
    RecordsAsUnits,
    /// Layers that mix the batch are not looked for.
    BatchCouplingUnchecked,
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

#[cfg(test)]
mod tests;

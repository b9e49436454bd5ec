//! Mistakes that silently void a guarantee, to be made on purpose by this crate's own tests.
//!
//! Each of them is a branch that exists in test builds only; the tests run with every one of them and must
//! notice.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Contributions are added as they are.
    NoClip,
    /// Half of the noise that is accounted for.
    NoiseHalved,
    /// The same noise in every step.
    NoiseReused,
    /// The sum is divided by the number of units drawn.
    RealisedDivisor,
    /// An empty batch is released without noise.
    NoNoiseOnEmpty,
    /// A batch of fixed size and members, accounted for as if every unit had been drawn by chance.
    FixedBatchAsPoisson,
    /// Add-or-remove accounted for as replace-one, and the other way round.
    AdjacencyConfused,
    /// An exchanged unit taken to move a sum by one clip norm.
    ExchangeMovesOneClip,
    /// Steps beyond those that were agreed, as long as epsilon has room.
    StepsBeyondAgreement,
}

#[cfg(test)]
thread_local! {
    pub(crate) static INJECTED: std::cell::Cell<Option<Fault>> = const { std::cell::Cell::new(None) };
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

//! The widest vectors of the processor at hand, chosen at run time.

/// Runs `work`, compiled for the widest vectors that this processor has.
///
/// `work` and what it calls must be `#[inline(always)]`: only code inlined here is compiled for the wide
/// vectors. Results do not depend on the choice, because a product and a sum are never fused into one
/// rounding unless the code says so, and it does not.
#[inline(always)]
pub(super) fn widest<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(avx512) = pulp::x86::V4::try_new() {
            return avx512.vectorize(work);
        }
        if let Some(avx2) = pulp::x86::V3::try_new() {
            return avx2.vectorize(work);
        }
    }
    work()
}

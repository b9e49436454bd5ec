//! Binary trees over the steps of a run (tree aggregation, arXiv 2103.00039, appendix D).

/// Number of nodes of one tree that contain a given step: `ceil(log2(steps + 1))`.
pub fn depth(steps: u64) -> u32 {
    u64::BITS - steps.leading_zeros()
}

/// Number of Gaussian releases of sensitivity one that a unit appears in.
pub fn releases(steps: u64, trees: u64) -> f64 {
    f64::from(depth(steps)) * trees as f64
}

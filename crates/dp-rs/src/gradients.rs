//! What an engine of per-unit gradients must answer, so that a private step can clip.
//!
//! A *unit* is what privacy protects: a patient, or a record. Its gradient is the gradient of its own loss,
//! over all of its drawn records and views. An engine never needs to hold one gradient per unit: it answers
//! with norms first and, given the factors, with one weighted sum (Lee and Kifer, arXiv 2009.03106; Bu et
//! al., arXiv 2210.00038).

/// The gradients of the units of one batch, before clipping.
///
/// Every trainable parameter belongs to exactly one clipping group; with flat clipping there is one group. A
/// parameter that is left out of the norms must also be left out of the sum: an engine that cannot handle a
/// layer refuses it instead of skipping it.
pub trait UnitGradients {
    /// Units in the batch, at least one.
    fn units(&self) -> usize;

    /// Clipping groups, at least one.
    fn groups(&self) -> usize;

    /// Squared L2 norms `[units][groups]`, unit by unit; not finite where a gradient is not.
    ///
    /// A parameter that is used several times contributes the norm of the *sum* over its uses, cross terms
    /// included.
    fn squared_norms(&self) -> Vec<f64>;

    /// `sum_u factors[u][g] gradient_u` in the order of the parameters, with `factors` as `[units][groups]`.
    ///
    /// A unit with factor 0 contributes exactly 0, also where its gradient is not finite.
    fn weighted_sum(self, factors: &[f64]) -> Vec<f32>;
}

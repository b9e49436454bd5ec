//! Applying a rule to contributions in memory.

use super::{ClipRule, ClippingError, Factor};

/// L2 norm, accumulated in double precision: no overflow for finite values. Not finite if a value is not.
#[must_use]
pub fn norm(values: &[f32]) -> f64 {
    // Eight sums side by side: one would wait for itself at every step.
    let (eights, rest) = values.as_chunks::<8>();
    let mut sums = [0.0_f64; 8];
    for eight in eights {
        for (sum, &value) in sums.iter_mut().zip(eight) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    let rest: f64 = rest.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    (sums.iter().sum::<f64>() + rest).sqrt()
}

/// Clips contributions into a sum and counts, for the holder of the data alone, what it did.
///
/// The counts depend on the data: they must not leave without a mechanism of their own. They are neither
/// serialised nor printed.
pub struct Clipper {
    rule: ClipRule,
    clipped: u64,
    not_finite: u64,
}

impl Clipper {
    /// With counts at zero.
    #[must_use]
    pub fn new(rule: ClipRule) -> Self {
        Self {
            rule,
            clipped: 0,
            not_finite: 0,
        }
    }

    /// The rule.
    #[must_use]
    pub fn rule(&self) -> &ClipRule {
        &self.rule
    }

    /// Contributions that were made smaller so far. Private.
    #[must_use]
    pub fn clipped(&self) -> u64 {
        self.clipped
    }

    /// Contributions that were not finite and counted as zero so far. Private.
    #[must_use]
    pub fn not_finite(&self) -> u64 {
        self.not_finite
    }

    /// Factors for norms computed elsewhere, for example without materialised gradients.
    ///
    /// # Errors
    ///
    /// [`ClippingError::WrongGroups`].
    pub fn factors(&mut self, norms: &[f64]) -> Result<Vec<Factor>, ClippingError> {
        let factors = self.rule.factors(norms)?;
        if factors.contains(&Factor::Drop) {
            self.not_finite += 1;
        } else if factors
            .iter()
            .any(|f| matches!(f, Factor::Scale(s) if *s < 1.0))
        {
            self.clipped += 1;
        }
        Ok(factors)
    }

    /// Clips a contribution that is one group and adds it.
    ///
    /// # Errors
    ///
    /// [`ClippingError::WrongLength`]; [`ClippingError::WrongGroups`] for a rule with several groups.
    pub fn add(&mut self, contribution: &[f32], sum: &mut [f32]) -> Result<(), ClippingError> {
        self.add_groups(&[contribution], &mut [sum])
    }

    /// Clips a contribution of several groups and adds it. A rule of one group, applied here to several, bounds
    /// their joint norm.
    ///
    /// # Errors
    ///
    /// [`ClippingError::WrongGroups`], [`ClippingError::WrongLength`]; the sum is then unchanged.
    pub fn add_groups(
        &mut self,
        contribution: &[&[f32]],
        sum: &mut [&mut [f32]],
    ) -> Result<(), ClippingError> {
        let (expected, got) = (sum.len(), contribution.len());
        if got != expected {
            return Err(ClippingError::WrongGroups { expected, got });
        }
        for (group, sum) in contribution.iter().zip(sum.iter()) {
            let (expected, got) = (sum.len(), group.len());
            if got != expected {
                return Err(ClippingError::WrongLength { expected, got });
            }
        }
        let mut norms: Vec<f64> = contribution.iter().map(|group| norm(group)).collect();
        if self.rule.groups() == 1 {
            norms = vec![norms.iter().map(|n| n * n).sum::<f64>().sqrt()];
        }
        let factors = self.factors(&norms)?;
        // One factor for all groups, or one each.
        for ((group, sum), factor) in contribution.iter().zip(sum).zip(factors.iter().cycle()) {
            if let Factor::Scale(scale) = *factor {
                add_scaled(group, scale, sum);
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Clipper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clipper")
            .field("rule", &self.rule)
            .finish_non_exhaustive()
    }
}

/// The product in double precision: rounded once, it exceeds the bound by at most 2^-24 of itself.
fn add_scaled(values: &[f32], scale: f64, sum: &mut [f32]) {
    for (sum, &value) in sum.iter_mut().zip(values) {
        *sum += (f64::from(value) * scale) as f32;
    }
}

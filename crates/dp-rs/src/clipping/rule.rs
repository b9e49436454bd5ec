//! Clip rules: factors from norms, and the sensitivity they guarantee.

use serde::{Deserialize, Serialize};

use super::{ClippingError, positive};

/// Stabiliser of automatic clipping in the paper (Bu et al., arXiv 2206.07136).
const STABILISER: f64 = 0.01;

/// How a contribution is scaled. Norms and bounds are L2, in the unit of the contribution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct ClipRule(Unchecked);

/// The rules as written in files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "kebab-case", deny_unknown_fields)]
enum Unchecked {
    Flat { clip_norm: f64 },
    PerGroup { clip_norms: Vec<f64> },
    Automatic { clip_norm: f64, stabiliser: f64 },
    Normalised { clip_norm: f64 },
}

/// What to do with one contribution or group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Factor {
    /// Multiply by this, which is finite and at least zero.
    Scale(f64),
    /// The norm was not finite: contribute zeros. Not a product, because zero times infinity is not zero.
    Drop,
}

impl ClipRule {
    /// C / max(norm, C): shrinks to the ball of radius `clip_norm` (Abadi et al., arXiv 1607.00133).
    ///
    /// # Errors
    ///
    /// [`ClippingError::NotPositive`], as in the other constructors.
    pub fn flat(clip_norm: f64) -> Result<Self, ClippingError> {
        Unchecked::Flat { clip_norm }.try_into()
    }

    /// Flat clipping of each group of parameters with its own bound (McMahan et al., arXiv 1710.06963).
    ///
    /// # Errors
    ///
    /// Also [`ClippingError::NoGroups`].
    pub fn per_group(clip_norms: Vec<f64>) -> Result<Self, ClippingError> {
        Unchecked::PerGroup { clip_norms }.try_into()
    }

    /// Per group, with `total_clip_norm` / sqrt(`groups`) for each, so that the total sensitivity is the
    /// given one.
    ///
    /// # Errors
    ///
    /// Also [`ClippingError::NoGroups`].
    pub fn per_group_uniform(total_clip_norm: f64, groups: usize) -> Result<Self, ClippingError> {
        Self::per_group(vec![total_clip_norm / (groups as f64).sqrt(); groups])
    }

    /// AUTO-S, C / (norm + 0.01): no threshold to tune, keeps the order of sizes (Bu et al., arXiv 2206.07136).
    ///
    /// # Errors
    ///
    /// [`ClippingError::NotPositive`].
    pub fn automatic(clip_norm: f64) -> Result<Self, ClippingError> {
        let stabiliser = STABILISER;
        Unchecked::Automatic {
            clip_norm,
            stabiliser,
        }
        .try_into()
    }

    /// AUTO-V, C / norm, and zero for zero: directions only; training may get stuck (ibid., section 4).
    ///
    /// # Errors
    ///
    /// [`ClippingError::NotPositive`].
    pub fn normalised(clip_norm: f64) -> Result<Self, ClippingError> {
        Unchecked::Normalised { clip_norm }.try_into()
    }

    /// Largest norm of a clipped contribution: the sensitivity of a sum when one contribution is added,
    /// removed or replaced by zero; twice this when it is exchanged for another.
    #[must_use]
    pub fn sensitivity(&self) -> f64 {
        match &self.0 {
            Unchecked::PerGroup { clip_norms } => {
                clip_norms.iter().map(|c| c * c).sum::<f64>().sqrt()
            }
            Unchecked::Flat { clip_norm }
            | Unchecked::Automatic { clip_norm, .. }
            | Unchecked::Normalised { clip_norm } => *clip_norm,
        }
    }

    /// Number of groups that are clipped apart; 1 for all rules but per-group.
    #[must_use]
    pub fn groups(&self) -> usize {
        match &self.0 {
            Unchecked::PerGroup { clip_norms } => clip_norms.len(),
            _ => 1,
        }
    }

    /// One factor for each group of a contribution with these norms.
    ///
    /// # Errors
    ///
    /// [`ClippingError::WrongGroups`].
    pub fn factors(&self, norms: &[f64]) -> Result<Vec<Factor>, ClippingError> {
        let (expected, got) = (self.groups(), norms.len());
        if got != expected {
            return Err(ClippingError::WrongGroups { expected, got });
        }
        if norms.iter().any(|norm| !norm.is_finite()) {
            // The whole contribution goes: what is left of it is not its gradient.
            return Ok(vec![Factor::Drop; got]);
        }
        Ok(norms
            .iter()
            .enumerate()
            .map(|(group, &norm)| Factor::Scale(self.scale(group, norm)))
            .collect())
    }

    /// The factor of a contribution that is one group.
    ///
    /// # Errors
    ///
    /// [`ClippingError::WrongGroups`] for a rule with several groups.
    pub fn factor(&self, norm: f64) -> Result<Factor, ClippingError> {
        Ok(self.factors(&[norm])?[0])
    }

    fn scale(&self, group: usize, norm: f64) -> f64 {
        match &self.0 {
            Unchecked::Flat { clip_norm } => clip_norm / norm.max(*clip_norm),
            Unchecked::PerGroup { clip_norms } => clip_norms[group] / norm.max(clip_norms[group]),
            Unchecked::Automatic {
                clip_norm,
                stabiliser,
            } => clip_norm / (norm + stabiliser),
            // Below the smallest normal number the quotient may overflow; such a contribution is zero.
            Unchecked::Normalised { clip_norm } => Some(clip_norm / norm)
                .filter(|f| f.is_finite())
                .unwrap_or(0.0),
        }
    }
}

impl TryFrom<Unchecked> for ClipRule {
    type Error = ClippingError;

    fn try_from(rule: Unchecked) -> Result<Self, ClippingError> {
        match &rule {
            Unchecked::Flat { clip_norm } | Unchecked::Normalised { clip_norm } => {
                positive("clip_norm", *clip_norm)?;
            }
            Unchecked::Automatic {
                clip_norm,
                stabiliser,
            } => {
                positive("clip_norm", *clip_norm)?;
                positive("stabiliser", *stabiliser)?;
            }
            Unchecked::PerGroup { clip_norms } if clip_norms.is_empty() => {
                return Err(ClippingError::NoGroups);
            }
            Unchecked::PerGroup { clip_norms } => {
                for &clip_norm in clip_norms {
                    positive("clip_norm", clip_norm)?;
                }
            }
        }
        Ok(Self(rule))
    }
}

impl From<ClipRule> for Unchecked {
    fn from(rule: ClipRule) -> Self {
        rule.0
    }
}

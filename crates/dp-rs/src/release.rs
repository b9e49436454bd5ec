//! Releases of whole vectors: clipped, noised once, accounted for as one event each.
//!
//! What a data holder computed, however it did so, is protected as a whole: the vector is clipped to a norm and
//! Gaussian noise is added before it leaves (update-level privacy, McMahan et al., arXiv 1710.06963, with one
//! participant as the unit). Nothing is sampled, so nothing is amplified: every release counts in full.
//!
//! Who is protected against depends on how much noise there is in one release, see [`Against`].
//!
//! ```
//! use dp_rs::adjacency::Adjacency;
//! use dp_rs::noise::{NoiseLevel, RootKey};
//! use dp_rs::plan::Unit;
//! use dp_rs::release::{Against, ReleasePlan, ReleaseSettings};
//!
//! let plan = ReleasePlan::new(ReleaseSettings {
//!     unit: Unit::Site,
//!     adjacency: Adjacency::ZeroOut,
//!     clip_norm: 0.5,
//!     noise_multiplier: 4.0,
//!     noise_level: NoiseLevel::Hardened,
//!     against: Against::Everybody,
//! })?;
//! let key = RootKey::from_operating_system()?;
//! let mut update = vec![3.0, 4.0];
//! let transcript = plan.release(&key, &[b"round 1"], &mut update)?;
//! assert!(transcript.guarantee(1e-3)?.epsilon < 1.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::accounting::{AccountingError, Guarantee, Profile};
use crate::adjacency::Adjacency;
use crate::clipping::ClippingError;
use crate::event::{Event, Repeated};
use crate::faults::{Fault, injected};
use crate::noise::{ExactSum, Grid, NoiseLevel, Purpose, RootKey, add_noise};
use crate::plan::{PlanError, Transcript, Unit};

/// From whom a guarantee protects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Against {
    /// From whoever sees any release: each one carries all the noise.
    #[default]
    Everybody,
    /// From whoever sees only sums, of equal weights, with the noise of at least this many releases that the
    /// onlooker did not make. Each release carries a share of the noise, `1 / shares` of the variance. Whoever sees
    /// a single release, for example a server without secure aggregation, is **not** covered.
    SumsOf {
        /// Releases whose noise is in every sum that is seen, those of colluding onlookers not counted.
        shares: NonZeroU32,
    },
}

impl Against {
    /// Whether single releases may be seen.
    #[must_use]
    pub fn is_everybody(&self) -> bool {
        *self == Self::Everybody
    }

    /// The fewer are covered, the weaker.
    #[must_use]
    pub fn weaker(self, other: Self) -> Self {
        match (self, other) {
            (Self::Everybody, other) => other,
            (own, Self::Everybody) => own,
            (Self::SumsOf { shares: one }, Self::SumsOf { shares: two }) => Self::SumsOf {
                shares: one.max(two),
            },
        }
    }
}

impl std::fmt::Display for Against {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Everybody => f.write_str("everybody"),
            Self::SumsOf { shares } => {
                write!(f, "who sees sums with {shares} other shares of noise only")
            }
        }
    }
}

/// The free choices of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseSettings {
    /// What is protected.
    pub unit: Unit,
    /// Which data sets are neighbours.
    pub adjacency: Adjacency,
    /// Norm to which the vector is clipped.
    pub clip_norm: f64,
    /// Standard deviation of the noise in what is protected (the release, or the sum) / clip norm.
    pub noise_multiplier: f64,
    /// How far the noise can be trusted.
    pub noise_level: NoiseLevel,
    /// From whom it protects.
    pub against: Against,
}

/// A plan that was checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ReleaseSettings", into = "ReleaseSettings")]
pub struct ReleasePlan {
    settings: ReleaseSettings,
    event: Event,
}

impl ReleasePlan {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`PlanError`], naming the setting.
    pub fn new(settings: ReleaseSettings) -> Result<Self, PlanError> {
        let (multiplier, norm) = (settings.noise_multiplier, settings.clip_norm);
        let gaussian = Event::gaussian(multiplier)?;
        if multiplier == 0.0 {
            return Err(PlanError::NoNoise);
        }
        if !(norm.is_normal() && norm > 0.0) {
            return Err(ClippingError::NotPositive {
                name: "clip_norm",
                value: norm,
            }
            .into());
        }
        let event = match settings.noise_level {
            NoiseLevel::Fast | NoiseLevel::Hardened => gaussian,
            // A sum of discrete Gaussians is none: only complete noise is accounted for.
            NoiseLevel::Exact if !settings.against.is_everybody() => {
                return Err(PlanError::ExactShares);
            }
            // The discrete Gaussian on integers has the divergences of the continuous one (Canonne et al.).
            NoiseLevel::Exact => {
                Grid::new(norm, GRID_BITS)?;
                let moved = settings.adjacency.sensitivity_in_clip_norms();
                Event::zcdp(moved * moved / (2.0 * multiplier * multiplier))?
            }
        };
        Ok(Self { settings, event })
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &ReleaseSettings {
        &self.settings
    }

    /// What `releases` releases cost, in the form of the ledger.
    #[must_use]
    pub fn events(&self, releases: u64) -> Repeated {
        self.event
            .clone()
            .repeated(releases, self.settings.adjacency)
    }

    /// The privacy of `releases` releases and nothing else.
    ///
    /// # Errors
    /// [`AccountingError`] for a delta that is none.
    pub fn guarantee(&self, releases: u64, delta: f64) -> Result<Guarantee, AccountingError> {
        Profile::of(&[self.events(releases)], self.settings.adjacency)?.epsilon(delta)
    }

    /// Clips `vector` and adds its noise; `context` names the release among all that use the key. A vector with a
    /// value that is not finite becomes noise alone.
    ///
    /// # Errors
    /// [`PlanError::Noise`]; the vector must not leave then.
    pub fn release(
        &self,
        key: &RootKey,
        context: &[&[u8]],
        vector: &mut Vec<f32>,
    ) -> Result<Transcript, PlanError> {
        let settings = &self.settings;
        let context: &[&[u8]] = if injected(Fault::NoiseReused) {
            &[]
        } else {
            context
        };
        let mut noise = key.stream(Purpose::GradientNoise, context);
        let multiplier = if injected(Fault::NoiseHalved) {
            settings.noise_multiplier / 2.0
        } else {
            settings.noise_multiplier
        };
        if settings.noise_level == NoiseLevel::Exact {
            let mut sum = ExactSum::new(Grid::new(settings.clip_norm, GRID_BITS)?, vector.len());
            sum.add(vector)?;
            (*vector, _) = sum.release(multiplier, &mut noise)?;
        } else {
            if !injected(Fault::NoClip) {
                clip(vector, settings.clip_norm);
            }
            let shares = match settings.against {
                Against::Everybody => 1.0,
                Against::SumsOf { shares } => f64::from(shares.get()),
            };
            let std = multiplier * settings.clip_norm / shares.sqrt();
            add_noise(settings.noise_level, vector, std, &mut noise)?;
        }
        Ok(Transcript {
            unit: settings.unit,
            events: self.events(1),
            noise_level: settings.noise_level,
            randomness: key.randomness(),
            against: settings.against,
        })
    }
}

/// Scales to `norm` where it is longer; what is not finite contributes nothing.
fn clip(vector: &mut [f32], norm: f64) {
    let length = vector
        .iter()
        .map(|&value| f64::from(value).powi(2))
        .sum::<f64>()
        .sqrt();
    if !length.is_finite() {
        vector.fill(0.0);
        return;
    }
    // Below the norm by more than single precision rounds.
    let norm = norm * (1.0 - f64::from(f32::EPSILON));
    let factor = norm / length.max(norm);
    for value in vector {
        *value = (f64::from(*value) * factor) as f32;
    }
}

/// Steps of the exact grid in the clip norm, as a power of two.
const GRID_BITS: u32 = 16;

impl TryFrom<ReleaseSettings> for ReleasePlan {
    type Error = PlanError;

    fn try_from(settings: ReleaseSettings) -> Result<Self, PlanError> {
        Self::new(settings)
    }
}

impl From<ReleasePlan> for ReleaseSettings {
    fn from(plan: ReleasePlan) -> Self {
        plan.settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::INJECTED;

    const DIMENSION: usize = 4000;
    const CLIP: f64 = 0.5;

    fn plan(noise_level: NoiseLevel, against: Against) -> ReleasePlan {
        ReleasePlan::new(ReleaseSettings {
            unit: Unit::Site,
            adjacency: Adjacency::ZeroOut,
            clip_norm: CLIP,
            noise_multiplier: 2.0,
            noise_level,
            against,
        })
        .unwrap()
    }

    fn shares(shares: u32) -> Against {
        Against::SumsOf {
            shares: shares.try_into().unwrap(),
        }
    }

    /// A vector of this first coordinate, released.
    fn released(plan: &ReleasePlan, round: u8, first: f32) -> Vec<f32> {
        let mut vector = vec![0.0; DIMENSION];
        vector[0] = first;
        let key = RootKey::simulation(3);
        plan.release(&key, &[&[round]], &mut vector).unwrap();
        vector
    }

    /// How far the release of a large vector is from that of an empty one, with the same noise, in clip norms: what
    /// a participant adds. And the standard deviation of that noise, in clip norms.
    fn measured(plan: &ReleasePlan) -> (f64, f64) {
        let (none, large) = (released(plan, 1, 0.0), released(plan, 1, 1e6));
        let moved: f64 = (none.iter().zip(&large))
            .map(|(one, other)| f64::from(one - other).powi(2))
            .sum();
        let square: f64 = none.iter().map(|&value| f64::from(value).powi(2)).sum();
        (
            moved.sqrt() / CLIP,
            (square / DIMENSION as f64).sqrt() / CLIP,
        )
    }

    #[test]
    fn a_release_is_clipped_and_carries_the_noise_that_is_accounted_for() {
        for (level, against, noise) in [
            (NoiseLevel::Fast, Against::Everybody, 2.0),
            (NoiseLevel::Hardened, Against::Everybody, 2.0),
            (NoiseLevel::Exact, Against::Everybody, 2.0),
            (NoiseLevel::Hardened, shares(4), 1.0),
        ] {
            let plan = plan(level, against);
            let (moved, std) = measured(&plan);
            assert!((moved - 1.0).abs() < 1e-3, "{level:?}: {moved}");
            assert!((std - noise).abs() < 0.1, "{level:?}: {std}");
            assert_ne!(released(&plan, 1, 0.0), released(&plan, 2, 0.0));
            assert_eq!(released(&plan, 1, 0.1), released(&plan, 1, 0.1));
        }
    }

    #[test]
    fn every_mistake_is_noticed() {
        let plan = plan(NoiseLevel::Hardened, Against::Everybody);
        let with = |fault, check: &dyn Fn() -> bool| {
            assert!(check(), "{fault:?} is seen where there is none");
            INJECTED.set(Some(fault));
            let noticed = !check();
            INJECTED.set(None);
            assert!(noticed, "{fault:?}");
        };
        with(Fault::NoClip, &|| measured(&plan).0 < 1.001);
        with(Fault::NoiseHalved, &|| measured(&plan).1 > 1.9);
        with(Fault::NoiseReused, &|| {
            released(&plan, 1, 0.0) != released(&plan, 2, 0.0)
        });
    }

    #[test]
    fn the_shares_of_a_sum_make_up_the_noise_of_its_guarantee() {
        let plan = plan(NoiseLevel::Hardened, shares(3));
        let key = RootKey::simulation(5);
        let mut sum = vec![0.0_f32; DIMENSION];
        for site in 0..3_u8 {
            let mut vector = vec![0.0; DIMENSION];
            plan.release(&key, &[&[site]], &mut vector).unwrap();
            sum.iter_mut()
                .zip(vector)
                .for_each(|(sum, value)| *sum += value);
        }
        let square: f64 = sum.iter().map(|&value| f64::from(value).powi(2)).sum();
        let std = (square / DIMENSION as f64).sqrt() / CLIP;
        assert!((std - 2.0).abs() < 0.1, "{std}");
    }

    #[test]
    fn a_vector_that_is_not_finite_is_noise_alone() {
        for level in [NoiseLevel::Hardened, NoiseLevel::Exact] {
            let plan = plan(level, Against::Everybody);
            let none = released(&plan, 1, 0.0);
            assert_eq!(released(&plan, 1, f32::NAN), none);
            assert_eq!(released(&plan, 1, f32::INFINITY), none);
        }
    }

    #[test]
    fn the_cost_is_that_of_the_gaussian_without_amplification() {
        // 30 rounds at multiplier 4.51 are epsilon 4 at delta 1e-3: mu = sqrt(30) / 4.51.
        let settings = ReleaseSettings {
            noise_multiplier: 4.51,
            ..plan(NoiseLevel::Hardened, Against::Everybody)
                .settings()
                .clone()
        };
        let plan = ReleasePlan::new(settings.clone()).unwrap();
        let epsilon = plan.guarantee(30, 1e-3).unwrap().epsilon;
        assert!((epsilon - 4.0).abs() < 0.01, "{epsilon}");
        // On the grid only the divergences are known: somewhat more.
        let exact = ReleasePlan::new(ReleaseSettings {
            noise_level: NoiseLevel::Exact,
            ..settings.clone()
        })
        .unwrap();
        let bound = exact.guarantee(30, 1e-3).unwrap().epsilon;
        assert!(bound >= epsilon && bound < 1.3 * epsilon, "{bound}");
        // Two sites that are exchanged are twice as far from each other.
        for noise_level in [NoiseLevel::Hardened, NoiseLevel::Exact] {
            let exchanged = ReleasePlan::new(ReleaseSettings {
                adjacency: Adjacency::ReplaceOne,
                noise_level,
                ..settings.clone()
            })
            .unwrap();
            assert!(exchanged.guarantee(30, 1e-3).unwrap().epsilon > 1.9 * epsilon);
        }
    }

    #[test]
    fn settings_that_protect_nobody_are_refused_by_name() {
        let usual = plan(NoiseLevel::Hardened, Against::Everybody)
            .settings()
            .clone();
        let refused = |settings: ReleaseSettings| ReleasePlan::new(settings).unwrap_err().code();
        assert_eq!(
            refused(ReleaseSettings {
                noise_multiplier: 0.0,
                ..usual.clone()
            }),
            "plan_no_noise"
        );
        for clip_norm in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let settings = ReleaseSettings {
                clip_norm,
                ..usual.clone()
            };
            assert_eq!(refused(settings), "clipping_not_positive");
        }
        assert_eq!(
            refused(ReleaseSettings {
                noise_level: NoiseLevel::Exact,
                against: shares(2),
                ..usual
            }),
            "plan_exact_shares"
        );
    }
}

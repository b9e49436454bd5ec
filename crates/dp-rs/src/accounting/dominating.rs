//! What one event costs at worst, with the sensitivity of the adjacency applied.

use statrs::distribution::{Binomial, DiscreteCDF};

use super::AccountingError;
use super::pair::Pair;
use super::rdp::curve::Curve;
use crate::adjacency::Adjacency;
use crate::correlated::{Blt, Participation, Toeplitz, tree};
use crate::event::{Event, Mechanism};
use crate::faults::{Fault, injected};

/// The worst case of one event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Loss {
    /// Nothing is revealed.
    None,
    /// Everything may be revealed.
    Unbounded,
    /// A Gaussian release with this ratio of sensitivity to standard deviation.
    Normal { mu: f64 },
    /// One of several pairs, chosen at random and known to the observer.
    Pairs(Vec<(f64, Pair)>),
    /// Laplace noise; no loss exceeds this epsilon.
    Laplace { epsilon: f64 },
    /// One integer with discrete Gaussian noise, moved by `shift`.
    DiscreteGaussian { deviation: f64, shift: u64 },
    /// Only a bound on the Renyi divergences is known.
    Curve(Curve),
}

/// Below this noise multiplier sampling is ignored, which is never optimistic; epsilons are in the
/// thousands.
const NEGLIGIBLE_NOISE: f64 = 1e-2;
/// Largest shift, in units of the noise's deviation, that is worth enumerating.
const MAX_SHIFT_IN_DEVIATIONS: f64 = 100.0;
/// Largest deviation, in grid units, of a discrete Gaussian that is enumerated.
const MAX_DEVIATION: f64 = 2000.0;

/// The worst case of `event` for neighbours under `adjacency`.
///
/// The one function of the accountants in which a sensitivity is used: everything after it is in
/// standard deviations.
pub(crate) fn dominating(event: &Event, adjacency: Adjacency) -> Result<Loss, AccountingError> {
    let adjacency = match adjacency {
        Adjacency::AddRemove if injected(Fault::AdjacencyConfused) => Adjacency::ReplaceOne,
        Adjacency::ReplaceOne if injected(Fault::AdjacencyConfused) => Adjacency::AddRemove,
        adjacency => adjacency,
    };
    let sensitivity = adjacency.sensitivity_in_clip_norms();
    let refuse = |mechanism, remedy| {
        Err(AccountingError::Adjacency {
            mechanism,
            adjacency,
            remedy,
        })
    };
    Ok(match event.mechanism() {
        Mechanism::Gaussian { noise_multiplier } => normal(sensitivity, *noise_multiplier),
        Mechanism::PoissonGaussian {
            noise_multiplier,
            sampling_rate,
        } => poisson(*noise_multiplier, *sampling_rate, adjacency),
        Mechanism::MixtureOfGaussians {
            noise_multiplier,
            sampling_rate,
            max_records,
        } => {
            let shift = sensitivity * f64::from(*max_records);
            if *sampling_rate == 0.0 {
                Loss::None
            } else if *sampling_rate == 1.0 {
                normal(shift, *noise_multiplier)
            } else if *max_records == 1 {
                poisson(*noise_multiplier, *sampling_rate, adjacency)
            } else if adjacency == Adjacency::ReplaceOne {
                return refuse(
                    "mixture-of-gaussians",
                    "no dominating pair is known for it; state the guarantee for add-remove or zero-out",
                );
            } else if *noise_multiplier < NEGLIGIBLE_NOISE {
                normal(shift, *noise_multiplier)
            } else {
                pair(Pair::several(
                    *sampling_rate,
                    *max_records,
                    *noise_multiplier,
                ))
            }
        }
        Mechanism::TruncatedPoisson {
            noise_multiplier,
            sampling_rate,
            units,
            max_batch,
        } => {
            if adjacency != Adjacency::ZeroOut {
                return refuse(
                    "truncated-poisson",
                    "the number of units is used as public; state the guarantee for zero-out",
                );
            }
            truncated(*noise_multiplier, *sampling_rate, *units, *max_batch)
        }
        Mechanism::FixedBatch {
            noise_multiplier,
            units,
            batch,
        } => {
            if adjacency != Adjacency::ReplaceOne {
                return refuse(
                    "fixed-batch",
                    "a batch of fixed size needs a public number of units; state the guarantee for replace-one",
                );
            }
            if *batch == 0 {
                Loss::None
            } else if batch == units || *noise_multiplier == 0.0 {
                normal(sensitivity, *noise_multiplier)
            } else {
                Loss::Curve(Curve::FixedBatch {
                    rate: *batch as f64 / *units as f64,
                    mu: sensitivity / noise_multiplier,
                })
            }
        }
        Mechanism::Laplace { scale } => {
            if *scale == 0.0 {
                Loss::Unbounded
            } else {
                Loss::Laplace {
                    epsilon: sensitivity / scale,
                }
            }
        }
        Mechanism::DiscreteGaussian {
            standard_deviation,
            clip_norm,
            dimension,
        } => discrete_gaussian(sensitivity * clip_norm, *standard_deviation, *dimension),
        Mechanism::DistributedDiscreteGaussian {
            standard_deviation,
            sites,
            clip_norm,
            clip_norm_l1,
            dimension,
        } => distributed(
            *standard_deviation,
            sensitivity * clip_norm,
            Curve::DistributedDiscreteGaussian {
                sites: *sites,
                deviation: *standard_deviation,
                l2: sensitivity * clip_norm,
                l1: sensitivity * clip_norm_l1,
                dimension: *dimension,
            },
        ),
        Mechanism::Skellam {
            variance,
            clip_norm,
            clip_norm_l1,
        } => distributed(
            *variance,
            sensitivity * clip_norm,
            Curve::Skellam {
                variance: *variance,
                l2: sensitivity * clip_norm,
                l1: sensitivity * clip_norm_l1,
            },
        ),
        Mechanism::TreeAggregation {
            noise_multiplier,
            steps,
            trees,
        } => {
            if adjacency == Adjacency::AddRemove {
                return refuse("tree-aggregation", SCHEDULE_IS_PUBLIC);
            }
            normal(
                sensitivity * tree::releases(*steps, *trees).sqrt(),
                *noise_multiplier,
            )
        }
        Mechanism::BandedToeplitz {
            noise_multiplier,
            coefficients,
            steps,
            min_separation,
            max_participations,
        } => {
            if adjacency == Adjacency::AddRemove {
                return refuse("banded-toeplitz", SCHEDULE_IS_PUBLIC);
            }
            let run = participation(*steps, *min_separation, *max_participations);
            // Cannot fail: the event was checked with the same function.
            let strategy = Toeplitz::new(coefficients.clone()).expect("checked coefficients");
            normal(sensitivity * strategy.sensitivity(run), *noise_multiplier)
        }
        Mechanism::Blt {
            noise_multiplier,
            decays,
            scales,
            steps,
            min_separation,
            max_participations,
        } => {
            if adjacency == Adjacency::AddRemove {
                return refuse("blt", SCHEDULE_IS_PUBLIC);
            }
            let run = participation(*steps, *min_separation, *max_participations);
            // Cannot fail: the event was checked with the same function.
            let strategy = Blt::new(decays.clone(), scales.clone()).expect("checked buffers");
            normal(sensitivity * strategy.sensitivity(run), *noise_multiplier)
        }
        // The guarantee is declared for the adjacency of the entry; there is no norm to scale.
        Mechanism::Zcdp { rho, xi } if *rho == 0.0 && *xi == 0.0 => Loss::None,
        Mechanism::Zcdp { rho, xi } => Loss::Curve(Curve::Zcdp { rho: *rho, xi: *xi }),
        Mechanism::NonPrivate {} => Loss::Unbounded,
    })
}

const SCHEDULE_IS_PUBLIC: &str =
    "the schedule of participation is public; state the guarantee for zero-out or replace-one";

fn participation(steps: u64, min_separation: u64, max_participations: u64) -> Participation {
    let whole = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    Participation {
        steps: whole(steps),
        min_separation: whole(min_separation.min(steps)),
        max_participations: whole(max_participations.min(steps)),
    }
}

fn normal(sensitivity: f64, noise: f64) -> Loss {
    if sensitivity == 0.0 {
        Loss::None
    } else if noise == 0.0 {
        Loss::Unbounded
    } else {
        Loss::Normal {
            mu: sensitivity / noise,
        }
    }
}

fn pair(pair: Pair) -> Loss {
    Loss::Pairs(vec![(1.0, pair)])
}

fn poisson(noise: f64, rate: f64, adjacency: Adjacency) -> Loss {
    let sensitivity = adjacency.sensitivity_in_clip_norms();
    if rate == 0.0 {
        Loss::None
    } else if rate == 1.0 || noise < NEGLIGIBLE_NOISE {
        normal(sensitivity, noise)
    } else if adjacency == Adjacency::ReplaceOne {
        pair(Pair::exchange(rate, sensitivity, noise))
    } else {
        pair(Pair::presence(rate, sensitivity, noise))
    }
}

/// Probability that a unit that was drawn meets a batch that is already full:
/// `P[Binom(units - 1, rate) >= max_batch]`.
///
/// Truncation is cheap when this is at most `delta / (100 steps)`; otherwise it dominates epsilon. Zero
/// when every unit fits; `rate` is a probability, and anything else counts as one.
pub fn overflow_probability(units: u64, rate: f64, max_batch: u64) -> f64 {
    if max_batch == 0 {
        return 1.0;
    }
    upper_tail(units.saturating_sub(1), rate, max_batch - 1)
}

/// `P[Binom(trials, rate) > above]`.
fn upper_tail(trials: u64, rate: f64, above: u64) -> f64 {
    Binomial::new(rate, trials).map_or(1.0, |law| law.sf(above))
}

/// arXiv 2508.15089, section 4.3 of the loss distribution library's notes: a unit that meets a full batch
/// may also displace another one; a replacement at half the deviation, with the rate of being kept,
/// dominates then.
fn truncated(noise: f64, rate: f64, units: u64, max_batch: u64) -> Loss {
    let ordinary = poisson(noise, rate, Adjacency::ZeroOut);
    let overflow = overflow_probability(units, rate, max_batch);
    if matches!(ordinary, Loss::None | Loss::Unbounded) || overflow == 0.0 {
        return ordinary;
    }
    let kept = upper_tail(units, rate, max_batch) * max_batch as f64 / overflow / units as f64;
    let distance = 2.0 * Adjacency::ReplaceOne.sensitivity_in_clip_norms();
    let displaced = Pair::exchange(kept.min(1.0), distance, noise);
    match ordinary {
        Loss::Pairs(mut pairs) => {
            pairs[0].0 = 1.0 - overflow;
            pairs.push((overflow, displaced));
            Loss::Pairs(pairs)
        }
        // Every unit is drawn, so every batch overflows.
        _ => pair(displaced),
    }
}

fn discrete_gaussian(shift: f64, deviation: f64, dimension: u64) -> Loss {
    if shift == 0.0 {
        return Loss::None;
    }
    if deviation == 0.0 {
        return Loss::Unbounded;
    }
    let countable = shift.fract() == 0.0
        && shift <= MAX_SHIFT_IN_DEVIATIONS * deviation
        && deviation <= MAX_DEVIATION;
    if dimension == 1 && countable {
        return Loss::DiscreteGaussian {
            deviation,
            shift: shift as u64,
        };
    }
    // arXiv 2004.00010, theorem 4: the same concentrated guarantee as the continuous one.
    Loss::Curve(Curve::Zcdp {
        rho: (shift / deviation).powi(2) / 2.0,
        xi: 0.0,
    })
}

fn distributed(noise: f64, l2: f64, curve: Curve) -> Loss {
    if l2 == 0.0 {
        Loss::None
    } else if noise == 0.0 {
        Loss::Unbounded
    } else {
        Loss::Curve(curve)
    }
}

//! What the fields of a mechanism may be.

use super::Mechanism;

/// Largest number of bands or buffers: far above any use, small enough that sensitivities stay cheap.
const MAX_COEFFICIENTS: usize = 1 << 20;

/// A field of an event is out of range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field} is {value}: {remedy}")]
pub struct InvalidEvent {
    /// Name of the field, as in a file.
    pub field: &'static str,
    /// What it was.
    pub value: String,
    /// What it may be.
    pub remedy: &'static str,
}

fn refuse<T>(
    field: &'static str,
    value: impl ToString,
    remedy: &'static str,
) -> Result<T, InvalidEvent> {
    Err(InvalidEvent {
        field,
        value: value.to_string(),
        remedy,
    })
}

/// Zero is allowed: no noise, or no loss.
fn not_negative(field: &'static str, value: f64) -> Result<(), InvalidEvent> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    refuse(field, value, "use a finite number, zero or larger")
}

fn probability(field: &'static str, value: f64) -> Result<(), InvalidEvent> {
    // A comparison with NaN is false, so NaN is refused here as well.
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    refuse(field, value, "use a probability, from 0 to 1")
}

fn at_least_one(field: &'static str, value: u64) -> Result<(), InvalidEvent> {
    if value >= 1 {
        return Ok(());
    }
    refuse(field, value, "use a whole number, one or larger")
}

fn norms(l2: f64, l1: f64) -> Result<(), InvalidEvent> {
    not_negative("clip_norm", l2)?;
    not_negative("clip_norm_l1", l1)?;
    // One part in 1e9 for norms that were computed in floating point.
    if l1 < l2 * (1.0 - 1e-9) {
        return refuse(
            "clip_norm_l1",
            l1,
            "the L1 norm of a vector is never below its L2 norm; swap the two or correct them",
        );
    }
    Ok(())
}

fn participation(
    steps: u64,
    min_separation: u64,
    max_participations: u64,
) -> Result<(), InvalidEvent> {
    at_least_one("steps", steps)?;
    at_least_one("min_separation", min_separation)?;
    at_least_one("max_participations", max_participations)?;
    if steps > MAX_COEFFICIENTS as u64 {
        return refuse(
            "steps",
            steps,
            "use at most 1048576 steps, or split the run",
        );
    }
    Ok(())
}

/// Fields of one description.
pub(super) fn check(mechanism: &Mechanism) -> Result<(), InvalidEvent> {
    match mechanism {
        Mechanism::Gaussian { noise_multiplier } => {
            not_negative("noise_multiplier", *noise_multiplier)
        }
        Mechanism::PoissonGaussian {
            noise_multiplier,
            sampling_rate,
        } => {
            not_negative("noise_multiplier", *noise_multiplier)?;
            probability("sampling_rate", *sampling_rate)
        }
        Mechanism::MixtureOfGaussians {
            noise_multiplier,
            sampling_rate,
            max_records,
        } => {
            not_negative("noise_multiplier", *noise_multiplier)?;
            probability("sampling_rate", *sampling_rate)?;
            at_least_one("max_records", u64::from(*max_records))?;
            if *max_records > 10_000 {
                return refuse(
                    "max_records",
                    max_records,
                    "cap the records of a patient at 10000",
                );
            }
            Ok(())
        }
        Mechanism::TruncatedPoisson {
            noise_multiplier,
            sampling_rate,
            units,
            max_batch,
        } => {
            not_negative("noise_multiplier", *noise_multiplier)?;
            probability("sampling_rate", *sampling_rate)?;
            at_least_one("units", *units)?;
            at_least_one("max_batch", *max_batch)
        }
        Mechanism::FixedBatch {
            noise_multiplier,
            units,
            batch,
        } => {
            not_negative("noise_multiplier", *noise_multiplier)?;
            at_least_one("units", *units)?;
            if batch > units {
                return refuse(
                    "batch",
                    batch,
                    "a batch without replacement has at most `units` units",
                );
            }
            Ok(())
        }
        Mechanism::Laplace { scale } => not_negative("scale", *scale),
        Mechanism::DiscreteGaussian {
            standard_deviation,
            clip_norm,
            dimension,
        } => {
            not_negative("standard_deviation", *standard_deviation)?;
            not_negative("clip_norm", *clip_norm)?;
            at_least_one("dimension", *dimension)
        }
        Mechanism::DistributedDiscreteGaussian {
            standard_deviation,
            sites,
            clip_norm,
            clip_norm_l1,
            dimension,
        } => {
            not_negative("standard_deviation", *standard_deviation)?;
            at_least_one("sites", *sites)?;
            at_least_one("dimension", *dimension)?;
            norms(*clip_norm, *clip_norm_l1)
        }
        Mechanism::Skellam {
            variance,
            clip_norm,
            clip_norm_l1,
        } => {
            not_negative("variance", *variance)?;
            norms(*clip_norm, *clip_norm_l1)
        }
        Mechanism::TreeAggregation {
            noise_multiplier,
            steps,
            trees,
        } => {
            not_negative("noise_multiplier", *noise_multiplier)?;
            at_least_one("steps", *steps)?;
            at_least_one("trees", *trees)
        }
        Mechanism::BandedToeplitz {
            noise_multiplier,
            coefficients,
            steps,
            min_separation,
            max_participations,
        } => {
            not_negative("noise_multiplier", *noise_multiplier)?;
            participation(*steps, *min_separation, *max_participations)?;
            crate::correlated::Toeplitz::new(coefficients.clone()).map(drop)
        }
        Mechanism::Blt {
            noise_multiplier,
            decays,
            scales,
            steps,
            min_separation,
            max_participations,
        } => {
            not_negative("noise_multiplier", *noise_multiplier)?;
            participation(*steps, *min_separation, *max_participations)?;
            crate::correlated::Blt::new(decays.clone(), scales.clone()).map(drop)
        }
        Mechanism::Zcdp { rho, xi } => {
            not_negative("rho", *rho)?;
            not_negative("xi", *xi)
        }
        Mechanism::NonPrivate {} => Ok(()),
    }
}

/// Coefficients of a Toeplitz strategy for which the worst participation pattern is known.
pub(crate) fn coefficients(values: &[f64]) -> Result<(), InvalidEvent> {
    let field = "coefficients";
    if values.is_empty() || values.len() > MAX_COEFFICIENTS {
        return refuse(
            field,
            format!("a list of {}", values.len()),
            "use 1 to 1048576 of them",
        );
    }
    if let Some(value) = values
        .iter()
        .find(|value| !value.is_finite() || **value < 0.0)
    {
        return refuse(field, value, "use finite numbers, zero or larger");
    }
    if values[0] == 0.0 {
        return refuse(field, 0.0, "the first, on the diagonal, must be above zero");
    }
    if let Some(pair) = values.windows(2).find(|pair| pair[1] > pair[0]) {
        return refuse(
            field,
            format!("{} before {}", pair[0], pair[1]),
            "they must not increase: the worst participation is only known then",
        );
    }
    Ok(())
}

/// Parameters of a buffered linear Toeplitz strategy.
pub(crate) fn buffers(decays: &[f64], scales: &[f64]) -> Result<(), InvalidEvent> {
    if decays.len() != scales.len() {
        return refuse(
            "scales",
            format!("a list of {}", scales.len()),
            "one scale for each decay",
        );
    }
    if let Some(decay) = decays.iter().find(|decay| !(0.0..1.0).contains(*decay)) {
        return refuse("decays", decay, "use numbers from 0 to below 1");
    }
    if let Some(scale) = scales
        .iter()
        .find(|scale| !scale.is_finite() || **scale < 0.0)
    {
        return refuse("scales", scale, "use finite numbers, zero or larger");
    }
    if scales.iter().sum::<f64>() > 1.0 {
        return refuse(
            "scales",
            scales.iter().sum::<f64>(),
            "their sum must not exceed one: coefficients that increase have no known worst participation",
        );
    }
    Ok(())
}

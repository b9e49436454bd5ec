//! The questions turned round: how much noise, how many steps, which sampling rate meet a target.
//!
//! Each function takes a closure that makes the whole ledger for a trial value, so that what was already
//! spent, several phases or any mechanism can be part of it. The value that is returned has been
//! evaluated itself: its epsilon is never above the target.

use super::{Accountant, AccountingError, Guarantee, Profile, check_delta};
use crate::adjacency::Adjacency;
use crate::event::{InvalidEvent, Repeated};

/// The guarantee to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    epsilon: f64,
    delta: f64,
    adjacency: Adjacency,
    accountant: Accountant,
}

/// A value that meets a target, and the guarantee it gives.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Calibrated<T> {
    /// Noise multiplier, number of steps or sampling rate.
    pub value: T,
    /// What it gives; epsilon is at most the target's.
    pub guarantee: Guarantee,
}

/// Relative width at which a search stops.
const TOLERANCE: f64 = 1e-5;
const LARGEST_NOISE: f64 = 1e6;
const SMALLEST_NOISE: f64 = 1e-2;
const MOST_STEPS: u64 = 1 << 40;
const SMALLEST_RATE: f64 = 1e-9;

impl Target {
    /// A target for neighbours under `adjacency`, accounted for by loss distributions where they are
    /// known.
    ///
    /// # Errors
    ///
    /// [`AccountingError::Epsilon`] unless epsilon is finite and above zero, and
    /// [`AccountingError::Delta`] unless delta is from 0 to 1.
    pub fn new(epsilon: f64, delta: f64, adjacency: Adjacency) -> Result<Self, AccountingError> {
        if !(epsilon.is_finite() && epsilon > 0.0) {
            return Err(AccountingError::Epsilon(epsilon));
        }
        check_delta(delta)?;
        Ok(Self {
            epsilon,
            delta,
            adjacency,
            accountant: Accountant::Pld,
        })
    }

    /// The same target by another accountant.
    #[must_use]
    pub fn by(self, accountant: Accountant) -> Self {
        Self { accountant, ..self }
    }

    /// Epsilon to stay below.
    pub fn epsilon(&self) -> f64 {
        self.epsilon
    }

    fn evaluate(&self, ledger: &[Repeated]) -> Result<Guarantee, AccountingError> {
        let profile = Profile::of(ledger, self.adjacency)?;
        match self.accountant {
            Accountant::Pld => profile.epsilon(self.delta),
            Accountant::Rdp => profile.epsilon_by(Accountant::Rdp, self.delta),
        }
    }
}

/// A trial: position on a scale where more is less private, and its guarantee.
type Trial = (f64, Guarantee);

/// The smallest noise multiplier, to a relative 1e-5, that meets the target.
///
/// # Errors
///
/// [`AccountingError::Unreachable`] when even a noise multiplier of 1e6 is not enough, and what the
/// closure and the accountants refuse.
pub fn noise_multiplier(
    target: Target,
    ledger: impl Fn(f64) -> Result<Vec<Repeated>, InvalidEvent>,
) -> Result<Calibrated<f64>, AccountingError> {
    let at = |noise: f64, by| Target::evaluate(&target.by(by), &ledger(noise)?);
    let search = |by, start: f64| {
        Search {
            target: target.epsilon,
            quantity: "noise multiplier",
            most_private: LARGEST_NOISE,
            least_private: SMALLEST_NOISE,
            step: 2.0,
        }
        .run(start, |noise| at(noise, by))
    };
    // Renyi accounting is fast and never below, so its answer is where to start.
    let (start, rough) = search(Accountant::Rdp, 1.0)?;
    let (value, guarantee) = match target.accountant {
        Accountant::Rdp => (start, rough),
        Accountant::Pld => search(Accountant::Pld, start)?,
    };
    Ok(Calibrated { value, guarantee })
}

/// The largest sampling rate, to a relative 1e-5, that meets the target.
///
/// # Errors
///
/// [`AccountingError::Unreachable`] when even a rate of 1e-9 is too much, and what the closure and the
/// accountants refuse.
pub fn sampling_rate(
    target: Target,
    ledger: impl Fn(f64) -> Result<Vec<Repeated>, InvalidEvent>,
) -> Result<Calibrated<f64>, AccountingError> {
    let (value, guarantee) = Search {
        target: target.epsilon,
        quantity: "sampling rate",
        most_private: SMALLEST_RATE,
        least_private: 1.0,
        step: 4.0,
    }
    .run(0.01, |rate| target.evaluate(&ledger(rate)?))?;
    Ok(Calibrated { value, guarantee })
}

/// The largest number of steps that meets the target.
///
/// # Errors
///
/// [`AccountingError::Unreachable`] when one step is too much, and what the closure and the accountants
/// refuse.
pub fn steps(
    target: Target,
    ledger: impl Fn(u64) -> Result<Vec<Repeated>, InvalidEvent>,
) -> Result<Calibrated<u64>, AccountingError> {
    let at = |steps: u64| target.evaluate(&ledger(steps)?);
    let first = at(1)?;
    if first.epsilon > target.epsilon {
        return Err(AccountingError::Unreachable {
            quantity: "number of steps",
            value: 1.0,
            epsilon: first.epsilon,
            target: target.epsilon,
        });
    }
    let (mut good, mut bad) = ((1, first), None);
    while bad.is_none() && good.0 < MOST_STEPS {
        let next = good.0 * 4;
        let guarantee = at(next)?;
        if guarantee.epsilon <= target.epsilon {
            good = (next, guarantee);
        } else {
            bad = Some((next, guarantee));
        }
    }
    let mut interpolate = Interpolation::default();
    while let Some(worst) = bad
        && worst.0 - good.0 > 1
    {
        let guess = interpolate.next(
            (good.0 as f64, good.1),
            (worst.0 as f64, worst.1),
            target.epsilon,
        );
        let next = (guess.round() as u64).clamp(good.0 + 1, worst.0 - 1);
        let guarantee = at(next)?;
        if guarantee.epsilon <= target.epsilon {
            good = (next, guarantee);
        } else {
            bad = Some((next, guarantee));
        }
    }
    Ok(Calibrated {
        value: good.0,
        guarantee: good.1,
    })
}

/// Search for the least private value whose epsilon is at most the target.
struct Search {
    target: f64,
    quantity: &'static str,
    most_private: f64,
    least_private: f64,
    /// Factor between two trials while the target is not bracketed.
    step: f64,
}

impl Search {
    fn run(
        &self,
        start: f64,
        at: impl Fn(f64) -> Result<Guarantee, AccountingError>,
    ) -> Result<Trial, AccountingError> {
        let (mut good, mut bad) = match self.bracket(start, &at)? {
            (good, Some(bad)) => (good, bad),
            (good, None) => return Ok(good),
        };
        let mut interpolate = Interpolation::default();
        while (good.0 / bad.0).ln().abs() > TOLERANCE {
            let next = interpolate.next(good, bad, self.target);
            let trial = (next, at(next)?);
            if trial.1.epsilon <= self.target {
                good = trial;
            } else {
                bad = trial;
            }
        }
        Ok(good)
    }

    /// A value that meets the target and one that does not; none of the latter in the range at all.
    fn bracket(
        &self,
        start: f64,
        at: &impl Fn(f64) -> Result<Guarantee, AccountingError>,
    ) -> Result<(Trial, Option<Trial>), AccountingError> {
        let to_private = if self.most_private > self.least_private {
            1.0
        } else {
            -1.0
        };
        let low = self.most_private.min(self.least_private);
        let high = self.most_private.max(self.least_private);
        let mut trial = (start, at(start)?);
        let meets = |trial: &Trial| trial.1.epsilon <= self.target;
        let direction = if meets(&trial) {
            -to_private
        } else {
            to_private
        };
        let mut factor = 1.0 + (self.step - 1.0) / 8.0;
        loop {
            let next = (trial.0 * factor.powf(direction)).clamp(low, high);
            if next == trial.0 {
                if meets(&trial) {
                    return Ok((trial, None));
                }
                return Err(AccountingError::Unreachable {
                    quantity: self.quantity,
                    value: trial.0,
                    epsilon: trial.1.epsilon,
                    target: self.target,
                });
            }
            let other = (next, at(next)?);
            match (meets(&trial), meets(&other)) {
                (true, false) => return Ok((trial, Some(other))),
                (false, true) => return Ok((other, Some(trial))),
                _ => trial = other,
            }
            factor = (factor * factor).min(self.step);
        }
    }
}

/// Regula falsi on logarithms, where epsilon is nearly a power of the value; aims a little to the side
/// of the older end, so that both ends close in.
#[derive(Default)]
struct Interpolation {
    trials: u32,
}

impl Interpolation {
    fn next(&mut self, good: Trial, bad: Trial, target: f64) -> f64 {
        self.trials += 1;
        let (x0, x1) = (good.0.ln(), bad.0.ln());
        let (y0, y1) = (good.1.epsilon.ln(), bad.1.epsilon.ln());
        let share = (target.ln() - y0) / (y1 - y0);
        let usable = share.is_finite() && !self.trials.is_multiple_of(4);
        let width = (x1 - x0).abs();
        // Half the tolerance: the trial after a good interpolation then ends the search.
        let nudge = 0.4 * TOLERANCE / width.max(TOLERANCE);
        let share = if !usable {
            0.5
        } else if self.trials.is_multiple_of(2) {
            share + nudge
        } else {
            share - nudge
        };
        let edge = (0.5 * nudge).min(0.25);
        (x0 + share.clamp(edge, 1.0 - edge) * (x1 - x0)).exp()
    }
}

//! Sums that do not depend on order.
//!
//! A weighted update is rounded once, to a multiple of 2^-40 held in an `i64`; integers add exactly, so
//! any order, chunking or thread count gives the same bits. Values are at most [`LIMIT`] and weights at
//! most 1 and sum to 1, so a total stays below 2^56 and cannot overflow.

/// Largest absolute value accepted at the border: 2^15.
pub const LIMIT: f32 = 32768.0;

/// 2^40 steps per unit.
const STEPS_PER_UNIT: f64 = (1_u64 << 40) as f64;

/// Adding this to a number below 2^51 leaves the number, rounded to an integer (ties to even), in the
/// low bits of the sum. It needs no rounding instruction, so the loop vectorises on every processor.
const ROUNDING: f64 = 1.5 * (1_u64 << 52) as f64;

/// Why a value cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RefuseValue {
    /// NaN or infinity.
    #[error("value {index} is {value}, which is not a finite number")]
    NotFinite {
        /// Position in the group.
        index: usize,
        /// The value.
        value: f32,
    },
    /// Beyond the fixed-point range.
    #[error("value {index} is {value}, beyond the fixed-point range of ±{LIMIT}")]
    OutOfRange {
        /// Position in the group.
        index: usize,
        /// The value.
        value: f32,
    },
}

impl RefuseValue {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFinite { .. } => "update_not_finite",
            Self::OutOfRange { .. } => "update_out_of_range",
        }
    }
}

/// Checks every value of a chunk that starts at position `offset` of its group.
///
/// # Errors
/// [`RefuseValue`] for the first value that is not finite or beyond ±[`LIMIT`].
pub fn check_values(offset: usize, values: &[f32]) -> Result<(), RefuseValue> {
    if magnitude(values) <= LIMIT {
        return Ok(());
    }
    for (index, &value) in values.iter().enumerate() {
        let index = offset + index;
        if !value.is_finite() {
            return Err(RefuseValue::NotFinite { index, value });
        }
        if value.abs() > LIMIT {
            return Err(RefuseValue::OutOfRange { index, value });
        }
    }
    Ok(())
}

/// Largest absolute value; above every limit when one of them is NaN. The magnitude bits of floats
/// order like integers, which vectorises where a float maximum that keeps NaN would not.
fn magnitude(values: &[f32]) -> f32 {
    let bits = values.iter().fold(0, |largest: u32, value| {
        largest.max(value.to_bits() & 0x7fff_ffff)
    });
    let largest = f32::from_bits(bits);
    if largest.is_nan() {
        f32::INFINITY
    } else {
        largest
    }
}

/// A sum of weighted updates in fixed point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExactSum(Vec<i64>);

impl ExactSum {
    /// A zero sum of `length` values.
    #[must_use]
    pub fn new(length: usize) -> Self {
        Self(vec![0; length])
    }

    /// Sets every value back to zero, so that the memory can serve the next chunk.
    pub fn reset(&mut self, length: usize) {
        self.0.clear();
        self.0.resize(length, 0);
    }

    /// Adds `weight * values` at position `offset`. `weight` is in `[0, 1]`.
    ///
    /// # Errors
    /// [`RefuseValue`]; then nothing has been added.
    ///
    /// # Panics
    /// When the chunk reaches beyond the end or the weight is outside `[0, 1]`: a bug of the caller, who
    /// has checked lengths at the border.
    pub fn add(&mut self, offset: usize, values: &[f32], weight: f64) -> Result<(), RefuseValue> {
        assert!(
            (0.0..=1.0).contains(&weight),
            "weight {weight} outside [0, 1]"
        );
        check_values(offset, values)?;
        let totals = &mut self.0[offset..offset + values.len()];
        let factor = weight * STEPS_PER_UNIT;
        // 2^11 * 2^40 = 2^51, the limit of the fast rounding.
        if f64::from(magnitude(values)) * weight < 2048.0 {
            for (total, value) in totals.iter_mut().zip(values) {
                *total += steps(f64::from(*value) * factor);
            }
        } else {
            for (total, value) in totals.iter_mut().zip(values) {
                *total += (f64::from(*value) * factor).round_ties_even() as i64;
            }
        }
        Ok(())
    }

    /// Adds another sum of the same length.
    pub fn merge(&mut self, other: &Self) {
        for (total, more) in self.0.iter_mut().zip(&other.0) {
            *total += more;
        }
    }

    /// Adds the sum to `values`, rounding once to f32.
    pub fn apply(&self, values: &mut [f32]) {
        for (value, total) in values.iter_mut().zip(&self.0) {
            *value = (f64::from(*value) + *total as f64 / STEPS_PER_UNIT) as f32;
        }
    }

    /// The totals in steps of 2^-40.
    #[must_use]
    pub fn steps(&self) -> &[i64] {
        &self.0
    }
}

/// Nearest integer, ties to even, for |value| < 2^51.
#[inline]
fn steps(value: f64) -> i64 {
    (value + ROUNDING)
        .to_bits()
        .wrapping_sub(ROUNDING.to_bits())
        .cast_signed()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nan_infinity_and_values_beyond_the_range_are_refused_with_their_position() {
        for (bad, code) in [
            (f32::NAN, "update_not_finite"),
            (-f32::NAN, "update_not_finite"),
            (f32::INFINITY, "update_not_finite"),
            (f32::NEG_INFINITY, "update_not_finite"),
            (LIMIT * 1.001, "update_out_of_range"),
        ] {
            let refusal = check_values(100, &[0.0, -LIMIT, bad]).unwrap_err();
            assert_eq!(refusal.code(), code);
            assert!(refusal.to_string().contains("102"), "{refusal}");
            let mut sum = ExactSum::new(3);
            assert!(sum.add(0, &[1.0, 1.0, bad], 1.0).is_err());
            assert_eq!(sum, ExactSum::new(3), "a refused chunk was added in part");
        }
    }

    proptest! {
        #[test]
        fn the_fast_rounding_is_round_half_to_even(value in -2.2e15_f64..2.2e15) {
            prop_assert_eq!(steps(value), value.round_ties_even() as i64);
            let half = value.trunc() + 0.5;
            if half.fract().abs() == 0.5 {
                prop_assert_eq!(steps(half), half.round_ties_even() as i64);
            }
        }

        #[test]
        fn any_arrival_order_chunking_and_thread_count_gives_the_same_bytes(
            updates in prop::collection::vec(prop::collection::vec(-40000.0_f32..40000.0, 97), 1..7),
            order in any::<u64>(),
            chunk in 1_usize..97,
            threads in 1_usize..5,
        ) {
            let updates: Vec<Vec<f32>> = updates.into_iter()
                .map(|u| u.into_iter().map(|v| (v * v * v.signum() / 1e5).clamp(-LIMIT, LIMIT)).collect()).collect();
            let weight = 1.0 / updates.len() as f64;
            let mut whole = ExactSum::new(97);
            for update in &updates {
                whole.add(0, update, weight).unwrap();
            }
            let mut pieces: Vec<(usize, usize)> = (0..updates.len())
                .flat_map(|u| (0..97).step_by(chunk).map(move |o| (u, o))).collect();
            pieces.sort_by_key(|&(u, o)| ((u as u64 * 131 + o as u64) ^ order).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let share = pieces.len().div_ceil(threads);
            let mut total = ExactSum::new(97);
            std::thread::scope(|scope| {
                let workers: Vec<_> = pieces.chunks(share).map(|mine| {
                    let updates = &updates;
                    scope.spawn(move || {
                        let mut sum = ExactSum::new(97);
                        for &(u, o) in mine {
                            sum.add(o, &updates[u][o..(o + chunk).min(97)], weight).unwrap();
                        }
                        sum
                    })
                }).collect();
                for worker in workers {
                    total.merge(&worker.join().unwrap());
                }
            });
            prop_assert_eq!(total, whole);
        }
    }
}

//! Which rows of a batch belong to which unit.

use crate::Refusal;

/// The units of a batch: patients, or records, and the rows that each of them owns.
///
/// A row is one entry of the first axis of every tapped tensor. A patient with several records, or a record
/// with several augmented views, owns several rows; its gradient is the sum of theirs, so that a mean over
/// `k` rows is a loss divided by `k`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Units {
    of_row: Vec<usize>,
    /// Rows unit by unit, in ascending order.
    rows: Vec<usize>,
    /// Where each unit's rows start in `rows`, and the end.
    starts: Vec<usize>,
}

impl Units {
    /// One unit per row.
    ///
    /// # Errors
    /// [`Refusal::EmptyBatch`].
    pub fn per_row(rows: usize) -> Result<Self, Refusal> {
        Self::from_rows((0..rows).collect())
    }

    /// The unit of each row: numbers `0..units`, each at least once, in any order.
    ///
    /// # Errors
    /// [`Refusal::EmptyBatch`], and [`Refusal::EmptyUnit`] for a gap in the numbers.
    pub fn from_rows(of_row: Vec<usize>) -> Result<Self, Refusal> {
        let last = *of_row.iter().max().ok_or(Refusal::EmptyBatch)?;
        let units = last.saturating_add(1);
        // A gap is certain beyond one unit per row; found here before anything of that size is allocated.
        let mut counts = vec![0_usize; units.min(of_row.len() + 1)];
        for &unit in &of_row {
            if let Some(count) = counts.get_mut(unit) {
                *count += 1;
            }
        }
        if let Some(unit) = counts.iter().position(|&count| count == 0) {
            return Err(Refusal::EmptyUnit { unit, units });
        }
        let mut rows: Vec<usize> = (0..of_row.len()).collect();
        rows.sort_by_key(|&row| of_row[row]);
        let mut starts = Vec::with_capacity(units + 1);
        starts.push(0);
        for count in counts {
            starts.push(starts[starts.len() - 1] + count);
        }
        Ok(Self {
            of_row,
            rows,
            starts,
        })
    }

    /// Units, at least one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Never: a batch without units cannot be made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Rows of the batch.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.of_row.len()
    }

    /// The unit of a row.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub fn of_row(&self, row: usize) -> usize {
        self.of_row[row]
    }

    /// The rows of a unit, ascending.
    ///
    /// # Panics
    /// When there is no such unit.
    #[must_use]
    pub fn rows_of(&self, unit: usize) -> &[usize] {
        &self.rows[self.starts[unit]..self.starts[unit + 1]]
    }

    /// The largest number of rows of a unit.
    pub(crate) fn most_rows(&self) -> usize {
        (0..self.len())
            .map(|unit| self.rows_of(unit).len())
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_listed_unit_by_unit() {
        let units = Units::from_rows(vec![1, 0, 1, 2]).unwrap();
        assert_eq!((units.len(), units.rows()), (3, 4));
        assert_eq!(units.rows_of(0), [1]);
        assert_eq!(units.rows_of(1), [0, 2]);
        assert_eq!(units.most_rows(), 2);
    }

    #[test]
    fn gaps_and_empty_batches_are_refused() {
        assert_eq!(Units::per_row(0), Err(Refusal::EmptyBatch));
        assert_eq!(
            Units::from_rows(vec![0, 2]),
            Err(Refusal::EmptyUnit { unit: 1, units: 3 })
        );
        assert!(Units::from_rows(vec![0, usize::MAX - 1]).is_err());
    }
}

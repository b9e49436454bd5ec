//! Why numbers cannot be evaluated.

/// Predictions and outcomes that contradict each other or are not numbers.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPredictions {
    /// Two columns of different length.
    #[error(
        "{what} has {got} rows, the outcomes have {expected}; give one row per patient in each"
    )]
    Length {
        /// The shorter or longer column.
        what: &'static str,
        /// Its rows.
        got: usize,
        /// Rows of the outcomes.
        expected: usize,
    },
    /// A value that is not finite, or outside the range it must lie in.
    #[error("{what} is {value} in row {row}; it must be {must}")]
    Value {
        /// The column.
        what: &'static str,
        /// Row, counted from 0.
        row: usize,
        /// The value.
        value: f64,
        /// What it must be.
        must: &'static str,
    },
    /// A class that was not declared.
    #[error("class {class} in row {row} is not one of the {classes} declared classes 0 to {last}", last = classes.saturating_sub(1))]
    Class {
        /// Row, counted from 0.
        row: usize,
        /// The class.
        class: usize,
        /// Number of classes.
        classes: usize,
    },
    /// A row with another number of classes or labels than the first.
    #[error("row {row} has {got} probabilities, expected {expected}")]
    Width {
        /// Row, counted from 0.
        row: usize,
        /// Its values.
        got: usize,
        /// Values that every row must have.
        expected: usize,
    },
}

impl InvalidPredictions {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Length { .. } => "predictions_length",
            Self::Value { .. } => "predictions_value",
            Self::Class { .. } => "predictions_class",
            Self::Width { .. } => "predictions_width",
        }
    }
}

/// Refuses a column whose length differs from the outcomes'.
pub(crate) fn same_length(
    what: &'static str,
    got: usize,
    expected: usize,
) -> Result<(), InvalidPredictions> {
    if got == expected {
        Ok(())
    } else {
        Err(InvalidPredictions::Length {
            what,
            got,
            expected,
        })
    }
}

/// Refuses NaN, infinities and probabilities outside `[0, 1]`.
pub(crate) fn probability(
    what: &'static str,
    row: usize,
    value: f64,
) -> Result<(), InvalidPredictions> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(InvalidPredictions::Value {
            what,
            row,
            value,
            must: "between 0 and 1",
        })
    }
}

/// Refuses NaN and infinities.
pub(crate) fn finite(what: &'static str, row: usize, value: f64) -> Result<(), InvalidPredictions> {
    if value.is_finite() {
        Ok(())
    } else {
        Err(InvalidPredictions::Value {
            what,
            row,
            value,
            must: "a finite number",
        })
    }
}

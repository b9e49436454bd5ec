//! What training sees: plain arrays of records and their targets.

use serde::Serialize;

/// Records ready for training. Private data: not printable.
#[derive(Clone, PartialEq)]
pub struct Examples {
    /// Shape of one record: `[C, H, W]`, `[C, L]` or `[F]`.
    pub shape: Vec<usize>,
    /// All records one after the other, each in C order.
    pub values: Vec<f32>,
    /// One target a record.
    pub targets: Targets,
    /// The patient of each record, a number local to the cohort (the record itself under `unit = "record"`).
    pub patient: Vec<u32>,
}

/// What is to be predicted, one entry a record.
#[derive(Clone, PartialEq)]
pub enum Targets {
    /// One class of several; a binary task has two names and the second is the positive class.
    Classes {
        /// Index into `names`.
        label: Vec<u32>,
        /// The declared classes, also those that do not occur.
        names: Vec<String>,
    },
    /// Time to an event or to censoring.
    Survival {
        /// In the unit the cohort declares, above zero.
        time: Vec<f32>,
        /// Whether the event happened at that time.
        event: Vec<bool>,
    },
    /// Not known: new patients.
    Unlabelled {
        /// Number of records.
        records: usize,
    },
}

/// A record index beyond the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("there is no record {index}, the cohort has {records}")]
pub struct NoSuchRecord {
    /// The index asked for.
    pub index: usize,
    /// How many records there are.
    pub records: usize,
}

impl NoSuchRecord {
    /// Stable code for logs and replies.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "record_unknown"
    }
}

impl Examples {
    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.patient.len()
    }

    /// Whether there is no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patient.is_empty()
    }

    /// Numbers in one record.
    #[must_use]
    pub fn width(&self) -> usize {
        self.shape.iter().product()
    }

    /// The values of one record, or nothing beyond the end.
    #[must_use]
    pub fn record(&self, index: usize) -> Option<&[f32]> {
        let width = self.width();
        (index < self.len()).then(|| &self.values[index * width..(index + 1) * width])
    }

    /// The records at `indices`, in that order; an index may repeat.
    ///
    /// # Errors
    /// [`NoSuchRecord`] for an index beyond the end.
    pub fn select(&self, indices: &[usize]) -> Result<Self, NoSuchRecord> {
        let mut values = Vec::with_capacity(indices.len() * self.width());
        for &index in indices {
            let record = self.record(index).ok_or(NoSuchRecord {
                index,
                records: self.len(),
            })?;
            values.extend_from_slice(record);
        }
        Ok(Self {
            shape: self.shape.clone(),
            values,
            targets: self.targets.select(indices)?,
            patient: indices.iter().map(|&i| self.patient[i]).collect(),
        })
    }
}

impl std::fmt::Debug for Examples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Examples({} of {:?})", self.len(), self.shape)
    }
}

impl Targets {
    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Classes { label, .. } => label.len(),
            Self::Survival { time, .. } => time.len(),
            Self::Unlabelled { records } => *records,
        }
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entries at `indices`, in that order.
    ///
    /// # Errors
    /// [`NoSuchRecord`] for an index beyond the end.
    pub fn select(&self, indices: &[usize]) -> Result<Self, NoSuchRecord> {
        let records = self.len();
        if let Some(&index) = indices.iter().find(|&&index| index >= records) {
            return Err(NoSuchRecord { index, records });
        }
        Ok(match self {
            Self::Classes { label, names } => Self::Classes {
                label: indices.iter().map(|&i| label[i]).collect(),
                names: names.clone(),
            },
            Self::Survival { time, event } => Self::Survival {
                time: indices.iter().map(|&i| time[i]).collect(),
                event: indices.iter().map(|&i| event[i]).collect(),
            },
            Self::Unlabelled { .. } => Self::Unlabelled {
                records: indices.len(),
            },
        })
    }

    /// The labels, or nothing for survival and unlabelled records.
    #[must_use]
    pub fn labels(&self) -> Option<&[u32]> {
        match self {
            Self::Classes { label, .. } => Some(label),
            Self::Survival { .. } | Self::Unlabelled { .. } => None,
        }
    }
}

impl std::fmt::Debug for Targets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Classes { label, names } => write!(f, "Classes({} of {names:?})", label.len()),
            Self::Survival { time, .. } => write!(f, "Survival({})", time.len()),
            Self::Unlabelled { records } => write!(f, "Unlabelled({records})"),
        }
    }
}

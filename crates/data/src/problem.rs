//! What can be wrong with a cohort, and what to do about it. No problem holds a cell value or a patient id.

use serde::Serialize;

/// One thing that is wrong with a manifest, a file or the records in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A file that the manifest names is not there.
    #[error("the file does not exist")]
    FileMissing,
    /// The operating system refused to read the file.
    #[error("the file cannot be read: {0}")]
    FileUnreadable(String),
    /// A path names an environment variable that is not set.
    #[error("the path uses the variable {0}, which is not set")]
    VariableUnset(String),
    /// The manifest is not TOML.
    #[error("this is not valid TOML: {0}")]
    ManifestSyntax(String),
    /// A key that no part of the manifest knows.
    #[error("the key `{key}` is unknown{}", suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    UnknownKey {
        /// The key as written.
        key: String,
        /// The nearest known key.
        suggestion: Option<String>,
    },
    /// A word that is not one of the allowed ones.
    #[error("`{word}` is not one of {}{}", allowed.join(", "), suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    UnknownWord {
        /// The word as written.
        word: String,
        /// What is allowed here.
        allowed: Vec<String>,
        /// The nearest allowed word.
        suggestion: Option<String>,
    },
    /// A key that must be there is not.
    #[error("the key `{0}` is missing")]
    MissingKey(String),
    /// A value of the wrong type or out of range.
    #[error("{0}")]
    InvalidValue(String),
    /// Neither a patient id nor a declared record unit.
    #[error("the cohort names no patient id and declares no unit")]
    UnitUndeclared,
    /// Both a patient id and a declared record unit.
    #[error("the cohort names a patient id and declares `unit = \"record\"` as well")]
    UnitDeclaredTwice,
    /// A record unit without a reason.
    #[error("`unit = \"record\"` needs a reason")]
    UnitReasonMissing,
    /// The secret of a real cohort's splits is written in the manifest.
    #[error("the split key of a real cohort is written in the manifest")]
    SplitKeyInClear,
    /// A zip, gzip or npy file ends early or does not match its own checksums.
    #[error("the file is damaged or cut short: {0}")]
    FileDamaged(String),
    /// An npz file lacks an array.
    #[error("the archive holds no array `{name}`; it holds {}", present.join(", "))]
    ArrayMissing {
        /// The array looked for.
        name: String,
        /// The arrays in the archive.
        present: Vec<String>,
    },
    /// An array has another shape than the manifest needs.
    #[error("the shape is {got:?}, expected {expected}")]
    ArrayShape {
        /// What the file says.
        got: Vec<usize>,
        /// What is needed.
        expected: String,
    },
    /// An array holds another type than the manifest needs.
    #[error("the element type is `{got}`, expected {expected}")]
    ArrayType {
        /// The numpy type in the file.
        got: String,
        /// What is needed.
        expected: &'static str,
    },
    /// A table lacks a column.
    #[error("there is no column `{name}`{}", suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    ColumnMissing {
        /// The column looked for.
        name: String,
        /// The nearest column.
        suggestion: Option<String>,
    },
    /// Two columns have one name.
    #[error("two columns are called `{0}`")]
    ColumnRepeated(String),
    /// A row has more or fewer cells than the header.
    #[error("the row has {got} cells, the header has {expected}")]
    RowLength {
        /// Cells in this row.
        got: usize,
        /// Cells in the header.
        expected: usize,
    },
    /// The file is not UTF-8 or not a table.
    #[error("the table cannot be read: {0}")]
    TableUnreadable(String),
    /// A numeric cell holds text.
    #[error("a numeric column holds text")]
    NumberIsText,
    /// A numeric cell holds NaN or an infinity.
    #[error("a numeric column holds NaN or an infinity")]
    NumberNotFinite,
    /// A cell that must be filled is empty.
    #[error("the cell is empty")]
    CellEmpty,
    /// A text outside the declared categories.
    #[error("the value is none of the declared categories")]
    CategoryUndeclared,
    /// A label outside the declared classes.
    #[error("the label is outside the declared classes")]
    LabelUndeclared,
    /// A survival time that is not positive.
    #[error("the survival time is not above zero")]
    TimeNotPositive,
    /// A part name that the manifest does not declare.
    #[error("the split part is none of train, validation, test")]
    PartUndeclared,
    /// An id that must be unique occurs twice.
    #[error("the id is already at line {first}")]
    IdRepeated {
        /// Where it was first.
        first: u64,
    },
    /// Rows that refer to an id that the index does not have.
    #[error("the id is in no row of {index}")]
    IdUnknown {
        /// The index file.
        index: String,
    },
    /// An id of the index without its rows.
    #[error("the id has no rows in {series}")]
    IdWithoutRows {
        /// The file that should hold them.
        series: String,
    },
    /// One patient in two parts of the split.
    #[error("the same {unit} is in the {here} part and, at {first}, in the {there} part")]
    PatientInTwoSplits {
        /// `patient` or `record`.
        unit: &'static str,
        /// Part of this place.
        here: &'static str,
        /// Part of the first place.
        there: &'static str,
        /// The first place: a line or an array index.
        first: String,
    },
    /// Rows of one patient that should be equal are not.
    #[error("the row differs from the first row of the same patient, at line {first}")]
    PatientRowsDiffer {
        /// Line of the first row.
        first: u64,
    },
    /// The length that the index declares is not the length of the series.
    #[error("the series has {got} samples, the index says {declared}")]
    SeriesLength {
        /// Rows found.
        got: usize,
        /// What the index declares.
        declared: String,
    },
    /// The modality key carries a schema hash that is not the one of this cohort.
    #[error("the modality key says schema {declared}, the columns of this cohort have {computed}")]
    SchemaDiffers {
        /// Digits in the key.
        declared: String,
        /// As many digits of the schema hash.
        computed: String,
    },
    /// Nothing is left to train on.
    #[error("the {0} part of the cohort holds no record")]
    PartEmpty(&'static str),
    /// A class without a record in the training part.
    #[error("class `{0}` does not occur in the training part")]
    ClassEmpty(String),
    /// A feature without any value in the training part.
    #[error("feature `{0}` has no value in the training part")]
    FeatureEmpty(String),
    /// Validation records that were dropped because training holds the same.
    #[error("{count} validation records equal a training record and were dropped: {list}")]
    SharedRecordsDropped {
        /// How many.
        count: usize,
        /// Their places.
        list: String,
    },
    /// Series shorter than one window.
    #[error("{0} series are shorter than one window and give no record")]
    SeriesTooShort(usize),
}

impl Problem {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::FileMissing => "file_missing",
            Self::FileUnreadable(_) => "file_unreadable",
            Self::VariableUnset(_) => "path_variable_unset",
            Self::ManifestSyntax(_) => "manifest_syntax",
            Self::UnknownKey { .. } => "manifest_unknown_key",
            Self::UnknownWord { .. } => "manifest_unknown_word",
            Self::MissingKey(_) => "manifest_missing_key",
            Self::InvalidValue(_) => "manifest_invalid_value",
            Self::UnitUndeclared => "unit_undeclared",
            Self::UnitDeclaredTwice => "unit_declared_twice",
            Self::UnitReasonMissing => "unit_reason_missing",
            Self::SplitKeyInClear => "split_key_in_clear",
            Self::FileDamaged(_) => "file_damaged",
            Self::ArrayMissing { .. } => "array_missing",
            Self::ArrayShape { .. } => "array_shape",
            Self::ArrayType { .. } => "array_type",
            Self::ColumnMissing { .. } => "column_missing",
            Self::ColumnRepeated(_) => "column_repeated",
            Self::RowLength { .. } => "row_length",
            Self::TableUnreadable(_) => "table_unreadable",
            Self::NumberIsText => "number_is_text",
            Self::NumberNotFinite => "number_not_finite",
            Self::CellEmpty => "cell_empty",
            Self::CategoryUndeclared => "category_undeclared",
            Self::LabelUndeclared => "label_undeclared",
            Self::TimeNotPositive => "time_not_positive",
            Self::PartUndeclared => "part_undeclared",
            Self::IdRepeated { .. } => "id_repeated",
            Self::IdUnknown { .. } => "id_unknown",
            Self::IdWithoutRows { .. } => "id_without_rows",
            Self::PatientInTwoSplits { .. } => "patient_in_two_splits",
            Self::PatientRowsDiffer { .. } => "patient_rows_differ",
            Self::SeriesLength { .. } => "series_length",
            Self::SchemaDiffers { .. } => "schema_differs",
            Self::PartEmpty(_) => "part_empty",
            Self::ClassEmpty(_) => "class_empty",
            Self::FeatureEmpty(_) => "feature_empty",
            Self::SharedRecordsDropped { .. } => "shared_records_dropped",
            Self::SeriesTooShort(_) => "series_too_short",
        }
    }

    /// What the reader can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::FileMissing => "correct the path in the manifest, or put the file there",
            Self::FileUnreadable(_) => "check the permissions of the file and its folder",
            Self::VariableUnset(_) => "set the variable to the folder that holds the data",
            Self::ManifestSyntax(_) => "correct the syntax at this place",
            Self::UnknownKey { .. } => "correct or remove the key",
            Self::UnknownWord { .. } => "use one of the listed words",
            Self::MissingKey(_) => "add the key",
            Self::InvalidValue(_) => "correct the value",
            Self::UnitUndeclared => {
                "add `patient_id = \"<column>\"`, or `unit = \"record\"` with a `reason` if no patient id exists"
            }
            Self::UnitDeclaredTwice => "keep `patient_id` if it is right; remove the other",
            Self::UnitReasonMissing => "say in `reason` why records cannot be joined into patients",
            Self::SplitKeyInClear => {
                "write the key to a file that only this site reads and name it in `splits.key_file`"
            }
            Self::FileDamaged(_) => "copy the file again from its source and compare checksums",
            Self::ArrayMissing { .. } => "correct the array name in `source.npz`",
            Self::ArrayShape { .. } => "check that this is the right file and the right array",
            Self::ArrayType { .. } => "save the array in one of the expected types",
            Self::ColumnMissing { .. } => "correct the column name in the manifest",
            Self::ColumnRepeated(_) => "rename one of the columns",
            Self::RowLength { .. } => "check quotes and delimiters of this row",
            Self::TableUnreadable(_) => "save the table as UTF-8 text with one header row",
            Self::NumberIsText => {
                "correct the cell, leave it empty if the value is missing, or declare `categories`"
            }
            Self::NumberNotFinite => "leave the cell empty if the value is missing",
            Self::CellEmpty => "fill the cell or remove the row",
            Self::CategoryUndeclared => {
                "correct the cell or add the category to `features.categories`"
            }
            Self::LabelUndeclared => "correct the label or declare it in `task.values`",
            Self::TimeNotPositive => "correct the time or remove the row",
            Self::PartUndeclared => "use train, validation or test",
            Self::IdRepeated { .. } => "remove one of the rows",
            Self::IdUnknown { .. } | Self::IdWithoutRows { .. } => {
                "check that the files belong together"
            }
            Self::PatientInTwoSplits { .. } => {
                "move all records of the patient into one part, or use hashed splits"
            }
            Self::PatientRowsDiffer { .. } => "keep one row per patient, or correct the difference",
            Self::SeriesLength { .. } => "copy the series again from its source",
            Self::SchemaDiffers { .. } => {
                "compare columns, units and preprocessing with the other sites, or use a key of your own"
            }
            Self::PartEmpty(_) => "change the split fractions or the split key",
            Self::ClassEmpty(_) => "expect chance level for this class, or change the split key",
            Self::FeatureEmpty(_) => "remove the feature; until then it is zero everywhere",
            Self::SharedRecordsDropped { .. } => {
                "nothing to do; `drop_shared_validation` asks for this"
            }
            Self::SeriesTooShort(_) => "choose a shorter window if these series matter",
        }
    }

    /// Whether the cohort can be used nevertheless.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::ClassEmpty(_) | Self::FeatureEmpty(_) | Self::SeriesTooShort(_) => {
                Severity::Warning
            }
            Self::SharedRecordsDropped { .. } => Severity::Note,
            _ => Severity::Error,
        }
    }
}

/// How much a [`Problem`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something was done that the reader should know.
    Note,
    /// The cohort can be used; results may suffer.
    Warning,
    /// The cohort is refused.
    Error,
}

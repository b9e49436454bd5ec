//! Problems with their places, collected into one refusal.
//!
//! Readers note a [`Located`] problem for everything they find instead of stopping at the first, and
//! return a [`Refusal`] at the end. [`Finding`] is the same as data, for the terminal and for JSON. A place
//! is named by file, line and column.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::problem::{Problem, Severity};

/// Where a problem is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Line, counted from 1, where the file has lines.
    pub line: Option<u64>,
    /// Column name, manifest key or array, with the index in it.
    pub column: Option<String>,
}

impl Place {
    /// The file as a whole.
    #[must_use]
    pub fn file(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            ..Self::default()
        }
    }

    /// The same file at `line`.
    #[must_use]
    pub fn line(mut self, line: u64) -> Self {
        self.line = Some(line);
        self
    }

    /// The same place, in this column, key or array.
    #[must_use]
    pub fn column(mut self, column: impl Into<String>) -> Self {
        self.column = Some(column.into());
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        match &self.column {
            Some(column) => write!(f, " ({column})"),
            None => Ok(()),
        }
    }
}

/// A problem and its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}; {}", problem.remedy())]
pub struct Located {
    /// What is wrong.
    pub problem: Problem,
    /// Where.
    pub place: Place,
}

/// One line of `consilium data check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable code, see [`Problem::code`].
    pub code: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// The file.
    pub file: PathBuf,
    /// Line, counted from 1, where the file has lines.
    pub line: Option<u64>,
    /// Column name, manifest key or array.
    pub column: Option<String>,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: &'static str,
}

impl From<&Located> for Finding {
    fn from(located: &Located) -> Self {
        Self {
            code: located.problem.code(),
            severity: located.problem.severity(),
            file: located.place.file.clone(),
            line: located.place.line,
            column: located.place.column.clone(),
            problem: located.problem.to_string(),
            remedy: located.problem.remedy(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = Place {
            file: self.file.clone(),
            line: self.line,
            column: self.column.clone(),
        };
        let severity = match self.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(
            f,
            "{severity}[{}] {place}: {}; {}",
            self.code, self.problem, self.remedy
        )
    }
}

/// Why a cohort is not used: every problem found, up to [`LISTED_PER_CODE`] of each kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    problems: Vec<Located>,
    omitted: BTreeMap<&'static str, usize>,
}

/// How many problems with one code are listed; the rest is counted.
pub const LISTED_PER_CODE: usize = 10;

impl Refusal {
    /// The listed problems, in the order in which they were found.
    #[must_use]
    pub fn problems(&self) -> &[Located] {
        &self.problems
    }

    /// How many more there are of each code.
    #[must_use]
    pub fn omitted(&self) -> &BTreeMap<&'static str, usize> {
        &self.omitted
    }

    /// Code of the first problem.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.problems
            .first()
            .map_or("cohort_refused", |first| first.problem.code())
    }

    /// The problems as findings.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        self.problems.iter().map(Finding::from).collect()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.problems.iter().map(ToString::to_string);
        let rest = (self.omitted.iter()).map(|(code, count)| format!("and {count} more {code}"));
        f.write_str(&lines.chain(rest).collect::<Vec<_>>().join("\n"))
    }
}

impl std::error::Error for Refusal {}

impl From<Located> for Refusal {
    fn from(located: Located) -> Self {
        Self {
            problems: vec![located],
            omitted: BTreeMap::new(),
        }
    }
}

/// Collects problems while reading goes on.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    listed: Vec<Located>,
    counts: BTreeMap<&'static str, usize>,
}

impl Problems {
    /// Notes `problem` at `place`.
    pub(crate) fn push(&mut self, problem: Problem, place: Place) {
        let count = self.counts.entry(problem.code()).or_default();
        *count += 1;
        if *count <= LISTED_PER_CODE {
            self.listed.push(Located { problem, place });
        }
    }

    /// Whether something was found that refuses the cohort.
    pub(crate) fn refuse(&self) -> bool {
        (self.listed.iter()).any(|l| l.problem.severity() == Severity::Error)
    }

    /// The warnings and notes found so far.
    pub(crate) fn listed(&self) -> &[Located] {
        &self.listed
    }

    /// Everything found as one error.
    pub(crate) fn into_refusal(self) -> Refusal {
        let omitted = (self.counts.into_iter())
            .filter(|(_, count)| *count > LISTED_PER_CODE)
            .map(|(code, count)| (code, count - LISTED_PER_CODE))
            .collect();
        Refusal {
            problems: self.listed,
            omitted,
        }
    }
}

/// The candidate nearest to `word`, if it is near enough to be a slip of the keyboard.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.to_owned())
}

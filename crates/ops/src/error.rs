//! What an operator is told when something does not work.

use std::fmt;

use serde::Serialize;

/// How a program ends; the numbers are documented and stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Done = 0,
    /// The operation failed.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// Configuration or certificate not acceptable; nothing was touched.
    Configuration = 3,
    /// Peer unreachable or not authenticated.
    Peer = 4,
    /// Refused by policy or budget.
    Refused = 5,
    /// Deadline or quorum missed.
    Missed = 6,
    /// Our bug.
    Internal = 70,
    /// Interrupted.
    Interrupted = 130,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// A failure in the operator's words: code, what happened, where, what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperatorError {
    /// Stable code, never reworded.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do next.
    pub hint: String,
    /// File and line, address or key.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Every single finding, for programs that read the JSON form; the message says it in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<serde_json::Value>>,
    /// How the program ends.
    #[serde(skip)]
    pub exit: ExitCode,
}

impl OperatorError {
    /// A failure that ends the program with `exit`.
    pub fn new(
        exit: ExitCode,
        code: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            hint: hint.into(),
            location: None,
            details: None,
            exit,
        }
    }

    /// Something that is configured is not acceptable; nothing was touched.
    pub fn configuration(
        code: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::new(ExitCode::Configuration, code, message, hint)
    }

    /// The operation failed.
    pub fn failed(
        code: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::new(ExitCode::Failed, code, message, hint)
    }

    /// A file cannot be read or written.
    pub fn file(path: &std::path::Path, error: &std::io::Error) -> Self {
        let (code, hint) = match error.kind() {
            std::io::ErrorKind::NotFound => ("file_missing", "check the path"),
            std::io::ErrorKind::PermissionDenied => {
                ("file_permission", "let this account read and write it")
            }
            std::io::ErrorKind::AlreadyExists => ("file_exists", "choose another path"),
            std::io::ErrorKind::StorageFull => ("disk_full", "free some space and try again"),
            _ => ("file_failed", "see the message of the operating system"),
        };
        Self::failed(code, error.to_string(), hint).at(path.display())
    }

    /// Adds every single finding.
    #[must_use]
    pub fn with_details(mut self, details: &impl Serialize) -> Self {
        self.details = serde_json::to_value(details).ok().map(Box::new);
        self
    }

    /// Adds where it happened.
    #[must_use]
    pub fn at(mut self, location: impl fmt::Display) -> Self {
        self.location = Some(location.to_string());
        self
    }
}

impl fmt::Display for OperatorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        if let Some(location) = &self.location {
            write!(f, "\n  where: {location}")?;
        }
        if !self.hint.is_empty() {
            write!(f, "\n  next:  {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for OperatorError {}

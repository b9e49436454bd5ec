//! Why a site's database does not do what was asked.

use std::path::{Path, PathBuf};

use crate::sqlite::Trouble;

/// Why the database does not do what was asked; nothing is half-written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SiteStoreError {
    /// There is no database at that place.
    #[error("there is no site database at {}", path.display())]
    Missing {
        /// The place.
        path: PathBuf,
    },
    /// Written by another version of the program, or by another program.
    #[error("the schema of {} is not known to this program: {problem}", path.display())]
    UnknownSchema {
        /// The file.
        path: PathBuf,
        /// What is different.
        problem: String,
    },
    /// Not an SQLite file, or a damaged one.
    #[error("{} is not a readable database: {problem}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        problem: String,
    },
    /// No space left.
    #[error("no space left for {}", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// Stored values contradict the digest or the state stored beside them.
    #[error("{}: {problem}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What contradicts what.
        problem: String,
    },
    /// Any other failure of the database.
    #[error("the database {} failed: {problem}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        problem: String,
    },
}

impl SiteStoreError {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "store_missing",
            Self::UnknownSchema { .. } => "store_unknown_schema",
            Self::Unreadable { .. } => "store_unreadable",
            Self::DiskFull { .. } => "store_disk_full",
            Self::Corrupt { .. } => "store_corrupt",
            Self::Failed { .. } => "store_failed",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "start the agent once, or correct the state folder",
            Self::UnknownSchema { .. } => {
                "use the version of consilium-site that wrote it, or another state folder"
            }
            Self::Unreadable { .. } => "check the path and the rights of this account",
            Self::DiskFull { .. } => "free some space and start again; nothing is half-written",
            Self::Corrupt { .. } => {
                "restore the state folder from a backup and tell the coordinator"
            }
            Self::Failed { .. } => "see the message of the database",
        }
    }

    /// The database file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Missing { path }
            | Self::UnknownSchema { path, .. }
            | Self::Unreadable { path, .. }
            | Self::DiskFull { path }
            | Self::Corrupt { path, .. }
            | Self::Failed { path, .. } => path,
        }
    }
}

impl SiteStoreError {
    pub(super) fn from_sqlite(path: &Path, trouble: Trouble) -> Self {
        let path = path.to_owned();
        match trouble {
            Trouble::Full => Self::DiskFull { path },
            Trouble::Unreadable(problem) => Self::Unreadable { path, problem },
            Trouble::UnknownSchema(problem) => Self::UnknownSchema { path, problem },
            Trouble::Other(problem) => Self::Failed { path, problem },
        }
    }
}

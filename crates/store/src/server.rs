//! What the aggregation server keeps: the study with its state in SQLite, values in content-addressed files.
//!
//! [`ServerStore`] holds where the study stands; [`Blobs`] holds models and updates. A blob is written
//! durably before the state that names it, so that a process that dies in between leaves an unused file and
//! never a missing one.

mod blobs;

use std::path::{Path, PathBuf};
use std::time::Duration;

use consilium_core::Study;
use consilium_rounds::Coordination;
use sqlx::Row as _;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

pub use blobs::{BlobReader, BlobWriter, Blobs};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations/server");

/// Why the server's state cannot be read or written; nothing is half-written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerStoreError {
    /// The database does not do what was asked.
    #[error("the database {} failed: {problem}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        problem: String,
    },
    /// The folder belongs to another study.
    #[error("{} holds another study than the document that was given", path.display())]
    OtherStudy {
        /// The file.
        path: PathBuf,
    },
    /// No space left.
    #[error("no space left for {}", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        error: std::io::Error,
    },
    /// A blob that the state names is not there.
    #[error("{} is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file is shorter than what it should hold, or its content does not have its name's digest.
    #[error("{} does not hold what its name says", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
    },
}

impl ServerStoreError {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Database { .. } => "store_failed",
            Self::OtherStudy { .. } => "store_other_study",
            Self::DiskFull { .. } => "store_disk_full",
            Self::File { .. } => "store_file",
            Self::Missing { .. } => "store_missing",
            Self::Corrupt { .. } => "store_corrupt",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::DiskFull { .. } => "free some space; the upload can then be repeated",
            Self::OtherStudy { .. } => "give every study a state folder of its own",
            Self::Missing { .. } | Self::Corrupt { .. } => "restore the state folder from a backup",
            Self::Database { .. } | Self::File { .. } => "see the message of the system",
        }
    }

    fn file(path: &Path, error: std::io::Error) -> Self {
        let path = path.to_owned();
        if error.kind() == std::io::ErrorKind::StorageFull {
    /// Whether something that was stored is not there any more: trying again does not help.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Corrupt { .. })
    }

            Self::DiskFull { path }
        } else {
            Self::File { path, error }
        }
    }
}

/// The server's database.
#[derive(Clone, Debug)]
pub struct ServerStore {
    pool: SqlitePool,
    path: PathBuf,
}

impl ServerStore {
    /// Opens `server.sqlite` in `folder`, or makes it.
    ///
    /// # Errors
    /// [`ServerStoreError`], also for a schema that this program does not know.
    pub async fn open(folder: &Path) -> Result<Self, ServerStoreError> {
        std::fs::create_dir_all(folder).map_err(|error| ServerStoreError::file(folder, error))?;
        let path = folder.join("server.sqlite");
        let failed = |problem: String| ServerStoreError::Database {
            path: path.clone(),
            problem,
        };
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await
            .map_err(|error| failed(error.to_string()))?;
        MIGRATIONS
            .run(&pool)
            .await
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { pool, path })
    }

    /// The study and where it stands; `None` in a new folder.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn load(&self) -> Result<Option<(Study, Coordination)>, ServerStoreError> {
        let row = sqlx::query("SELECT document, coordination FROM study")
            .fetch_optional(&self.pool)
            .await
            .map_err(|error| self.failed(&error))?;
        let Some(row) = row else { return Ok(None) };
        let document: Vec<u8> = row.try_get(0).map_err(|error| self.failed(&error))?;
        let coordination: String = row.try_get(1).map_err(|error| self.failed(&error))?;
        let study = serde_json::from_slice(&document).map_err(|error| self.failed(&error))?;
        let state = serde_json::from_str(&coordination).map_err(|error| self.failed(&error))?;
        Ok(Some((study, state)))
    }

    /// Loads the study, or records it at its beginning; refuses the folder of another study.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn load_or_create(&self, study: &Study) -> Result<Coordination, ServerStoreError> {
        if let Some((known, coordination)) = self.load().await? {
            if known.digest() != study.digest() {
                let path = self.path.clone();
                return Err(ServerStoreError::OtherStudy { path });
            }
            return Ok(coordination);
        }
        let coordination = Coordination::new(study);
        let document = serde_json::to_vec(study).map_err(|error| self.failed(&error))?;
        let state = serde_json::to_string(&coordination).map_err(|error| self.failed(&error))?;
        sqlx::query("INSERT INTO study (id, digest, document, coordination) VALUES (1, ?, ?, ?)")
            .bind(study.digest().to_string())
            .bind(document)
            .bind(state)
            .execute(&self.pool)
            .await
            .map_err(|error| self.failed(&error))?;
        Ok(coordination)
    }

    /// Records where the study stands now.
    ///
    /// # Errors
    /// [`ServerStoreError`]; then the former state stands.
    pub async fn save(&self, coordination: &Coordination) -> Result<(), ServerStoreError> {
        let state = serde_json::to_string(coordination).map_err(|error| self.failed(&error))?;
        sqlx::query("UPDATE study SET coordination = ? WHERE id = 1")
            .bind(state)
            .execute(&self.pool)
            .await
            .map_err(|error| self.failed(&error))?;
        Ok(())
    }

    fn failed(&self, problem: &dyn std::fmt::Display) -> ServerStoreError {
        ServerStoreError::Database {
            path: self.path.clone(),
            problem: problem.to_string(),
        }
    }
}

//! Opening an SQLite database, and what its errors mean to an operator.

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

/// What an operator can do something about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No space left.
    Full,
    /// Not an SQLite file, a damaged one, or one that this account may not use.
    Unreadable(String),
    /// Written by another version of the program, or by another program.
    UnknownSchema(String),
    /// Anything else, in SQLite's words.
    Other(String),
}

/// Opens the database at `path`, makes it if `create` says so, and brings its schema up to date. What a
/// transaction has committed survives a power cut.
pub(crate) async fn open(
    path: &Path,
    create: bool,
    migrations: &Migrator,
) -> Result<SqlitePool, Trouble> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(create)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(10));
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await?;
    migrations.run(&pool).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        other => Trouble::UnknownSchema(other.to_string()),
    })?;
    Ok(pool)
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        // Primary result codes of SQLite; extended ones carry more in the higher bits.
        let code = error
            .as_database_error()
            .and_then(|error| error.code())
            .and_then(|code| code.parse::<u32>().ok())
            .map(|code| code & 0xff);
        let problem = error.to_string();
        match code {
            Some(SQLITE_FULL) => Self::Full,
            Some(
                SQLITE_CANTOPEN | SQLITE_NOTADB | SQLITE_CORRUPT | SQLITE_READONLY | SQLITE_PERM,
            ) => Self::Unreadable(problem),
            _ => Self::Other(problem),
        }
    }
}

/// A document in a column that this program does not understand.
impl From<serde_json::Error> for Trouble {
    fn from(error: serde_json::Error) -> Self {
        Self::Unreadable(error.to_string())
    }
}

// <https://www.sqlite.org/rescode.html>
const SQLITE_PERM: u32 = 3;
const SQLITE_READONLY: u32 = 8;
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_FULL: u32 = 13;
const SQLITE_CANTOPEN: u32 = 14;
const SQLITE_NOTADB: u32 = 26;

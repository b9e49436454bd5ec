//! What the aggregation server keeps: the study with its state in SQLite, values in content-addressed files.
//!
//! [`ServerStore`] holds where the study stands; [`Blobs`] holds models and updates. A blob is written
//! durably before the state that names it, so that a process that dies in between leaves an unused file and
//! never a missing one.

mod blobs;
mod log;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_core::{GroupName, SiteId, Study};
use consilium_rounds::{Coordination, LedgerHead, RoundRecord};
use consilium_transparency::Entry;
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqlitePool;
use sqlx::{Row as _, Sqlite, Transaction};

use crate::sqlite::{self, Trouble};

pub use blobs::{BlobReader, BlobWriter, Blobs};
pub use log::WitnessedHead;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations/server");

const DATABASE: &str = "server.sqlite";

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
    /// Not an SQLite file, a damaged one, or one that this account may not use.
    #[error("{} is not a readable database: {problem}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        problem: String,
    },
    /// Written by another version of the program, or by another program.
    #[error("the schema of {} is not known to this program: {problem}", path.display())]
    UnknownSchema {
        /// The file.
        path: PathBuf,
        /// What is different.
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
            Self::Unreadable { .. } => "store_unreadable",
            Self::UnknownSchema { .. } => "store_unknown_schema",
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
            Self::Unreadable { .. } => "check the path and the rights of this account",
            Self::UnknownSchema { .. } => {
                "use the version of consilium-server that wrote it, or another state folder"
            }
            Self::OtherStudy { .. } => "give every study a state folder of its own",
            Self::Missing { .. } | Self::Corrupt { .. } => "restore the state folder from a backup",
            Self::Database { .. } | Self::File { .. } => "see the message of the system",
        }
    }

    /// Whether something that was stored is not there any more: trying again does not help.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Corrupt { .. })
    }

    fn from_sqlite(path: &Path, trouble: Trouble) -> Self {
        let path = path.to_owned();
        match trouble {
            Trouble::Full => Self::DiskFull { path },
            Trouble::Unreadable(problem) => Self::Unreadable { path, problem },
            Trouble::UnknownSchema(problem) => Self::UnknownSchema { path, problem },
            Trouble::Other(problem) => Self::Database { path, problem },
        }
    }

    fn file(path: &Path, error: std::io::Error) -> Self {
        let path = path.to_owned();
        if error.kind() == std::io::ErrorKind::StorageFull {
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
    /// Whether a server has kept something in `folder`.
    #[must_use]
    pub fn exists(folder: &Path) -> bool {
        folder.join(DATABASE).is_file()
    }

    /// Opens `server.sqlite` in `folder`, or makes it.
    ///
    /// # Errors
    /// [`ServerStoreError`], also for a schema that this program does not know.
    pub async fn open(folder: &Path) -> Result<Self, ServerStoreError> {
        std::fs::create_dir_all(folder).map_err(|error| ServerStoreError::file(folder, error))?;
        let path = folder.join(DATABASE);
        let pool = sqlite::open(&path, true, &MIGRATIONS)
            .await
            .map_err(|trouble| ServerStoreError::from_sqlite(&path, trouble))?;
        Ok(Self { pool, path })
    }

    /// The study and where it stands; `None` in a new folder.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn load(&self) -> Result<Option<(Study, Coordination)>, ServerStoreError> {
        // One moment: a server may be writing.
        let mut moment = self
            .pool
            .begin()
            .await
            .map_err(|error| self.failed(error))?;
        let row = sqlx::query("SELECT document, coordination FROM study")
            .fetch_optional(&mut *moment)
            .await
            .map_err(|error| self.failed(error))?;
        let Some(row) = row else { return Ok(None) };
        let document: Vec<u8> = row.try_get(0).map_err(|error| self.failed(error))?;
        let coordination: String = row.try_get(1).map_err(|error| self.failed(error))?;
        let study = serde_json::from_slice(&document).map_err(|error| self.failed(error))?;
        let mut state: Coordination =
            serde_json::from_str(&coordination).map_err(|error| self.failed(error))?;
        let records: Vec<String> =
            sqlx::query_scalar("SELECT record FROM closed_round ORDER BY position")
                .fetch_all(&mut *moment)
                .await
                .map_err(|error| self.failed(error))?;
        let closed: Result<Vec<RoundRecord>, _> = records
            .iter()
            .map(|record| serde_json::from_str(record))
            .collect();
        state.closed = Arc::new(closed.map_err(|error| self.failed(error))?);
        Ok(Some((study, state)))
    }

    /// Loads the study, or records it at its beginning; refuses the folder of another study. `first` begins the
    /// log where there is none.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn load_or_create(
        &self,
        study: &Study,
        first: &Entry,
    ) -> Result<Coordination, ServerStoreError> {
        let first = std::slice::from_ref(first);
        if let Some((known, coordination)) = self.load().await? {
            if known.digest() != study.digest() {
                let path = self.path.clone();
                return Err(ServerStoreError::OtherStudy { path });
            }
            // A folder from before there was a log.
            if self.log_from(0).await?.is_empty() {
                self.append_to_log(first).await?;
            }
            return Ok(coordination);
        }
        let coordination = Coordination::new(study);
        let document = serde_json::to_vec(study).map_err(|error| self.failed(error))?;
        let state = serde_json::to_string(&coordination).map_err(|error| self.failed(error))?;
        let mut together = self.begin().await?;
        sqlx::query("INSERT INTO study (id, digest, document, coordination) VALUES (1, ?, ?, ?)")
            .bind(study.digest().to_string())
            .bind(document)
            .bind(state)
            .execute(&mut *together)
            .await
            .map_err(|error| self.failed(error))?;
        self.append(&mut together, first).await?;
        self.commit(together).await?;
        Ok(coordination)
    }

    /// Records where the study stands now, with the log entries that tell of it. The first `known` closed rounds
    /// are recorded already.
    ///
    /// # Errors
    /// [`ServerStoreError`]; then the former state stands.
    pub async fn save(
        &self,
        coordination: &Coordination,
        known: usize,
        log: &[Entry],
    ) -> Result<(), ServerStoreError> {
        let open = Coordination {
            closed: Arc::default(),
            ..coordination.clone()
        };
        let state = serde_json::to_string(&open).map_err(|error| self.failed(error))?;
        let mut together = self.begin().await?;
        sqlx::query("UPDATE study SET coordination = ? WHERE id = 1")
            .bind(state)
            .execute(&mut *together)
            .await
            .map_err(|error| self.failed(error))?;
        let new = coordination.closed.get(known..).unwrap_or_default();
        for (position, record) in (known..).zip(new) {
            let record = serde_json::to_string(record).map_err(|error| self.failed(error))?;
            // A call that was given up may have recorded it.
            sqlx::query("INSERT OR REPLACE INTO closed_round (position, record) VALUES (?, ?)")
                .bind(position as i64)
                .bind(record)
                .execute(&mut *together)
                .await
                .map_err(|error| self.failed(error))?;
        }
        self.append(&mut together, log).await?;
        self.commit(together).await
    }

    /// What each site has of the ended study.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn served(&self) -> Result<BTreeMap<SiteId, BTreeSet<GroupName>>, ServerStoreError> {
        let rows = sqlx::query("SELECT site, group_name FROM served")
            .fetch_all(&self.pool)
            .await
            .map_err(|error| self.failed(error))?;
        let mut served: BTreeMap<SiteId, BTreeSet<GroupName>> = BTreeMap::new();
        for row in rows {
            let site: String = row.try_get(0).map_err(|error| self.failed(error))?;
            let group: String = row.try_get(1).map_err(|error| self.failed(error))?;
            let unreadable =
                |error: &dyn std::fmt::Display| self.failed(Trouble::Unreadable(error.to_string()));
            let site = site.parse().map_err(|error| unreadable(&error))?;
            let group = group.parse().map_err(|error| unreadable(&error))?;
            served.entry(site).or_default().insert(group);
        }
        Ok(served)
    }

    /// Records that a site has these groups of the ended study.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn serve(
        &self,
        site: &SiteId,
        groups: &BTreeSet<GroupName>,
    ) -> Result<(), ServerStoreError> {
        for group in groups {
            sqlx::query("INSERT OR IGNORE INTO served (site, group_name) VALUES (?, ?)")
                .bind(site.as_str())
                .bind(group.as_str())
                .execute(&self.pool)
                .await
                .map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// The highest head that each site has shown of its privacy ledger.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn ledger_heads(&self) -> Result<BTreeMap<SiteId, LedgerHead>, ServerStoreError> {
        let rows = sqlx::query("SELECT site, length, head FROM ledger_head")
            .fetch_all(&self.pool)
            .await
            .map_err(|error| self.failed(error))?;
        let unreadable =
            |error: &dyn std::fmt::Display| self.failed(Trouble::Unreadable(error.to_string()));
        rows.iter()
            .map(|row| {
                let site: String = row.try_get(0).map_err(|error| self.failed(error))?;
                let length: i64 = row.try_get(1).map_err(|error| self.failed(error))?;
                let head: String = row.try_get(2).map_err(|error| self.failed(error))?;
                let ledger = LedgerHead {
                    length: length.unsigned_abs(),
                    head: head.parse().map_err(|error| unreadable(&error))?,
                };
                Ok((site.parse().map_err(|error| unreadable(&error))?, ledger))
            })
            .collect()
    }

    /// Records the head of a site's ledger in place of the one before, with the log entry that tells of it.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn keep_ledger_head(
        &self,
        site: &SiteId,
        ledger: &LedgerHead,
        log: &Entry,
    ) -> Result<(), ServerStoreError> {
        let mut together = self.begin().await?;
        sqlx::query("INSERT OR REPLACE INTO ledger_head (site, length, head) VALUES (?, ?, ?)")
            .bind(site.as_str())
            .bind(i64::try_from(ledger.length).unwrap_or(i64::MAX))
            .bind(ledger.head.to_string())
            .execute(&mut *together)
            .await
            .map_err(|error| self.failed(error))?;
        self.append(&mut together, std::slice::from_ref(log))
            .await?;
        self.commit(together).await
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, ServerStoreError> {
        self.pool.begin().await.map_err(|error| self.failed(error))
    }

    async fn commit(
        &self,
        transaction: Transaction<'static, Sqlite>,
    ) -> Result<(), ServerStoreError> {
        let committed = transaction.commit().await;
        committed.map_err(|error| self.failed(error))
    }

    async fn append(
        &self,
        transaction: &mut Transaction<'static, Sqlite>,
        entries: &[Entry],
    ) -> Result<(), ServerStoreError> {
        let appended = crate::log::append(transaction, entries).await;
        appended.map_err(|error| self.failed(error))
    }

    fn failed(&self, trouble: impl Into<Trouble>) -> ServerStoreError {
        ServerStoreError::from_sqlite(&self.path, trouble.into())
    }
}

#[cfg(test)]
mod tests {
    use consilium_core::clock::Timestamp;
    use consilium_rounds::Event;

    use super::*;

    fn first() -> Entry {
        Entry {
            at: Timestamp(0),
            event: consilium_transparency::Event::StudyRejoined {
                site: "a".parse().unwrap(),
            },
        }
    }

    /// Two sites, three rounds, one of which fails.
    fn study() -> Study {
        let sites = ["a", "b"].map(|site| {
            serde_json::json!({"site": site, "modality": "m", "task": "t", "declared_patients": 1})
        });
        serde_json::from_value(serde_json::json!({
            "protocol_version": consilium_core::study::PROTOCOL_VERSION,
            "name": "test",
            "randomness": {"simulation-seeded": {"seed": consilium_core::Seed(1)}},
            "model": {"name": "toy", "settings": null},
            "manifest": {"tensors": [
                {"name": "s", "group": "stem/m", "shape": [1]},
                {"name": "t", "group": "trunk", "shape": [1]},
                {"name": "h", "group": "head/t", "shape": [1]},
            ]},
            "initial_model_sha256": consilium_core::Digest::of(b"initial"),
            "sites": sites,
            "schedule": {"rounds": 2, "retry_rounds": 1, "quorum": 2, "deadline_seconds": 1},
            "training": null,
            "aggregation": {"weights": "equal_site", "minimum_holders": 2},
            "privacy": "none-simulation-only",
        }))
        .unwrap()
    }

    fn events() -> Vec<Event> {
        let stored = |site: &str, attempt| Event::UpdateStored {
            site: site.parse().unwrap(),
            round: 1,
            attempt,
            digest: consilium_core::Digest::of(site.as_bytes()),
        };
        vec![
            Event::Started { now: Timestamp(0) },
            stored("a", 1),
            Event::Clock {
                now: Timestamp(1000),
            },
            stored("a", 2),
            stored("b", 2),
            Event::Aggregated {
                round: 1,
                attempt: 2,
                model: consilium_core::Digest::of(b"next"),
                now: Timestamp(1500),
            },
        ]
    }

    #[tokio::test]
    async fn what_is_not_a_database_or_not_of_this_program_is_named_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let code = async || {
            let refused = ServerStore::open(folder.path()).await.unwrap_err();
            assert!(!refused.hint().is_empty());
            refused.code()
        };
        let path = folder.path().join(DATABASE);
        std::fs::write(
            &path,
            "a text, and not a short one: a hundred bytes and more ".repeat(9),
        )
        .unwrap();
        assert_eq!(code().await, "store_unreadable");
        std::fs::remove_file(&path).unwrap();
        let store = ServerStore::open(folder.path()).await.unwrap();
        sqlx::query("UPDATE _sqlx_migrations SET version = version + 9000")
            .execute(&store.pool)
            .await
            .unwrap();
        store.pool.close().await;
        assert_eq!(code().await, "store_unknown_schema");
    }

    #[tokio::test]
    async fn a_full_disk_under_the_database_is_named_as_such_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = ServerStore::open(folder.path()).await.unwrap();
        let study = study();
        let mut coordination = store.load_or_create(&study, &first()).await.unwrap();
        let before = coordination.clone();
        // No page more than there are.
        sqlx::query("PRAGMA max_page_count = 1")
            .execute(&store.pool)
            .await
            .unwrap();
        for event in events() {
            coordination.handle(&study, event).unwrap();
        }
        coordination.phase = consilium_rounds::Phase::Failed {
            cause: consilium_rounds::Cause::SumFailed,
            reason: "x".repeat(1 << 16),
        };
        let full = store.save(&coordination, 0, &[]).await.unwrap_err();
        assert_eq!(full.code(), "store_disk_full");
        assert_eq!(store.load().await.unwrap().unwrap().1, before);
    }

    #[tokio::test]
    async fn closed_rounds_are_kept_beside_the_open_state_and_come_back_with_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!ServerStore::exists(folder.path()));
        let store = ServerStore::open(folder.path()).await.unwrap();
        assert!(ServerStore::exists(folder.path()));
        let study = study();
        let mut coordination = store.load_or_create(&study, &first()).await.unwrap();
        for event in events() {
            let known = coordination.closed.len();
            coordination.handle(&study, event).unwrap();
            store.save(&coordination, known, &[]).await.unwrap();
            // A second time, as after a call that was given up.
            store.save(&coordination, known, &[]).await.unwrap();
            assert_eq!(store.load().await.unwrap().unwrap().1, coordination);
        }
        assert_eq!(coordination.closed.len(), 2);
    }

    #[tokio::test]
    async fn rounds_of_a_state_from_before_they_were_kept_apart_are_carried_over() {
        let folder = tempfile::tempdir().unwrap();
        let study = study();
        let mut coordination = Coordination::new(&study);
        for event in events() {
            coordination.handle(&study, event).unwrap();
        }
        let store = ServerStore::open(folder.path()).await.unwrap();
        store.load_or_create(&study, &first()).await.unwrap();
        // Of a time when there was no log either.
        sqlx::query("DROP TRIGGER log_entry_is_not_removed")
            .execute(&store.pool)
            .await
            .unwrap();
        MIGRATIONS.undo(&store.pool, 1).await.unwrap();
        sqlx::query("UPDATE study SET coordination = ?")
            .bind(serde_json::to_string(&coordination).unwrap())
            .execute(&store.pool)
            .await
            .unwrap();
        MIGRATIONS.run(&store.pool).await.unwrap();
        assert_eq!(store.load().await.unwrap().unwrap().1, coordination);
        // And back.
        MIGRATIONS.undo(&store.pool, 1).await.unwrap();
        let text: String = sqlx::query_scalar("SELECT coordination FROM study")
            .fetch_one(&store.pool)
            .await
            .unwrap();
        let before: Coordination = serde_json::from_str(&text).unwrap();
        assert_eq!(before, coordination);
    }

    #[tokio::test]
    async fn the_newest_head_of_every_ledger_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = ServerStore::open(folder.path()).await.unwrap();
        let head = |length| LedgerHead {
            length,
            head: consilium_core::Digest::of(&[length as u8]),
        };
        for (site, length) in [("a", 1), ("b", 7), ("a", 3)] {
            let site = site.parse().unwrap();
            store
                .keep_ledger_head(&site, &head(length), &first())
                .await
                .unwrap();
        }
        store.pool.close().await;
        let store = ServerStore::open(folder.path()).await.unwrap();
        let [a, b] = ["a", "b"].map(|site| site.parse().unwrap());
        let expected = BTreeMap::from([(a, head(3)), (b, head(7))]);
        assert_eq!(store.ledger_heads().await.unwrap(), expected);
    }

    #[tokio::test]
    async fn entries_of_the_log_follow_each_other_and_are_neither_changed_nor_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = ServerStore::open(folder.path()).await.unwrap();
        store.load_or_create(&study(), &first()).await.unwrap();
        store.append_to_log(&[first(), first()]).await.unwrap();
        for statement in [
            "UPDATE log_entry SET entry = x'00'",
            "DELETE FROM log_entry",
            "INSERT OR REPLACE INTO log_entry (position, entry) VALUES (0, x'00')",
            "INSERT INTO log_entry (position, entry) VALUES (9, x'00')",
        ] {
            let refused = sqlx::query(statement).execute(&store.pool).await;
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("log_entry"), "{statement}: {refused}");
        }
        // Begun once.
        store.load_or_create(&study(), &first()).await.unwrap();
        assert_eq!(store.log_from(0).await.unwrap(), vec![first().bytes(); 3]);
        assert_eq!(store.log_from(2).await.unwrap().len(), 1);
    }
}

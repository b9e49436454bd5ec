//! What a site agent keeps in SQLite: its part in each study, sealed updates, and the groups that stay.
//!
//! [`SiteStore`] answers in whole steps of the protocol, one transaction each:
//! [`accept`](SiteStore::accept) a study, [`seal`](SiteStore::seal) an update before it is sent,
//! [`settle`](SiteStore::settle) its fate, [`receive`](SiteStore::receive) a global model,
//! [`finish`](SiteStore::finish). A process that dies between two steps finds the last one complete.
//!
//! It does not know when a step is due: that is the participation's and the agent's part.

use std::path::{Path, PathBuf};

use consilium_core::vector::values_to_bytes;
use consilium_core::{Digest, ModelVector, Study, StudyId};
use consilium_rounds::Participation;
use consilium_transparency::Entry;
use sqlx::Row as _;
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqlitePool;

use crate::sqlite;

/// A site agent's database.
#[derive(Clone, Debug)]
pub struct SiteStore {
    pool: SqlitePool,
    path: PathBuf,
}

/// A study that this site accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// The document, byte for byte as it was accepted.
    pub document: Vec<u8>,
    /// Its SHA-256.
    pub digest: Digest,
    /// Where the site stands.
    pub participation: Participation,
    /// Bytes of model values so far.
    pub traffic: Traffic,
    /// Hash of the final model, once it is received and evaluated here.
    pub final_model: Option<Digest>,
    /// How records are prepared for the network: JSON of the training code, if it gave any.
    pub preparation: Option<String>,
}

/// Bytes of model values that crossed the border of the site, repeated transfers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Received.
    pub down: u64,
    /// Delivered.
    pub up: u64,
}

/// Groups of one version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Version {
    /// The committed round they belong to; 0 for initial values.
    pub round: u32,
    /// Their values.
    pub groups: ModelVector,
}

/// The newest committed model as this site holds it: two versions that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// Hash of the whole global model.
    pub model: Digest,
    /// The shared groups of it that this site received.
    pub shared: Version,
    /// The groups that stay here, as of the same round or the last one before it that used this site's update.
    pub local: Version,
}

/// What becomes of the sealed update and of the local groups trained with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It entered the model of this round: the local groups become the site's own.
    Committed {
        /// The round.
        round: u32,
    },
    /// It was not used: both are dropped.
    Dropped,
}

/// One number about the final model.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMetric {
    /// `train`, `validation` or `test`.
    pub split: String,
    /// Its name.
    pub metric: String,
    /// `None` where it is undefined.
    pub value: Option<f64>,
}

mod acceptance;
mod error;
mod excluded;
mod halt;
mod log;
mod privacy;
mod receipts;
mod rows;
mod sent;

pub use acceptance::StoredAcceptance;
pub use error::SiteStoreError;
pub use halt::Halt;
pub use log::{Delivered, SeenHead};
pub use privacy::PrivacyEvent;
use rows::json;

type Result<T> = std::result::Result<T, SiteStoreError>;

impl SiteStore {
    /// Opens the database at `path`, or makes it, and brings its schema up to date.
    ///
    /// # Errors
    /// [`SiteStoreError::UnknownSchema`] for a database of another program or a later version; otherwise
    /// what the file system or the database says.
    pub async fn open(path: &Path) -> Result<Self> {
        Self::connect(path, true).await
    }

    /// Opens the database at `path` only if it is there.
    ///
    /// # Errors
    /// [`SiteStoreError::Missing`], or as [`SiteStore::open`].
    pub async fn open_existing(path: &Path) -> Result<Self> {
        if !path.exists() {
            let path = path.to_owned();
            return Err(SiteStoreError::Missing { path });
        }
        Self::connect(path, false).await
    }

    async fn connect(path: &Path, create: bool) -> Result<Self> {
        let pool = sqlite::open(path, create, &MIGRATIONS)
            .await
            .map_err(|trouble| SiteStoreError::from_sqlite(path, trouble))?;
        let path = path.to_owned();
        Ok(Self { pool, path })
    }

    /// The names of all studies that this site accepted.
    ///
    /// # Errors
    /// What the database says.
    pub async fn studies(&self) -> Result<Vec<StudyId>> {
        let rows = sqlx::query("SELECT name FROM study ORDER BY name")
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed())?;
        rows.iter()
            .map(|row| self.parse("study.name", row.try_get::<String, _>(0)))
            .collect()
    }

    /// The study of that name as this site accepted it, if it has.
    ///
    /// # Errors
    /// What the database says, or [`SiteStoreError::Corrupt`].
    pub async fn accepted(&self, study: &StudyId) -> Result<Option<Accepted>> {
        let row = sqlx::query(
            "SELECT document, digest, participation, bytes_down, bytes_up, final_model, preparation \
             FROM study WHERE name = ?",
        )
        .bind(study.as_str())
        .fetch_optional(&self.pool)
        .await
        .map_err(self.failed())?;
        let Some(row) = row else { return Ok(None) };
        let document: Vec<u8> = row.try_get(0).map_err(self.failed())?;
        let digest: Digest = self.parse("study.digest", row.try_get::<String, _>(1))?;
        if Digest::of(&document) != digest {
            return Err(self.corrupt(format!(
                "the document of study {study} does not match its digest"
            )));
        }
        let participation: String = row.try_get(2).map_err(self.failed())?;
        let participation = serde_json::from_str(&participation)
            .map_err(|error| self.corrupt(format!("participation in study {study}: {error}")))?;
        let counter = |index| -> Result<u64> {
            let bytes: i64 = row.try_get(index).map_err(self.failed())?;
            Ok(bytes.unsigned_abs())
        };
        let final_model: Option<String> = row.try_get(5).map_err(self.failed())?;
        Ok(Some(Accepted {
            document,
            digest,
            participation,
            traffic: Traffic {
                down: counter(3)?,
                up: counter(4)?,
            },
            final_model: final_model
                .map(|text| self.parse("study.final_model", Ok(text)))
                .transpose()?,
            preparation: row.try_get(6).map_err(self.failed())?,
        }))
    }

    /// Accepts a study: its document, a participation at the beginning, the first local groups, and how
    /// records are prepared.
    ///
    /// # Errors
    /// What the database says; also when the study had been accepted before.
    pub async fn accept(
        &self,
        study: &Study,
        document: &[u8],
        local: &ModelVector,
        preparation: Option<&str>,
        log: &Entry,
    ) -> Result<()> {
        let mut transaction = self.begin().await?;
        sqlx::query(
            "INSERT INTO study (name, document, digest, participation, preparation) \
             VALUES (?, ?, ?, ?, ?)",
        )
        .bind(study.name.as_str())
        .bind(document)
        .bind(Digest::of(document).to_string())
        .bind(json(&Participation::new(study)))
        .bind(preparation)
        .execute(&mut *transaction)
        .await
        .map_err(self.failed())?;
        for (group, values) in &local.0 {
            sqlx::query(
                "INSERT INTO local_group (study, round, group_name, content) VALUES (?, 0, ?, ?)",
            )
            .bind(study.name.as_str())
            .bind(group.as_str())
            .bind(values_to_bytes(values))
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        }
        self.note(&mut transaction, log).await?;
        self.commit(transaction).await
    }

    /// Seals an update: its values, the local groups trained with it, the state that says so, and the entry in
    /// the privacy ledger that it costs. All of it is on the disk when this returns, or nothing.
    ///
    /// # Errors
    /// What the database says; then nothing is sealed.
    pub async fn seal(
        &self,
        study: &StudyId,
        participation: &Participation,
        update: &ModelVector,
        local: &ModelVector,
        privacy: Option<&PrivacyEvent>,
        log: &Entry,
    ) -> Result<()> {
        let mut transaction = self.begin().await?;
        if let Some(event) = privacy {
            self.add_privacy_event(&mut transaction, event).await?;
        }
        self.set_participation(&mut transaction, study, participation)
            .await?;
        self.delete_sealed(&mut transaction, study).await?;
        for (part, groups) in [("update", update), ("local", local)] {
            for (group, values) in &groups.0 {
                sqlx::query(
                    "INSERT INTO sealed_group (study, part, group_name, content) VALUES (?, ?, ?, ?)",
                )
                .bind(study.as_str())
                .bind(part)
                .bind(group.as_str())
                .bind(values_to_bytes(values))
                .execute(&mut *transaction)
                .await
                .map_err(self.failed())?;
            }
        }
        self.note(&mut transaction, log).await?;
        self.commit(transaction).await
    }

    /// The values of the sealed update; they must have the digest of the participation beside them.
    ///
    /// # Errors
    /// [`SiteStoreError::Corrupt`] when they do not, or what the database says.
    pub async fn sealed_update(&self, study: &StudyId, digest: Digest) -> Result<ModelVector> {
        let rows = sqlx::query(
            "SELECT group_name, content FROM sealed_group WHERE study = ? AND part = 'update'",
        )
        .bind(study.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed())?;
        let update = self.groups(&rows)?;
        if update.sha256() == digest {
            Ok(update)
        } else {
            Err(self.corrupt(format!(
                "the sealed update of study {study} does not match its digest"
            )))
        }
    }

    /// Stores the state after the server's answer, with what it means for the sealed update.
    ///
    /// # Errors
    /// What the database says; then nothing has changed.
    pub async fn settle(
        &self,
        study: &StudyId,
        participation: &Participation,
        fate: Option<Fate>,
    ) -> Result<()> {
        let mut transaction = self.begin().await?;
        self.set_participation(&mut transaction, study, participation)
            .await?;
        if let Some(Fate::Committed { round }) = fate {
            sqlx::query(
                "INSERT INTO local_group (study, round, group_name, content) \
                 SELECT study, ?, group_name, content FROM sealed_group \
                 WHERE study = ? AND part = 'local'",
            )
            .bind(i64::from(round))
            .bind(study.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
            // The received global model may still be the one of the round before: keep its partner.
            sqlx::query(
                "DELETE FROM local_group WHERE study = ?1 AND round NOT IN \
                 (SELECT DISTINCT round FROM local_group WHERE study = ?1 ORDER BY round DESC LIMIT 2)",
            )
            .bind(study.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        }
        if fate.is_some() {
            self.delete_sealed(&mut transaction, study).await?;
        }
        self.commit(transaction).await
    }

    /// The newest local groups whose round is at most `round`. Empty, of round 0, at a site where no group stays.
    ///
    /// # Errors
    /// What the database says.
    pub async fn local_groups(&self, study: &StudyId, round: u32) -> Result<Version> {
        let rows = sqlx::query(LOCAL_GROUPS)
            .bind(study.as_str())
            .bind(i64::from(round))
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed())?;
        self.version(&rows)
    }

    /// The rounds of which local groups are kept, oldest first.
    ///
    /// # Errors
    /// What the database says.
    pub async fn local_versions(&self, study: &StudyId) -> Result<Vec<u32>> {
        let rows =
            sqlx::query("SELECT DISTINCT round FROM local_group WHERE study = ? ORDER BY round")
                .bind(study.as_str())
                .fetch_all(&self.pool)
                .await
                .map_err(self.failed())?;
        rows.iter().map(|row| self.round(row.try_get(0))).collect()
    }

    /// Keeps the shared groups of global model `model`, which committed round `version.round`, in place of
    /// those received before, and counts their bytes.
    ///
    /// # Errors
    /// What the database says; then those received before are still there.
    pub async fn receive(&self, study: &StudyId, model: Digest, version: &Version) -> Result<()> {
        let mut transaction = self.begin().await?;
        sqlx::query("DELETE FROM received_group WHERE study = ?")
            .bind(study.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        for (group, values) in &version.groups.0 {
            sqlx::query(
                "INSERT INTO received_group (study, round, model, group_name, content) \
                 VALUES (?, ?, ?, ?, ?)",
            )
            .bind(study.as_str())
            .bind(i64::from(version.round))
            .bind(model.to_string())
            .bind(group.as_str())
            .bind(values_to_bytes(values))
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        }
        sqlx::query("UPDATE study SET bytes_down = bytes_down + ? WHERE name = ?")
            .bind(4 * version.groups.len() as i64)
            .bind(study.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        self.commit(transaction).await
    }

    /// The shared groups as last received, with the hash of the global model they belong to.
    ///
    /// # Errors
    /// What the database says.
    pub async fn received(&self, study: &StudyId) -> Result<Option<(Digest, Version)>> {
        let rows = sqlx::query(RECEIVED_GROUPS)
            .bind(study.as_str())
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed())?;
        self.received_version(&rows)
    }

    /// The shared groups as last received and the local groups that belong to them, read at one moment: an
    /// agent may be running. `None` before the first global model has come.
    ///
    /// # Errors
    /// What the database says.
    pub async fn held(&self, study: &StudyId) -> Result<Option<Held>> {
        let mut transaction = self.begin().await?;
        let rows = sqlx::query(RECEIVED_GROUPS)
            .bind(study.as_str())
            .fetch_all(&mut *transaction)
            .await
            .map_err(self.failed())?;
        let Some((model, shared)) = self.received_version(&rows)? else {
            return Ok(None);
        };
        let rows = sqlx::query(LOCAL_GROUPS)
            .bind(study.as_str())
            .bind(i64::from(shared.round))
            .fetch_all(&mut *transaction)
            .await
            .map_err(self.failed())?;
        let local = self.version(&rows)?;
        Ok(Some(Held {
            model,
            shared,
            local,
        }))
    }

    /// Counts bytes of values that the server has confirmed.
    ///
    /// # Errors
    /// What the database says.
    pub async fn count_delivered(&self, study: &StudyId, bytes: u64) -> Result<()> {
        sqlx::query("UPDATE study SET bytes_up = bytes_up + ? WHERE name = ?")
            .bind(i64::try_from(bytes).unwrap_or(i64::MAX))
            .bind(study.as_str())
            .execute(&self.pool)
            .await
            .map_err(self.failed())?;
        Ok(())
    }

    /// The study is over for this site: the final model's hash and the metrics of the joined model.
    ///
    /// # Errors
    /// What the database says.
    pub async fn finish(
        &self,
        study: &StudyId,
        model: Digest,
        metrics: &[StoredMetric],
    ) -> Result<()> {
        let mut transaction = self.begin().await?;
        sqlx::query("DELETE FROM metric WHERE study = ?")
            .bind(study.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        for StoredMetric {
            split,
            metric,
            value,
        } in metrics
        {
            sqlx::query("INSERT INTO metric (study, split, metric, value) VALUES (?, ?, ?, ?)")
                .bind(study.as_str())
                .bind(split)
                .bind(metric)
                .bind(value)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed())?;
        }
        sqlx::query("UPDATE study SET final_model = ? WHERE name = ?")
            .bind(model.to_string())
            .bind(study.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        self.commit(transaction).await
    }

    /// The metrics of the finished study, in name order.
    ///
    /// # Errors
    /// What the database says.
    pub async fn metrics(&self, study: &StudyId) -> Result<Vec<StoredMetric>> {
        let rows = sqlx::query(
            "SELECT split, metric, value FROM metric WHERE study = ? ORDER BY split, metric",
        )
        .bind(study.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed())?;
        let read = |row: &sqlx::sqlite::SqliteRow| {
            Ok(StoredMetric {
                split: row.try_get(0).map_err(self.failed())?,
                metric: row.try_get(1).map_err(self.failed())?,
                value: row.try_get(2).map_err(self.failed())?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Closes the database; what was committed stays.
    pub async fn close(self) {
        self.pool.close().await;
    }
}

const LOCAL_GROUPS: &str = "SELECT group_name, content, round FROM local_group WHERE study = ?1 AND round = \
    (SELECT MAX(round) FROM local_group WHERE study = ?1 AND round <= ?2)";

const RECEIVED_GROUPS: &str =
    "SELECT group_name, content, round, model FROM received_group WHERE study = ?";

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/site");

#[cfg(test)]
mod tests;

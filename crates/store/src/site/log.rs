//! A site's own log, what it has seen of servers' logs, and which of its updates must be in them.

use consilium_core::{Digest, StudyId};
use consilium_transparency::{Entry, Head, Signed};
use sqlx::{Row as _, Sqlite, Transaction};

use super::{Result, SiteStore};
use crate::log;

/// An update that the server has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The round.
    pub round: u32,
    /// The attempt at it.
    pub attempt: u32,
    /// SHA-256 of its values.
    pub update: Digest,
}

/// A head of a server's log, as this site has judged it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenHead {
    /// The study whose server it was.
    pub study: StudyId,
    /// As the server has signed it.
    pub signed: Signed,
    /// The code with which it was refused; nothing where it continued all that was seen before.
    pub refused: Option<String>,
}

impl SiteStore {
    /// Appends entries to the site's own log that tell of nothing else in this database.
    ///
    /// # Errors
    /// What the database says; then none of them is appended.
    pub async fn append_to_log(&self, entries: &[Entry]) -> Result<()> {
        let mut transaction = self.begin().await?;
        for entry in entries {
            self.note(&mut transaction, entry).await?;
        }
        self.commit(transaction).await
    }

    pub(super) async fn note(
        &self,
        transaction: &mut Transaction<'static, Sqlite>,
        entry: &Entry,
    ) -> Result<()> {
        let appended = log::append(transaction, std::slice::from_ref(entry)).await;
        appended.map_err(self.failed())
    }

    /// The entries of the site's own log from `position` on, byte for byte as they are hashed.
    ///
    /// # Errors
    /// What the database says.
    pub async fn log_from(&self, position: u64) -> Result<Vec<Vec<u8>>> {
        log::read_from(&self.pool, position)
            .await
            .map_err(self.failed())
    }

    /// Keeps a head that continues all that was seen before, notes it in the site's own log, and where in the
    /// server's log the site's updates were found.
    ///
    /// # Errors
    /// What the database says; then nothing is kept.
    pub async fn keep_head(
        &self,
        study: &StudyId,
        head: &Head,
        signed: &Signed,
        found: &[(Delivered, u64)],
        note: &Entry,
    ) -> Result<()> {
        let mut transaction = self.begin().await?;
        self.note(&mut transaction, note).await?;
        let query = sqlx::query(INSERT_HEAD)
            .bind(study.as_str())
            .bind(i64::try_from(head.size).unwrap_or(i64::MAX))
            .bind(None::<&str>);
        log::bind(query, signed)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        for (delivered, position) in found {
            sqlx::query(
                "UPDATE log_delivered SET position = ? WHERE study = ? AND round = ? AND attempt = ?",
            )
            .bind(i64::try_from(*position).unwrap_or(i64::MAX))
            .bind(study.as_str())
            .bind(delivered.round)
            .bind(delivered.attempt)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed())?;
        }
        self.commit(transaction).await
    }

    /// Keeps what shows that a server's log was rewritten: the refused head, another one that the server has
    /// signed, and the counter-signature that came with it.
    ///
    /// # Errors
    /// What the database says; then nothing is kept.
    pub async fn keep_evidence(
        &self,
        study: &StudyId,
        code: &str,
        heads: &[Signed],
        witnessed: Option<&Signed>,
        note: &Entry,
    ) -> Result<()> {
        let mut transaction = self.begin().await?;
        self.note(&mut transaction, note).await?;
        for signed in heads {
            let size = signed.says::<Head>().map_or(1, |head| head.size.max(1));
            let query = sqlx::query(INSERT_HEAD)
                .bind(study.as_str())
                .bind(i64::try_from(size).unwrap_or(i64::MAX))
                .bind(Some(code));
            log::bind(query, signed)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed())?;
        }
        if let Some(signed) = witnessed {
            let query = sqlx::query(INSERT_WITNESS).bind(study.as_str());
            log::bind(query, signed)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed())?;
        }
        self.commit(transaction).await
    }

    /// Keeps this site's own counter-signature.
    ///
    /// # Errors
    /// What the database says.
    pub async fn keep_witness(&self, study: &StudyId, signed: &Signed) -> Result<()> {
        let query = sqlx::query(INSERT_WITNESS).bind(study.as_str());
        log::bind(query, signed)
            .execute(&self.pool)
            .await
            .map_err(self.failed())?;
        Ok(())
    }

    /// The newest head of the study's log that this site has found good.
    ///
    /// # Errors
    /// What the database says.
    pub async fn newest_head(&self, study: &StudyId) -> Result<Option<Head>> {
        let row = sqlx::query(
            "SELECT statement, scheme, signature, certificate FROM log_head \
             WHERE study = ? AND refused IS NULL ORDER BY sequence DESC LIMIT 1",
        )
        .bind(study.as_str())
        .fetch_optional(&self.pool)
        .await
        .map_err(self.failed())?;
        let Some(row) = row else { return Ok(None) };
        let signed = log::signed(&row, 0).map_err(self.failed())?;
        let head = signed.says();
        head.map(Some)
            .ok_or_else(|| self.corrupt("log_head.statement cannot be read".into()))
    }

    /// Every head that this site was shown, in that order.
    ///
    /// # Errors
    /// What the database says.
    pub async fn heads(&self) -> Result<Vec<SeenHead>> {
        let rows = sqlx::query(
            "SELECT statement, scheme, signature, certificate, study, refused FROM log_head \
             ORDER BY sequence",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed())?;
        rows.iter()
            .map(|row| {
                Ok(SeenHead {
                    signed: log::signed(row, 0).map_err(self.failed())?,
                    study: self.parse("log_head.study", row.try_get::<String, _>(4))?,
                    refused: row.try_get(5).map_err(self.failed())?,
                })
            })
            .collect()
    }

    /// The counter-signatures that are kept here, with the study of each.
    ///
    /// # Errors
    /// What the database says.
    pub async fn witnesses(&self) -> Result<Vec<(StudyId, Signed)>> {
        let rows = sqlx::query(
            "SELECT statement, scheme, signature, certificate, study FROM log_witness \
             ORDER BY sequence",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed())?;
        rows.iter()
            .map(|row| {
                let study = self.parse("log_witness.study", row.try_get::<String, _>(4))?;
                Ok((study, log::signed(row, 0).map_err(self.failed())?))
            })
            .collect()
    }

    /// The server has confirmed an update: it must be in its log.
    ///
    /// # Errors
    /// What the database says.
    pub async fn delivered(&self, study: &StudyId, delivered: &Delivered) -> Result<()> {
        sqlx::query(
            "INSERT OR IGNORE INTO log_delivered (study, round, attempt, update_sha256) \
             VALUES (?, ?, ?, ?)",
        )
        .bind(study.as_str())
        .bind(delivered.round)
        .bind(delivered.attempt)
        .bind(delivered.update.to_string())
        .execute(&self.pool)
        .await
        .map_err(self.failed())?;
        Ok(())
    }

    /// Confirmed updates that were not found in the server's log yet, at most `limit`.
    ///
    /// # Errors
    /// What the database says.
    pub async fn unproved(&self, study: &StudyId, limit: u32) -> Result<Vec<Delivered>> {
        let rows = sqlx::query(
            "SELECT round, attempt, update_sha256 FROM log_delivered \
             WHERE study = ? AND position IS NULL ORDER BY round, attempt LIMIT ?",
        )
        .bind(study.as_str())
        .bind(limit)
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed())?;
        rows.iter()
            .map(|row| {
                Ok(Delivered {
                    round: self.round(row.try_get(0))?,
                    attempt: self.round(row.try_get(1))?,
                    update: self
                        .parse("log_delivered.update_sha256", row.try_get::<String, _>(2))?,
                })
            })
            .collect()
    }
}

const INSERT_HEAD: &str = "INSERT INTO log_head \
    (study, size, refused, statement, scheme, signature, certificate) VALUES (?, ?, ?, ?, ?, ?, ?)";

const INSERT_WITNESS: &str = "INSERT INTO log_witness \
    (study, statement, scheme, signature, certificate) VALUES (?, ?, ?, ?, ?)";

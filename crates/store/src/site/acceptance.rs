//! What somebody at this site has accepted in writing.

use consilium_core::{Digest, StudyId};
use consilium_transparency::Signed;
use sqlx::Row as _;

use super::{Result, SiteStore};
use crate::log;

/// A written acceptance, as it stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAcceptance {
    /// SHA-256 of the document that was accepted.
    pub digest: Digest,
    /// [`Acceptance`](consilium_transparency::Acceptance), signed.
    pub signed: Signed,
    /// Why it was taken back; nothing while it holds.
    pub withdrawn: Option<String>,
    /// Whether the server has confirmed it.
    pub told: bool,
}

impl SiteStore {
    /// Keeps an acceptance, in the place of one that was there for the study.
    ///
    /// # Errors
    /// What the database says.
    pub async fn accept_in_writing(
        &self,
        study: &StudyId,
        digest: Digest,
        signed: &Signed,
    ) -> Result<()> {
        let query = sqlx::query(
            "INSERT OR REPLACE INTO acceptance (study, digest, statement, scheme, signature, certificate) \
             VALUES (?, ?, ?, ?, ?, ?)",
        ).bind(study.as_str()).bind(digest.to_string());
        log::bind(query, signed)
            .execute(&self.pool)
            .await
            .map_err(self.failed())?;
        Ok(())
    }

    /// Takes the acceptance back. Says whether there was one.
    ///
    /// # Errors
    /// What the database says.
    pub async fn take_back(&self, study: &StudyId, reason: &str) -> Result<bool> {
        let done = sqlx::query("UPDATE acceptance SET withdrawn = ? WHERE study = ?")
            .bind(reason)
            .bind(study.as_str())
            .execute(&self.pool)
            .await
            .map_err(self.failed())?;
        Ok(done.rows_affected() > 0)
    }

    /// The server has confirmed the acceptance of this document.
    ///
    /// # Errors
    /// What the database says.
    pub async fn acceptance_was_told(&self, study: &StudyId, digest: Digest) -> Result<()> {
        sqlx::query("UPDATE acceptance SET told = 1 WHERE study = ? AND digest = ?")
            .bind(study.as_str())
            .bind(digest.to_string())
            .execute(&self.pool)
            .await
            .map_err(self.failed())?;
        Ok(())
    }

    /// What was accepted in writing, if anything was.
    ///
    /// # Errors
    /// What the database says.
    pub async fn acceptance(&self, study: &StudyId) -> Result<Option<StoredAcceptance>> {
        let row = sqlx::query(
            "SELECT digest, statement, scheme, signature, certificate, withdrawn, told \
             FROM acceptance WHERE study = ?",
        )
        .bind(study.as_str())
        .fetch_optional(&self.pool)
        .await
        .map_err(self.failed())?;
        let Some(row) = row else { return Ok(None) };
        let told: i64 = row.try_get(6).map_err(self.failed())?;
        Ok(Some(StoredAcceptance {
            digest: self.parse("acceptance.digest", row.try_get::<String, _>(0))?,
            signed: log::signed(&row, 1).map_err(self.failed())?,
            withdrawn: row.try_get(5).map_err(self.failed())?,
            told: told != 0,
        }))
    }
}

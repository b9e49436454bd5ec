//! Where this site stopped taking part in a study: written before the server is told, kept until it goes on.

use consilium_core::{Digest, StudyId};
use consilium_rounds::Withdrawal;
use sqlx::Row as _;

use super::{Result, SiteStore};

/// A study that this site does not go on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// SHA-256 of the study's document.
    pub digest: Digest,
    /// Where and why, as the server is told.
    pub withdrawal: Withdrawal,
    /// Whether the server has confirmed it.
    pub told: bool,
}

impl SiteStore {
    /// Records that this site stops; the server has not been told yet.
    ///
    /// # Errors
    /// What the database says.
    pub async fn halt(
        &self,
        study: &StudyId,
        digest: Digest,
        withdrawal: &Withdrawal,
    ) -> Result<()> {
        sqlx::query(
            "INSERT OR REPLACE INTO halt (study, digest, withdrawal, told) VALUES (?, ?, ?, 0)",
        )
        .bind(study.as_str())
        .bind(digest.to_string())
        // Cannot fail: plain numbers and text.
        .bind(serde_json::to_string(withdrawal).expect("a withdrawal serialises"))
        .execute(&self.pool)
        .await
        .map_err(self.failed())?;
        Ok(())
    }

    /// Records that the server has confirmed where this site stopped.
    ///
    /// # Errors
    /// What the database says.
    pub async fn halt_was_told(&self, study: &StudyId) -> Result<()> {
        sqlx::query("UPDATE halt SET told = 1 WHERE study = ?")
            .bind(study.as_str())
            .execute(&self.pool)
            .await
            .map_err(self.failed())?;
        Ok(())
    }

    /// This site goes on, and the server knows.
    ///
    /// # Errors
    /// What the database says.
    pub async fn go_on(&self, study: &StudyId) -> Result<()> {
        sqlx::query("DELETE FROM halt WHERE study = ?")
            .bind(study.as_str())
            .execute(&self.pool)
            .await
            .map_err(self.failed())?;
        Ok(())
    }

    /// Where this site stopped, if it has.
    ///
    /// # Errors
    /// What the database says.
    pub async fn halted(&self, study: &StudyId) -> Result<Option<Halt>> {
        let row = sqlx::query("SELECT digest, withdrawal, told FROM halt WHERE study = ?")
            .bind(study.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed())?;
        let Some(row) = row else { return Ok(None) };
        let withdrawal: String = row.try_get(1).map_err(self.failed())?;
        let told: i64 = row.try_get(2).map_err(self.failed())?;
        Ok(Some(Halt {
            digest: self.parse("halt.digest", row.try_get::<String, _>(0))?,
            withdrawal: serde_json::from_str(&withdrawal)
                .map_err(|error| self.corrupt(format!("halt.withdrawal: {error}")))?,
            told: told != 0,
        }))
    }
}

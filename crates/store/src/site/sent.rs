//! How much was sent on which day.

use sqlx::Row as _;

use super::{Result, SiteStore};

impl SiteStore {
    /// Bytes of updates that were sent on `day`, in days since 1970-01-01.
    ///
    /// # Errors
    /// What the database says.
    pub async fn sent_on(&self, day: i64) -> Result<u64> {
        let row = sqlx::query("SELECT bytes FROM sent WHERE day = ?")
            .bind(day)
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed())?;
        let bytes: i64 = match row {
            Some(row) => row.try_get(0).map_err(self.failed())?,
            None => 0,
        };
        Ok(bytes.unsigned_abs())
    }

    /// Counts bytes that are about to be sent on `day`.
    ///
    /// # Errors
    /// What the database says.
    pub async fn count_sent(&self, day: i64, bytes: u64) -> Result<()> {
        sqlx::query(
            "INSERT INTO sent (day, bytes) VALUES (?1, ?2) \
             ON CONFLICT (day) DO UPDATE SET bytes = bytes + ?2",
        )
        .bind(day)
        .bind(i64::try_from(bytes).unwrap_or(i64::MAX))
        .execute(&self.pool)
        .await
        .map_err(self.failed())?;
        Ok(())
    }
}

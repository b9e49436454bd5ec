//! Patients who are taken out of all studies.

use std::collections::BTreeSet;

use consilium_core::clock::Timestamp;
use sqlx::Row as _;

use super::{Result, SiteStore};

impl SiteStore {
    /// Takes patients out from the next round on, all of them or none. Returns how many were not out before.
    ///
    /// # Errors
    /// What the database says.
    pub async fn exclude(&self, patients: &BTreeSet<String>, at: Timestamp) -> Result<u64> {
        let mut transaction = self.begin().await?;
        let mut new = 0;
        for patient in patients {
            let done = sqlx::query("INSERT OR IGNORE INTO excluded (patient, at) VALUES (?, ?)")
                .bind(patient)
                .bind(i64::try_from(at.0).unwrap_or(i64::MAX))
                .execute(&mut *transaction)
                .await
                .map_err(self.failed())?;
            new += done.rows_affected();
        }
        self.commit(transaction).await?;
        Ok(new)
    }

    /// Everybody who is out.
    ///
    /// # Errors
    /// What the database says.
    pub async fn excluded(&self) -> Result<BTreeSet<String>> {
        let rows = sqlx::query("SELECT patient FROM excluded")
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed())?;
        let ids = rows.iter().map(|row| row.try_get(0).map_err(self.failed()));
        ids.collect()
    }
}

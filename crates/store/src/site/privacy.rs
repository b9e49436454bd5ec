//! The privacy ledger of a site, as rows: numbered documents that are only ever added.
//!
//! There is one ledger per state folder, for all studies and all cohorts: whether two of them share patients is
//! not known here, so they are counted as if they did, and a cohort under a new name does not start anew. What
//! the documents say, and that their chain holds, is for the ledger's own code.

use consilium_core::StudyId;
use sqlx::{Row as _, Sqlite, Transaction};

use super::{Result, SiteStore};

/// One entry of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivacyEvent {
    /// Its number, from 1 without gaps.
    pub sequence: u64,
    /// The study that it was released for.
    pub study: StudyId,
    /// The entry as JSON.
    pub document: String,
}

impl SiteStore {
    /// The whole ledger, oldest entry first.
    ///
    /// # Errors
    /// What the database says.
    pub async fn privacy_ledger(&self) -> Result<Vec<PrivacyEvent>> {
        let rows =
            sqlx::query("SELECT sequence, study, document FROM privacy_event ORDER BY sequence")
                .fetch_all(&self.pool)
                .await
                .map_err(self.failed())?;
        rows.iter()
            .map(|row| {
                let sequence: i64 = row.try_get(0).map_err(self.failed())?;
                Ok(PrivacyEvent {
                    sequence: sequence.unsigned_abs(),
                    study: self.parse("privacy_event.study", row.try_get::<String, _>(1))?,
                    document: row.try_get(2).map_err(self.failed())?,
                })
            })
            .collect()
    }

    pub(super) async fn add_privacy_event(
        &self,
        transaction: &mut Transaction<'static, Sqlite>,
        event: &PrivacyEvent,
    ) -> Result<()> {
        sqlx::query("INSERT INTO privacy_event (sequence, study, document) VALUES (?, ?, ?)")
            .bind(i64::try_from(event.sequence).unwrap_or(i64::MAX))
            .bind(event.study.as_str())
            .bind(&event.document)
            .execute(&mut **transaction)
            .await
            .map_err(self.failed())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;

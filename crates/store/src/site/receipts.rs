//! What servers have signed about this site's privacy ledger, kept beside it.

use consilium_core::StudyId;
use consilium_rounds::{LedgerHead, Receipt};
use sqlx::Row as _;

use super::{PrivacyEvent, Result, SiteStore};

impl SiteStore {
    /// Keeps a receipt; one of the same head that is there already stays.
    ///
    /// # Errors
    /// What the database says.
    pub async fn keep_receipt(
        &self,
        study: &StudyId,
        ledger: &LedgerHead,
        receipt: &Receipt,
    ) -> Result<()> {
        sqlx::query(
            "INSERT OR IGNORE INTO ledger_receipt \
             (study, length, head, statement, scheme, signature, certificate) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(study.as_str())
        .bind(i64::try_from(ledger.length).unwrap_or(i64::MAX))
        .bind(ledger.head.to_string())
        .bind(&receipt.statement)
        .bind(i64::from(receipt.scheme))
        .bind(&receipt.signature)
        .bind(&receipt.certificate)
        .execute(&self.pool)
        .await
        .map_err(self.failed())?;
        Ok(())
    }

    /// All receipts, by study and length.
    ///
    /// # Errors
    /// What the database says.
    pub async fn receipts(&self) -> Result<Vec<(StudyId, LedgerHead, Receipt)>> {
        let rows = sqlx::query(
            "SELECT study, length, head, statement, scheme, signature, certificate \
             FROM ledger_receipt ORDER BY study, length, head",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed())?;
        rows.iter()
            .map(|row| {
                let length: i64 = row.try_get(1).map_err(self.failed())?;
                let scheme: i64 = row.try_get(4).map_err(self.failed())?;
                let ledger = LedgerHead {
                    length: length.unsigned_abs(),
                    head: self.parse("ledger_receipt.head", row.try_get::<String, _>(2))?,
                };
                let receipt = Receipt {
                    statement: row.try_get(3).map_err(self.failed())?,
                    scheme: u16::try_from(scheme)
                        .map_err(|_| self.corrupt(format!("ledger_receipt.scheme: {scheme}")))?,
                    signature: row.try_get(5).map_err(self.failed())?,
                    certificate: row.try_get(6).map_err(self.failed())?,
                };
                let study = self.parse("ledger_receipt.study", row.try_get::<String, _>(0))?;
                Ok((study, ledger, receipt))
            })
            .collect()
    }

    /// Adds entries that stand for releases of which nothing else is left here: all of them or none.
    ///
    /// # Errors
    /// What the database says; then nothing is added.
    pub async fn settle_ledger(&self, events: &[PrivacyEvent]) -> Result<()> {
        let mut transaction = self.begin().await?;
        for event in events {
            self.add_privacy_event(&mut transaction, event).await?;
        }
        self.commit(transaction).await
    }
}

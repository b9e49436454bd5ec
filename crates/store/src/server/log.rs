//! The server's log: entries, the heads that were signed, and the counter-signatures of sites.

use consilium_core::SiteId;
use consilium_transparency::{Entry, Head, Signed, Statement as _};
use sqlx::Row as _;

use super::{ServerStore, ServerStoreError};
use crate::log;

/// A counter-signature with the head that it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessedHead {
    /// As the server has signed it.
    pub head: Signed,
    /// As the site has.
    pub witnessed: Signed,
}

type Result<T> = std::result::Result<T, ServerStoreError>;

impl ServerStore {
    /// Appends entries that tell of nothing else in this database.
    ///
    /// # Errors
    /// [`ServerStoreError`]; then none of them is appended.
    pub async fn append_to_log(&self, entries: &[Entry]) -> Result<()> {
        let mut together = self.begin().await?;
        self.append(&mut together, entries).await?;
        self.commit(together).await
    }

    /// The entries from `position` on, byte for byte as they are hashed.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn log_from(&self, position: u64) -> Result<Vec<Vec<u8>>> {
        log::read_from(&self.pool, position)
            .await
            .map_err(|error| self.failed(error))
    }

    /// One entry, byte for byte.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn log_entry(&self, position: u64) -> Result<Option<Vec<u8>>> {
        sqlx::query_scalar("SELECT entry FROM log_entry WHERE position = ?")
            .bind(i64::try_from(position).unwrap_or(i64::MAX))
            .fetch_optional(&self.pool)
            .await
            .map_err(|error| self.failed(error))
    }

    /// Keeps a head before anybody is shown it.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn keep_log_head(&self, head: &Head, signed: &Signed) -> Result<()> {
        let query = sqlx::query(
            "INSERT INTO log_head (size, statement, scheme, signature, certificate) \
             VALUES (?, ?, ?, ?, ?)",
        )
        .bind(i64::try_from(head.size).unwrap_or(i64::MAX));
        log::bind(query, signed)
            .execute(&self.pool)
            .await
            .map_err(|error| self.failed(error))?;
        Ok(())
    }

    /// Every head that was signed, in that order.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn log_heads(&self) -> Result<Vec<Signed>> {
        let rows = sqlx::query(
            "SELECT statement, scheme, signature, certificate FROM log_head ORDER BY sequence",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        let heads = rows.iter().map(|row| log::signed(row, 0));
        heads
            .collect::<sqlx::Result<_>>()
            .map_err(|error| self.failed(error))
    }

    /// The head that was signed last.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn newest_log_head(&self) -> Result<Option<Signed>> {
        let row = sqlx::query(
            "SELECT statement, scheme, signature, certificate FROM log_head \
             ORDER BY sequence DESC LIMIT 1",
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        let head = row.map(|row| log::signed(&row, 0));
        head.transpose().map_err(|error| self.failed(error))
    }

    /// Keeps a counter-signature of a head that this server has signed, and returns that head; nothing for another
    /// one. A second one of the same head by the same site adds nothing.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn keep_witness(
        &self,
        site: &SiteId,
        head: &Head,
        witnessed: &Signed,
    ) -> Result<Option<Signed>> {
        let known = sqlx::query(
            "SELECT statement, scheme, signature, certificate, sequence FROM log_head \
             WHERE size = ? AND statement = ? LIMIT 1",
        )
        .bind(i64::try_from(head.size).unwrap_or(i64::MAX))
        .bind(head.bytes())
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        let Some(row) = known else {
            return Ok(None);
        };
        let sequence: i64 = row.try_get(4).map_err(|error| self.failed(error))?;
        sqlx::query(
            "INSERT OR IGNORE INTO log_witness \
             (site, head, statement, scheme, signature, certificate) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(site.as_str())
        .bind(sequence)
        .bind(&witnessed.statement)
        .bind(i64::from(witnessed.scheme))
        .bind(&witnessed.signature)
        .bind(&witnessed.certificate)
        .execute(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        log::signed(&row, 0)
            .map(Some)
            .map_err(|error| self.failed(error))
    }

    /// Every counter-signature, in the order of their coming.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn witnesses(&self) -> Result<Vec<Signed>> {
        let rows = sqlx::query(
            "SELECT statement, scheme, signature, certificate FROM log_witness ORDER BY sequence",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        let witnesses = rows.iter().map(|row| log::signed(row, 0));
        witnesses
            .collect::<sqlx::Result<_>>()
            .map_err(|error| self.failed(error))
    }

    /// The newest counter-signature of each site.
    ///
    /// # Errors
    /// [`ServerStoreError`].
    pub async fn newest_witnesses(&self) -> Result<Vec<WitnessedHead>> {
        let rows = sqlx::query(
            "SELECT h.statement, h.scheme, h.signature, h.certificate, \
                    w.statement, w.scheme, w.signature, w.certificate \
             FROM log_witness w JOIN log_head h ON h.sequence = w.head \
             WHERE w.sequence IN (SELECT MAX(sequence) FROM log_witness GROUP BY site)",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| self.failed(error))?;
        rows.iter()
            .map(|row| {
                let head = log::signed(row, 0).map_err(|error| self.failed(error))?;
                let witnessed = log::signed(row, 4).map_err(|error| self.failed(error))?;
                Ok(WitnessedHead { head, witnessed })
            })
            .collect()
    }
}

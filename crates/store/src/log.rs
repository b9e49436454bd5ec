//! Entries of a log as rows: the same table at the server and at a site.

use consilium_transparency::{Entry, Signed};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Executor, Row as _, Sqlite};

/// Appends entries after those that are there.
pub(crate) async fn append(
    connection: &mut SqliteConnection,
    entries: &[Entry],
) -> sqlx::Result<()> {
    for entry in entries {
        // One statement: another process may be appending.
        sqlx::query(
            "INSERT INTO log_entry (position, entry) \
             SELECT COALESCE(MAX(position), -1) + 1, ? FROM log_entry",
        )
        .bind(entry.bytes())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// The entries from `position` on, byte for byte.
pub(crate) async fn read_from(
    database: impl Executor<'_, Database = Sqlite>,
    position: u64,
) -> sqlx::Result<Vec<Vec<u8>>> {
    sqlx::query_scalar("SELECT entry FROM log_entry WHERE position >= ? ORDER BY position")
        .bind(i64::try_from(position).unwrap_or(i64::MAX))
        .fetch_all(database)
        .await
}

/// Binds a signed statement to the next four places: statement, scheme, signature, certificate.
pub(crate) fn bind<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    signed: &'q Signed,
) -> Query<'q, Sqlite, SqliteArguments> {
    query
        .bind(&signed.statement)
        .bind(i64::from(signed.scheme))
        .bind(&signed.signature)
        .bind(&signed.certificate)
}

/// A signed statement in the columns (statement, scheme, signature, certificate) from `first` on.
pub(crate) fn signed(row: &SqliteRow, first: usize) -> sqlx::Result<Signed> {
    let scheme: i64 = row.try_get(first + 1)?;
    Ok(Signed {
        statement: row.try_get(first)?,
        // A number that is no scheme fits no signature.
        scheme: u16::try_from(scheme).unwrap_or(0),
        signature: row.try_get(first + 2)?,
        certificate: row.try_get(first + 3)?,
    })
}

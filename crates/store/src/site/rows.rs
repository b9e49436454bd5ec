//! Rows to values and back, and the statements that several steps share.

use std::collections::BTreeMap;
use std::str::FromStr;

use consilium_core::vector::bytes_to_values;
use consilium_core::{Digest, GroupName, ModelVector, StudyId};
use consilium_rounds::Participation;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite, Transaction};

use super::{Result, SiteStore, SiteStoreError, Version};

impl SiteStore {
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Sqlite>> {
        self.pool.begin().await.map_err(self.failed())
    }

    pub(super) async fn commit(&self, transaction: Transaction<'static, Sqlite>) -> Result<()> {
        transaction.commit().await.map_err(self.failed())
    }

    pub(super) async fn set_participation(
        &self,
        transaction: &mut Transaction<'static, Sqlite>,
        study: &StudyId,
        participation: &Participation,
    ) -> Result<()> {
        let done = sqlx::query("UPDATE study SET participation = ? WHERE name = ?")
            .bind(json(participation))
            .bind(study.as_str())
            .execute(&mut **transaction)
            .await
            .map_err(self.failed())?;
        if done.rows_affected() == 1 {
            Ok(())
        } else {
            Err(self.corrupt(format!("study {study} was never accepted")))
        }
    }

    pub(super) async fn delete_sealed(
        &self,
        transaction: &mut Transaction<'static, Sqlite>,
        study: &StudyId,
    ) -> Result<()> {
        sqlx::query("DELETE FROM sealed_group WHERE study = ?")
            .bind(study.as_str())
            .execute(&mut **transaction)
            .await
            .map_err(self.failed())?;
        Ok(())
    }

    /// Groups of rows that start with (group_name, content).
    pub(super) fn groups(&self, rows: &[SqliteRow]) -> Result<ModelVector> {
        let mut groups = BTreeMap::new();
        for row in rows {
            let name: GroupName = self.parse("group_name", row.try_get::<String, _>(0))?;
            let content: &[u8] = row.try_get(1).map_err(self.failed())?;
            if !content.len().is_multiple_of(4) {
                return Err(self.corrupt(format!("group {name} has {} bytes", content.len())));
            }
            groups.insert(name, bytes_to_values(content).collect());
        }
        Ok(ModelVector(groups))
    }

    /// Groups of rows that start with (group_name, content, round), all of one round.
    pub(super) fn version(&self, rows: &[SqliteRow]) -> Result<Version> {
        let round = match rows.first() {
            Some(row) => self.round(row.try_get(2))?,
            None => 0,
        };
        let groups = self.groups(rows)?;
        Ok(Version { round, groups })
    }

    /// Groups of rows that start with (group_name, content, round, model), all of one model.
    pub(super) fn received_version(&self, rows: &[SqliteRow]) -> Result<Option<(Digest, Version)>> {
        let Some(first) = rows.first() else {
            return Ok(None);
        };
        let model = self.parse("received_group.model", first.try_get::<String, _>(3))?;
        Ok(Some((model, self.version(rows)?)))
    }

    pub(super) fn round(&self, column: sqlx::Result<i64>) -> Result<u32> {
        let round = column.map_err(self.failed())?;
        u32::try_from(round).map_err(|_| self.corrupt(format!("round {round}")))
    }

    pub(super) fn parse<T>(&self, column: &str, text: sqlx::Result<String>) -> Result<T>
    where
        T: FromStr<Err: std::fmt::Display>,
    {
        text.map_err(self.failed())?
            .parse()
            .map_err(|error| self.corrupt(format!("{column}: {error}")))
    }

    pub(super) fn failed(&self) -> impl Fn(sqlx::Error) -> SiteStoreError + '_ {
        |error| SiteStoreError::from_sqlite(&self.path, error.into())
    }

    pub(super) fn corrupt(&self, problem: String) -> SiteStoreError {
        let path = self.path.clone();
        SiteStoreError::Corrupt { path, problem }
    }
}

pub(super) fn json(participation: &Participation) -> String {
    // Cannot fail: plain numbers and text.
    serde_json::to_string(participation).expect("a participation serialises")
}

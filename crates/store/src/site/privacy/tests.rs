use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use consilium_core::ModelVector;
use consilium_rounds::Participation;

use super::*;
use crate::site::tests::{Opened, accepted, groups, note, plan};

fn event(sequence: u64) -> PrivacyEvent {
    PrivacyEvent {
        sequence,
        study: "stored".parse().unwrap(),
        document: format!("{{\"sequence\":{sequence},\"noise_multiplier\":1.1}}"),
    }
}

/// Seals the update of `round` together with `event`.
async fn seal(opened: &Opened, round: u32, event: &PrivacyEvent) -> Result<()> {
    let (participation, update) = to_seal(opened, round).await;
    let local = groups("stem/own", &[0.5, 0.5]);
    let name = &opened.study.name;
    (opened.store)
        .seal(name, &participation, &update, &local, Some(event), &note())
        .await
}

async fn to_seal(opened: &Opened, round: u32) -> (Participation, ModelVector) {
    let mut participation = opened.participation().await;
    let update = groups("trunk", &[round as f32]);
    let _ = participation.seal(&plan(&opened.study, round), update.sha256());
    (participation, update)
}

async fn execute(store: &SiteStore, statement: &'static str) -> sqlx::Result<()> {
    sqlx::query(statement)
        .execute(&store.pool)
        .await
        .map(|_| ())
}

#[tokio::test]
async fn an_entry_is_stored_with_its_update_and_outlives_it() {
    let opened = accepted().await;
    seal(&opened, 1, &event(1)).await.unwrap();
    let name = opened.study.name.clone();
    let mut participation = opened.participation().await;
    // The round failed: the update is dropped, what it cost is not.
    participation.sealed = None;
    let fate = Some(crate::site::Fate::Dropped);
    opened
        .store
        .settle(&name, &participation, fate)
        .await
        .unwrap();
    seal(&opened, 1, &event(2)).await.unwrap();
    let opened = opened.reopened().await;
    let ledger = opened.store.privacy_ledger().await.unwrap();
    assert_eq!(ledger, [event(1), event(2)]);
}

#[tokio::test]
async fn a_transaction_that_fails_anywhere_leaves_neither_entry_nor_update() {
    for broken in [
        "CREATE TEMP TRIGGER broken BEFORE INSERT ON main.privacy_event BEGIN SELECT RAISE(ABORT, 'broken'); END",
        "CREATE TEMP TRIGGER broken AFTER INSERT ON main.privacy_event BEGIN SELECT RAISE(ABORT, 'broken'); END",
        "CREATE TEMP TRIGGER broken AFTER UPDATE ON main.study BEGIN SELECT RAISE(ABORT, 'broken'); END",
        "CREATE TEMP TRIGGER broken AFTER INSERT ON main.sealed_group WHEN NEW.part = 'update' \
         BEGIN SELECT RAISE(ABORT, 'broken'); END",
        "CREATE TEMP TRIGGER broken AFTER INSERT ON main.sealed_group WHEN NEW.part = 'local' \
         BEGIN SELECT RAISE(ABORT, 'broken'); END",
    ] {
        let opened = accepted().await;
        execute(&opened.store, broken).await.unwrap();
        let error = seal(&opened, 1, &event(1)).await.unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
        execute(&opened.store, "DROP TRIGGER broken").await.unwrap();
        assert_eq!(stored(&opened).await, (0, false), "{broken}");
        seal(&opened, 1, &event(1)).await.unwrap();
        assert_eq!(stored(&opened).await, (1, true));
    }
}

/// Number of entries, and whether there is a sealed update (with its values).
async fn stored(opened: &Opened) -> (usize, bool) {
    let entries = opened.store.privacy_ledger().await.unwrap().len();
    let Some(sealed) = opened.participation().await.sealed else {
        return (entries, false);
    };
    let name = &opened.study.name;
    opened
        .store
        .sealed_update(name, sealed.digest)
        .await
        .unwrap();
    (entries, true)
}

#[tokio::test]
async fn nothing_in_the_ledger_can_be_changed_removed_or_put_out_of_order() {
    let opened = accepted().await;
    seal(&opened, 1, &event(1)).await.unwrap();
    seal(&opened, 1, &event(2)).await.unwrap();
    for forbidden in [
        "UPDATE privacy_event SET document = '{}' WHERE sequence = 1",
        "UPDATE privacy_event SET sequence = 9 WHERE sequence = 2",
        "DELETE FROM privacy_event",
        "DELETE FROM privacy_event WHERE sequence = 2",
        "INSERT OR REPLACE INTO privacy_event VALUES (2, 'stored', '{}')",
        "INSERT INTO privacy_event VALUES (4, 'stored', '{}')",
        "INSERT INTO privacy_event VALUES (3, 'stored', 'no json')",
        "INSERT INTO privacy_event VALUES (3, 'nobody', '{}')",
        "DELETE FROM study",
    ] {
        execute(&opened.store, forbidden)
            .await
            .expect_err(forbidden);
    }
    for sequence in [1, 2, 4] {
        let error = seal(&opened, 1, &event(sequence)).await.unwrap_err();
        assert!(error.to_string().contains("does not follow"), "{error}");
    }
    let ledger = opened.store.privacy_ledger().await.unwrap();
    assert_eq!(ledger, [event(1), event(2)]);
}

#[tokio::test]
async fn a_schema_with_entries_cannot_be_taken_back() {
    let opened = accepted().await;
    seal(&opened, 1, &event(1)).await.unwrap();
    let back = crate::site::MIGRATIONS.undo(&opened.store.pool, 2).await;
    back.unwrap_err();
    assert_eq!(opened.store.privacy_ledger().await.unwrap(), [event(1)]);
    let empty = accepted().await;
    // That the study was accepted stands in the log, which is not given up either.
    sqlx::query("DROP TRIGGER log_entry_is_not_removed")
        .execute(&empty.store.pool)
        .await
        .unwrap();
    crate::site::MIGRATIONS
        .undo(&empty.store.pool, 2)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_committed_is_flushed_to_the_disk() {
    let opened = accepted().await;
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
        .fetch_one(&opened.store.pool)
        .await
        .unwrap();
    // 2 is FULL: in WAL mode every commit waits for the disk.
    assert_eq!(synchronous, 2);
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(&opened.store.pool)
        .await
        .unwrap();
    assert_eq!(mode, "wal");
}

/// Where the other process is killed.
const BEFORE: &str = "before";
const INSIDE: &str = "inside";
const AFTER: &str = "after";

#[tokio::test]
async fn a_process_killed_around_the_seal_leaves_the_entry_exactly_if_it_leaves_the_update() {
    for (point, expected) in [
        (BEFORE, (0, false)),
        (INSIDE, (0, false)),
        (AFTER, (1, true)),
    ] {
        let opened = accepted().await;
        let Opened {
            store,
            study,
            folder,
        } = opened;
        store.close().await;
        let mut child = child(folder.path(), point);
        wait_for(&folder.path().join(point));
        if point == INSIDE {
            wait_until_written_to(&folder.path().join("site.sqlite")).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let store = SiteStore::open_existing(&folder.path().join("site.sqlite"))
            .await
            .unwrap();
        let opened = Opened {
            store,
            study,
            folder,
        };
        assert_eq!(stored(&opened).await, expected, "killed {point} the seal");
        // And the work goes on.
        let next = event(expected.0 as u64 + 1);
        seal(&opened, 1, &next).await.unwrap();
    }
}

/// This test program again, running nothing but [`the_process_that_is_killed`].
fn child(folder: &Path, point: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "site::privacy::tests::the_process_that_is_killed",
        ])
        .env(FOLDER, folder)
        .env(POINT, point)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

const FOLDER: &str = "CONSILIUM_TEST_KILLED_FOLDER";
const POINT: &str = "CONSILIUM_TEST_KILLED_POINT";

fn wait_for(file: &Path) {
    let start = Instant::now();
    while !file.exists() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "the child did not start"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until another process is inside a transaction that writes.
async fn wait_until_written_to(path: &Path) {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(Duration::ZERO);
    let start = Instant::now();
    loop {
        let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options)
            .await
            .unwrap();
        let begun = sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut connection)
            .await;
        if begun.is_err() {
            return;
        }
        sqlx::query("ROLLBACK")
            .execute(&mut connection)
            .await
            .unwrap();
        sqlx::Connection::close(connection).await.unwrap();
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "no transaction began"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Not a test of its own: seals, or hangs, in the process that is killed.
#[tokio::test]
async fn the_process_that_is_killed() {
    let (Ok(folder), Ok(point)) = (std::env::var(FOLDER), std::env::var(POINT)) else {
        return;
    };
    let folder = Path::new(&folder);
    let store = SiteStore::open_existing(&folder.join("site.sqlite"))
        .await
        .unwrap();
    let mut opened = accepted().await;
    opened.store = store;
    let reached = || std::fs::write(folder.join(&point), "").unwrap();
    match point.as_str() {
        BEFORE => {
            let _ = to_seal(&opened, 1).await;
        }
        INSIDE => {
            // Entry and update are written and not yet committed when this trigger begins to count for ever.
            for statement in [
                "CREATE TEMP VIEW endless AS WITH RECURSIVE number(n) AS \
                 (SELECT 1 UNION ALL SELECT n + 1 FROM number) SELECT n FROM number",
                "CREATE TEMP TRIGGER hang AFTER INSERT ON main.sealed_group WHEN NEW.part = 'local' \
                 BEGIN SELECT COUNT(*) FROM endless; END",
            ] {
                execute(&opened.store, statement).await.unwrap();
            }
            reached();
            let _ = seal(&opened, 1, &event(1)).await;
        }
        _ => seal(&opened, 1, &event(1)).await.unwrap(),
    }
    reached();
    std::future::pending().await
}

#[tokio::test]
async fn entries_that_settle_a_ledger_are_added_all_or_none() {
    let opened = accepted().await;
    seal(&opened, 1, &event(1)).await.unwrap();
    // The second one does not follow the first.
    let broken = opened.store.settle_ledger(&[event(2), event(4)]).await;
    broken.unwrap_err();
    assert_eq!(opened.store.privacy_ledger().await.unwrap(), [event(1)]);
    let settled = [event(2), event(3)];
    opened.store.settle_ledger(&settled).await.unwrap();
    let ledger = opened.store.privacy_ledger().await.unwrap();
    assert_eq!(ledger, [event(1), event(2), event(3)]);
}

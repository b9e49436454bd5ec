//! The head of the ledger that the server has signed, and ledgers behind it.

use dp_rs::ledger::Moment;

use super::consortium::{DELTA, ROUNDS, STEPS, cost, entries, plan};
use super::*;
use crate::privacy::{Decision, settlement};

impl Site {
    /// The database as it lies on the disk while no process runs.
    pub(super) async fn copied(mut self, server: &mut Server) -> (Self, Vec<u8>) {
        self.store.clone().close().await;
        let file = self.folder.path().join("site.sqlite");
        let copy = std::fs::read(&file).unwrap();
        self.store = SiteStore::open(&file).await.unwrap();
        server.store = self.store.clone();
        (self, copy)
    }

    /// Puts `copy` in place of the database; nothing at all for `None`.
    pub(super) async fn restored(mut self, server: &mut Server, copy: Option<&[u8]>) -> Self {
        self.store.clone().close().await;
        let file = self.folder.path().join("site.sqlite");
        std::fs::remove_file(&file).unwrap();
        if let Some(copy) = copy {
            std::fs::write(&file, copy).unwrap();
        }
        self.store = SiteStore::open(&file).await.unwrap();
        server.store = self.store.clone();
        self
    }

    async fn settle(&self, server: &Server, releases: u64) -> Result<(), Refusal> {
        let standing = Standing::read(&self.store).await.unwrap();
        let decision = Decision {
            releases,
            reason: "the disk was replaced".into(),
        };
        let now = Moment::from_unix_milliseconds(NOON);
        let study = &server.study;
        let round = plan(1.0).events(STEPS);
        let entries = settlement(&standing, study, &study.sites[0], &round, &decision, now)?;
        let rows: Vec<_> = entries
            .iter()
            .map(|entry| row(&study.name, entry))
            .collect();
        self.store.settle_ledger(&rows).await.unwrap();
        Ok(())
    }
}

#[tokio::test]
async fn a_ledger_from_a_backup_or_begun_anew_sends_nothing_until_it_is_settled() {
    for with_backup in [true, false] {
        let site = Site::with(100.0).await;
        let (mut server, work) = (site.server("first"), Work::private());
        // Killed after the updates of rounds 1 and 2 have arrived.
        server.script.lock().unwrap().dies_after = 1;
        site.run(&server, &work).await.unwrap_err();
        let (site, backup) = site.copied(&mut server).await;
        server.script.lock().unwrap().dies_after = 1;
        site.run(&server, &work).await.unwrap_err();
        assert_eq!(entries(&site.store).await.len(), 2);
        let copy = with_backup.then_some(&backup[..]);
        let site = site.restored(&mut server, copy).await;
        let kept = usize::from(with_backup);
        // Also by the next process, before it has asked the server.
        for _ in 0..2 {
            let (code, exit, error) = site.refused(&server, &work).await;
            assert_eq!(
                (code.as_str(), exit),
                ("privacy_ledger_behind", ExitCode::Refused)
            );
            let details = error.details.unwrap();
            assert_eq!(details["entries"], kept);
            assert_eq!(details["countersigned"], 2);
            assert_eq!(details["missing"], 2);
            assert!(error.hint.contains("--releases 2"), "{}", error.hint);
        }
        assert_eq!(server.arrived().len(), 2);
        assert_eq!(*work.trained.lock().unwrap(), 2);
        let told = server.script.lock().unwrap().told.pop().unwrap();
        assert_eq!(told.0.code, "privacy_ledger_behind");
        assert!(told.0.may_return && told.1);
        let too_few = site.settle(&server, 1).await.unwrap_err();
        assert_eq!(too_few.code(), "privacy_settlement_too_small");
        assert_eq!(entries(&site.store).await.len(), kept);
        site.settle(&server, 2).await.unwrap();
        let again = site.settle(&server, 2).await.unwrap_err();
        assert_eq!(again.code(), "privacy_nothing_to_settle");
        // The third round is trained, and what was lost is spent with it.
        site.run(&server, &work).await.unwrap();
        assert_eq!(server.arrived().len(), 3);
        let standing = Standing::read(&site.store).await.unwrap();
        let spent = standing.ledger.total().unwrap();
        assert_eq!(spent.epsilon(DELTA).unwrap(), cost(kept as u64 + 3));
        let settled = &standing.ledger.entries()[kept].record;
        assert_eq!((settled.round, settled.attempt), (0, 1));
        assert!(settled.purpose.ends_with(": the disk was replaced"));
        assert_eq!(standing.uncovered().count(), 0);
    }
}

#[tokio::test]
async fn what_is_lost_counts_against_the_budget() {
    let site = Site::with(cost(4)).await;
    let (mut server, work) = (site.server("first"), Work::private());
    server.script.lock().unwrap().dies_after = 1;
    site.run(&server, &work).await.unwrap_err();
    let (site, backup) = site.copied(&mut server).await;
    server.script.lock().unwrap().dies_after = 1;
    site.run(&server, &work).await.unwrap_err();
    let site = site.restored(&mut server, Some(&backup)).await;
    site.refused(&server, &work).await;
    // One more than is missing: the operator knows of it.
    site.settle(&server, 3).await.unwrap();
    let (code, ..) = site.refused(&server, &work).await;
    assert_eq!(code, "privacy_budget_exhausted");
    assert_eq!(server.arrived().len(), 2);
}

#[tokio::test]
async fn receipts_are_kept_beside_the_ledger_and_bound_what_may_be_missing() {
    let site = Site::with(100.0).await;
    let server = site.server("first");
    site.run(&server, &Work::private()).await.unwrap();
    let mut standing = Standing::read(&site.store).await.unwrap();
    let name = server.study.name.clone();
    assert_eq!(standing.countersigned.len(), ROUNDS as usize);
    assert_eq!(
        standing.countersigned.last(),
        Some(&(name.clone(), standing.head().unwrap()))
    );
    standing.check_all().unwrap();
    // Another ledger of the same length, and a longer one: all since the newest common entry may be missing.
    for (length, missing) in [(3, 1), (7, 4)] {
        let other = LedgerHead {
            length,
            head: Digest::of(b"other"),
        };
        standing.check(&name, &other).unwrap_err();
        assert_eq!(standing.missing(&name, &other), missing);
    }
    // A server of which this site has seen nothing yet.
    let stranger = "stranger".parse().unwrap();
    let other = LedgerHead {
        length: 2,
        head: Digest::of(b"other"),
    };
    assert_eq!(standing.missing(&stranger, &other), 2);
    standing.keep(stranger, other);
    assert!(standing.check_all().is_err());
}

#[tokio::test]
async fn a_receipt_about_another_site_or_study_is_not_taken() {
    let site = Site::with(100.0).await;
    let server = site.server("first");
    server.script.lock().unwrap().head = Some(LedgerHead {
        length: 1,
        head: Digest::of(b"x"),
    });
    server.script.lock().unwrap().receipt_of = Some("b".parse().unwrap());
    let (code, ..) = site.refused(&server, &Work::private()).await;
    assert_eq!(code, "server_protocol");
    assert!(site.store.receipts().await.unwrap().is_empty());
}

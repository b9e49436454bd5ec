use std::collections::BTreeMap;

use consilium_core::clock::Timestamp;
use consilium_core::study::{Aggregation, ModelChoice, Randomness, Schedule, WeightRule};
use consilium_core::{ModelManifest, RoundPlan, Seed};
use consilium_rounds::{Assignment, LedgerHead, Receipt, SiteEffect, Withdrawal};

use super::*;

fn study() -> Study {
    Study {
        protocol_version: 1,
        name: "stored".parse().unwrap(),
        randomness: Randomness::SimulationSeeded { seed: Seed(1) },
        model: ModelChoice {
            name: "none".into(),
            settings: serde_json::Value::Null,
        },
        manifest: ModelManifest::default(),
        initial_model_sha256: Digest::of(b"initial"),
        sites: Vec::new(),
        schedule: Schedule {
            rounds: 9,
            retry_rounds: 1,
            quorum: 1,
            deadline_seconds: 1,
        },
        training: serde_json::Value::Null,
        privacy: consilium_core::study::PrivacyMode::NoneSimulationOnly,
        aggregation: Aggregation {
            weights: WeightRule::EqualSite,
            minimum_holders: 2,
        },
    }
}

pub(in crate::site) fn groups(name: &str, values: &[f32]) -> ModelVector {
    ModelVector(BTreeMap::from([(name.parse().unwrap(), values.to_vec())]))
}

pub(in crate::site) fn plan(study: &Study, round: u32) -> RoundPlan {
    RoundPlan {
        study: study.digest(),
        round,
        attempt: 1,
        model: study.initial_model_sha256,
        deadline: Timestamp(0),
    }
}

/// An entry of the site's own log.
pub(in crate::site) fn note() -> Entry {
    Entry {
        at: Timestamp(0),
        event: consilium_transparency::Event::StudyAccepted {
            site: "a".parse().unwrap(),
            study: study().digest(),
        },
    }
}

pub(in crate::site) struct Opened {
    pub(in crate::site) store: SiteStore,
    pub(in crate::site) study: Study,
    pub(in crate::site) folder: tempfile::TempDir,
}

pub(in crate::site) async fn accepted() -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let store = SiteStore::open(&folder.path().join("site.sqlite"))
        .await
        .unwrap();
    let study = study();
    let document = serde_json::to_vec(&study).unwrap();
    store
        .accept(
            &study,
            &document,
            &groups("stem/own", &[0.0, -0.0]),
            Some("{\"mean\":[0.1]}"),
            &note(),
        )
        .await
        .unwrap();
    Opened {
        store,
        study,
        folder,
    }
}

impl Opened {
    /// As after a kill: what was committed is all there is.
    pub(in crate::site) async fn reopened(self) -> Self {
        let Self {
            store,
            study,
            folder,
        } = self;
        store.close().await;
        let store = SiteStore::open_existing(&folder.path().join("site.sqlite"))
            .await
            .unwrap();
        Self {
            store,
            study,
            folder,
        }
    }

    pub(in crate::site) async fn participation(&self) -> Participation {
        let accepted = self.store.accepted(&self.study.name).await.unwrap();
        accepted.unwrap().participation
    }

    /// Trains and seals round `round`, then learns whether the update was used.
    async fn play(&self, round: u32, used: bool) {
        let name = &self.study.name;
        let mut participation = self.participation().await;
        let update = groups("trunk", &[round as f32]);
        let _ = participation.seal(&plan(&self.study, round), update.sha256());
        let local = groups("stem/own", &[round as f32, 0.5]);
        self.store
            .seal(name, &participation, &update, &local, None, &note())
            .await
            .unwrap();
        let answer = Assignment {
            sealed_was_used: Some(used),
            ..Assignment::default()
        };
        let effects = participation.assigned(&self.study, &answer).unwrap();
        let fate = match effects[0] {
            SiteEffect::AdvanceLocalState { round } => Fate::Committed { round },
            _ => Fate::Dropped,
        };
        self.store
            .settle(name, &participation, Some(fate))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_sealed_update_survives_the_process_bit_for_bit() {
    let opened = accepted().await;
    let update = groups("trunk", &[1.5, f32::MIN_POSITIVE, -0.0]);
    let mut participation = opened.participation().await;
    let _ = participation.seal(&plan(&opened.study, 1), update.sha256());
    let local = groups("stem/own", &[9.0, 9.0]);
    let name = opened.study.name.clone();
    opened
        .store
        .seal(&name, &participation, &update, &local, None, &note())
        .await
        .unwrap();
    let opened = opened.reopened().await;
    assert_eq!(opened.participation().await, participation);
    let stored = opened
        .store
        .sealed_update(&name, update.sha256())
        .await
        .unwrap();
    assert_eq!(
        values_to_bytes(&stored.0[&"trunk".parse().unwrap()]),
        values_to_bytes(&[1.5, f32::MIN_POSITIVE, -0.0])
    );
    // The local groups trained with it are not the site's own yet.
    let own = opened.store.local_groups(&name, 9).await.unwrap();
    assert_eq!(own.round, 0);
}

#[tokio::test]
async fn local_groups_advance_with_the_receipt_and_not_without_it() {
    let opened = accepted().await;
    let name = opened.study.name.clone();
    opened.play(1, true).await;
    opened.play(2, false).await;
    let own = opened.store.local_groups(&name, 9).await.unwrap();
    assert_eq!(own.round, 1);
    assert_eq!(own.groups, groups("stem/own", &[1.0, 0.5]));
    assert_eq!(opened.participation().await.sealed, None);
    let lost = opened.store.sealed_update(&name, Digest::of(b"x")).await;
    assert_eq!(lost.unwrap_err().code(), "store_corrupt");
}

#[tokio::test]
async fn the_newest_two_versions_of_the_local_groups_are_kept() {
    let opened = accepted().await;
    for round in 1..=4 {
        opened.play(round, true).await;
    }
    let name = &opened.study.name;
    assert_eq!(opened.store.local_versions(name).await.unwrap(), [3, 4]);
    assert_eq!(opened.store.local_groups(name, 3).await.unwrap().round, 3);
}

#[tokio::test]
async fn the_received_model_replaces_the_one_before() {
    let opened = accepted().await;
    let name = &opened.study.name;
    assert_eq!(opened.store.received(name).await.unwrap(), None);
    for round in [0, 1] {
        let version = Version {
            round,
            groups: groups("trunk", &[round as f32]),
        };
        let model = Digest::of(&[round as u8]);
        opened.store.receive(name, model, &version).await.unwrap();
        let received = opened.store.received(name).await.unwrap();
        assert_eq!(received, Some((model, version)));
    }
}

#[tokio::test]
async fn what_is_held_are_the_local_groups_of_the_received_model_and_not_the_newest() {
    let opened = accepted().await;
    let name = opened.study.name.clone();
    assert_eq!(opened.store.held(&name).await.unwrap(), None);
    for round in 1..=3 {
        opened.play(round, true).await;
        if round == 2 {
            let version = Version {
                round,
                groups: groups("trunk", &[2.0]),
            };
            let model = Digest::of(b"two");
            opened.store.receive(&name, model, &version).await.unwrap();
        }
    }
    let held = opened.store.held(&name).await.unwrap().unwrap();
    assert_eq!((held.shared.round, held.local.round), (2, 2));
    assert_eq!(held.local.groups, groups("stem/own", &[2.0, 0.5]));
    assert_eq!(held.model, Digest::of(b"two"));
}

#[tokio::test]
async fn how_records_are_prepared_survives_the_process_byte_for_byte() {
    let opened = accepted().await.reopened().await;
    let accepted = opened.store.accepted(&opened.study.name).await.unwrap();
    assert_eq!(
        accepted.unwrap().preparation.as_deref(),
        Some("{\"mean\":[0.1]}")
    );
}

#[tokio::test]
async fn a_finished_study_keeps_its_metrics_and_its_traffic() {
    let opened = accepted().await;
    let name = opened.study.name.clone();
    let metrics = [("auroc", Some(0.75)), ("brier", None)].map(|(metric, value)| StoredMetric {
        split: "test".into(),
        metric: metric.into(),
        value,
    });
    let model = Digest::of(b"final");
    for _ in 0..2 {
        opened.store.finish(&name, model, &metrics).await.unwrap();
    }
    let version = Version {
        round: 9,
        groups: groups("trunk", &[1.0, 2.0]),
    };
    for _ in 0..2 {
        opened.store.receive(&name, model, &version).await.unwrap();
    }
    opened.store.count_delivered(&name, 4).await.unwrap();
    assert_eq!(opened.store.metrics(&name).await.unwrap(), metrics);
    let accepted = opened.store.accepted(&name).await.unwrap().unwrap();
    assert_eq!(accepted.final_model, Some(model));
    assert_eq!(accepted.traffic, Traffic { down: 16, up: 4 });
    assert_eq!(opened.store.studies().await.unwrap(), [name]);
}

#[tokio::test]
async fn a_schema_of_a_later_program_is_refused() {
    let opened = accepted().await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (99, 'later', TRUE, X'00', 0)",
    )
    .execute(&opened.store.pool)
    .await
    .unwrap();
    let path = opened.folder.path().join("site.sqlite");
    opened.store.close().await;
    let error = SiteStore::open(&path).await.unwrap_err();
    assert_eq!(error.code(), "store_unknown_schema");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.sqlite");
    std::fs::write(
        &path,
        "patient notes, many of them, and surely no database\n".repeat(100),
    )
    .unwrap();
    let before = std::fs::read(&path).unwrap();
    assert_eq!(
        SiteStore::open(&path).await.unwrap_err().code(),
        "store_unreadable"
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let missing = SiteStore::open_existing(&folder.path().join("none")).await;
    assert_eq!(missing.unwrap_err().code(), "store_missing");
}

#[tokio::test]
async fn a_full_disk_leaves_the_last_state() {
    let opened = accepted().await;
    let name = opened.study.name.clone();
    let before = opened.participation().await;
    // A page limit stands for the full disk: SQLite answers both with the same code.
    sqlx::query("PRAGMA max_page_count = 40")
        .execute(&opened.store.pool)
        .await
        .unwrap();
    let update = groups("trunk", &vec![1.0; 1 << 20]);
    let mut sealed = before.clone();
    let _ = sealed.seal(&plan(&opened.study, 1), update.sha256());
    let error = opened
        .store
        .seal(
            &name,
            &sealed,
            &update,
            &ModelVector::default(),
            None,
            &note(),
        )
        .await
        .unwrap_err();
    assert_eq!(error.code(), "store_disk_full");
    assert_eq!(opened.participation().await, before);
}

#[tokio::test]
async fn where_a_site_stopped_is_kept_until_it_goes_on() {
    let opened = accepted().await;
    let never_accepted = "another".parse().unwrap();
    let digest = opened.study.digest();
    let mut withdrawal = Withdrawal {
        round: 3,
        attempt: 1,
        code: "privacy_budget_exhausted".into(),
        reason: "no budget".into(),
        may_return: false,
    };
    for study in [&opened.study.name, &never_accepted] {
        assert_eq!(opened.store.halted(study).await.unwrap(), None);
        opened.store.halt(study, digest, &withdrawal).await.unwrap();
        opened.store.halt_was_told(study).await.unwrap();
    }
    // Another halt has not been told yet.
    withdrawal.round = 4;
    opened
        .store
        .halt(&never_accepted, digest, &withdrawal)
        .await
        .unwrap();
    let opened = opened.reopened().await;
    let told = async |study| {
        let halt = opened.store.halted(study).await.unwrap().unwrap();
        assert_eq!(halt.digest, digest);
        (halt.withdrawal.round, halt.told)
    };
    assert_eq!(told(&opened.study.name).await, (3, true));
    assert_eq!(told(&never_accepted).await, (4, false));
    opened.store.go_on(&never_accepted).await.unwrap();
    assert_eq!(opened.store.halted(&never_accepted).await.unwrap(), None);
    assert_eq!(told(&opened.study.name).await, (3, true));
}

#[tokio::test]
async fn receipts_of_a_ledger_are_only_added() {
    let opened = accepted().await;
    let name = &opened.study.name;
    let head = |length, of: &[u8]| LedgerHead {
        length,
        head: Digest::of(of),
    };
    let receipt = |of: &str| Receipt {
        statement: of.as_bytes().to_vec(),
        scheme: 0x0403,
        signature: vec![1, 2, 3],
        certificate: vec![4, 5],
    };
    let kept = [
        (head(1, b"one"), receipt("one")),
        (head(2, b"two"), receipt("two")),
        (head(2, b"another"), receipt("another")),
    ];
    for (head, receipt) in &kept {
        opened
            .store
            .keep_receipt(name, head, receipt)
            .await
            .unwrap();
    }
    // The same head signed again: the first one stays.
    let again = receipt("again");
    let kept_again = opened.store.keep_receipt(name, &kept[0].0, &again);
    kept_again.await.unwrap();
    for forbidden in [
        "DELETE FROM ledger_receipt",
        "UPDATE ledger_receipt SET length = 1 WHERE length = 2",
    ] {
        let refused = sqlx::query(forbidden).execute(&opened.store.pool).await;
        refused.expect_err(forbidden);
    }
    let mut got = opened.store.receipts().await.unwrap();
    assert_eq!(got.len(), 3);
    got.sort_by_key(|(_, _, receipt)| kept.iter().position(|(_, one)| one == receipt));
    for ((study, head, receipt), expected) in got.into_iter().zip(kept) {
        assert_eq!((&study, (head, receipt)), (name, expected));
    }
}

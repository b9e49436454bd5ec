//! Deadlines, lost updates and the end of a study.

use std::sync::atomic::Ordering;
use std::time::Duration;

use consilium_core::TensorSpec;
use consilium_proto::assignment_reply::End;
use consilium_proto::{
    AwaitAssignmentRequest, DownloadGroupRequest, digest_from_wire, digest_to_wire,
};
use consilium_rounds::{Outcome, Phase};

use crate::consortium::{Consortium, code, header, initial, initial_plus, study};

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_without_quorum_fails_the_attempt_and_then_the_study() {
    let consortium = Consortium::new().await;
    consortium.give("a", 0.5).await.unwrap();
    consortium.clock.0.store(60_000, Ordering::SeqCst);
    consortium.until(|state| state.closed.len() == 1).await;
    let state = consortium.running().consortium().coordination().await;
    assert_eq!(
        state.closed[0].outcome,
        Outcome::QuorumMissed {
            received: 1,
            quorum: 3
        }
    );
    assert_eq!(state.model, initial().sha256());
    let late = consortium.give("b", 0.5).await.unwrap_err();
    assert_eq!(code(&late), "update_late");
    consortium.clock.0.store(120_000, Ordering::SeqCst);
    consortium
        .until(|state| matches!(state.phase, Phase::Failed { .. }))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_with_quorum_commits_without_the_missing_site() {
    let mut study = study();
    study.schedule.quorum = 2;
    study.schedule.rounds = 1;
    study.aggregation.minimum_holders = 2;
    // With two holders the stem of modality m is shared as well.
    study.sites[1].modality = "n".parse().unwrap();
    study.sites[2].modality = "o".parse().unwrap();
    study.manifest.tensors.push(TensorSpec {
        name: "stem/o".into(),
        group: "stem/o".parse().unwrap(),
        shape: vec![3],
    });
    let consortium = Consortium::with(study, |blobs| blobs).await;
    for (site, value) in [("a", 0.5), ("b", 1.0)] {
        consortium.give(site, value).await.unwrap();
    }
    consortium.clock.0.store(60_000, Ordering::SeqCst);
    consortium
        .until(|state| state.committed_rounds() == 1)
        .await;
    let state = consortium.running().consortium().coordination().await;
    assert_eq!(state.closed[0].missing, ["c".parse().unwrap()]);
    assert_eq!(state.model, initial_plus(0.75).sha256());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_was_lost_or_damaged_ends_the_study_and_everybody_is_told() {
    for (damage, expected) in [("lost", "store_missing"), ("changed", "store_corrupt")] {
        let consortium = Consortium::new().await;
        for site in ["a", "b"] {
            consortium.give(site, 0.5).await.unwrap();
        }
        let mut update = consortium.upload("a", 0.5);
        let digest = digest_from_wire(&header(&mut update).digest, "digest").unwrap();
        let blob = consortium.blob(&digest);
        if damage == "lost" {
            std::fs::remove_file(blob).unwrap();
        } else {
            let mut bytes = std::fs::read(&blob).unwrap();
            bytes[9] ^= 1;
            std::fs::write(&blob, bytes).unwrap();
        }
        // Other values, so that the damaged file is not put in order by this one.
        consortium.give("c", 0.25).await.unwrap();
        consortium.until(|state| state.end().is_some()).await;
        let state = consortium.running().consortium().coordination().await;
        assert_eq!(state.model, initial().sha256());
        assert!(matches!(
            &state.closed[0].outcome,
            Outcome::SumFailed { code, .. } if code == expected
        ));
        let mut site = consortium.site("a").await;
        let told = site
            .await_assignment(AwaitAssignmentRequest {
                study: digest_to_wire(&consortium.study.digest()),
                ..AwaitAssignmentRequest::default()
            })
            .await
            .unwrap()
            .into_inner();
        let Some(End::Failure(reason)) = told.end else {
            panic!("{told:?}");
        };
        assert!(reason.contains(expected), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_study_had_ended_waits_only_for_sites_that_lack_something() {
    let mut study = study();
    study.schedule.rounds = 1;
    let mut consortium = Consortium::with(study, |blobs| blobs).await;
    for site in ["a", "b", "c"] {
        consortium.give(site, 0.5).await.unwrap();
    }
    consortium.until(|state| state.end().is_some()).await;
    let model = consortium.running().consortium().coordination().await.model;
    let fetch = async |consortium: &Consortium, name: &str| {
        let mut site = consortium.site(name).await;
        for group in ["head/t", "trunk"] {
            let request = DownloadGroupRequest {
                study: digest_to_wire(&consortium.study.digest()),
                model: digest_to_wire(&model),
                group: group.into(),
                offset: 0,
            };
            let mut values = site.download_group(request).await.unwrap().into_inner();
            while values.message().await.unwrap().is_some() {}
        }
    };
    let finished = async |consortium: &Consortium, within: u64| {
        let finished = consortium.running().until_finished();
        tokio::time::timeout(Duration::from_millis(within), finished).await
    };
    fetch(&consortium, "a").await;
    fetch(&consortium, "b").await;
    assert!(finished(&consortium, 300).await.is_err());
    // What the sites have is known to the next process, and to the one after it.
    consortium.restart(|blobs| blobs).await;
    assert!(finished(&consortium, 300).await.is_err());
    fetch(&consortium, "c").await;
    finished(&consortium, 20_000).await.unwrap().unwrap();
    consortium.restart(|blobs| blobs).await;
    finished(&consortium, 20_000).await.unwrap().unwrap();
}

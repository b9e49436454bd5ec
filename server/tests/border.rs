//! The real server behind real TLS, and peers that do not do what they should: each is refused with its
//! code, nothing is half-written, and the server goes on.

mod consortium;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use consilium_certs::{Authority, Validity};
use consilium_core::clock::Clock;
use consilium_core::study::PROTOCOL_VERSION;
use consilium_core::vector::values_to_bytes;
use consilium_core::{Digest, ModelVector, SiteId, TensorSpec};
use consilium_proto::assignment_reply::End;
use consilium_proto::{
    AwaitAssignmentRequest, DownloadGroupRequest, GetStudyRequest, GroupDigest, MAX_CHUNK_BYTES,
    Refused, UploadMessage, digest_from_wire, digest_to_wire,
};
use consilium_rounds::{Outcome, Phase};
use consilium_server::listen::start_with;
use consilium_strategies::average;
use consortium::{Consortium, bytes, careless_config, chunk, code, header, initial, study};

/// What turns a correct upload into a wrong one.
type Spoil = Box<dyn Fn(&mut Vec<UploadMessage>)>;

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_update_is_refused_with_its_code_and_leaves_nothing() {
    let consortium = Consortium::new().await;
    let before = consortium.blobs();
    let poison = |messages: &mut Vec<UploadMessage>, value: f32| {
        bytes(messages, 2, |bytes| {
            bytes[4..8].copy_from_slice(&value.to_le_bytes());
        });
    };
    let cases: Vec<(&str, Spoil)> = vec![
        ("site_mismatch", Box::new(|m| header(m).site = "b".into())),
        (
            "study_digest_mismatch",
            Box::new(|m| header(m).study = digest_to_wire(&Digest::of(b"x"))),
        ),
        (
            "message_malformed",
            Box::new(|m| header(m).study = vec![1, 2, 3]),
        ),
        (
            "message_malformed",
            Box::new(|m| header(m).digest = vec![0; 31]),
        ),
        ("message_malformed", Box::new(|m| drop(m.remove(0)))),
        ("update_round_not_open", Box::new(|m| header(m).round = 2)),
        ("update_round_not_open", Box::new(|m| header(m).attempt = 2)),
        (
            "update_wrong_groups",
            Box::new(|m| header(m).groups[1].group = "stem/m".into()),
        ),
        (
            "update_wrong_groups",
            Box::new(|m| header(m).groups.truncate(1)),
        ),
        (
            "update_wrong_groups",
            Box::new(|m| header(m).groups.reverse()),
        ),
        (
            "update_wrong_length",
            Box::new(|m| header(m).groups[1].values += 1),
        ),
        (
            "update_wrong_length",
            Box::new(|m| header(m).groups[1].values = u64::MAX),
        ),
        (
            "update_wrong_shape",
            Box::new(|m| chunk(m, 1).group = "trunk".into()),
        ),
        ("update_wrong_shape", Box::new(|m| chunk(m, 2).offset = 1)),
        (
            "update_wrong_shape",
            Box::new(|m| chunk(m, 2).offset = u64::MAX),
        ),
        (
            "update_wrong_shape",
            Box::new(|m| bytes(m, 2, |bytes| bytes.truncate(7))),
        ),
        (
            "update_wrong_shape",
            Box::new(|m| chunk(m, 2).values.clear()),
        ),
        (
            "update_wrong_shape",
            Box::new(|m| bytes(m, 2, |bytes| bytes.extend([0; 4]))),
        ),
        ("update_wrong_shape", Box::new(|m| m.truncate(2))),
        ("update_wrong_shape", Box::new(|m| m.push(m[2].clone()))),
        ("update_not_finite", Box::new(move |m| poison(m, f32::NAN))),
        (
            "update_not_finite",
            Box::new(move |m| poison(m, f32::NEG_INFINITY)),
        ),
        (
            "update_out_of_range",
            Box::new(move |m| poison(m, 40_000.0)),
        ),
        ("update_digest_mismatch", Box::new(move |m| poison(m, 0.25))),
        (
            "chunk_too_large",
            Box::new(|m| chunk(m, 2).values = vec![0; MAX_CHUNK_BYTES + 4].into()),
        ),
    ];
    for (index, (expected, spoil)) in cases.iter().enumerate() {
        let mut messages = consortium.upload("a", 0.5);
        spoil(&mut messages);
        let refused = consortium.send("a", messages).await.unwrap_err();
        assert_eq!(code(&refused), *expected, "case {index}");
        assert_eq!(
            consortium.blobs(),
            before,
            "case {index} ({expected}) left a file"
        );
    }
    assert!(consortium.received().await.is_empty());
    // The server is alive and still takes the right one.
    assert!(
        !consortium
            .send("a", consortium.upload("a", 0.5))
            .await
            .unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_beyond_the_limit_is_refused_and_the_server_goes_on() {
    let consortium = Consortium::new().await;
    let mut messages = consortium.upload("a", 0.5);
    chunk(&mut messages, 2).values = vec![0; 8 << 20].into();
    let refused = consortium.send("a", messages).await.unwrap_err();
    assert_eq!(code(&refused), "message_too_large");
    assert!(!Refused::from_status(&refused).unwrap().hint.is_empty());
    assert!(
        !consortium
            .send("a", consortium.upload("a", 0.5))
            .await
            .unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_upload_is_harmless_and_a_changed_one_is_refused() {
    let consortium = Consortium::new().await;
    assert!(
        !consortium
            .send("a", consortium.upload("a", 0.5))
            .await
            .unwrap()
    );
    assert!(
        consortium
            .send("a", consortium.upload("a", 0.5))
            .await
            .unwrap()
    );
    let changed = consortium
        .send("a", consortium.upload("a", 0.75))
        .await
        .unwrap_err();
    assert_eq!(code(&changed), "update_conflicting");
    for site in ["b", "c"] {
        consortium
            .send(site, consortium.upload(site, 0.5))
            .await
            .unwrap();
    }
    consortium
        .until(|state| state.committed_rounds() == 1)
        .await;
    // A replay of round 1 after its commit changes nothing either.
    assert!(
        consortium
            .send("a", consortium.upload("a", 0.5))
            .await
            .unwrap()
    );
    assert!(consortium.received().await.is_empty());
    let late = consortium
        .send("b", consortium.upload("b", 0.125))
        .await
        .unwrap_err();
    assert_eq!(code(&late), "update_conflicting");
    // One and not two halves were added: the average of three equal updates is the update.
    let model = consortium.running().consortium().coordination().await.model;
    let expected = ModelVector(
        initial()
            .0
            .into_iter()
            .map(|(g, v)| (g, v.iter().map(|x| x + 0.5).collect()))
            .collect(),
    );
    assert_eq!(model, expected.sha256());
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_other_studies_and_other_protocols_are_refused() {
    let consortium = Consortium::new().await;
    let ask = |protocol_version, study: &str| GetStudyRequest {
        protocol_version,
        study: study.into(),
    };
    let mut stranger = consortium.site("stranger").await;
    let refused = stranger
        .get_study(ask(PROTOCOL_VERSION, "border"))
        .await
        .unwrap_err();
    assert_eq!(code(&refused), "site_not_in_study");
    let mut site = consortium.site("a").await;
    let refused = site
        .get_study(ask(PROTOCOL_VERSION, "another"))
        .await
        .unwrap_err();
    assert_eq!(code(&refused), "study_unknown");
    let refused = site
        .get_study(ask(PROTOCOL_VERSION + 1, "border"))
        .await
        .unwrap_err();
    assert_eq!(code(&refused), "protocol_version");
    let refused = site
        .await_assignment(AwaitAssignmentRequest {
            study: digest_to_wire(&Digest::of(b"another")),
            ..AwaitAssignmentRequest::default()
        })
        .await
        .unwrap_err();
    assert_eq!(code(&refused), "study_digest_mismatch");
    let document = site
        .get_study(ask(PROTOCOL_VERSION, "border"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(Digest::of(&document.document), consortium.study.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_below_the_minimum_of_holders_is_never_served() {
    let consortium = Consortium::new().await;
    let mut site = consortium.site("a").await;
    let study = digest_to_wire(&consortium.study.digest());
    let model = digest_to_wire(&consortium.study.initial_model_sha256);
    let ask = |group: &str, offset, model: &[u8]| DownloadGroupRequest {
        study: study.clone(),
        model: model.to_vec(),
        group: group.into(),
        offset,
    };
    for group in ["stem/m", "stem/n", "head/other", "../../server.sqlite", ""] {
        let refused = site
            .download_group(ask(group, 0, &model))
            .await
            .unwrap_err();
        assert_eq!(code(&refused), "group_not_shared", "{group:?}");
    }
    let unknown = digest_to_wire(&Digest::of(b"no such model"));
    let refused = site
        .download_group(ask("trunk", 0, &unknown))
        .await
        .unwrap_err();
    assert_eq!(code(&refused), "model_unknown");
    assert!(Refused::from_status(&refused).unwrap().retryable);
    let refused = site
        .download_group(ask("trunk", 6, &model))
        .await
        .unwrap_err();
    assert_eq!(code(&refused), "offset_beyond_end");
    let mut stream = site
        .download_group(ask("trunk", 3, &model))
        .await
        .unwrap()
        .into_inner();
    let rest = stream.message().await.unwrap().unwrap();
    assert_eq!(rest.values, values_to_bytes(&[0.0, 0.0]));
    assert!(stream.message().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_changed_on_the_disk_is_neither_announced_nor_sent_as_a_good_one() {
    let mut consortium = Consortium::new().await;
    let study = digest_to_wire(&consortium.study.digest());
    let model = consortium.study.initial_model_sha256;
    let question = AwaitAssignmentRequest {
        study: study.clone(),
        ..AwaitAssignmentRequest::default()
    };
    let download = DownloadGroupRequest {
        study,
        model: digest_to_wire(&model),
        group: "trunk".into(),
        offset: 0,
    };
    let mut site = consortium.site("a").await;
    let announced = site.await_assignment(question.clone()).await.unwrap();
    let announced: Vec<_> = announced.into_inner().groups;
    let digest = |group: &str| {
        let values = &initial().0[&group.parse().unwrap()];
        digest_to_wire(&Digest::of(&values_to_bytes(values)))
    };
    let expected = ["head/t", "trunk"].map(|group| GroupDigest {
        group: group.into(),
        digest: digest(group),
    });
    assert_eq!(announced, expected);
    let blob = consortium.blob(&model);
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes.iter_mut().step_by(4).for_each(|byte| *byte ^= 1);
    std::fs::write(&blob, bytes).unwrap();
    // The digests are those of the model that was announced.
    let mut values = site
        .download_group(download.clone())
        .await
        .unwrap()
        .into_inner();
    assert!(values.message().await.unwrap().is_some());
    let refused = values.message().await.unwrap_err();
    assert_eq!(code(&refused), "store_corrupt");
    // A new process reads the blob, and finds that it is not what its name says.
    consortium.running.take().unwrap().stop().await;
    consortium.start(|blobs| blobs).await;
    let mut site = consortium.site("a").await;
    let refused = site.await_assignment(question).await.unwrap_err();
    assert_eq!(code(&refused), "store_corrupt");
    let refused = site.download_group(download).await.unwrap_err();
    assert_eq!(code(&refused), "store_corrupt");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_was_lost_or_damaged_ends_the_study_and_everybody_is_told() {
    for (damage, expected) in [("lost", "store_missing"), ("changed", "store_corrupt")] {
        let consortium = Consortium::new().await;
        for site in ["a", "b"] {
            let update = consortium.upload(site, 0.5);
            consortium.send(site, update).await.unwrap();
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
        let last = consortium.upload("c", 0.25);
        consortium.send("c", last).await.unwrap();
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
        let update = consortium.upload(site, 0.5);
        consortium.send(site, update).await.unwrap();
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
    consortium.running.take().unwrap().stop().await;
    consortium.start(|blobs| blobs).await;
    assert!(finished(&consortium, 300).await.is_err());
    fetch(&consortium, "c").await;
    finished(&consortium, 20_000).await.unwrap().unwrap();
    consortium.running.take().unwrap().stop().await;
    consortium.start(|blobs| blobs).await;
    finished(&consortium, 20_000).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_connect_and_say_nothing_hold_nobody_up() {
    let consortium = Consortium::new().await;
    let address = consortium.running().address;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    let served = async { consortium.send("a", consortium.upload("a", 0.5)).await };
    let within = tokio::time::timeout(Duration::from_secs(5), served).await;
    assert!(!within.expect("the site is served").unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_sends_one_update_at_a_time_and_the_newer_upload_counts() {
    let consortium = Consortium::new().await;
    let before = consortium.blobs();
    // The first stands still after its header, as on a connection that was lost without a word.
    let (sender, messages) = tokio::sync::mpsc::channel(4);
    let mut update = consortium.upload("a", 0.5).into_iter();
    sender.send(update.next().unwrap()).await.unwrap();
    let mut site = consortium.site("a").await;
    let stalled = tokio::spawn(async move {
        let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
        site.upload_update(messages).await
    });
    while consortium.blobs() == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        !consortium
            .send("a", consortium.upload("a", 0.5))
            .await
            .unwrap()
    );
    let refused = stalled.await.unwrap().unwrap_err();
    assert_eq!(code(&refused), "upload_superseded");
    assert!(Refused::from_status(&refused).unwrap().retryable);
    // Only the update of the second is there.
    assert_eq!(consortium.blobs(), before + 1);
    drop(sender);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_several_chunks_has_the_bits_of_the_average_in_memory() {
    const LONG: usize = 600_000;
    let mut study = study();
    study.schedule.rounds = 1;
    study.manifest.tensors[0].shape = vec![LONG];
    let values = |seed: usize, scale: f32| -> Vec<f32> {
        let value = |index| ((index * 7919 + seed * 104_729) % 10_007) as f32 - 5003.0;
        (0..LONG).map(|index| value(index) * scale).collect()
    };
    let vector = |head: f32, trunk: Vec<f32>| {
        ModelVector(
            [
                ("head/t".parse().unwrap(), vec![head, -head]),
                ("trunk".parse().unwrap(), trunk),
            ]
            .into(),
        )
    };
    let initial = vector(1.0, values(0, 1e-3));
    study.initial_model_sha256 = initial.sha256();
    let consortium = Consortium::of(study, &initial, |blobs| blobs).await;
    let updates: BTreeMap<SiteId, ModelVector> = ["a", "b", "c"]
        .into_iter()
        .zip(1..)
        .map(|(site, seed)| {
            let update = vector(0.1 * seed as f32, values(seed, 3.3e-5));
            (site.parse().unwrap(), update)
        })
        .collect();
    for (site, update) in &updates {
        let messages = consortium.upload_of(site.as_str(), update);
        assert!(messages.len() > 4, "several chunks");
        consortium.send(site.as_str(), messages).await.unwrap();
    }
    consortium.until(|state| state.end().is_some()).await;
    let expected = average(&consortium.study, &initial, &updates).unwrap();
    let model = consortium.running().consortium().coordination().await.model;
    assert_eq!(model, expected.sha256());
    // From the beginning, and from the middle of a chunk on.
    for offset in [0, 300_001] {
        let request = DownloadGroupRequest {
            study: digest_to_wire(&consortium.study.digest()),
            model: digest_to_wire(&model),
            group: "trunk".into(),
            offset: offset as u64,
        };
        let mut site = consortium.site("b").await;
        let mut chunks = site.download_group(request).await.unwrap().into_inner();
        let (mut bytes, mut count) = (Vec::new(), 0);
        while let Some(chunk) = chunks.message().await.unwrap() {
            assert!(chunk.values.len() <= MAX_CHUNK_BYTES);
            bytes.extend(chunk.values);
            count += 1;
        }
        assert!(count > 1);
        let trunk = &expected.0[&"trunk".parse().unwrap()];
        assert!(bytes == values_to_bytes(&trunk[offset..]), "from {offset}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_expired_and_absent_certificates_reach_no_call() {
    let consortium = Consortium::new().await;
    let (certs, authority) = (
        consortium.certs(),
        Authority::open(&consortium.certs()).unwrap(),
    );
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = Authority::create(elsewhere.path(), "another consortium").unwrap();
    foreign
        .issue_site(&"a".parse().unwrap(), elsewhere.path())
        .unwrap();
    let old = consortium.folder.path().join("old");
    authority
        .issue_site_for(&"a".parse().unwrap(), &old, Validity::days(-1))
        .unwrap();
    let ask = GetStudyRequest {
        protocol_version: PROTOCOL_VERSION,
        study: "border".into(),
    };
    let careless = [
        (
            "foreign",
            Some((
                elsewhere.path().join("a.pem"),
                elsewhere.path().join("a.key"),
            )),
        ),
        ("expired", Some((old.join("a.pem"), old.join("a.key")))),
        (
            "the server's own",
            Some((certs.join("server.pem"), certs.join("server.key"))),
        ),
        ("none", None),
    ];
    for (what, files) in careless {
        // In TLS 1.3 the connection may look open to the client; then its first call must fail.
        if let Ok(mut client) = consortium
            .connect_with(careless_config(&certs, files))
            .await
        {
            let refused = client.get_study(ask.clone()).await.unwrap_err();
            assert_eq!(
                Refused::from_status(&refused),
                None,
                "{what} reached a call: {refused:?}"
            );
        }
    }
    // Plain TCP without any TLS gets no answer that could be a call.
    let mut tcp = tokio::net::TcpStream::connect(consortium.running().address)
        .await
        .unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut tcp, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut tcp, &mut answer).await;
    assert!(!answer.windows(4).any(|window| window == b"grpc"));
    // And the right one is served.
    assert!(consortium.site("a").await.get_study(ask).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_without_quorum_fails_the_attempt_and_then_the_study() {
    let consortium = Consortium::new().await;
    consortium
        .send("a", consortium.upload("a", 0.5))
        .await
        .unwrap();
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
    let late = consortium
        .send("b", consortium.upload("b", 0.5))
        .await
        .unwrap_err();
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
        consortium
            .send(site, consortium.upload(site, value))
            .await
            .unwrap();
    }
    consortium.clock.0.store(60_000, Ordering::SeqCst);
    consortium
        .until(|state| state.committed_rounds() == 1)
        .await;
    let state = consortium.running().consortium().coordination().await;
    assert_eq!(state.closed[0].missing, ["c".parse().unwrap()]);
    let expected = ModelVector(
        initial()
            .0
            .into_iter()
            .map(|(g, v)| (g, v.iter().map(|x| x + 0.75).collect()))
            .collect(),
    );
    assert_eq!(state.model, expected.sha256());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_the_update_leaves_nothing_and_takes_it_once_there_is_room() {
    // Room for the initial model of 7 values but not for the update's 7 after a restart with less.
    let mut consortium = Consortium::new().await;
    let before = consortium.blobs();
    consortium.running.take().unwrap().stop().await;
    consortium.start(|blobs| blobs.with_room_for(12)).await;
    let refused = consortium
        .send("a", consortium.upload("a", 0.5))
        .await
        .unwrap_err();
    assert_eq!(code(&refused), "store_disk_full");
    assert!(Refused::from_status(&refused).unwrap().retryable);
    assert_eq!(consortium.blobs(), before);
    consortium.running.take().unwrap().stop().await;
    consortium.start(|blobs| blobs).await;
    assert!(
        !consortium
            .send("a", consortium.upload("a", 0.5))
            .await
            .unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_what_was_stored_and_a_taken_port_or_state_folder_is_named() {
    let mut consortium = Consortium::new().await;
    consortium
        .send("a", consortium.upload("a", 0.5))
        .await
        .unwrap();
    let mut config = consortium.config();
    config.listen = consortium.running().address;
    let clock: Arc<dyn Clock> = Arc::clone(&consortium.clock) as _;
    let taken = start_with(&config, clock, |blobs| blobs)
        .await
        .err()
        .unwrap();
    assert_eq!(taken.code, "port_in_use");
    // Another port does not help: two servers would drive the same rounds.
    let clock: Arc<dyn Clock> = Arc::clone(&consortium.clock) as _;
    let second = start_with(&consortium.config(), clock, |blobs| blobs).await;
    let taken = second.err().unwrap();
    assert_eq!(taken.code, "state_in_use");
    assert!(taken.location.unwrap().ends_with("state"));
    consortium.running.take().unwrap().stop().await;
    consortium.start(|blobs| blobs).await;
    assert_eq!(consortium.received().await, ["a".parse().unwrap()]);
    for site in ["b", "c"] {
        consortium
            .send(site, consortium.upload(site, 0.5))
            .await
            .unwrap();
    }
    consortium
        .until(|state| state.committed_rounds() == 1)
        .await;
}

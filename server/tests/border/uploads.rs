//! Updates that are wrong, repeated, stalled or too many: refused with a code, and nothing half-written.

use std::time::Duration;

use consilium_core::Digest;
use consilium_proto::{MAX_CHUNK_BYTES, Refused, UploadMessage, digest_to_wire};

use crate::consortium::{Consortium, bytes, chunk, code, header, initial_plus};

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
    assert!(!consortium.give("a", 0.5).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_beyond_the_limit_is_refused_and_the_server_goes_on() {
    let consortium = Consortium::new().await;
    let mut messages = consortium.upload("a", 0.5);
    chunk(&mut messages, 2).values = vec![0; 8 << 20].into();
    let refused = consortium.send("a", messages).await.unwrap_err();
    assert_eq!(code(&refused), "message_too_large");
    assert!(!Refused::from_status(&refused).unwrap().hint.is_empty());
    assert!(!consortium.give("a", 0.5).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_upload_is_harmless_and_a_changed_one_is_refused() {
    let consortium = Consortium::new().await;
    assert!(!consortium.give("a", 0.5).await.unwrap());
    assert!(consortium.give("a", 0.5).await.unwrap());
    let changed = consortium.give("a", 0.75).await.unwrap_err();
    assert_eq!(code(&changed), "update_conflicting");
    for site in ["b", "c"] {
        consortium.give(site, 0.5).await.unwrap();
    }
    consortium
        .until(|state| state.committed_rounds() == 1)
        .await;
    // A replay of round 1 after its commit changes nothing either.
    assert!(consortium.give("a", 0.5).await.unwrap());
    assert!(consortium.received().await.is_empty());
    let late = consortium.give("b", 0.125).await.unwrap_err();
    assert_eq!(code(&late), "update_conflicting");
    // One and not two halves were added: the average of three equal updates is the update.
    let model = consortium.running().consortium().coordination().await.model;
    assert_eq!(model, initial_plus(0.5).sha256());
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
    assert!(!consortium.give("a", 0.5).await.unwrap());
    let refused = stalled.await.unwrap().unwrap_err();
    assert_eq!(code(&refused), "upload_superseded");
    assert!(Refused::from_status(&refused).unwrap().retryable);
    // Only the update of the second is there.
    assert_eq!(consortium.blobs(), before + 1);
    drop(sender);
}

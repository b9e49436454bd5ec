//! What sites are shown, and what the server takes from them.

use consilium_core::clock::Timestamp;

use super::*;
use consortium::code;

fn wanted(site: &str, update: Digest) -> Wanted {
    Wanted {
        site: site.parse().unwrap(),
        round: 1,
        attempt: 1,
        update,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_finds_its_own_update_and_nobody_elses_in_its_place() {
    let consortium = Consortium::today(study()).await;
    let mut a = Reader::new("a");
    a.accept(&consortium).await;
    consortium.give("a", 0.5).await.unwrap();
    let digest = consortium::header(&mut consortium.upload("a", 0.5))
        .digest
        .clone();
    let digest = consilium_proto::digest_from_wire(&digest, "digest").unwrap();
    assert_eq!(
        a.witness(&consortium, &[wanted("a", digest)]).await.len(),
        1
    );
    let view = a.view(&consortium, &[(1, 1)]).await;
    let seen = a.seen();
    for other in [
        wanted("a", Digest::of(b"other values")),
        wanted("b", digest),
        Wanted {
            round: 2,
            ..wanted("a", digest)
        },
    ] {
        let missing = view.judge(seen.as_ref(), &[other], None).unwrap_err();
        assert_eq!(missing.code(), "log_update_missing");
    }
    // An entry that says the right thing and is not in the tree.
    let mut false_place = view.clone();
    false_place.updates[0].index += 1;
    let missing = false_place.judge(seen.as_ref(), &[wanted("a", digest)], None);
    assert_eq!(missing.unwrap_err().code(), "log_update_missing");
    // Another site's update is not shown.
    let b = Reader::new("b");
    assert!(b.view(&consortium, &[(1, 1)]).await.updates.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn sites_see_what_the_others_have_counter_signed_and_not_their_own() {
    let (consortium, mut readers) = two_rounds().await;
    let view = readers[0].view(&consortium, &[]).await;
    let mut others: Vec<String> = view
        .others
        .iter()
        .map(|other| {
            other
                .witnessed
                .says::<Witnessed>()
                .unwrap()
                .site
                .to_string()
        })
        .collect();
    others.sort();
    assert_eq!(others, ["b", "c"]);
    readers[0].witness(&consortium, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_signature_of_a_head_that_the_server_has_not_signed_is_refused() {
    let (consortium, readers) = two_rounds().await;
    let signer = Signer::of(&consortium.identity("a")).unwrap();
    let mut said: Witnessed = readers[0].witnessed[0].says().unwrap();
    said.head.root = Digest::of(b"made up");
    let refused = counter_sign(&consortium, "a", &sign(&signer, &said)).await;
    assert_eq!(code(&refused.unwrap_err()), "log_head_unknown");
    // In time to come, when the certificate is not valid any more; and longer than it need be.
    let known: Witnessed = readers[0].witnessed[1].says().unwrap();
    let mut later = known.clone();
    later.at.0 += 1 << 40;
    let mut padded = known.bytes();
    padded.extend([b' '; 999]);
    let signature = signer.sign(&Witnessed::signed_bytes(&padded)).unwrap();
    let padded = Signed {
        statement: padded,
        signature: signature.bytes,
        ..sign(&signer, &known)
    };
    for bad in [sign(&signer, &later), padded] {
        let refused = counter_sign(&consortium, "a", &bad).await;
        assert_eq!(code(&refused.unwrap_err()), "log_witness_refused");
    }
    let nonsense = Signed {
        statement: b"{}".to_vec(),
        ..sign(&signer, &said)
    };
    let refused = counter_sign(&consortium, "a", &nonsense).await;
    assert_eq!(code(&refused.unwrap_err()), "log_witness_refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_signed_once_for_each_length_and_outlives_a_restart() {
    let mut consortium = Consortium::today(study()).await;
    let a = Reader::new("a");
    let first = a.view(&consortium, &[]).await.head;
    assert_eq!(a.view(&consortium, &[]).await.head, first);
    consortium.restart(|blobs| blobs).await;
    // With what the server runs is told once, so that a restart adds nothing.
    assert_eq!(a.view(&consortium, &[]).await.head, first);
    consortium.give("a", 0.5).await.unwrap();
    let next: Head = a.view(&consortium, &[]).await.head.says().unwrap();
    assert_eq!(next.size, first.says::<Head>().unwrap().size + 1);
    assert!(next.at > Timestamp(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_wanted_updates_are_refused() {
    let consortium = Consortium::today(study()).await;
    let request = ReadLogRequest {
        study: digest_to_wire(&consortium.study.digest()),
        seen: u64::MAX,
        updates: vec![Attempt::default(); 65],
        committed: 0,
    };
    let mut client = consortium.site("a").await;
    let refused = client.read_log(request.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "message_malformed");
    // A site that says it has seen more than there is, is shown what there is.
    let updates = Vec::new();
    let reply = client.read_log(ReadLogRequest { updates, ..request }).await;
    let view = view_from_wire(&reply.unwrap().into_inner()).unwrap();
    let head: Head = view.head.says().unwrap();
    let seen = Head {
        size: head.size + 1,
        ..head
    };
    let judged = view.judge(Some(&seen), &[], None).unwrap_err();
    assert_eq!(judged.code(), "log_rewritten");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_took_part_in_a_round_must_have_seen_the_log_since_it_was_opened() {
    let consortium = Consortium::today(study()).await;
    let mut readers = ["a", "b", "c"].map(Reader::new);
    // The third gives an update and never looks at the log.
    for reader in &mut readers[..2] {
        reader.witness(&consortium, &[]).await;
    }
    first_round(&consortium).await;
    let model = consortium.running().consortium().coordination().await.model;
    let site = "a".parse().unwrap();
    let expected = Expected {
        site: &site,
        round: 1,
        model,
        quorum: 3,
    };
    let judge = |view: &View, expected: &Expected<'_>| view.judge(None, &[], Some(expected));
    let a = Reader::new("a");
    let unseen = a.view_after(&consortium, &[], 1).await;
    let refused = judge(&unseen, &expected).unwrap_err();
    assert_eq!(refused.code(), "log_not_witnessed");
    assert!(refused.to_string().contains("site c"), "{refused}");
    readers[2].witness(&consortium, &[]).await;
    let seen = a.view_after(&consortium, &[], 1).await;
    judge(&seen, &expected).unwrap();
    // Somebody's word from before the round, or none at all, is not enough.
    let mut silent = seen.clone();
    silent.others.truncate(1);
    let refused = judge(&silent, &expected).unwrap_err();
    assert_eq!(refused.code(), "log_not_witnessed");
    let mut nowhere = seen.clone();
    nowhere.committed.as_mut().unwrap().opened.index += 1;
    for (view, expected) in [
        (&nowhere, expected),
        (&a.view_after(&consortium, &[], 2).await, expected),
        (
            &seen,
            Expected {
                quorum: 4,
                ..expected
            },
        ),
        (
            &seen,
            Expected {
                model: Digest::of(b"another"),
                ..expected
            },
        ),
        (
            &seen,
            Expected {
                round: 2,
                ..expected
            },
        ),
    ] {
        let refused = judge(view, &expected).unwrap_err();
        assert_eq!(refused.code(), "log_round_missing");
    }
}

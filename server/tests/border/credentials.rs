//! Certificates and lists of revoked ones that change while the server runs.

use std::time::{Duration, Instant};

use consilium_certs::{Authority, Peer};
use consilium_proto::{Attempt, AwaitAssignmentRequest, Refused, digest_to_wire};

use crate::consortium::{Consortium, code};
use crate::peers::{ask, files, told};

/// Repeats `attempt` until it gives something; the files of a server are read again every two seconds.
async fn soon<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..100 {
        if let Some(found) = attempt().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it did not come within ten seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_site_is_refused_without_a_restart_in_a_call_that_waits_and_in_every_later_one() {
    let consortium = Consortium::new().await;
    let authority = Authority::open(&consortium.certs(), None).unwrap();
    let mut waiting = consortium.site("a").await;
    let mut open = consortium.site("a").await;
    let mut other = consortium.site("b").await;
    open.get_study(ask()).await.unwrap();
    let plan = AwaitAssignmentRequest {
        study: digest_to_wire(&consortium.study.digest()),
        known: Some(Attempt {
            round: 1,
            attempt: 1,
        }),
        wait_milliseconds: 60_000,
        ..AwaitAssignmentRequest::default()
    };
    let began = Instant::now();
    let call = tokio::spawn(async move { waiting.await_assignment(plan).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    authority.revoke("a").unwrap();
    let refused = call.await.unwrap().unwrap_err();
    assert_eq!(code(&refused), "certificate_revoked");
    assert!(began.elapsed() < Duration::from_secs(20));
    let words = Refused::from_status(&refused).unwrap();
    assert!(
        words.message.contains("certificate of a was revoked"),
        "{words:?}"
    );
    assert_eq!(
        code(&open.get_study(ask()).await.unwrap_err()),
        "certificate_revoked"
    );
    let anew = told(&consortium, files(&consortium.certs(), "a")).await;
    assert_eq!(anew, "certificate_revoked");
    // Nobody else is touched, and the site may come back with another certificate.
    other.get_study(ask()).await.unwrap();
    let again = consortium.folder.path().join("again");
    authority.issue_site(&"a".parse().unwrap(), &again).unwrap();
    let back = consortium
        .connect(crate::consortium::load(&again, "a"))
        .await;
    back.unwrap().get_study(ask()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_older_forged_or_gone_gives_no_certificate_back() {
    let consortium = Consortium::new().await;
    let certs = consortium.certs();
    let authority = Authority::open(&certs, None).unwrap();
    let list = authority.revocations_file();
    let older = std::fs::read(&list).unwrap();
    authority.revoke("a").unwrap();
    let revoked = || async { told(&consortium, files(&certs, "a")).await };
    soon(async || (revoked().await == "certificate_revoked").then_some(())).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let forger = Authority::create_with_unencrypted_key(elsewhere.path(), "test").unwrap();
    forger.renew_revocations().unwrap();
    let forged = std::fs::read(forger.revocations_file()).unwrap();
    for bytes in [Some(older), Some(forged), Some(b"nothing".to_vec()), None] {
        match bytes {
            Some(bytes) => std::fs::write(&list, bytes).unwrap(),
            None => std::fs::remove_file(&list).unwrap(),
        }
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(revoked().await, "certificate_revoked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_renewed_certificate_is_shown_to_the_next_connection() {
    let consortium = Consortium::new().await;
    let certs = consortium.certs();
    let authority = Authority::open(&certs, None).unwrap();
    let mut before = consortium.site("a").await;
    before.get_study(ask()).await.unwrap();
    let next = authority.renew_server(&certs.join("server.pem")).unwrap();
    let shown = soon(async || {
        let shown = consortium.shown_certificate().await;
        (shown == next.certificate.to_vec()).then_some(shown)
    });
    assert_eq!(Peer::of(&shown.await).unwrap().serial, next.peer.serial);
    before.get_study(ask()).await.unwrap();
}

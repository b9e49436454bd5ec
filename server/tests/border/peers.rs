//! Who is answered at all.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use consilium_certs::{Authority, Peer, Role, SigningRequest, Validity, make_key, write_public};
use consilium_core::Digest;
use consilium_core::study::PROTOCOL_VERSION;
use consilium_proto::{
    Attempt, AwaitAssignmentRequest, GetStudyReply, GetStudyRequest, Refused, digest_to_wire,
};
use rustls::AlertDescription;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::consortium::{Consortium, careless_config, code};

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
async fn peers_that_connect_and_say_nothing_hold_nobody_up() {
    let consortium = Consortium::new().await;
    let address = consortium.running().address;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let served = async { consortium.give("a", 0.5).await };
    let within = tokio::time::timeout(Duration::from_secs(5), served).await;
    assert!(!within.expect("the site is served").unwrap());
}

fn ask() -> GetStudyRequest {
    GetStudyRequest {
        protocol_version: PROTOCOL_VERSION,
        study: "border".into(),
    }
}

/// What a peer with these files, which looks at nothing itself, is told.
async fn told(consortium: &Consortium, files: Option<(PathBuf, PathBuf)>) -> String {
    let tls = careless_config(&consortium.certs(), files);
    // In TLS 1.3 the connection may look open to the client; then its first call must fail.
    match consortium.connect_with(tls).await {
        Ok(mut client) => match client.get_study(ask()).await {
            Ok(_) => "served".into(),
            Err(refused) => code(&refused),
        },
        Err(error) => format!("{error:?}"),
    }
}

/// The alert that ends a connection, although the peer goes on sending.
async fn alert(consortium: &Consortium, files: Option<(PathBuf, PathBuf)>) -> AlertDescription {
    let tls = careless_config(&consortium.certs(), files);
    let mut stream = consortium.tls(tls).await;
    let _ = stream.write_all(&[0; 5000]).await;
    let _ = stream.flush().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let error = stream.read(&mut [0; 100]).await.unwrap_err();
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        _ => panic!("{error:?}"),
    }
}

fn files(folder: &Path, name: &str) -> Option<(PathBuf, PathBuf)> {
    let file = |kind: &str| folder.join(format!("{name}.{kind}"));
    Some((file("pem"), file("key")))
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_expired_and_wrong_certificates_are_refused_with_their_reason() {
    let consortium = Consortium::new().await;
    let authority = Authority::open(&consortium.certs(), None).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let at = elsewhere.path();
    let expired = Validity::days(-1);
    let site = "a".parse().unwrap();
    authority
        .issue_site_for(&site, &at.join("old"), expired)
        .unwrap();
    for role in [Role::Coordinator, Role::Auditor] {
        let key = at.join(format!("{role}.key"));
        make_key(&key).unwrap();
        let request = SigningRequest::make(&site, role, &key).unwrap();
        let issued = authority.approve(&request, Validity::days(1)).unwrap();
        write_public(&at.join(format!("{role}.pem")), &issued.chain).unwrap();
    }
    assert_eq!(told(&consortium, None).await, "certificate_missing");
    let old = files(&at.join("old"), "a");
    assert_eq!(told(&consortium, old).await, "certificate_expired");
    for role in ["coordinator", "auditor"] {
        let told = told(&consortium, files(at, role)).await;
        assert_eq!(told, "certificate_wrong_role", "{role}");
    }
    // Who is not of this consortium, or shows what no client shows, is told by TLS and reaches no call.
    let foreign = Authority::create_with_unencrypted_key(&at.join("foreign"), "other").unwrap();
    foreign.issue_site(&site, &at.join("foreign")).unwrap();
    for (at, name, expected) in [
        (&at.join("foreign"), "a", AlertDescription::UnknownCA),
        (
            &consortium.certs(),
            "server",
            AlertDescription::UnsupportedCertificate,
        ),
    ] {
        for _ in 0..5 {
            assert_eq!(alert(&consortium, files(at, name)).await, expected);
        }
        let told = told(&consortium, files(at, name)).await;
        let reached = told == "served" || told.starts_with("certificate_");
        assert!(!reached, "{name}: {told}");
    }
    // Plain TCP without any TLS gets no answer that could be a call.
    let mut tcp = TcpStream::connect(consortium.running().address)
        .await
        .unwrap();
    tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer).await;
    assert!(!answer.windows(4).any(|window| window == b"grpc"));
    // And the right one is served.
    assert!(consortium.site("a").await.get_study(ask()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_does_not_exist_is_refused_without_a_certificate_and_with_one() {
    let consortium = Consortium::new().await;
    for identity in [None, files(&consortium.certs(), "a")] {
        let tls = careless_config(&consortium.certs(), identity);
        let channel = consortium.channel(tls).await.unwrap();
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.unwrap();
        let path = "/consilium.v1.Identity/Else".parse().unwrap();
        let codec = tonic_prost::ProstCodec::<GetStudyRequest, GetStudyReply>::default();
        let refused = grpc.unary(tonic::Request::new(ask()), path, codec).await;
        assert_eq!(code(&refused.unwrap_err()), "call_unknown");
    }
}

/// A ClientHello of TLS 1.2 (RFC 5246, section 7.4.1.2) that offers what a good client of 2012 would.
fn hello_of_tls_1_2() -> Vec<u8> {
    let extensions: &[u8] = &[
        0x00, 0x0a, 0, 4, 0, 2, 0x00, 0x17, // groups: P-256
        0x00, 0x0d, 0, 4, 0, 2, 0x04, 0x03, // signatures: ECDSA P-256 SHA-256
        0x00, 0x0b, 0, 2, 1, 0, // uncompressed points
    ];
    // Version 3.3, 32 bytes that are to be random, no session, ECDHE-ECDSA-AES128-GCM, no compression.
    let mut body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0xc0, 0x2b], &[1, 0]].concat();
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend((body.len() as u16).to_be_bytes());
    message.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend((message.len() as u16).to_be_bytes());
    record.extend(message);
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_is_refused_by_name() {
    let consortium = Consortium::new().await;
    let mut tcp = TcpStream::connect(consortium.running().address)
        .await
        .unwrap();
    tcp.write_all(&hello_of_tls_1_2()).await.unwrap();
    let mut answer = Vec::new();
    let reading = tcp.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .unwrap()
        .unwrap();
    // A fatal alert: protocol_version (RFC 8446, section 6.2).
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 70]);
}

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

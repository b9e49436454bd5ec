//! Who is answered at all.

use std::time::Duration;

use consilium_certs::{Authority, Validity};
use consilium_core::Digest;
use consilium_core::study::PROTOCOL_VERSION;
use consilium_proto::{AwaitAssignmentRequest, GetStudyRequest, Refused, digest_to_wire};

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
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    let served = async { consortium.give("a", 0.5).await };
    let within = tokio::time::timeout(Duration::from_secs(5), served).await;
    assert!(!within.expect("the site is served").unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_expired_and_absent_certificates_reach_no_call() {
    let consortium = Consortium::new().await;
    let (certs, authority) = (
        consortium.certs(),
        Authority::open(&consortium.certs(), None).unwrap(),
    );
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign =
        Authority::create_with_unencrypted_key(elsewhere.path(), "another consortium").unwrap();
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

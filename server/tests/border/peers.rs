//! Who is answered at all.

use std::path::{Path, PathBuf};
use std::time::Duration;

use consilium_certs::{Authority, Role, SigningRequest, Validity, make_key, write_public};
use consilium_core::Digest;
use consilium_core::study::PROTOCOL_VERSION;
use consilium_proto::{AwaitAssignmentRequest, GetStudyReply, GetStudyRequest, digest_to_wire};
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

pub fn ask() -> GetStudyRequest {
    GetStudyRequest {
        protocol_version: PROTOCOL_VERSION,
        study: "border".into(),
    }
}

/// What a peer with these files, which looks at nothing itself, is told.
pub async fn told(consortium: &Consortium, files: Option<(PathBuf, PathBuf)>) -> String {
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

pub fn files(folder: &Path, name: &str) -> Option<(PathBuf, PathBuf)> {
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

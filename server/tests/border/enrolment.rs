//! Requests for certificates: the one call that needs none, and what it cannot be used for.

use std::path::Path;
use std::time::Duration;

use consilium_certs::{Authority, Peer, Role, SigningRequest, Validity, make_key};
use consilium_proto::certificate_reply::Answer;
use consilium_proto::identity_client::IdentityClient;
use consilium_proto::{CertificateRequest, Waiting};
use consilium_server::enrolment::{Desk, Kind};
use tokio::io::AsyncReadExt as _;
use tonic::Status;
use tonic::transport::Channel;

use crate::consortium::{Consortium, careless_config, code};
use crate::peers::{ask, files};

fn request(folder: &Path, name: &str, site: &str, role: Role) -> SigningRequest {
    let key = folder.join(format!("{name}.key"));
    if !key.exists() {
        make_key(&key).unwrap();
    }
    SigningRequest::make(&site.parse().unwrap(), role, &key).unwrap()
}

fn message(request: &SigningRequest) -> CertificateRequest {
    CertificateRequest {
        request: request.der().to_vec(),
    }
}

async fn client(consortium: &Consortium, site: Option<&str>) -> IdentityClient<Channel> {
    let certs = consortium.certs();
    let identity = site.and_then(|site| files(&certs, site));
    let channel = consortium.channel(careless_config(&certs, identity)).await;
    IdentityClient::new(channel.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_over_a_restart_until_somebody_decides() {
    let mut consortium = Consortium::new().await;
    let folder = tempfile::tempdir().unwrap();
    let asked = request(folder.path(), "new", "new-site", Role::Site);
    let answer = async |consortium: &Consortium| {
        let mut client = client(consortium, None).await;
        let reply = client.request_certificate(message(&asked)).await.unwrap();
        reply.into_inner().answer.unwrap()
    };
    assert_eq!(answer(&consortium).await, Answer::Waiting(Waiting {}));
    consortium.restart(|blobs| blobs).await;
    assert_eq!(answer(&consortium).await, Answer::Waiting(Waiting {}));
    let desk = Desk::open(&consortium.config().state).unwrap();
    let record = desk.find("new-site").unwrap();
    assert_eq!(record.request.fingerprint(), asked.fingerprint());
    let authority = Authority::open(&consortium.certs(), None).unwrap();
    let issued = authority
        .approve(&record.request, Validity::days(1))
        .unwrap();
    desk.approve(&record, &issued.chain).unwrap();
    let certificate = Answer::Certificate(issued.certificate.to_vec());
    assert_eq!(answer(&consortium).await, certificate);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_for_the_name_the_role_and_the_key_that_the_caller_has() {
    let consortium = Consortium::new().await;
    let certs = consortium.certs();
    let mut site = client(&consortium, Some("a")).await;
    let mut renew = async |request: &SigningRequest| {
        let reply = site.renew_certificate(message(request)).await;
        reply.map(|reply| reply.into_inner().answer.unwrap())
    };
    let refused = |answer: Result<Answer, Status>| code(&answer.unwrap_err());
    let wrong = "certificate_not_requested";
    let other_site = request(&certs, "a", "b", Role::Site);
    assert_eq!(refused(renew(&other_site).await), wrong);
    let other_role = request(&certs, "a", "a", Role::Coordinator);
    assert_eq!(refused(renew(&other_role).await), wrong);
    let other_key = request(&certs, "b", "a", Role::Site);
    assert_eq!(refused(renew(&other_key).await), wrong);
    for _ in 0..3 {
        let own = renew(&request(&certs, "a", "a", Role::Site)).await;
        assert_eq!(own.unwrap(), Answer::Waiting(Waiting {}));
    }
    let waiting = Desk::open(&consortium.config().state).unwrap().waiting();
    let [record] = &waiting.unwrap()[..] else {
        panic!("one request was made");
    };
    let present = consilium_certs::read_certificates(&certs.join("a.pem")).unwrap();
    let of = Peer::of(&present[0]).unwrap().serial;
    assert_eq!(record.kind, Kind::Renewal { of });
    // Without a certificate there is nothing to renew, and with one there is no first.
    let asked = message(&request(&certs, "a", "a", Role::Site));
    let mut nobody = client(&consortium, None).await;
    let none = nobody.renew_certificate(asked.clone()).await.unwrap_err();
    assert_eq!(code(&none), "certificate_missing");
    let first = site.request_certificate(asked).await.unwrap_err();
    assert_eq!(code(&first), wrong);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_is_refused_and_touches_no_site() {
    let consortium = Consortium::new().await;
    let folder = tempfile::tempdir().unwrap();
    let mut stranger = client(&consortium, None).await;
    let mut codes = Vec::new();
    for number in 0..60 {
        let asked = request(folder.path(), &number.to_string(), "a", Role::Site);
        let reply = stranger.request_certificate(message(&asked)).await;
        codes.push(reply.map_or_else(|refused| code(&refused), |_| "taken".into()));
    }
    let taken = codes.iter().filter(|code| *code == "taken").count();
    assert!((20..30).contains(&taken), "{taken} of 60 were taken");
    assert!(
        codes
            .iter()
            .all(|code| code == "taken" || code == "enrolment_busy")
    );
    for garbage in [vec![], vec![7; 300], vec![0x30; 5000]] {
        let message = CertificateRequest { request: garbage };
        let refused = stranger.request_certificate(message).await.unwrap_err();
        assert_eq!(code(&refused), "certificate_request");
    }
    let huge = CertificateRequest {
        request: vec![0; 1 << 20],
    };
    let refused = stranger.request_certificate(huge).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::OutOfRange);
    let own = message(&request(&consortium.certs(), "a", "a", Role::Site));
    let mut site = client(&consortium, Some("a")).await;
    site.renew_certificate(own).await.unwrap();
    consortium.site("a").await.get_study(ask()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_certificate_are_few_and_keep_no_site_out() {
    let consortium = Consortium::new().await;
    let nameless = async || {
        let tls = careless_config(&consortium.certs(), None);
        consortium.tls(tls).await
    };
    let mut open = Vec::new();
    for _ in 0..100 {
        open.push(nameless().await);
    }
    // One beyond the limit is closed at once; those within it are kept waiting for a call.
    let mut closed = 0;
    for stream in &mut open {
        let mut bytes = [0; 256];
        let read = async { while let Ok(1..) = stream.read(&mut bytes).await {} };
        let ended = tokio::time::timeout(Duration::from_millis(100), read).await;
        closed += usize::from(ended.is_ok());
    }
    assert_eq!(closed, 36);
    consortium.site("a").await.get_study(ask()).await.unwrap();
    drop(open);
}

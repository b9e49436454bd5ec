//! Requests, their approval, and taking certificates back.

use std::path::{Path, PathBuf};

use consilium_certs::{
    Authority, CertificateError, Passphrase, Peer, Revocations, Role, SigningRequest, Validity,
    make_key,
};
use consilium_core::SiteId;

fn site() -> SiteId {
    "hospital-a".parse().unwrap()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn authority(&self, name: &str) -> Authority {
        Authority::create_with_unencrypted_key(&self.at(name), "test").unwrap()
    }

    fn request(&self, role: Role) -> SigningRequest {
        let key = self.at("site.key");
        if !key.exists() {
            make_key(&key).unwrap();
        }
        SigningRequest::make(&site(), role, &key).unwrap()
    }
}

fn phrase(text: &str) -> Passphrase {
    Passphrase::new(text.to_owned()).unwrap()
}

#[test]
fn an_encrypted_key_opens_with_its_passphrase_and_no_other() {
    let folder = Folder::new();
    let at = folder.at("authority");
    let good = phrase("correct horse battery");
    let made = Authority::create(&at, "test", &good).unwrap();
    assert!(Authority::needs_passphrase(&at).unwrap());
    let code = |passphrase| {
        Authority::open(&at, passphrase)
            .err()
            .map(|error| error.code())
    };
    assert_eq!(code(None), Some("passphrase_needed"));
    let wrong = phrase("correct horse batterz");
    assert_eq!(code(Some(&wrong)), Some("passphrase_wrong"));
    let again = Authority::open(&at, Some(&good)).unwrap();
    assert_eq!(again.fingerprint(), made.fingerprint());
    let stored = std::fs::read_to_string(at.join("authority.key")).unwrap();
    assert!(stored.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
    assert!(!format!("{good:?}").contains("horse"));
    let short = Passphrase::new("short".into()).unwrap_err();
    assert_eq!(short.code(), "passphrase_too_short");
}

#[test]
fn openssl_opens_an_encrypted_key_where_it_is_installed() {
    let folder = Folder::new();
    let at = folder.at("authority");
    Authority::create(&at, "test", &phrase("correct horse battery")).unwrap();
    let opened = std::process::Command::new("openssl")
        .args([
            "pkey",
            "-noout",
            "-text",
            "-passin",
            "pass:correct horse battery",
            "-in",
        ])
        .arg(at.join("authority.key"))
        .output();
    match opened {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let problem = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                text.contains("prime256v1") || text.contains("P-256"),
                "{problem}"
            );
        }
        Err(error) => eprintln!("skipped: openssl: {error}"),
    }
}

#[test]
fn an_approved_request_becomes_a_certificate_of_its_name_role_and_key() {
    let folder = Folder::new();
    let authority = folder.authority("authority");
    for role in [Role::Site, Role::Coordinator, Role::Auditor] {
        let request = folder.request(role);
        let read = SigningRequest::from_pem(request.pem().as_bytes()).unwrap();
        assert_eq!(read, request);
        let issued = authority.approve(&read, Validity::days(90)).unwrap();
        let peer = request
            .answered_by(&issued.certificate, authority.root())
            .unwrap();
        assert_eq!(
            (peer.name.as_str(), peer.role.as_str()),
            ("hospital-a", role.as_str())
        );
        assert_eq!(peer.key, request.fingerprint());
        assert_eq!((peer.to - peer.from) / 86_400, 90);
        // Two thirds of its life.
        assert_eq!((peer.renewal() - peer.from) / 86_400, 60);
        assert!(!peer.is_due());
    }
    // The same key, and yet certificates that can be told apart.
    let serials: std::collections::BTreeSet<_> = authority
        .issued()
        .unwrap()
        .into_iter()
        .map(|peer| peer.serial)
        .collect();
    assert_eq!(serials.len(), 3);
}

#[test]
fn a_certificate_that_was_not_requested_is_not_installed() {
    let folder = Folder::new();
    let authority = folder.authority("authority");
    let request = folder.request(Role::Site);
    let code = |answer: Result<Peer, CertificateError>| answer.unwrap_err().code();
    let stranger = folder.authority("stranger");
    let foreign = stranger.approve(&request, Validity::days(1)).unwrap();
    let answer = request.answered_by(&foreign.certificate, authority.root());
    assert_eq!(code(answer), "certificate_other_authority");
    let other_role = folder.request(Role::Auditor);
    let issued = authority.approve(&other_role, Validity::days(1)).unwrap();
    let answer = request.answered_by(&issued.certificate, authority.root());
    assert_eq!(code(answer), "certificate_not_requested");
    make_key(&folder.at("other.key")).unwrap();
    let other_key = SigningRequest::make(&site(), Role::Site, &folder.at("other.key")).unwrap();
    let issued = authority.approve(&other_key, Validity::days(1)).unwrap();
    let answer = request.answered_by(&issued.certificate, authority.root());
    assert_eq!(code(answer), "certificate_not_requested");
    let expired = authority.approve(&request, Validity::days(-1)).unwrap();
    request
        .answered_by(&expired.certificate, authority.root())
        .unwrap_err();
}

#[test]
fn a_damaged_or_greedy_request_is_refused() {
    let folder = Folder::new();
    let request = folder.request(Role::Site);
    let der = request.der().to_vec();
    // Name, role and key are signed; some bytes around the signature can change without changing what it says.
    for position in 0..der.len() {
        let mut damaged = der.clone();
        damaged[position] ^= 1;
        if let Ok(read) = SigningRequest::read(&damaged) {
            let said = |request: &SigningRequest| {
                (request.site.clone(), request.role, request.key().to_vec())
            };
            assert_eq!(said(&read), said(&request), "byte {position}");
        }
    }
    // The name itself cannot be another one.
    let mut renamed = der.clone();
    let name = renamed.windows(10).position(|name| name == b"hospital-a");
    renamed[name.unwrap()] = b'H';
    SigningRequest::read(&renamed).unwrap_err();
    for length in 0..der.len() {
        assert!(
            SigningRequest::read(&der[..length]).is_err(),
            "{length} bytes"
        );
    }
    let long = [&der[..], &[0; 8192]].concat();
    assert_eq!(
        SigningRequest::read(&long).unwrap_err().code(),
        "certificate_request"
    );
    // A server's certificate is issued by the authority, never requested.
    let key = folder.at("site.key");
    let server = SigningRequest::make(&site(), Role::Server, &key).unwrap_err();
    assert_eq!(server.code(), "certificate_request");
}

#[test]
fn a_revoked_certificate_is_on_a_list_that_only_its_authority_can_sign() {
    let folder = Folder::new();
    let authority = folder.authority("authority");
    let request = folder.request(Role::Site);
    let issue = || authority.approve(&request, Validity::days(1)).unwrap().peer;
    let (first, second) = (issue(), issue());
    let path = authority.revocations_file();
    let read = |path: &Path| Revocations::read(path, &authority.certificate());
    let empty = read(&path).unwrap();
    assert_eq!((empty.number, empty.revoked.len()), (1, 0));
    assert!(!empty.is_overdue());
    // One by its number, then all of the site.
    authority.revoke(&first.serial).unwrap();
    let list = read(&path).unwrap();
    assert_eq!(
        list.check(&first).unwrap_err().code(),
        "certificate_revoked"
    );
    list.check(&second).unwrap();
    assert_eq!(authority.revoke("hospital-a").unwrap().len(), 2);
    let list = read(&path).unwrap();
    assert_eq!((list.number, list.revoked.len()), (3, 2));
    list.check(&issue()).unwrap();
    let since = list.revoked[&first.serial];
    assert_eq!(
        authority.renew_revocations().unwrap().revoked[&first.serial],
        since
    );
    assert_eq!(
        authority.revoke("nobody").unwrap_err().code(),
        "certificate_not_issued"
    );
    // The same name does not make another authority's list good.
    let stranger = folder.authority("stranger");
    stranger.revoke("nobody").unwrap_err();
    let forged = read(&stranger.revocations_file()).unwrap_err();
    assert_eq!(forged.code(), "certificate_unreadable");
    let pem = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, pem.replacen('A', "B", 1)).unwrap();
    read(&path).unwrap_err();
}

#[test]
fn a_servers_certificate_is_renewed_for_its_key_and_names_without_the_key() {
    let folder = Folder::new();
    let authority = folder.authority("authority");
    let hosts = [
        "fl.example.org".to_owned(),
        "127.0.0.1".into(),
        "::1".into(),
    ];
    authority
        .issue_server(&hosts, &folder.at("server"))
        .unwrap();
    let path = folder.at("server/server.pem");
    let read = || consilium_certs::read_certificates(&path).unwrap().remove(0);
    let before = Peer::of(&read()).unwrap();
    let key = folder.at("server/server.key");
    std::fs::rename(&key, folder.at("elsewhere.key")).unwrap();
    authority.renew_server(&path).unwrap();
    let after = Peer::of(&read()).unwrap();
    assert_eq!(
        (&after.name, &after.role, after.key),
        (&before.name, &before.role, before.key)
    );
    assert_ne!(after.serial, before.serial);
    for host in ["fl.example.org", "127.0.0.1", "::1"] {
        assert!(names(&read()).contains(&host.to_owned()), "{host}");
    }
    let stranger = folder
        .authority("stranger")
        .renew_server(&path)
        .unwrap_err();
    assert_eq!(stranger.code(), "certificate_other_authority");
}

fn names(certificate: &[u8]) -> Vec<String> {
    use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(certificate).unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap().value;
    let names = names.general_names.iter();
    names
        .map(|name| match name {
            GeneralName::DNSName(name) => (*name).to_owned(),
            GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
                Ok(bytes) => std::net::IpAddr::from(bytes).to_string(),
                Err(_) => std::net::IpAddr::from(<[u8; 16]>::try_from(*bytes).unwrap()).to_string(),
            },
            other => panic!("{other:?}"),
        })
        .collect()
}

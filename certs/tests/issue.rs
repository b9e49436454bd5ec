//! Issuing and loading certificates.

use consilium_certs::{Authority, Identity, Role, Validity};
use consilium_core::SiteId;

fn site() -> SiteId {
    "hospital-a".parse().unwrap()
}

#[test]
fn a_site_certificate_names_its_site_and_nobody_else_can_use_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let authority =
        Authority::create_with_unencrypted_key(folder.path(), "test consortium").unwrap();
    authority.issue_site(&site(), folder.path()).unwrap();
    let (certificate, key) = (
        folder.path().join("hospital-a.pem"),
        folder.path().join("hospital-a.key"),
    );
    let identity = Identity::load(&certificate, &key, Role::Site).unwrap();
    assert_eq!(identity.peer().site().unwrap(), site());
    assert!(!format!("{identity:?}").contains("PRIVATE"));
    let wrong = Identity::load(&certificate, &key, Role::Server).unwrap_err();
    assert_eq!(wrong.code(), "certificate_wrong_role");
}

#[cfg(unix)]
#[test]
fn a_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let authority =
        Authority::create_with_unencrypted_key(folder.path(), "test consortium").unwrap();
    authority.issue_site(&site(), folder.path()).unwrap();
    let key = folder.path().join("hospital-a.key");
    assert_eq!(
        std::fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused =
        Identity::load(&folder.path().join("hospital-a.pem"), &key, Role::Site).unwrap_err();
    assert_eq!(refused.code(), "key_permissions");
}

#[test]
fn an_expired_certificate_is_refused_before_any_connection() {
    let folder = tempfile::tempdir().unwrap();
    let authority =
        Authority::create_with_unencrypted_key(folder.path(), "test consortium").unwrap();
    authority
        .issue_site_for(&site(), folder.path(), Validity::days(-1))
        .unwrap();
    let refused = Identity::load(
        &folder.path().join("hospital-a.pem"),
        &folder.path().join("hospital-a.key"),
        Role::Site,
    )
    .unwrap_err();
    assert_eq!(refused.code(), "certificate_expired");
}

#[test]
fn an_authority_is_not_overwritten_and_can_be_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    Authority::create_with_unencrypted_key(folder.path(), "test consortium").unwrap();
    assert!(Authority::create_with_unencrypted_key(folder.path(), "another").is_err());
    let again = Authority::open(folder.path(), None).unwrap();
    again
        .issue_server(&["localhost".into(), "127.0.0.1".into()], folder.path())
        .unwrap();
    Identity::load(
        &folder.path().join("server.pem"),
        &folder.path().join("server.key"),
        Role::Server,
    )
    .unwrap();
}

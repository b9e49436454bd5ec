//! What a failed connection means: a refused certificate, and whose, or only that nobody was reached.

use std::io;

use consilium_certs::OtherFingerprint;
use rustls::{AlertDescription, CertificateError};

use super::connection::NotConnected;
use crate::peer::PeerError;

/// Tells a certificate that was refused from a connection that failed.
pub(super) fn judge(address: &str, error: &io::Error) -> NotConnected {
    let cause = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let refused = |code, problem: String, hint| {
        NotConnected::NotAuthenticated(PeerError::NotAuthenticated {
            code,
            address: address.to_owned(),
            problem,
            hint,
        })
    };
    match cause {
        Some(rustls::Error::AlertReceived(alert)) => match refusal_of(*alert) {
            Some((code, reason, hint)) => refused(
                code,
                format!("the server refused this site's certificate: {reason}"),
                hint,
            ),
            None => refused(
                "tls_failed",
                format!("the server broke off the TLS handshake: {alert:?}"),
                "compare the versions of consilium-server and consilium-site",
            ),
        },
        Some(rustls::Error::InvalidCertificate(problem)) => {
            let (code, problem, hint) = problem_of(problem);
            let problem = format!("the server's certificate is not acceptable: {problem}");
            refused(code, problem, hint)
        }
        Some(rustls::Error::InvalidMessage(_) | rustls::Error::PeerIncompatible(_)) => refused(
            "tls_failed",
            format!("what answers at this address is no consilium-server: {error}"),
            "check server.address and its port",
        ),
        _ if error.kind() == io::ErrorKind::PermissionDenied => refused(
            "proxy_credentials",
            error.to_string(),
            "write server.proxy_credentials, or correct them: ask whoever runs the proxy",
        ),
        _ => NotConnected::Unreachable(error.to_string()),
    }
}

/// The alerts by which a server refuses a certificate (RFC 8446, section 6.2): code, reason, what to do.
fn refusal_of(alert: AlertDescription) -> Option<(&'static str, &'static str, &'static str)> {
    const RENEW: &str = "enrol again: `consilium-site enroll` with a new folder";
    Some(match alert {
        AlertDescription::CertificateExpired => ("certificate_expired", "it has expired", RENEW),
        AlertDescription::CertificateRevoked => ("certificate_revoked", "it was revoked", RENEW),
        AlertDescription::UnknownCA => (
            "certificate_refused",
            "it does not know the authority that issued it",
            "check identity.certificate: it must be issued by this consortium",
        ),
        AlertDescription::CertificateRequired => (
            "certificate_missing",
            "none was shown",
            "check identity.certificate and identity.key",
        ),
        AlertDescription::DecryptError => (
            "certificate_refused",
            "its signature or the key does not match",
            "check that identity.key belongs to identity.certificate",
        ),
        AlertDescription::UnsupportedCertificate => (
            "certificate_wrong_role",
            "it is not for a program that calls a server",
            "check that identity.certificate is a site certificate of this consortium",
        ),
        AlertDescription::AccessDenied
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown => (
            "certificate_refused",
            "it is not acceptable",
            "check that identity.certificate is a site certificate of this consortium",
        ),
        _ => return None,
    })
}

/// What is wrong with the server's certificate: code, words, what to do.
fn problem_of(problem: &CertificateError) -> (&'static str, String, &'static str) {
    const ADDRESS: &str =
        "check server.address and server.name; the name must stand in the server's certificate";
    const OPERATOR: &str = "check this machine's clock, then tell the operator of the server";
    match problem {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            "server_certificate_expired",
            "it has expired".into(),
            OPERATOR,
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            "server_certificate_expired",
            "it is not valid yet".into(),
            OPERATOR,
        ),
        CertificateError::Revoked => (
            "server_certificate_revoked",
            "it was revoked".into(),
            "do not go on with this server; ask the consortium which one is to be used",
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            "server_certificate_wrong_name",
            format!("it is for another server ({problem})"),
            ADDRESS,
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => (
            "server_certificate_wrong_role",
            "it is not a server's".into(),
            "check server.address; no site or other member may answer in the server's place",
        ),
        CertificateError::Other(other) if other.0.is::<OtherFingerprint>() => (
            "authority_fingerprint",
            other.0.to_string(),
            "compare the fingerprint with the consortium's; when it is right, something on the way answers in the server's place: do not go on",
        ),
        other => {
            let problem = match other {
                CertificateError::UnknownIssuer => {
                    "another authority issued it than identity.authority".into()
                }
                other => other.to_string(),
            };
            (
                "server_certificate_refused",
                problem,
                "check server.name and identity.authority; when another authority's certificate arrives, a device on the way opens TLS traffic and needs an exemption for this address",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(error: rustls::Error) -> &'static str {
        match judge("localhost:1", &io::Error::other(error)) {
            NotConnected::NotAuthenticated(PeerError::NotAuthenticated { code, hint, .. }) => {
                assert!(!hint.is_empty());
                code
            }
            _ => "none",
        }
    }

    #[test]
    fn every_refused_certificate_is_told_by_its_reason() {
        let alert = |alert| code_of(rustls::Error::AlertReceived(alert));
        assert_eq!(
            alert(AlertDescription::CertificateRevoked),
            "certificate_revoked"
        );
        assert_eq!(
            alert(AlertDescription::CertificateExpired),
            "certificate_expired"
        );
        assert_eq!(alert(AlertDescription::UnknownCA), "certificate_refused");
        assert_eq!(
            alert(AlertDescription::UnsupportedCertificate),
            "certificate_wrong_role"
        );
        assert_eq!(alert(AlertDescription::ProtocolVersion), "tls_failed");
        let shown = |problem| code_of(rustls::Error::InvalidCertificate(problem));
        assert_eq!(
            shown(CertificateError::Expired),
            "server_certificate_expired"
        );
        assert_eq!(
            shown(CertificateError::Revoked),
            "server_certificate_revoked"
        );
        assert_eq!(
            shown(CertificateError::NotValidForName),
            "server_certificate_wrong_name"
        );
        assert_eq!(
            shown(CertificateError::InvalidPurpose),
            "server_certificate_wrong_role"
        );
        assert_eq!(
            shown(CertificateError::UnknownIssuer),
            "server_certificate_refused"
        );
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(matches!(
            judge("localhost:1", &reset),
            NotConnected::Unreachable(_)
        ));
    }
}

//! One connection: TCP, then TLS 1.3 with both certificates, then HTTP/2, and what went wrong on the way.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use consilium_certs::OtherFingerprint;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::Credentials;
use crate::peer::PeerError;

/// Where the server is, and what its certificate must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// `host:port`.
    pub address: String,
    /// The name in its certificate.
    pub name: ServerName<'static>,
}

/// Opens connections to one server.
pub(super) struct Connector {
    server: ServerAddress,
    tls: watch::Receiver<Arc<ClientConfig>>,
    /// The last thing that went wrong below HTTP/2, where it can still be told apart.
    recorded: Recorded,
    /// The certificate that the server has shown last, DER, after it was found acceptable.
    certificate: Arc<Mutex<Vec<u8>>>,
}

type Recorded = Arc<Mutex<Option<NotConnected>>>;

/// Why there is no connection.
pub(super) enum NotConnected {
    /// Trying again may help.
    Unreachable(String),
    /// Trying again does not help.
    NotAuthenticated(PeerError),
}

impl Connector {
    pub(super) fn new(server: ServerAddress, credentials: &Credentials) -> Self {
        Self {
            server,
            tls: credentials.present(),
            recorded: Recorded::default(),
            certificate: Arc::default(),
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.server.address
    }

    /// The certificate that the server has shown last; empty before the first connection.
    pub(super) fn certificate(&self) -> Vec<u8> {
        lock(&self.certificate).clone()
    }

    /// What went wrong below HTTP/2 since the last call, if anything did.
    pub(super) fn recorded(&self) -> Option<NotConnected> {
        lock(&self.recorded).take()
    }

    /// Whether this site has a new certificate since it opened its last connection.
    pub(super) fn is_outdated(&self) -> bool {
        // An error means that nobody is left to renew it.
        self.tls.has_changed().unwrap_or(false)
    }

    /// Opens a connection. In TLS 1.3 the server judges this site's certificate only afterwards: that
    /// answer comes with the first call, in [`Connector::recorded`].
    pub(super) async fn connect(&mut self) -> Result<Channel, NotConnected> {
        lock(&self.recorded).take();
        let tls = TlsConnector::from(Arc::clone(&self.tls.borrow_and_update()));
        let server = self.server.clone();
        let recorded = Arc::clone(&self.recorded);
        let certificate = Arc::clone(&self.certificate);
        let open = service_fn(move |_: Uri| {
            let (server, tls, recorded) = (server.clone(), tls.clone(), Arc::clone(&recorded));
            let certificate = Arc::clone(&certificate);
            async move {
                let opened = open(&server, &tls).await;
                let stream = opened.inspect_err(|error| {
                    *lock(&recorded) = Some(judge(&server.address, error));
                })?;
                let shown = stream.get_ref().1.peer_certificates();
                let shown = shown.and_then(|chain| chain.first());
                *lock(&certificate) = shown.map(|shown| shown.to_vec()).unwrap_or_default();
                Ok::<_, io::Error>(TokioIo::new(Watched {
                    stream,
                    address: server.address,
                    recorded,
                }))
            }
        });
        // The authority of HTTP/2 requests; where the connection goes is the business of `open`.
        Endpoint::from_static("http://consilium-server")
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .connect_with_connector(open)
            .await
            .map_err(|error| {
                self.recorded()
                    .unwrap_or_else(|| NotConnected::Unreachable(super::innermost(&error)))
            })
    }
}

async fn open(server: &ServerAddress, tls: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(&server.address).await?;
    tcp.set_nodelay(true)?;
    tls.connect(server.name.clone(), tcp).await
}

/// Tells a certificate that was refused from a connection that failed.
fn judge(address: &str, error: &io::Error) -> NotConnected {
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

/// A stream that remembers why reading failed: HTTP/2 passes on only that it did.
struct Watched {
    stream: TlsStream<TcpStream>,
    address: String,
    recorded: Recorded,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(Err(error)) = &polled {
            *lock(&self.recorded) = Some(judge(&self.address, error));
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The lock is held for an assignment only: a poisoned one holds a whole value.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const CONNECT: Duration = Duration::from_secs(15);
const KEEP_ALIVE: Duration = Duration::from_secs(20);

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

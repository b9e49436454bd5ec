//! One connection: TCP, then TLS 1.3 with both certificates, then HTTP/2, and what went wrong on the way.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::judgement::judge;
use super::{Credentials, Proxy};
use crate::peer::PeerError;

/// Where the server is, and what its certificate must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// `host:port`.
    pub address: String,
    /// The name in its certificate.
    pub name: ServerName<'static>,
    /// The proxy on the way, if there is one.
    pub proxy: Option<Proxy>,
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

/// The connection below TLS, through the proxy if there is one.
pub(super) async fn tcp(server: &ServerAddress) -> io::Result<TcpStream> {
    match &server.proxy {
        None => TcpStream::connect(&server.address).await,
        Some(proxy) => proxy.connect(&server.address).await,
    }
}

async fn open(server: &ServerAddress, tls: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let tcp = tcp(server).await?;
    tcp.set_nodelay(true)?;
    tls.connect(server.name.clone(), tcp).await
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

//! TLS, time limits, start and stop.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use consilium_certs::{CertificateError, Identity, Peer, Role, Signer, TrustAnchor};
use consilium_core::SiteId;
use consilium_core::clock::Clock;
use consilium_ops::{ExitCode, OperatorError, StateLock};
use consilium_proto::MAX_MESSAGE_BYTES;
use consilium_proto::consortium_server::ConsortiumServer;
use consilium_rounds::Cause;
use consilium_store::server::{Blobs, ServerStore, ServerStoreError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::config::ServerConfig;
use crate::consortium::Consortium;
use crate::service::Service;

/// Longest TLS handshake.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// Handshakes at a time, of peers that have begun to speak.
const HANDSHAKES: usize = 64;

/// A server that listens.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    consortium: Arc<Consortium>,
    stop: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
    _lock: StateLock,
}

/// Starts a server: everything is read and checked before the port is opened.
///
/// # Errors
/// [`OperatorError`]: exit 3 for configuration and certificates, `port_in_use` for the port.
pub async fn start(config: &ServerConfig, clock: Arc<dyn Clock>) -> Result<Running, OperatorError> {
    start_with(config, clock, |blobs| blobs).await
}

/// As [`start`], with a change to the blob folder, to see what a full disk does.
///
/// # Errors
/// As [`start`].
pub async fn start_with(
    config: &ServerConfig,
    clock: Arc<dyn Clock>,
    change: impl FnOnce(Blobs) -> Blobs,
) -> Result<Running, OperatorError> {
    let study = config.read_study()?;
    let initial = config.initial_model(&study)?;
    let identity = &config.identity;
    let loaded = Identity::load(&identity.certificate, &identity.key, Role::Server)
        .map_err(|error| unacceptable(&error))?;
    let signer = Signer::of(&loaded).map_err(|error| unacceptable(&error))?;
    let anchor = TrustAnchor::read(&identity.authority).map_err(|error| unacceptable(&error))?;
    let tls = consilium_certs::server_config(loaded, &identity.authority)
        .map_err(|error| unacceptable(&error))?;
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        let (code, hint) = match error.kind() {
            io::ErrorKind::AddrInUse => (
                "port_in_use",
                "stop the other program, or choose another `listen` address",
            ),
            _ => ("port_failed", "choose another `listen` address"),
        };
        OperatorError::failed(code, error.to_string(), hint).at(config.listen)
    })?;
    let address = listener.local_addr().map_err(|error| {
        OperatorError::failed(
            "port_failed",
            error.to_string(),
            "choose another `listen` address",
        )
    })?;
    // Two servers on one state folder would drive the same rounds.
    std::fs::create_dir_all(&config.state)
        .map_err(|error| OperatorError::file(&config.state, &error))?;
    let lock = StateLock::take(&config.state, "server")?;
    let store = ServerStore::open(&config.state)
        .await
        .map_err(|error| failed(&error))?;
    let blobs = change(Blobs::open(&config.state.join("blobs")).map_err(|error| failed(&error))?);
    let consortium = Consortium::open(study, &initial, store, blobs, clock, signer, anchor)
        .await
        .map_err(|error| failed(&error))?;
    consortium.work(Arc::clone(&consortium).watch_the_clock());

    let (stop, mut stopping) = watch::channel(false);
    let service = ConsortiumServer::new(Service(Arc::clone(&consortium)))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let (accepted, incoming) = mpsc::channel(16);
    tokio::spawn(accept(
        listener,
        TlsAcceptor::from(Arc::new(tls)),
        accepted,
        stopping.clone(),
    ));
    let serving = tokio::spawn(async move {
        let served = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .add_service(service)
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), async move {
                // An error means that the sender is gone, which also ends the server.
                let _ = stopping.wait_for(|stop| *stop).await;
            })
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "server ended");
        }
    });
    tracing::info!(%address, study = %consortium.study().name, "listening");
    Ok(Running {
        address,
        consortium,
        stop,
        serving,
        _lock: lock,
    })
}

fn unacceptable(error: &CertificateError) -> OperatorError {
    OperatorError::configuration(error.code(), error.to_string(), error.hint())
}

fn failed(error: &ServerStoreError) -> OperatorError {
    OperatorError::failed(error.code(), error.to_string(), error.hint())
}

impl Running {
    /// The study that it runs.
    #[must_use]
    pub fn consortium(&self) -> &Arc<Consortium> {
        &self.consortium
    }

    /// Waits until the study has ended and nobody needs the server any more; see
    /// [`Consortium::until_finished`].
    ///
    /// # Errors
    /// `study_failed`: exit 6 when rounds missed their quorum, exit 1 when updates could not be summed.
    pub async fn until_finished(&self) -> Result<(), OperatorError> {
        let Err((cause, reason)) = self.consortium.until_finished().await else {
            return Ok(());
        };
        let (exit, hint) = match cause {
            Cause::QuorumMissed => (
                ExitCode::Missed,
                "see `round list` for the sites that were missing; a new study needs a new name and state folder",
            ),
            Cause::SumFailed => (
                ExitCode::Failed,
                "see `round list`; check the disk, and restore the state folder from a backup",
            ),
        };
        let study = &self.consortium.study().name;
        let message = format!("study {study} failed: {reason}");
        Err(OperatorError::new(exit, "study_failed", message, hint))
    }

    /// Stops: open calls may end within two seconds; port and state folder are free afterwards.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let abort = self.serving.abort_handle();
        if tokio::time::timeout(Duration::from_secs(2), self.serving)
            .await
            .is_err()
        {
            abort.abort();
        }
        self.consortium.stop().await;
    }
}

/// Accepts connections; a peer without an acceptable certificate never reaches a call.
async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    accepted: mpsc::Sender<io::Result<SiteStream>>,
    mut stopping: watch::Receiver<bool>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let connection = tokio::select! {
            connection = listener.accept() => connection,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        let Ok((tcp, from)) = connection else {
            // Out of file handles, say: others may close theirs.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Answers are small and waited for. A failure shows in the handshake.
        let _ = tcp.set_nodelay(true);
        let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
        let handshakes = Arc::clone(&handshakes);
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE_PATIENCE, async {
                // A peer that says nothing holds its own connection up, and nobody else's.
                tcp.peek(&mut [0]).await?;
                let _permit = handshakes.acquire().await.map_err(io::Error::other)?;
                acceptor.accept(tcp).await
            });
            let stream = match shaken.await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::warn!(%from, %error, error.code = "tls_refused", "connection refused");
                    return;
                }
                Err(_) => {
                    tracing::warn!(%from, error.code = "tls_stalled", "connection refused");
                    return;
                }
            };
            match site_of(&stream) {
                Ok(site) => {
                    let _ = accepted.send(Ok(SiteStream { stream, site })).await;
                }
                Err(error) => {
                    tracing::warn!(%from, %error, error.code = error.code(), "connection refused");
                }
            }
        });
    }
}

fn site_of(stream: &TlsStream<TcpStream>) -> Result<SiteId, CertificateError> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let first = certificates
        .first()
        .ok_or_else(|| CertificateError::Subject("no certificate".into()))?;
    Peer::of(first)?.site()
}

/// A connection whose site is known from its certificate.
struct SiteStream {
    stream: TlsStream<TcpStream>,
    site: SiteId,
}

impl Connected for SiteStream {
    type ConnectInfo = SiteId;

    fn connect_info(&self) -> SiteId {
        self.site.clone()
    }
}

impl AsyncRead for SiteStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for SiteStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

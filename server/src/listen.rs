//! TLS, time limits, start and stop.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use consilium_certs::{CertificateError, Peer, REQUEST_BYTES};
use consilium_core::clock::Clock;
use consilium_ops::{ExitCode, OperatorError, StateLock};
use consilium_proto::MAX_MESSAGE_BYTES;
use consilium_proto::consortium_server::ConsortiumServer;
use consilium_proto::identity_server::IdentityServer;
use consilium_rounds::Cause;
use consilium_store::server::{Blobs, ServerStore, ServerStoreError};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::admission::{AdmissionLayer, Caller};
use crate::config::ServerConfig;
use crate::consortium::Consortium;
use crate::credentials::Credentials;
use crate::enrolment::{Desk, Enrolment};
use crate::service::Service;

/// Longest TLS handshake.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// Handshakes at a time, of peers that have begun to speak.
const HANDSHAKES: usize = 64;

/// Connections without a certificate at a time: those of sites that enrol.
const NAMELESS: usize = 64;

/// Longest life of a connection without a certificate.
const NAMELESS_LIFE: Duration = Duration::from_secs(60);

/// How long a peer whose handshake was refused may take to read why.
const LAST_WORDS: Duration = Duration::from_secs(2);

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
    let credentials = Credentials::read(&config.identity).map_err(|error| unacceptable(&error))?;
    let credentials = Arc::new(credentials);
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
    let desk = Desk::open(&config.state)?;
    let signer = credentials.signer().clone();
    let consortium = Consortium::open(study, &initial, store, blobs, clock, signer)
        .await
        .map_err(|error| failed(&error))?;
    consortium.work(Arc::clone(&consortium).watch_the_clock());

    let (stop, mut stopping) = watch::channel(false);
    let service = ConsortiumServer::new(Service(Arc::clone(&consortium)))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let identity = IdentityServer::new(Enrolment(Arc::new(desk)))
        .max_decoding_message_size(2 * REQUEST_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let admission = AdmissionLayer(credentials.revocations());
    let (accepted, incoming) = mpsc::channel(16);
    tokio::spawn(Arc::clone(&credentials).watch(stopping.clone()));
    tokio::spawn(accept(listener, credentials, accepted, stopping.clone()));
    let serving = tokio::spawn(async move {
        let served = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .layer(admission)
            .add_service(service)
            .add_service(identity)
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

/// Accepts connections; what their peers may do is decided at every call.
async fn accept(
    listener: TcpListener,
    credentials: Arc<Credentials>,
    accepted: mpsc::Sender<io::Result<PeerStream>>,
    mut stopping: watch::Receiver<bool>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let nameless = Arc::new(Semaphore::new(NAMELESS));
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
        let (credentials, accepted) = (Arc::clone(&credentials), accepted.clone());
        let (handshakes, nameless) = (Arc::clone(&handshakes), Arc::clone(&nameless));
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE_PATIENCE, async {
                // A peer that says nothing holds its own connection up, and nobody else's.
                tcp.peek(&mut [0]).await.map_err(|error| (error, None))?;
                let permit = handshakes.acquire().await;
                let _permit = permit.map_err(|error| (io::Error::other(error), None))?;
                TlsAcceptor::from(credentials.tls())
                    .accept(tcp)
                    .into_fallible()
                    .await
                    .map_err(|(error, tcp)| (error, Some(tcp)))
            });
            let stream = match shaken.await {
                Ok(Ok(stream)) => stream,
                Ok(Err((error, tcp))) => {
                    tracing::warn!(%from, %error, error.code = "tls_refused", "connection refused");
                    if let Some(tcp) = tcp {
                        hear_out(tcp).await;
                    }
                    return;
                }
                Err(_) => {
                    tracing::warn!(%from, error.code = "tls_stalled", "connection refused");
                    return;
                }
            };
            match PeerStream::new(stream, from, &nameless) {
                Ok(stream) => {
                    let _ = accepted.send(Ok(stream)).await;
                }
                Err((code, problem)) => {
                    tracing::warn!(%from, problem, error.code = code, "connection refused");
                }
            }
        });
    }
}

/// Reads what a refused peer still sends, for a moment: closing at once would reset the connection, and take the alert
/// that says why from it.
async fn hear_out(mut tcp: TcpStream) {
    let _ = tcp.shutdown().await;
    let mut ignored = [0; 1024];
    let reading = async {
        let mut left: usize = 1 << 16;
        while let Ok(read @ 1..) = tcp.read(&mut ignored).await {
            left = left.saturating_sub(read);
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LAST_WORDS, reading).await;
}

/// A connection whose peer is known from its certificate, or that may only ask for one.
struct PeerStream {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    /// Of a connection without a certificate: its place among those, and when it has to be over.
    nameless: Option<(OwnedSemaphorePermit, Pin<Box<Sleep>>)>,
}

impl PeerStream {
    fn new(
        stream: TlsStream<TcpStream>,
        from: SocketAddr,
        places: &Arc<Semaphore>,
    ) -> Result<Self, (&'static str, String)> {
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let (peer, nameless) = match certificates.first() {
            Some(first) => {
                let peer = Peer::of(first).map_err(|error| (error.code(), error.to_string()))?;
                (Some(Arc::new(peer)), None)
            }
            None => {
                let place = Arc::clone(places).try_acquire_owned();
                let place = place.map_err(|_| {
                    let problem = "too many connections without a certificate";
                    ("enrolment_busy", problem.to_owned())
                })?;
                let end = Box::pin(tokio::time::sleep(NAMELESS_LIFE));
                (None, Some((place, end)))
            }
        };
        Ok(Self {
            stream,
            caller: Caller { peer, from },
            nameless,
        })
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some((_, end)) = &mut self.nameless
            && end.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for PeerStream {
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

//! Connections: TLS handshakes, and who is at the other end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use consilium_certs::Peer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::admission::Caller;
use crate::credentials::Credentials;

/// Accepts connections; what their peers may do is decided at every call.
pub(crate) async fn accept(
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
pub(crate) struct PeerStream {
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

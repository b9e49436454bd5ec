//! The listener of the server in memory: real mutual TLS, on a runtime of its own.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use consilium_certs::{Identity, Role, Signer, server_config};
use consilium_core::SiteId;
use consilium_proto::MAX_MESSAGE_BYTES;
use consilium_proto::consortium_server::ConsortiumServer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::ServerState;
use super::calls::Service;

/// A server that listens, on a runtime of its own so that it can die with all its connections.
pub struct Running {
    pub address: String,
    runtime: Option<Runtime>,
}

impl Running {
    /// Ends it in the middle of whatever it does.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Listens with the certificate `server` in `certs`.
pub async fn serve(
    state: Arc<ServerState>,
    certs: &Path,
    authority: &Path,
    address: &str,
) -> Running {
    let identity = Identity::load(
        &certs.join("server.pem"),
        &certs.join("server.key"),
        Role::Server,
    )
    .unwrap();
    state.inner().signer = Some(Signer::of(&identity).unwrap());
    let acceptor = TlsAcceptor::from(Arc::new(server_config(identity, authority).unwrap()));
    let listener = std::net::TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (accepted, incoming) = mpsc::channel::<io::Result<Stream>>(16);
    let service = ConsortiumServer::new(Service(state))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    runtime.spawn(async move {
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(ReceiverStream::new(incoming))
            .await
    });
    runtime.spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(tcp).await {
                let certificates = stream.get_ref().1.peer_certificates().unwrap();
                let peer = consilium_certs::Peer::of(&certificates[0]).unwrap();
                peer.expect_valid_now().unwrap();
                let site = peer.site().unwrap();
                let _ = accepted.send(Ok(Stream { stream, site })).await;
            }
        }
    });
    Running {
        address,
        runtime: Some(runtime),
    }
}

/// A connection whose site is known from its certificate.
struct Stream {
    stream: TlsStream<TcpStream>,
    site: SiteId,
}

impl Connected for Stream {
    type ConnectInfo = SiteId;

    fn connect_info(&self) -> SiteId {
        self.site.clone()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
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

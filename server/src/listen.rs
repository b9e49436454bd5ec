//! Start and stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use consilium_certs::{CertificateError, REQUEST_BYTES, TrustAnchor};
use consilium_core::clock::Clock;
use consilium_ops::{ExitCode, OperatorError, StateLock};
use consilium_proto::MAX_MESSAGE_BYTES;
use consilium_proto::consortium_server::ConsortiumServer;
use consilium_proto::identity_server::IdentityServer;
use consilium_rounds::Cause;
use consilium_store::server::{Blobs, ServerStore, ServerStoreError};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::accept::accept;
use crate::admission::AdmissionLayer;
use crate::config::ServerConfig;
use crate::consortium::Consortium;
use crate::credentials::Credentials;
use crate::enrolment::{Desk, Enrolment};
use crate::membership;
use crate::service::Service;

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
    let anchor = TrustAnchor::read(&config.identity.authority);
    let anchor = anchor.map_err(|error| unacceptable(&error))?;
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
    let consortium = Consortium::open(study, &initial, store, blobs, clock, signer, anchor)
        .await
        .map_err(|error| failed(&error))?;
    consortium.work(Arc::clone(&consortium).watch_the_clock());

    let (stop, mut stopping) = watch::channel(false);
    let service = ConsortiumServer::new(Service(Arc::clone(&consortium)))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let desk = Arc::new(desk);
    tokio::spawn(membership::watch(
        Arc::clone(&consortium),
        Arc::clone(&desk),
        credentials.revocations(),
        stopping.clone(),
    ));
    let identity = IdentityServer::new(Enrolment(desk))
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

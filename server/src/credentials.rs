//! Certificates and revocations as they lie on the disk, read again while the server runs.
//!
//! Every new connection is accepted with the present certificate and authority, every call judged by the present list of
//! revoked certificates. A file that cannot be used changes nothing: what was read before stays in force, and the log says
//! so.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use consilium_certs::{CertificateError, Identity, Peer, Revocations, Role, Signer};
use consilium_core::Digest;
use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;

use crate::config::IdentityConfig;

/// How often the files are read again.
const INTERVAL: Duration = Duration::from_secs(2);

/// What the server shows to peers, and by what it judges them.
pub struct Credentials {
    files: IdentityConfig,
    tls: RwLock<Arc<ServerConfig>>,
    revocations: watch::Sender<Arc<Revocations>>,
    /// Signs statements with the server's key.
    signer: Signer,
    /// As the files were when they were read first.
    first: Contents,
}

impl Credentials {
    /// Reads every file.
    ///
    /// # Errors
    /// [`CertificateError`]; a list of revoked certificates that is not there yet is none.
    pub fn read(files: &IdentityConfig) -> Result<Self, CertificateError> {
        let first = Contents::of(files);
        let identity = Identity::load(&files.certificate, &files.key, Role::Server)?;
        let signer = Signer::of(&identity)?;
        let tls = consilium_certs::server_config(identity, &files.authority)?;
        let path = files.revocations();
        let list = if path.exists() {
            Revocations::read(&path, &files.authority)?
        } else {
            Revocations::default()
        };
        Ok(Self {
            files: files.clone(),
            tls: RwLock::new(Arc::new(tls)),
            revocations: watch::Sender::new(Arc::new(list)),
            signer,
            first,
        })
    }

    /// TLS settings for the next connection.
    #[must_use]
    pub fn tls(&self) -> Arc<ServerConfig> {
        // The lock is held for an assignment only: a poisoned one holds a whole value.
        Arc::clone(&self.tls.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The list of revoked certificates, and every later one.
    #[must_use]
    pub fn revocations(&self) -> watch::Receiver<Arc<Revocations>> {
        self.revocations.subscribe()
    }

    /// Signs with the server's key.
    #[must_use]
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Reads the files again and again, until the server stops.
    pub async fn watch(self: Arc<Self>, mut stopping: watch::Receiver<bool>) {
        let mut seen = self.first.clone();
        let (mut overdue, mut due) = (None, None);
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                _ = stopping.wait_for(|stop| *stop) => return,
            }
            let this = Arc::clone(&self);
            let before = seen.clone();
            let read = tokio::task::spawn_blocking(move || {
                let now = Contents::of(&this.files);
                if now.identity != before.identity {
                    this.renew();
                }
                if now.revocations != before.revocations {
                    this.revoke();
                }
                now
            });
            if let Ok(now) = read.await {
                seen = now;
            }
            let present = Peer::of(&self.signer.certificate());
            if let Ok(present) = present
                && present.is_due()
                && due.as_ref() != Some(&present.serial)
            {
                tracing::warn!(
                    valid_to = consilium_certs::date(present.to),
                    error.code = "certificate_due",
                    "this server's certificate is to be renewed: `consilium-server certs renew-server`"
                );
                due = Some(present.serial);
            }
            let list = Arc::clone(&self.revocations.borrow());
            if list.number > 0 && list.is_overdue() && overdue != Some(list.number) {
                overdue = Some(list.number);
                tracing::warn!(
                    number = list.number,
                    error.code = "revocations_overdue",
                    "the next list of revoked certificates is overdue; this one stays in force: `consilium-server certs crl`"
                );
            }
        }
    }

    /// Takes a renewed certificate of the same key into use.
    fn renew(&self) {
        let files = &self.files;
        let renewed =
            Identity::load(&files.certificate, &files.key, Role::Server).and_then(|identity| {
                let peer = identity.peer().clone();
                let tls = consilium_certs::server_config(identity.clone(), &files.authority)?;
                // Refuses another key: statements that were signed before are checked with that of the connection.
                self.signer.renew(&identity)?;
                Ok((tls, peer))
            });
        match renewed {
            Ok((tls, peer)) => {
                *self.tls.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tls);
                tracing::info!(
                    serial = peer.serial,
                    valid_to = consilium_certs::date(peer.to),
                    "certificate in use"
                );
            }
            Err(error) => {
                tracing::error!(%error, error.code = error.code(), "certificate not taken into use");
            }
        }
    }

    fn revoke(&self) {
        let present = self.revocations.borrow().number;
        match Revocations::read(&self.files.revocations(), &self.files.authority) {
            // An older list, signed as it may be, would give back what was taken.
            Ok(list) if list.number < present => tracing::error!(
                number = list.number,
                present,
                error.code = "revocations_older",
                "list of revoked certificates not taken into use"
            ),
            Ok(list) => {
                tracing::info!(
                    number = list.number,
                    revoked = list.revoked.len(),
                    next_due = consilium_certs::date(list.next),
                    "list of revoked certificates in use"
                );
                self.revocations.send_replace(Arc::new(list));
            }
            Err(error) => tracing::error!(
                %error,
                error.code = error.code(),
                "list of revoked certificates not taken into use"
            ),
        }
    }
}

/// The files as they were read last. Comparing them finds every change, also one within the same second.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    identity: [Option<Digest>; 3],
    revocations: Option<Digest>,
}

impl Contents {
    fn of(files: &IdentityConfig) -> Self {
        let digest = |path: &Path| std::fs::read(path).ok().map(|bytes| Digest::of(&bytes));
        Self {
            identity: [&files.certificate, &files.key, &files.authority].map(|path| digest(path)),
            revocations: digest(&files.revocations()),
        }
    }
}

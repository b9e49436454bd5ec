//! What this site shows to the server: TLS settings and a signing key, whose certificate changes when it is renewed.

use std::sync::Arc;

use consilium_certs::{CertificateError, Identity, client_config};
use rustls::ClientConfig;
use tokio::sync::watch;

use super::Witness;

/// TLS settings and key, shared by everything that opens connections.
#[derive(Clone, Debug)]
pub struct Credentials {
    tls: watch::Sender<Arc<ClientConfig>>,
    witness: Option<Witness>,
}

impl Credentials {
    /// Of a site with a certificate.
    #[must_use]
    pub fn new(tls: ClientConfig, witness: Witness) -> Self {
        Self {
            witness: Some(witness),
            ..Self::from(tls)
        }
    }

    /// Puts the renewed certificate of the same key in the place of the present one: connections that are opened from
    /// now on show it, every connection is opened anew before its next call, and statements carry it.
    ///
    /// # Errors
    /// [`CertificateError`]; then everything stays as it was.
    pub fn renew(
        &self,
        identity: Identity,
        authority: &std::path::Path,
    ) -> Result<(), CertificateError> {
        let tls = client_config(identity.clone(), authority)?;
        if let Some(witness) = &self.witness {
            witness.renew(&identity);
        }
        self.tls.send_replace(Arc::new(tls));
        Ok(())
    }

    pub(super) fn present(&self) -> watch::Receiver<Arc<ClientConfig>> {
        self.tls.subscribe()
    }

    pub(super) fn witness(&self) -> Option<&Witness> {
        self.witness.as_ref()
    }
}

/// Of a site that has no certificate yet.
impl From<ClientConfig> for Credentials {
    fn from(tls: ClientConfig) -> Self {
        Self {
            tls: watch::Sender::new(Arc::new(tls)),
            witness: None,
        }
    }
}

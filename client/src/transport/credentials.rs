//! What this site shows to the server: TLS settings, and the certificate beside its statements, which change when that is
//! renewed.

use std::sync::Arc;

use consilium_certs::{CertificateError, Identity};
use rustls::ClientConfig;
use tokio::sync::watch;

use super::Witness;

/// TLS settings, shared by everything that opens connections, and the signer of this site's statements.
#[derive(Clone, Debug)]
pub struct Credentials {
    tls: watch::Sender<Arc<ClientConfig>>,
    witness: Option<Witness>,
}

impl Credentials {
    /// Of a site that signs statements with the key that it shows to TLS.
    #[must_use]
    pub fn new(tls: ClientConfig, witness: &Witness) -> Self {
        Self {
            witness: Some(witness.clone()),
            ..tls.into()
        }
    }

    /// Puts those of a renewed certificate in their place: connections that are opened from now on use them, and every
    /// connection is opened anew before its next call.
    ///
    /// # Errors
    /// [`CertificateError`] for a certificate of another key; nothing has changed then.
    pub fn renew(&self, identity: &Identity, tls: ClientConfig) -> Result<(), CertificateError> {
        if let Some(witness) = &self.witness {
            witness.renew(identity)?;
        }
        self.tls.send_replace(Arc::new(tls));
        Ok(())
    }

    pub(super) fn present(&self) -> watch::Receiver<Arc<ClientConfig>> {
        self.tls.subscribe()
    }
}

impl From<ClientConfig> for Credentials {
    fn from(tls: ClientConfig) -> Self {
        Self {
            tls: watch::Sender::new(Arc::new(tls)),
            witness: None,
        }
    }
}

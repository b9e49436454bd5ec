//! What this site shows to the server: TLS settings that change when its certificate is renewed.

use std::sync::Arc;

use rustls::ClientConfig;
use tokio::sync::watch;

/// TLS settings, shared by everything that opens connections.
#[derive(Clone, Debug)]
pub struct Credentials(watch::Sender<Arc<ClientConfig>>);

impl Credentials {
    /// Puts others in their place: connections that are opened from now on use them, and every connection is opened anew
    /// before its next call.
    pub fn replace(&self, tls: ClientConfig) {
        self.0.send_replace(Arc::new(tls));
    }

    pub(super) fn present(&self) -> watch::Receiver<Arc<ClientConfig>> {
        self.0.subscribe()
    }
}

impl From<ClientConfig> for Credentials {
    fn from(tls: ClientConfig) -> Self {
        Self(watch::Sender::new(Arc::new(tls)))
    }
}

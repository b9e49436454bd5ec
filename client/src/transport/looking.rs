//! Who answers at the server's address, without saying who asks.

use std::io;
use std::sync::Arc;

use consilium_certs::looking_config;
use tokio_rustls::TlsConnector;

use super::ServerAddress;
use super::connection::tcp;

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhoAnswers {
    /// Somebody with a certificate that this name has issued.
    Issuer(String),
    /// Somebody who shows none in TLS 1.3.
    Nobody,
}

/// Opens a connection, looks at the certificate that arrives, and breaks off: nothing of this site is shown.
///
/// # Errors
/// What the way to the server says.
pub async fn look(server: &ServerAddress) -> io::Result<WhoAnswers> {
    let stream = tcp(server).await?;
    let (config, looked) = looking_config().map_err(io::Error::other)?;
    let shaken = TlsConnector::from(Arc::new(config)).connect(server.name.clone(), stream);
    // It always fails: that is how only looking ends.
    let _ = shaken.await;
    Ok(match looked.issuer() {
        Some(issuer) => WhoAnswers::Issuer(issuer.to_owned()),
        None => WhoAnswers::Nobody,
    })
}

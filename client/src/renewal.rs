//! The next certificate, asked for while the agent goes on with its work.
//!
//! At two thirds of the present one's life a request for the same name, role and key goes to the server, where the operator
//! approves it. The answer is put in the place of the present certificate; from the next call on every connection shows it.

use std::time::Duration;

use consilium_certs::{
    CertificateError, Identity, Peer, Role, SigningRequest, certificate_pem, client_config, date,
    read_certificates, replace_public,
};
use consilium_core::SiteId;
use consilium_core::clock::{Clock as _, SystemClock};
use rustls::pki_types::CertificateDer;
use tracing::{error, info, warn};

use crate::config::IdentityConfig;
use crate::transport::{Answer, Asked, Credentials, GrpcServer, ServerAddress};

/// Keeps a site's certificate from growing old.
pub struct Renewal {
    files: IdentityConfig,
    site: SiteId,
    server: GrpcServer,
    credentials: Credentials,
}

impl Renewal {
    /// Of the certificate in `files`, which `credentials` show.
    #[must_use]
    pub fn new(
        files: IdentityConfig,
        site: SiteId,
        address: ServerAddress,
        credentials: Credentials,
    ) -> Self {
        Self {
            server: GrpcServer::new(address, credentials.clone(), None, site.clone(), PATIENCE),
            files,
            site,
            credentials,
        }
    }

    /// Renews the certificate whenever it is time, as long as it is awaited. What goes wrong is logged and tried again.
    pub async fn keep(mut self) -> std::convert::Infallible {
        loop {
            let present = match self.present() {
                Ok(present) => present,
                Err(error) => {
                    error!(%error, error.code = error.code(), "certificate not read");
                    tokio::time::sleep(LONGEST_PAUSE).await;
                    continue;
                }
            };
            if !present.is_due() {
                let left = present.renewal() - now();
                // Sleeping in pieces: a machine that was suspended finds its clock ahead.
                let left = Duration::from_secs(left.unsigned_abs());
                tokio::time::sleep(left.min(LONGEST_PAUSE)).await;
                continue;
            }
            if !self.renew(&present).await {
                tokio::time::sleep(pause(&present)).await;
            }
        }
    }

    /// Asks once; says whether there is a new certificate.
    async fn renew(&mut self, present: &Peer) -> bool {
        let valid_to = date(present.to);
        let request = match SigningRequest::make(&self.site, Role::Site, &self.files.key) {
            Ok(request) => request,
            Err(error) => {
                error!(%error, error.code = error.code(), valid_to, "certificate not renewed");
                return false;
            }
        };
        let answer = self.server.certificate(&request, Asked::Next).await;
        self.server.disconnect();
        match answer {
            Ok(Answer::Waiting) => {
                warn!(
                    valid_to,
                    "the next certificate waits for the consortium's approval"
                );
            }
            Ok(Answer::Rejected(reason)) => {
                error!(
                    reason,
                    valid_to,
                    error.code = "renewal_rejected",
                    "certificate not renewed"
                );
            }
            Ok(Answer::Certificate(certificate)) => match self.install(&request, &certificate) {
                Ok(next) => {
                    info!(
                        serial = next.serial,
                        valid_to = date(next.to),
                        "certificate renewed"
                    );
                    return true;
                }
                Err(error) => {
                    error!(%error, error.code = error.code(), valid_to, "certificate not renewed");
                }
            },
            Err(error) => {
                warn!(%error, error.code = error.code(), valid_to, "certificate not renewed yet");
            }
        }
        false
    }

    fn present(&self) -> Result<Peer, CertificateError> {
        Ok(self.load()?.peer().clone())
    }

    fn load(&self) -> Result<Identity, CertificateError> {
        Identity::load(&self.files.certificate, &self.files.key, Role::Site)
    }

    fn install(
        &self,
        request: &SigningRequest,
        certificate: &[u8],
    ) -> Result<Peer, CertificateError> {
        let certificate = CertificateDer::from(certificate);
        let mut signed = Err(CertificateError::OtherAuthority);
        for root in read_certificates(&self.files.authority)? {
            signed = request.answered_by(&certificate, &root);
            if signed.is_ok() {
                break;
            }
        }
        let next = signed?;
        replace_public(&self.files.certificate, &certificate_pem(&certificate))?;
        let identity = self.load()?;
        let tls = client_config(identity.clone(), &self.files.authority)?;
        self.credentials.renew(&identity, tls)?;
        Ok(next)
    }
}

/// Between two questions: a small part of the certificate's life, so that an approval soon has its effect and nobody is
/// asked all the time.
fn pause(present: &Peer) -> Duration {
    let life = present.to.saturating_sub(present.from).unsigned_abs();
    Duration::from_secs(life / 2000).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

fn now() -> i64 {
    i64::try_from(SystemClock.now().0 / 1000).unwrap_or(i64::MAX)
}

const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// How long one question may find no server; it is asked again after a pause.
const PATIENCE: Duration = Duration::from_secs(30);

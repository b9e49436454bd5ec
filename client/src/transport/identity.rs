//! Asking for a certificate: the first one, and the next.

use consilium_certs::SigningRequest;
use consilium_proto::certificate_reply::Answer as WireAnswer;
use consilium_proto::identity_client::IdentityClient;
use consilium_proto::{CertificateReply, CertificateRequest};
use tokio::time::timeout;

use super::{CALL, Failure, GrpcServer, nonsense};
use crate::peer::PeerError;

/// Which certificate is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The first, by who has none.
    First,
    /// The next, by who has one.
    Next,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The operator of the consortium has not decided yet.
    Waiting,
    /// The certificate, DER, not verified.
    Certificate(Vec<u8>),
    /// Why there will be none.
    Rejected(String),
}

impl GrpcServer {
    /// Hands a request in, or asks what became of it: to the server it is the same.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn certificate(
        &mut self,
        request: &SigningRequest,
        asked: Asked,
    ) -> Result<Answer, PeerError> {
        let mut patience = self.patience();
        loop {
            match self.try_certificate(request, asked).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => self.pause(&mut patience, failure).await?,
            }
        }
    }

    /// Lets go of the connection: the next call may be a long time from now.
    pub fn disconnect(&mut self) {
        self.channel = None;
    }

    async fn try_certificate(
        &mut self,
        request: &SigningRequest,
        asked: Asked,
    ) -> Result<Answer, Failure> {
        let mut client = IdentityClient::new(self.channel().await?);
        let message = CertificateRequest {
            request: request.der().to_vec(),
        };
        let reply = match asked {
            Asked::First => timeout(CALL, client.request_certificate(message)).await,
            Asked::Next => timeout(CALL, client.renew_certificate(message)).await,
        };
        match reply {
            Ok(Ok(reply)) => answer(reply.into_inner()),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.took_too_long("the request for a certificate", CALL)),
        }
    }
}

fn answer(reply: CertificateReply) -> Result<Answer, Failure> {
    Ok(match reply.answer {
        Some(WireAnswer::Waiting(_)) => Answer::Waiting,
        Some(WireAnswer::Certificate(certificate)) => Answer::Certificate(certificate),
        Some(WireAnswer::Rejected(reason)) => Answer::Rejected(reason),
        None => {
            return Err(nonsense(
                "it does not say what became of the request".into(),
            ));
        }
    })
}

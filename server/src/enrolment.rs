//! Requests for certificates: they come in over the network, wait for the operator, and are answered.
//!
//! [`Desk`] keeps them in a folder of the state, one file a request, so that the operator's commands work beside the
//! running server. [`Enrolment`] is the calls. Nothing here can sign: the authority's key is with the operator.

mod desk;
mod error;
mod record;

use std::sync::Arc;

use consilium_certs::{CertificateError, SigningRequest};
use consilium_proto::certificate_reply::Answer as WireAnswer;
use consilium_proto::identity_server::Identity as Calls;
use consilium_proto::{CertificateReply, CertificateRequest, Refused, Waiting};
use tonic::{Request, Response, Status};

pub use desk::{Desk, REQUESTS_WAITING};
pub use error::DeskError;
pub use record::{Kind, Record, State};

use crate::admission::Caller;

/// The calls.
pub struct Enrolment(pub Arc<Desk>);

type Reply = Result<Response<CertificateReply>, Status>;

#[tonic::async_trait]
impl Calls for Enrolment {
    async fn request_certificate(&self, request: Request<CertificateRequest>) -> Reply {
        self.answer(request, |caller, asked| {
            // Who has a certificate already renews it, or enrols again from a connection without one.
            match &caller.peer {
                None => Ok(Kind::Enrolment),
                Some(peer) => Err(CertificateError::NotRequested(format!(
                    "{} has a certificate, and asks for a first one of {}",
                    peer.name, asked.site
                ))),
            }
        })
        .await
    }

    async fn renew_certificate(&self, request: Request<CertificateRequest>) -> Reply {
        self.answer(request, |caller, asked| {
            let peer = caller.peer.as_ref().ok_or(CertificateError::Missing)?;
            // One key has one next certificate: nobody can fill the desk with renewals.
            let is_same = peer.name == asked.site.as_str()
                && peer.role == asked.role.as_str()
                && peer.key == asked.fingerprint();
            if is_same {
                return Ok(Kind::Renewal {
                    of: peer.serial.clone(),
                });
            }
            Err(CertificateError::NotRequested(format!(
                "{} ({}) asks for a certificate of {} ({}), or for another key",
                peer.name, peer.role, asked.site, asked.role
            )))
        })
        .await
    }
}

impl Enrolment {
    async fn answer(
        &self,
        request: Request<CertificateRequest>,
        kind: impl FnOnce(&Caller, &SigningRequest) -> Result<Kind, CertificateError>,
    ) -> Reply {
        let caller = request
            .extensions()
            .get::<Caller>()
            .cloned()
            .ok_or_else(|| refuse(&CertificateError::Missing))?;
        let asked = SigningRequest::read(&request.into_inner().request)
            .and_then(|asked| Ok((kind(&caller, &asked)?, asked)))
            .map_err(|error| refuse(&error));
        let answered = match asked {
            Ok((kind, asked)) => {
                let desk = Arc::clone(&self.0);
                let from = caller.from.ip();
                tokio::task::spawn_blocking(move || desk.ask(kind, &asked, from))
                    .await
                    .map_err(|_| Status::internal("the desk is closed"))?
                    .map_err(|error| {
                        let (code, hint) = (error.code(), error.hint());
                        let refused = if error.may_pass() {
                            Refused::for_now(code, error.to_string(), hint)
                        } else {
                            Refused::new(code, error.to_string(), hint)
                        };
                        refused.into_status()
                    })
            }
            Err(status) => Err(status),
        };
        if let Err(status) = &answered
            && let Some(refused) = Refused::from_status(status)
        {
            tracing::warn!(from = %caller.from, error.code = refused.code, "request for a certificate refused");
        }
        let answer = match answered? {
            State::Waiting => WireAnswer::Waiting(Waiting {}),
            State::Approved(certificate) => WireAnswer::Certificate(certificate),
            State::Rejected(reason) => WireAnswer::Rejected(reason),
        };
        Ok(Response::new(CertificateReply {
            answer: Some(answer),
        }))
    }
}

fn refuse(error: &CertificateError) -> Status {
    Refused::new(error.code(), error.to_string(), error.hint()).into_status()
}

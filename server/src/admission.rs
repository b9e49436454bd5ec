//! Who may make which call, decided at every call.
//!
//! TLS has proved which certificate of the consortium a connection holds, if any. [`Admission`] stands before the
//! services: it refuses callers whose certificate is missing, not valid now, revoked, or for another role, with a code and
//! in words; a call that is under way when its caller is revoked ends at once.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use consilium_certs::{CertificateError, Peer, Revocations, Role};
use consilium_proto::Refused;
use http::{Request, Response};
use tokio::sync::watch;
use tower::{Layer, Service};

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What its certificate says; none was shown otherwise.
    pub peer: Option<Arc<Peer>>,
    /// Where it comes from.
    pub from: SocketAddr,
}

/// Who may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    /// Also who has no certificate yet.
    Anybody,
    /// Holders of a certificate for one of these roles.
    Roles(&'static [Role]),
}

/// Who may make the call of this path; none for a call that does not exist.
#[must_use]
pub fn who_may(path: &str) -> Option<May> {
    use Role::{Auditor, Coordinator, Site};
    Some(match path {
        "/consilium.v1.Consortium/GetStudy"
        | "/consilium.v1.Consortium/AwaitAssignment"
        | "/consilium.v1.Consortium/DownloadGroup"
        | "/consilium.v1.Consortium/UploadUpdate"
        | "/consilium.v1.Consortium/Withdraw"
        | "/consilium.v1.Consortium/Accept"
        | "/consilium.v1.Consortium/Rejoin"
        | "/consilium.v1.Consortium/ReadLog"
        | "/consilium.v1.Consortium/WitnessLog" => May::Roles(&[Site]),
        "/consilium.v1.Identity/RenewCertificate" => May::Roles(&[Site, Coordinator, Auditor]),
        "/consilium.v1.Identity/RequestCertificate" => May::Anybody,
        _ => return None,
    })
}

/// Puts the check before services.
#[derive(Clone)]
pub struct AdmissionLayer(pub watch::Receiver<Arc<Revocations>>);

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission {
            inner,
            revocations: self.0.clone(),
        }
    }
}

/// Answers calls of those who may make them, and refuses the others.
#[derive(Clone)]
pub struct Admission<S> {
    inner: S,
    revocations: watch::Receiver<Arc<Revocations>>,
}

impl<S, B, R> Service<Request<B>> for Admission<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = Response<R>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let caller = request.extensions().get::<Caller>().cloned();
        let mut revocations = self.revocations.clone();
        let list = Arc::clone(&revocations.borrow_and_update());
        if let Err(refused) = admit(&path, caller.as_ref(), &list) {
            let answer = refuse(&path, caller.as_ref(), refused);
            return Box::pin(async move { Ok(answer) });
        }
        let peer = caller.as_ref().and_then(|caller| caller.peer.clone());
        if let Some(site) = peer.as_ref().and_then(|peer| peer.site().ok()) {
            request.extensions_mut().insert(site);
        }
        // The clone that was polled until it was ready is the one to be called.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        Box::pin(async move {
            let revoked = async {
                let Some(peer) = peer else {
                    return std::future::pending().await;
                };
                loop {
                    // A closed channel means that the server stops.
                    if revocations.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                    let list = Arc::clone(&revocations.borrow_and_update());
                    if let Err(error) = list.check(&peer) {
                        return refused(&error);
                    }
                }
            };
            tokio::select! {
                answer = inner.call(request) => answer,
                refused = revoked => Ok(refuse(&path, caller.as_ref(), refused)),
            }
        })
    }
}

fn admit(path: &str, caller: Option<&Caller>, list: &Revocations) -> Result<(), Refused> {
    let may = who_may(path).ok_or_else(|| {
        Refused::new(
            "call_unknown",
            format!("this server knows no call {path}"),
            "use programs of one version on both sides",
        )
    })?;
    let peer = caller.and_then(|caller| caller.peer.as_deref());
    match (may, peer) {
        (May::Anybody, _) => Ok(()),
        (May::Roles(_), None) => Err(refused(&CertificateError::Missing)),
        (May::Roles(roles), Some(peer)) => {
            check(peer, roles, list).map_err(|error| refused(&error))
        }
    }
}

fn check(peer: &Peer, roles: &[Role], list: &Revocations) -> Result<(), CertificateError> {
    list.check(peer)?;
    peer.expect_valid_now()?;
    if roles.iter().any(|role| peer.expect(*role).is_ok()) {
        return Ok(());
    }
    let words: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
    Err(CertificateError::WrongRole {
        got: peer.role.clone(),
        expected: words.join(" or "),
    })
}

fn refused(error: &CertificateError) -> Refused {
    Refused::new(error.code(), error.to_string(), error.hint())
}

/// The answer to a call that is not admitted; logged here, where it leaves.
fn refuse<R: Default>(path: &str, caller: Option<&Caller>, refused: Refused) -> Response<R> {
    let peer = caller.and_then(|caller| caller.peer.as_deref());
    tracing::warn!(
        site = peer.map_or("unknown", |peer| &peer.name),
        serial = peer.map_or("none", |peer| &peer.serial),
        from = caller.map(|caller| caller.from.to_string()),
        call = path,
        error.code = refused.code,
        "refused"
    );
    refused.into_status().into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_the_protocol_says_who_may_make_it_and_one_needs_no_certificate() {
        let mut anybody = Vec::new();
        let mut calls = 0;
        for (service, text) in [
            (
                "Consortium",
                include_str!("../../proto/proto/consortium.proto"),
            ),
            ("Identity", include_str!("../../proto/proto/identity.proto")),
        ] {
            for line in text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("rpc "))
            {
                let name = line.split('(').next().unwrap();
                let may = who_may(&format!("/consilium.v1.{service}/{name}"));
                calls += 1;
                if may.unwrap_or_else(|| panic!("{name} is not in the table")) == May::Anybody {
                    anybody.push(name.to_owned());
                }
            }
        }
        assert!(calls >= 10, "the protocol was not read: {calls} calls");
        assert_eq!(anybody, ["RequestCertificate"]);
        assert_eq!(who_may("/consilium.v1.Consortium/Else"), None);
    }
}

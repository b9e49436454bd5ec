//! The aggregation server over mutual TLS 1.3.
//!
//! [`GrpcServer`] is a [`Peer`]: it opens one outbound connection, gives every call a time limit, and
//! repeats a call with growing pauses while the server is only unreachable. A refused certificate or a
//! refusal by the server ends the call at once; whether to ask again is the agent's business.

mod connection;
mod credentials;
mod identity;
mod judgement;
mod looking;
mod patience;
mod proxy;
mod witness;

use std::sync::Arc;
use std::time::Duration;

use consilium_certs::{CertificateError, Signature};
use consilium_core::study::PROTOCOL_VERSION;
use consilium_core::vector::{bytes_to_values, values_to_bytes};
use consilium_core::{Digest, GroupName, ModelVector, SiteId, StudyId};
use consilium_proto::consortium_client::ConsortiumClient;
use consilium_proto::upload_message::Message;
use consilium_proto::{
    AcceptRequest, AwaitAssignmentRequest, BadMessage, DownloadGroupRequest, GetStudyRequest,
    GroupChunk, GroupLength, MAX_CHUNK_BYTES, MAX_MESSAGE_BYTES, ReadLogRequest, Refused,
    RejoinRequest, UpdateHeader, UploadMessage, WithdrawRequest, WitnessLogRequest,
    assignment_from_wire, digest_to_wire, head_to_wire, receipt_from_wire, signed_to_wire,
    view_from_wire, withdrawal_to_wire,
};
use consilium_rounds::{Assignment, LedgerHead, Receipt, Sealed, Withdrawal};
use consilium_transparency::{Signed, View, Witnessed};
use dp_rs::plan::Transcript;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};

pub use connection::ServerAddress;
use connection::{Connector, NotConnected};
pub use credentials::Credentials;
pub use identity::{Answer, Asked};
pub use looking::{WhoAnswers, look};
use patience::Patience;
pub use proxy::{InvalidProxy, Proxy};
pub use witness::Witness;

use crate::peer::{Attempt, Peer, PeerError, Question, Uploaded, Wanted};

/// The aggregation server, over the network.
pub struct GrpcServer {
    connector: Connector,
    /// Signs and judges statements; none while this site enrols.
    witness: Option<Witness>,
    site: SiteId,
    patience: Duration,
    channel: Option<Channel>,
}

/// Why one attempt at a call failed.
enum Failure {
    /// Trying again may help.
    Transient(String),
    /// Trying again does not help.
    Final(PeerError),
}

impl GrpcServer {
    /// A server that is not connected yet. It is given up when it was unreachable for `patience` on end.
    #[must_use]
    pub fn new(
        address: ServerAddress,
        credentials: impl Into<Credentials>,
        witness: impl Into<Option<Witness>>,
        site: SiteId,
        patience: Duration,
    ) -> Self {
        Self {
            connector: Connector::new(address, &credentials.into()),
            witness: witness.into(),
            site,
            patience,
            channel: None,
        }
    }

    /// The connection, opened when there is none, or when this site has a new certificate.
    async fn channel(&mut self) -> Result<Channel, Failure> {
        match &self.channel {
            Some(channel) if !self.connector.is_outdated() => Ok(channel.clone()),
            _ => {
                let channel = self.connector.connect().await?;
                Ok(self.channel.insert(channel).clone())
            }
        }
    }

    async fn client(&mut self) -> Result<ConsortiumClient<Channel>, Failure> {
        Ok(ConsortiumClient::new(self.channel().await?)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
    }

    /// What a failed call means. A connection that failed is not used again.
    fn failed(&mut self, status: &Status) -> Failure {
        if let Some(refused) = Refused::from_status(status) {
            return Failure::Final(PeerError::Refused {
                code: refused.code,
                message: refused.message,
                hint: refused.hint,
                retryable: refused.retryable,
            });
        }
        match status.code() {
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Aborted
            | Code::Unknown
            | Code::Internal
            | Code::Ok => {
                self.channel = None;
                match self.connector.recorded() {
                    Some(failure) => failure.into(),
                    None => Failure::Transient(innermost(status)),
                }
            }
            Code::OutOfRange => Failure::Final(PeerError::TooLarge(status.message().to_owned())),
            code => Failure::Final(PeerError::Nonsense(format!(
                "{code:?}: {}",
                status.message()
            ))),
        }
    }

    fn took_too_long(&mut self, what: &str, limit: Duration) -> Failure {
        self.channel = None;
        Failure::Transient(format!("{what} took longer than {} s", limit.as_secs()))
    }

    /// Waits before the next attempt, or says why there is none.
    async fn pause(&self, patience: &mut Patience, failure: Failure) -> Result<(), PeerError> {
        match failure {
            Failure::Final(error) => Err(error),
            Failure::Transient(problem) => patience.wait(self.connector.address(), problem).await,
        }
    }

    fn witness(&self) -> Result<&Witness, PeerError> {
        let none = || PeerError::Nonsense("a site that enrols takes no part in its log".into());
        self.witness.as_ref().ok_or_else(none)
    }

    fn patience(&self) -> Patience {
        Patience::new(self.patience, &self.site)
    }

    async fn try_study(&mut self, name: &StudyId) -> Result<Vec<u8>, Failure> {
        let mut client = self.client().await?;
        let request = GetStudyRequest {
            protocol_version: PROTOCOL_VERSION,
            study: name.to_string(),
        };
        match timeout(CALL, client.get_study(request)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner().document),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.took_too_long("fetching the study", CALL)),
        }
    }

    async fn try_assignment(&mut self, question: &Question) -> Result<Assignment, Failure> {
        let mut client = self.client().await?;
        let request = AwaitAssignmentRequest {
            study: digest_to_wire(&question.study),
            sealed: question.sealed.map(attempt_to_wire),
            known: question.known.map(attempt_to_wire),
            wait_milliseconds: LONG_POLL.as_millis() as u32,
        };
        let limit = LONG_POLL + CALL;
        match timeout(limit, client.await_assignment(request)).await {
            Ok(Ok(reply)) => {
                let mut assignment = assignment_from_wire(&reply.into_inner())?;
                assignment.ledger = self.verified(assignment.ledger)?;
                Ok(assignment)
            }
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.took_too_long("waiting for work", limit)),
        }
    }

    /// Fetches what is missing in `arriving.values`; what has arrived stays there when the call fails.
    async fn try_group(&mut self, arriving: &mut Arriving<'_>) -> Result<(), Failure> {
        let mut client = self.client().await?;
        let wanted = arriving.wanted;
        let request = DownloadGroupRequest {
            study: digest_to_wire(&wanted.study),
            model: digest_to_wire(&wanted.model),
            group: wanted.group.to_string(),
            offset: arriving.values.len() as u64,
        };
        let reply = match timeout(CALL, client.download_group(request)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(status)) => return Err(self.failed(&status)),
            Err(_) => return Err(self.took_too_long("starting a download", CALL)),
        };
        let mut chunks = reply.into_inner();
        loop {
            match timeout(CALL, chunks.message()).await {
                Ok(Ok(Some(chunk))) => arriving.take(&chunk.values)?,
                Ok(Ok(None)) => break,
                Ok(Err(status)) => return Err(self.failed(&status)),
                Err(_) => return Err(self.took_too_long("a part of a download", CALL)),
            }
        }
        arriving.complete()
    }

    async fn try_upload(
        &mut self,
        header: &UpdateHeader,
        update: &Arc<ModelVector>,
    ) -> Result<Uploaded, Failure> {
        let mut client = self.client().await?;
        let first = UploadMessage {
            message: Some(Message::Header(header.clone())),
        };
        let messages = std::iter::once(first).chain(chunks(Arc::clone(update)));
        let mebibytes = (4 * update.len() as u64) >> 20;
        let limit = CALL + SLOWEST_MEBIBYTE * u32::try_from(mebibytes).unwrap_or(u32::MAX);
        match timeout(limit, client.upload_update(tokio_stream::iter(messages))).await {
            Ok(Ok(reply)) => {
                let reply = reply.into_inner();
                let ledger = reply.ledger.as_ref().map(receipt_from_wire).transpose()?;
                Ok(Uploaded {
                    already_stored: reply.already_stored,
                    ledger: self.verified(ledger)?,
                })
            }
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.took_too_long("the upload", limit)),
        }
    }

    /// A receipt that is signed with the key of the certificate which this connection has shown.
    fn verified(&self, receipt: Option<Receipt>) -> Result<Option<Receipt>, Failure> {
        let Some(mut receipt) = receipt else {
            return Ok(None);
        };
        let signature = Signature {
            scheme: receipt.scheme,
            bytes: receipt.signature.clone(),
        };
        let certificate = self.connector.certificate();
        let signed = Receipt::signed_bytes(&receipt.statement);
        if let Err(error) = consilium_certs::verify(&certificate, &signed, &signature) {
            return Err(nonsense(format!(
                "its receipt of the privacy ledger: {error}"
            )));
        }
        receipt.certificate = certificate;
        Ok(Some(receipt))
    }

    async fn try_withdraw(&mut self, request: &WithdrawRequest) -> Result<(), Failure> {
        let mut client = self.client().await?;
        match timeout(CALL, client.withdraw(request.clone())).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.took_too_long("withdrawing", CALL)),
        }
    }

    async fn try_accept(&mut self, request: &AcceptRequest) -> Result<(), Failure> {
        let mut client = self.client().await?;
        match timeout(CALL, client.accept(request.clone())).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.took_too_long("showing the acceptance", CALL)),
        }
    }

    async fn try_rejoin(&mut self, request: &RejoinRequest) -> Result<(), Failure> {
        let mut client = self.client().await?;
        match timeout(CALL, client.rejoin(request.clone())).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.took_too_long("coming back", CALL)),
        }
    }

    async fn try_read_log(&mut self, request: &ReadLogRequest) -> Result<View, Failure> {
        let mut client = self.client().await?;
        match timeout(CALL, client.read_log(request.clone())).await {
            Ok(Ok(reply)) => {
                let view = view_from_wire(&reply.into_inner())?;
                let forged = |problem| Failure::Final(PeerError::Forged(problem));
                let witness = self.witness().map_err(Failure::Final)?;
                view.check_signatures(witness.notary()).map_err(forged)?;
                Ok(view)
            }
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.took_too_long("reading the log", CALL)),
        }
    }

    async fn try_witness_log(&mut self, request: &WitnessLogRequest) -> Result<(), Failure> {
        let mut client = self.client().await?;
        match timeout(CALL, client.witness_log(request.clone())).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => Err(self.took_too_long("counter-signing the log", CALL)),
        }
    }
}

impl Peer for GrpcServer {
    async fn study(&mut self, name: &StudyId) -> Result<Vec<u8>, PeerError> {
        let mut patience = self.patience();
        loop {
            match self.try_study(name).await {
                Ok(document) => return Ok(document),
                Err(failure) => self.pause(&mut patience, failure).await?,
            }
        }
    }

    async fn assignment(&mut self, question: &Question) -> Result<Assignment, PeerError> {
        let mut patience = self.patience();
        loop {
            match self.try_assignment(question).await {
                Ok(assignment) => return Ok(assignment),
                Err(failure) => self.pause(&mut patience, failure).await?,
            }
        }
    }

    async fn group(&mut self, wanted: &Wanted) -> Result<Vec<f32>, PeerError> {
        let mut patience = self.patience();
        let mut arriving = Arriving {
            wanted,
            values: Vec::new(),
            damaged: false,
        };
        loop {
            let before = arriving.values.len();
            match self.try_group(&mut arriving).await {
                Ok(()) => return Ok(arriving.values),
                Err(failure) => {
                    if arriving.values.len() > before {
                        patience = self.patience();
                    }
                    self.pause(&mut patience, failure).await?;
                }
            }
        }
    }

    async fn upload(
        &mut self,
        study: Digest,
        site: &SiteId,
        sealed: Sealed,
        update: Arc<ModelVector>,
        privacy: Option<Transcript>,
        ledger: Option<LedgerHead>,
    ) -> Result<Uploaded, PeerError> {
        let header = UpdateHeader {
            study: digest_to_wire(&study),
            round: sealed.round,
            attempt: sealed.attempt,
            site: site.to_string(),
            digest: digest_to_wire(&sealed.digest),
            groups: update
                .0
                .iter()
                .map(|(group, values)| GroupLength {
                    group: group.to_string(),
                    values: values.len() as u64,
                })
                .collect(),
            // Cannot fail: plain numbers and text.
            privacy: privacy.map_or_else(Vec::new, |transcript| {
                serde_json::to_vec(&transcript).expect("a transcript serialises")
            }),
            ledger: ledger.as_ref().map(head_to_wire),
        };
        let mut patience = self.patience();
        loop {
            match self.try_upload(&header, &update).await {
                Ok(uploaded) => return Ok(uploaded),
                Err(failure) => self.pause(&mut patience, failure).await?,
            }
        }
    }

    async fn withdraw(&mut self, study: Digest, withdrawal: &Withdrawal) -> Result<(), PeerError> {
        let request = withdrawal_to_wire(&study, withdrawal);
        let mut patience = self.patience();
        loop {
            match self.try_withdraw(&request).await {
                Ok(()) => return Ok(()),
                Err(failure) => self.pause(&mut patience, failure).await?,
            }
        }
    }

    async fn accept(&mut self, study: Digest, acceptance: &Signed) -> Result<(), PeerError> {
        let request = AcceptRequest {
            study: digest_to_wire(&study),
            acceptance: Some(signed_to_wire(acceptance)),
        };
        let mut patience = self.patience();
        loop {
            match self.try_accept(&request).await {
                Ok(()) => return Ok(()),
                Err(failure) => self.pause(&mut patience, failure).await?,
            }
        }
    }

    async fn rejoin(&mut self, study: Digest) -> Result<(), PeerError> {
        let study = digest_to_wire(&study);
        let request = RejoinRequest { study };
        let mut patience = self.patience();
        loop {
            match self.try_rejoin(&request).await {
                Ok(()) => return Ok(()),
                Err(failure) => self.pause(&mut patience, failure).await?,
            }
        }
    }

    async fn read_log(
        &mut self,
        study: Digest,
        seen: u64,
        updates: &[Attempt],
        committed: u32,
    ) -> Result<View, PeerError> {
        let request = ReadLogRequest {
            study: digest_to_wire(&study),
            seen,
            updates: updates.iter().copied().map(attempt_to_wire).collect(),
            committed,
        };
        let mut patience = self.patience();
        loop {
            match self.try_read_log(&request).await {
                Ok(view) => return Ok(view),
                Err(failure) => self.pause(&mut patience, failure).await?,
            }
        }
    }

    async fn witness_log(&mut self, study: Digest, seen: &Witnessed) -> Result<Signed, PeerError> {
        let cannot_sign = |error: CertificateError| PeerError::NotAuthenticated {
            code: error.code(),
            address: self.connector.address().to_owned(),
            problem: error.to_string(),
            hint: error.hint(),
        };
        let signed = self.witness()?.sign(seen).map_err(cannot_sign)?;
        let request = WitnessLogRequest {
            study: digest_to_wire(&study),
            witnessed: Some(signed_to_wire(&signed)),
        };
        let mut patience = self.patience();
        loop {
            match self.try_witness_log(&request).await {
                Ok(()) => return Ok(signed),
                Err(failure) => self.pause(&mut patience, failure).await?,
            }
        }
    }
}

/// A group that is being downloaded, with what has arrived of it.
struct Arriving<'a> {
    wanted: &'a Wanted,
    values: Vec<f32>,
    /// Whether it arrived damaged once.
    damaged: bool,
}

impl Arriving<'_> {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let Wanted { group, length, .. } = self.wanted;
        if bytes.len() > MAX_CHUNK_BYTES || !bytes.len().is_multiple_of(4) {
            return Err(nonsense(format!(
                "a chunk of group {group} has {} bytes",
                bytes.len()
            )));
        }
        if self.values.len() + bytes.len() / 4 > *length {
            return Err(nonsense(format!(
                "group {group} has more than the {length} values of the study"
            )));
        }
        self.values.extend(bytes_to_values(bytes));
        Ok(())
    }

    /// Compares what has arrived with what was announced, and takes it once more when it differs: it may
    /// have been damaged on the way.
    fn complete(&mut self) -> Result<(), Failure> {
        let Wanted { group, length, .. } = self.wanted;
        if self.values.len() < *length {
            return Err(Failure::Transient(format!(
                "group {group} ended after {} of {length} values",
                self.values.len(),
            )));
        }
        if Digest::of(&values_to_bytes(&self.values)) == self.wanted.digest {
            return Ok(());
        }
        if std::mem::replace(&mut self.damaged, true) {
            return Err(Failure::Final(PeerError::WrongValues {
                group: group.clone(),
                model: self.wanted.model,
            }));
        }
        self.values.clear();
        Err(Failure::Transient(format!("group {group} arrived damaged")))
    }
}

/// The chunks of an update, group by group in name order.
fn chunks(update: Arc<ModelVector>) -> impl Iterator<Item = UploadMessage> + Send {
    let groups: Vec<GroupName> = update.0.keys().cloned().collect();
    groups.into_iter().flat_map(move |group| {
        let update = Arc::clone(&update);
        let length = update.0[&group].len();
        (0..length).step_by(CHUNK_VALUES).map(move |offset| {
            let end = length.min(offset + CHUNK_VALUES);
            UploadMessage {
                message: Some(Message::Chunk(GroupChunk {
                    group: group.to_string(),
                    offset: offset as u64,
                    values: values_to_bytes(&update.0[&group][offset..end]).into(),
                })),
            }
        })
    })
}

fn attempt_to_wire(attempt: Attempt) -> consilium_proto::Attempt {
    consilium_proto::Attempt {
        round: attempt.round,
        attempt: attempt.attempt,
    }
}

fn nonsense(problem: String) -> Failure {
    Failure::Final(PeerError::Nonsense(problem))
}

/// The last of the causes: the others say only that a call failed.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl From<BadMessage> for Failure {
    fn from(bad: BadMessage) -> Self {
        nonsense(bad.to_string())
    }
}

impl From<NotConnected> for Failure {
    fn from(problem: NotConnected) -> Self {
        match problem {
            NotConnected::Unreachable(problem) => Self::Transient(problem),
            NotConnected::NotAuthenticated(error) => Self::Final(error),
        }
    }
}

const CHUNK_VALUES: usize = MAX_CHUNK_BYTES / 4;

/// Longest time for one answer, or one part of a longer one.
const CALL: Duration = Duration::from_secs(30);

/// Longest time that the server may wait for something new.
const LONG_POLL: Duration = Duration::from_secs(20);

/// Time for one MiB of an upload at 1 Mbit/s.
const SLOWEST_MEBIBYTE: Duration = Duration::from_secs(9);

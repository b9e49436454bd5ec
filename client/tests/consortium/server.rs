//! An aggregation server in memory: the real coordination and average, the real messages and TLS, and
//! faults on demand. It survives the end of its listener, as the real one survives its process.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use consilium_certs::{Identity, Role, Signer, server_config};
use consilium_core::clock::{Clock as _, SystemClock, Timestamp};
use consilium_core::vector::{bytes_to_values, values_to_bytes};
use consilium_core::{Digest, GroupName, ModelVector, RoundPlan, SiteId, Study};
use consilium_proto::consortium_server::{Consortium, ConsortiumServer};
use consilium_proto::upload_message::Message;
use consilium_proto::{
    AcceptReply, AcceptRequest, AssignmentReply, AwaitAssignmentRequest, DownloadGroupRequest,
    GetStudyReply, GetStudyRequest, MAX_CHUNK_BYTES, MAX_MESSAGE_BYTES, ReadLogReply,
    ReadLogRequest, Refused, RejoinReply, RejoinRequest, UploadMessage, UploadReply, ValueChunk,
    WithdrawReply, WithdrawRequest, WitnessLogReply, WitnessLogRequest, assignment_to_wire,
    digest_from_wire, head_from_wire, receipt_to_wire, signed_from_wire, view_to_wire,
    withdrawal_from_wire,
};
use consilium_rounds::{
    Assignment, Coordination, Countersigned, Effect, Event, LedgerHead, Receipt, Withdrawal,
};
use consilium_transparency::{
    CommittedRound, Entry, Event as LogEvent, Found, Head, Other, Signed, Statement as _, Tree,
    View, Witnessed, leaf_hash,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use super::{initial, study};

/// What the server is told to do wrong, each counted down.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Downloads whose first value is changed on the way.
    pub damaged_downloads: u32,
    /// Downloads that break off after the first chunk.
    pub broken_downloads: u32,
    /// Uploads that are refused because there is no room.
    pub full_disk: u32,
    /// Downloads of a model that was cleaned up.
    pub forgotten_models: u32,
    /// Answers without the digests of the groups.
    pub answers_without_digests: u32,
    /// Models of which a bit is flipped in every value, with digests of what is then sent.
    pub wrong_models: BTreeSet<Digest>,
    /// Receipts whose signature does not fit.
    pub forged_receipts: bool,
    /// The document that is shown instead of the study's.
    pub document: Option<Vec<u8>>,
    /// What is made of every plan before a site sees it.
    pub plan: Option<fn(&mut RoundPlan)>,
}

/// Everything the server knows, and everything that reached it.
pub struct ServerState {
    inner: Mutex<Inner>,
    version: watch::Sender<u64>,
}

pub struct Inner {
    pub study: Study,
    pub coordination: Coordination,
    pub models: BTreeMap<Digest, ModelVector>,
    pub updates: BTreeMap<SiteId, ModelVector>,
    pub faults: Faults,
    /// Every header and chunk that arrived: (certificate's site, group of the chunk or announced groups).
    pub arrived_groups: Vec<(SiteId, GroupName)>,
    /// Updates that arrived whole, per site, repeated ones included.
    pub uploads: BTreeMap<SiteId, u32>,
    /// Sites whose acceptance came.
    pub acceptances: Vec<SiteId>,
    /// Withdrawals that came, by site.
    pub withdrawals: Vec<(SiteId, Withdrawal)>,
    /// Every download: (site, group, offset).
    pub downloads: Vec<(SiteId, String, u64)>,
    /// The newest head of each site's ledger that came with an update.
    pub ledgers: BTreeMap<SiteId, LedgerHead>,
    /// Signs what is said about them; nothing before the server listens.
    pub signer: Option<Signer>,
    /// The entries of the log.
    pub log: Vec<Vec<u8>>,
    /// The newest counter-signature of each site, with the head that it is of.
    pub witnessed: BTreeMap<SiteId, (Signed, Signed)>,
}

impl ServerState {
    pub fn new() -> Arc<Self> {
        Self::of(study(), initial())
    }

    /// At the beginning of `study`, with the initial values of its shared groups.
    pub fn of(study: Study, initial: ModelVector) -> Arc<Self> {
        let mut coordination = Coordination::new(&study);
        let before = coordination.clone();
        let started = Event::Started { now: Timestamp(0) };
        let _ = coordination.handle(&study, started.clone()).unwrap();
        let told = consilium_server::log::told(&started, &before, &coordination, None);
        let first = LogEvent::StudyAccepted {
            site: super::site("a"),
            study: study.digest(),
        };
        Arc::new(Self {
            inner: Mutex::new(Inner {
                models: BTreeMap::from([(initial.sha256(), initial)]),
                study,
                coordination,
                updates: BTreeMap::new(),
                faults: Faults::default(),
                arrived_groups: Vec::new(),
                uploads: BTreeMap::new(),
                acceptances: Vec::new(),
                withdrawals: Vec::new(),
                downloads: Vec::new(),
                ledgers: BTreeMap::new(),
                signer: None,
                log: std::iter::once(first).chain(told).map(entry).collect(),
                witnessed: BTreeMap::new(),
            }),
            version: watch::channel(0).0,
        })
    }

    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// The deadline of the open round passes.
    pub fn pass_the_deadline(&self) {
        {
            let mut inner = self.inner();
            let now = inner.coordination.open_plan().unwrap().deadline;
            inner.take(Event::Clock { now });
        }
        self.version.send_modify(|version| *version += 1);
    }

    /// The round that is open, or `None` at the end.
    pub fn open_attempt(&self) -> Option<(u32, u32)> {
        let inner = self.inner();
        inner
            .coordination
            .open_plan()
            .map(|plan| (plan.round, plan.attempt))
    }

    /// Waits until the state is as wanted.
    pub async fn wait_until(&self, wanted: impl Fn(&Inner) -> bool) {
        let mut version = self.version.subscribe();
        loop {
            if wanted(&self.inner()) {
                return;
            }
            version.changed().await.unwrap();
        }
    }
}

impl Inner {
    /// Bytes of a group as they are sent.
    fn bytes(&self, model: &Digest, group: &GroupName) -> Vec<u8> {
        let mut bytes = values_to_bytes(&self.models[model].0[group]);
        if self.faults.wrong_models.contains(model) {
            bytes.iter_mut().step_by(4).for_each(|byte| *byte ^= 1);
        }
        bytes
    }

    /// Adds the digests of the groups; every site of the toy study shares all of them.
    fn announce(&mut self, mut assignment: Assignment) -> Assignment {
        if self.faults.answers_without_digests > 0 {
            self.faults.answers_without_digests -= 1;
        } else if let Some(model) = assignment.model() {
            let groups = self.models[&model].0.keys();
            assignment.groups = groups
                .map(|group| (group.clone(), Digest::of(&self.bytes(&model, group))))
                .collect();
        }
        if let (Some(change), Some(plan)) = (self.faults.plan, &mut assignment.plan) {
            change(plan);
        }
        assignment
    }

    fn receipt(&self, site: &SiteId) -> Option<Receipt> {
        let said = Countersigned {
            study: self.study.digest(),
            site: site.clone(),
            ledger: *self.ledgers.get(site)?,
            at: Timestamp(0),
        };
        let statement = serde_json::to_vec(&said).unwrap();
        let signer = self.signer.as_ref().unwrap();
        let mut signature = signer.sign(&Receipt::signed_bytes(&statement)).unwrap();
        if self.faults.forged_receipts {
            signature.bytes[9] ^= 1;
        }
        Some(Receipt {
            statement,
            scheme: signature.scheme,
            signature: signature.bytes,
            certificate: Vec::new(),
        })
    }

    fn sign(&self, head: &Head) -> Signed {
        let signer = self.signer.as_ref().unwrap();
        let signature = signer.sign(&Head::signed_bytes(&head.bytes())).unwrap();
        Signed {
            statement: head.bytes(),
            scheme: signature.scheme,
            signature: signature.bytes,
            certificate: signer.certificate().to_vec(),
        }
    }

    fn view(&self, site: &SiteId, asked: &ReadLogRequest) -> View {
        let tree: Tree = self.log.iter().map(|entry| leaf_hash(entry)).collect();
        let size = tree.len();
        let head = Head {
            log: tree.leaf(0).unwrap(),
            size,
            root: tree.root(),
            at: SystemClock.now(),
        };
        let is_wanted = |bytes: &[u8]| match Entry::read(bytes).unwrap().event {
            LogEvent::UpdateReceived {
                site: of,
                round,
                attempt,
                ..
            } => {
                let mut wanted = asked.updates.iter();
                of == *site && wanted.any(|at| (at.round, at.attempt) == (round, attempt))
            }
            _ => false,
        };
        let found = (0..).zip(&self.log).filter(|(_, bytes)| is_wanted(bytes));
        let others = self.witnessed.iter().filter(|(other, _)| *other != site);
        let found_at = |index: usize| Found {
            index: index as u64,
            entry: self.log[index].clone(),
            path: tree.inclusion(index as u64, size).unwrap(),
        };
        let find = |is_it: &dyn Fn(&LogEvent) -> bool| {
            let entries = self
                .log
                .iter()
                .map(|bytes| Entry::read(bytes).unwrap().event);
            let at = entries.enumerate().filter(|(_, event)| is_it(event)).last();
            at.map(|(index, _)| found_at(index))
        };
        let opened = find(
            &|event| matches!(event, LogEvent::PlanOpened { round, .. } if *round == asked.committed),
        );
        let aggregated = find(
            &|event| matches!(event, LogEvent::Aggregated { round, .. } if *round == asked.committed),
        );
        View {
            committed: opened
                .zip(aggregated)
                .map(|(opened, aggregated)| CommittedRound { opened, aggregated }),
            head: self.sign(&head),
            consistency: tree.consistency(asked.seen, size).unwrap_or_default(),
            updates: found.map(|(index, _)| found_at(index)).collect(),
            others: others
                .map(|(_, (head, witnessed))| {
                    let then = head.says::<Head>().unwrap().size;
                    Other {
                        head: head.clone(),
                        witnessed: witnessed.clone(),
                        consistency: tree.consistency(then, size).unwrap_or_default(),
                    }
                })
                .collect(),
        }
    }

    fn take(&mut self, event: Event) {
        let before = self.coordination.clone();
        let effects = self
            .coordination
            .handle(&self.study, event.clone())
            .unwrap();
        let told = consilium_server::log::told(&event, &before, &self.coordination, None);
        if before != self.coordination {
            self.log.extend(told.into_iter().map(entry));
        }
        for effect in effects {
            match effect {
                Effect::Aggregate { plan, contributors } => {
                    let mut updates = self.updates.clone();
                    updates.retain(|site, _| contributors.contains_key(site));
                    let global = &self.models[&plan.model];
                    let next =
                        consilium_strategies::average(&self.study, global, &updates).unwrap();
                    let model = next.sha256();
                    self.models.insert(model, next);
                    self.take(Event::Aggregated {
                        round: plan.round,
                        attempt: plan.attempt,
                        model,
                        now: Timestamp(0),
                    });
                }
                Effect::ForgetUpdates { .. } => self.updates.clear(),
                Effect::Announce(_) | Effect::AnnounceEnd => {}
            }
        }
    }
}

fn entry(event: LogEvent) -> Vec<u8> {
    let at = SystemClock.now();
    Entry { at, event }.bytes()
}

/// A server that listens, on a runtime of its own so that it can die with all its connections.
pub struct Running {
    pub address: String,
    runtime: Option<Runtime>,
}

impl Running {
    /// Ends it in the middle of whatever it does.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Listens with the certificate `server` in `certs`.
pub async fn serve(
    state: Arc<ServerState>,
    certs: &Path,
    authority: &Path,
    address: &str,
) -> Running {
    let identity = Identity::load(
        &certs.join("server.pem"),
        &certs.join("server.key"),
        Role::Server,
    )
    .unwrap();
    state.inner().signer = Some(Signer::of(&identity).unwrap());
    let acceptor = TlsAcceptor::from(Arc::new(server_config(identity, authority).unwrap()));
    let listener = std::net::TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (accepted, incoming) = mpsc::channel::<io::Result<Stream>>(16);
    let service = ConsortiumServer::new(Service(state))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    runtime.spawn(async move {
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(ReceiverStream::new(incoming))
            .await
    });
    runtime.spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(tcp).await {
                let certificates = stream.get_ref().1.peer_certificates().unwrap();
                let peer = consilium_certs::Peer::of(&certificates[0]).unwrap();
                peer.expect_valid_now().unwrap();
                let site = peer.site().unwrap();
                let _ = accepted.send(Ok(Stream { stream, site })).await;
            }
        }
    });
    Running {
        address,
        runtime: Some(runtime),
    }
}

/// A connection whose site is known from its certificate.
struct Stream {
    stream: TlsStream<TcpStream>,
    site: SiteId,
}

impl Connected for Stream {
    type ConnectInfo = SiteId;

    fn connect_info(&self) -> SiteId {
        self.site.clone()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

struct Service(Arc<ServerState>);

impl Service {
    fn uploaded(&self, site: &SiteId, already_stored: bool) -> Response<UploadReply> {
        let ledger = self.0.inner().receipt(site);
        Response::new(UploadReply {
            already_stored,
            ledger: ledger.as_ref().map(receipt_to_wire),
        })
    }
}

fn caller<T>(request: &Request<T>) -> SiteId {
    request.extensions().get::<SiteId>().unwrap().clone()
}

fn refuse(code: &str, message: &str) -> Status {
    Refused::new(code, message, "ask the coordinator").into_status()
}

fn refuse_for_now(code: &str) -> Status {
    Refused::for_now(code, "not now", "try again later").into_status()
}

#[tonic::async_trait]
impl Consortium for Service {
    async fn get_study(
        &self,
        request: Request<GetStudyRequest>,
    ) -> Result<Response<GetStudyReply>, Status> {
        let inner = self.0.inner();
        if request.get_ref().study != inner.study.name.as_str() {
            return Err(refuse("study_unknown", "there is no such study here"));
        }
        let document = match &inner.faults.document {
            Some(document) => document.clone(),
            None => serde_json::to_vec(&inner.study).unwrap(),
        };
        Ok(Response::new(GetStudyReply { document }))
    }

    async fn await_assignment(
        &self,
        request: Request<AwaitAssignmentRequest>,
    ) -> Result<Response<AssignmentReply>, Status> {
        let site = caller(&request);
        let request = request.into_inner();
        let mut version = self.0.version.subscribe();
        let wait = Duration::from_millis(request.wait_milliseconds.into());
        let end = tokio::time::Instant::now() + wait;
        loop {
            let assignment = {
                let inner = self.0.inner();
                let coordination = &inner.coordination;
                Assignment {
                    sealed_was_used: request.sealed.as_ref().and_then(|sealed| {
                        coordination.sealed_was_used(&site, sealed.round, sealed.attempt)
                    }),
                    plan: coordination.open_plan().cloned(),
                    end: coordination.end(),
                    groups: BTreeMap::new(),
                    ledger: inner.receipt(&site),
                }
            };
            let known = request
                .known
                .as_ref()
                .map(|known| (known.round, known.attempt));
            let open = assignment
                .plan
                .as_ref()
                .map(|plan| (plan.round, plan.attempt));
            let new = assignment.sealed_was_used.is_some()
                || assignment.end.is_some()
                || open.is_some() && open != known;
            if new
                || tokio::time::timeout_at(end, version.changed())
                    .await
                    .is_err()
            {
                let assignment = self.0.inner().announce(assignment);
                return Ok(Response::new(assignment_to_wire(&assignment)));
            }
        }
    }

    type DownloadGroupStream = ReceiverStream<Result<ValueChunk, Status>>;

    async fn download_group(
        &self,
        request: Request<DownloadGroupRequest>,
    ) -> Result<Response<Self::DownloadGroupStream>, Status> {
        let site = caller(&request);
        let request = request.into_inner();
        let (whole, faults) = {
            let mut inner = self.0.inner();
            inner
                .downloads
                .push((site, request.group.clone(), request.offset));
            let model = digest_from_wire(&request.model, "model").unwrap();
            let group: GroupName = request.group.parse().unwrap();
            if inner.faults.forgotten_models > 0 {
                inner.faults.forgotten_models -= 1;
                return Err(refuse_for_now("model_unknown"));
            }
            let whole = inner.bytes(&model, &group);
            let now = inner.faults.clone();
            let faults = &mut inner.faults;
            faults.damaged_downloads = faults.damaged_downloads.saturating_sub(1);
            faults.broken_downloads = faults.broken_downloads.saturating_sub(1);
            (whole, now)
        };
        let mut bytes = whole[4 * request.offset as usize..].to_vec();
        if faults.damaged_downloads > 0 {
            bytes[0] ^= 1;
        }
        let (sender, chunks) = mpsc::channel(2);
        tokio::spawn(async move {
            for chunk in bytes.chunks(MAX_CHUNK_BYTES) {
                let values = chunk.to_vec();
                if sender.send(Ok(ValueChunk { values })).await.is_err() {
                    return;
                }
                if faults.broken_downloads > 0 {
                    let _ = sender.send(Err(Status::unavailable("broken off"))).await;
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(chunks)))
    }

    async fn upload_update(
        &self,
        request: Request<Streaming<UploadMessage>>,
    ) -> Result<Response<UploadReply>, Status> {
        let site = caller(&request);
        let mut messages = request.into_inner();
        let Some(Message::Header(header)) =
            messages.message().await?.and_then(|first| first.message)
        else {
            return Err(refuse("update_without_header", "the header comes first"));
        };
        let (round, attempt) = (header.round, header.attempt);
        let digest = digest_from_wire(&header.digest, "digest").unwrap();
        {
            let faults = &mut self.0.inner().faults;
            if faults.full_disk > 0 {
                faults.full_disk -= 1;
                return Err(refuse_for_now("store_disk_full"));
            }
        }
        if let Some(ledger) = &header.ledger {
            let ledger = head_from_wire(ledger).unwrap();
            self.0.inner().ledgers.insert(site.clone(), ledger);
        }
        let announced = header
            .groups
            .iter()
            .map(|group| group.group.parse().unwrap());
        let admitted = {
            let mut inner = self.0.inner();
            inner
                .arrived_groups
                .extend(announced.map(|group| (site.clone(), group)));
            inner
                .coordination
                .admits(&inner.study, &site, round, attempt, digest)
        };
        let already_stored =
            !admitted.map_err(|reject| refuse(reject.code(), &reject.to_string()))?;
        if already_stored {
            return Ok(self.uploaded(&site, already_stored));
        }
        let mut update = ModelVector::default();
        while let Some(message) = messages.message().await? {
            let Some(Message::Chunk(chunk)) = message.message else {
                return Err(refuse("update_second_header", "one header only"));
            };
            assert!(chunk.values.len() <= MAX_CHUNK_BYTES);
            let group: GroupName = chunk.group.parse().unwrap();
            self.0
                .inner()
                .arrived_groups
                .push((site.clone(), group.clone()));
            let values = update.0.entry(group).or_default();
            assert_eq!(chunk.offset, values.len() as u64);
            values.extend(bytes_to_values(&chunk.values));
        }
        assert_eq!(update.sha256(), digest);
        {
            let mut inner = self.0.inner();
            *inner.uploads.entry(site.clone()).or_default() += 1;
            let admitted = inner
                .coordination
                .admits(&inner.study, &site, round, attempt, digest);
            if !admitted.map_err(|reject| refuse(reject.code(), &reject.to_string()))? {
                drop(inner);
                return Ok(self.uploaded(&site, true));
            }
            inner.updates.insert(site.clone(), update);
            inner.take(Event::UpdateStored {
                site: site.clone(),
                round,
                attempt,
                digest,
            });
        }
        self.0.version.send_modify(|version| *version += 1);
        Ok(self.uploaded(&site, already_stored))
    }

    async fn withdraw(
        &self,
        request: Request<WithdrawRequest>,
    ) -> Result<Response<WithdrawReply>, Status> {
        let site = caller(&request);
        let withdrawal = withdrawal_from_wire(request.into_inner());
        withdrawal
            .check()
            .map_err(|invalid| refuse(invalid.code(), &invalid.to_string()))?;
        let mut inner = self.0.inner();
        inner.withdrawals.push((site.clone(), withdrawal.clone()));
        inner.take(Event::Withdrawn { site, withdrawal });
        drop(inner);
        self.0.version.send_modify(|version| *version += 1);
        Ok(Response::new(WithdrawReply {}))
    }

    async fn accept(
        &self,
        request: Request<AcceptRequest>,
    ) -> Result<Response<AcceptReply>, Status> {
        let site = caller(&request);
        self.0.inner().acceptances.push(site);
        Ok(Response::new(AcceptReply {}))
    }

    async fn rejoin(
        &self,
        request: Request<RejoinRequest>,
    ) -> Result<Response<RejoinReply>, Status> {
        let site = caller(&request);
        self.0.inner().take(Event::Returned { site });
        Ok(Response::new(RejoinReply {}))
    }

    async fn read_log(
        &self,
        request: Request<ReadLogRequest>,
    ) -> Result<Response<ReadLogReply>, Status> {
        let site = caller(&request);
        let view = self.0.inner().view(&site, request.get_ref());
        Ok(Response::new(view_to_wire(&view)))
    }

    async fn witness_log(
        &self,
        request: Request<WitnessLogRequest>,
    ) -> Result<Response<WitnessLogReply>, Status> {
        let site = caller(&request);
        let signed = request.into_inner().witnessed;
        let signed = signed_from_wire(signed.as_ref(), "witnessed").unwrap();
        let seen: Witnessed = signed.says().unwrap();
        let mut inner = self.0.inner();
        let head = inner.sign(&seen.head);
        inner.witnessed.insert(site, (head, signed));
        Ok(Response::new(WitnessLogReply {}))
    }
}

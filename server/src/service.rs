//! The gRPC calls, each answered for the site in the caller's certificate and for no other.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use consilium_core::study::PROTOCOL_VERSION;
use consilium_core::vector::bytes_to_values;
use consilium_core::{Digest, GroupName, Participant, SiteId};
use consilium_proto::consortium_server::Consortium as Calls;
use consilium_proto::upload_message::Message;
use consilium_proto::{
    AcceptReply, AcceptRequest, AssignmentReply, AwaitAssignmentRequest, BadMessage,
    DownloadGroupRequest, GetStudyReply, GetStudyRequest, GroupChunk, MAX_CHUNK_BYTES,
    MAX_MESSAGE_BYTES, ReadLogReply, ReadLogRequest, Refused, RejoinReply, RejoinRequest,
    UpdateHeader, UploadMessage, UploadReply, ValueChunk, WithdrawReply, WithdrawRequest,
    WitnessLogReply, WitnessLogRequest, assignment_to_wire, digest_from_wire, head_from_wire,
    receipt_to_wire, signed_from_wire, view_to_wire, withdrawal_from_wire,
};
use consilium_rounds::{Assignment, Event, Receipt, RejectUpdate};
use consilium_store::server::{BlobWriter, ServerStoreError};
use consilium_strategies::check_values;
use sha2::{Digest as _, Sha256};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::aggregate::CHUNK;
use crate::consortium::{Consortium, blocking, store_refusal};
use crate::log::{LogError, MOST_UPDATES};
use crate::statement;

/// Longest wait of one call for something new.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Longest wait for the next chunk of an upload.
const CHUNK_PATIENCE: Duration = Duration::from_secs(60);

/// Bytes whose values are checked at a time.
const CHECKED: usize = 1 << 14;

/// The calls.
pub struct Service(pub Arc<Consortium>);

type Reply<T> = Result<Response<T>, Status>;

impl Service {
    fn caller<T>(&self, request: &Request<T>) -> Result<Participant, Status> {
        let site = request.extensions().get::<SiteId>().ok_or_else(|| {
            refuse(
                "certificate_missing",
                "the caller is not known",
                "connect with a certificate",
            )
        })?;
        self.0.study().participant(site).cloned().ok_or_else(|| {
            refuse(
                "site_not_in_study",
                &format!("site {site} takes no part in study {}", self.0.study().name),
                "ask the coordinator to add the site, or join another study",
            )
        })
    }

    fn check_study(&self, digest: &[u8]) -> Result<(), Status> {
        let digest = digest_from_wire(digest, "study").map_err(malformed)?;
        if digest == self.0.digest() {
            return Ok(());
        }
        Err(refuse(
            "study_digest_mismatch",
            "the site accepted another study document than this server runs",
            "compare the study documents; a changed study must be accepted again",
        ))
    }
}

fn refuse(code: &str, message: &str, hint: &str) -> Status {
    Refused::new(code, message, hint).into_status()
}

/// Refuses what may be granted later.
fn refuse_for_now(code: &str, message: &str, hint: &str) -> Status {
    Refused::for_now(code, message, hint).into_status()
}

fn malformed(error: BadMessage) -> Status {
    refuse(
        error.code(),
        &error.to_string(),
        "use programs of one version on both sides",
    )
}

/// Logs a refusal once, where it leaves.
fn logged<T>(site: &SiteId, reply: Result<T, Status>) -> Result<T, Status> {
    if let Err(status) = &reply
        && let Some(refused) = Refused::from_status(status)
    {
        tracing::warn!(%site, error.code = refused.code, "refused");
    }
    reply
}

#[tonic::async_trait]
impl Calls for Service {
    async fn get_study(&self, request: Request<GetStudyRequest>) -> Reply<GetStudyReply> {
        let site = self.caller(&request)?.site;
        let asked = request.into_inner();
        let study = self.0.study();
        let reply = if asked.protocol_version != PROTOCOL_VERSION {
            let message = format!(
                "the site speaks protocol {}, this server {PROTOCOL_VERSION}",
                asked.protocol_version
            );
            Err(refuse(
                "protocol_version",
                &message,
                "use the version of the server",
            ))
        } else if asked.study != study.name.as_str() {
            let message = format!("this server runs study {}, not {}", study.name, asked.study);
            Err(refuse(
                "study_unknown",
                &message,
                "correct the study's name in the site's file",
            ))
        } else {
            let document = self.0.document().to_vec();
            Ok(Response::new(GetStudyReply { document }))
        };
        logged(&site, reply)
    }

    async fn await_assignment(
        &self,
        request: Request<AwaitAssignmentRequest>,
    ) -> Reply<AssignmentReply> {
        let participant = self.caller(&request)?;
        let site = participant.site.clone();
        let asked = request.into_inner();
        logged(&site, self.check_study(&asked.study))?;
        self.0.hear(&site);
        // A site asks for work once it has accepted the document whose digest it names.
        let accepted = self.0.log().accepted(&site, self.0.digest()).await;
        accepted.map_err(store_failed)?;
        let sealed = asked.sealed.map(|sealed| (sealed.round, sealed.attempt));
        let known = asked.known.map(|known| (known.round, known.attempt));
        let wait = Duration::from_millis(asked.wait_milliseconds.into()).min(LONGEST_WAIT);
        let deadline = tokio::time::Instant::now() + wait;
        let mut changes = self.0.changes();
        loop {
            changes.mark_unchanged();
            let assignment = self.0.assignment(&site, sealed).await;
            let open = assignment
                .plan
                .as_ref()
                .map(|plan| (plan.round, plan.attempt));
            let news = assignment.sealed_was_used.is_some()
                || assignment.end.is_some()
                || open.is_some() && open != known;
            let waited = tokio::time::Instant::now() >= deadline;
            if news || waited {
                if matches!(assignment.end, Some(Err(_))) {
                    self.0.count_served(&site, None).await;
                }
                let announced = self.announce(&participant, assignment).await;
                let mut assignment = logged(&site, announced)?;
                assignment.ledger = logged(&site, self.receipt(&site).await)?;
                return Ok(Response::new(assignment_to_wire(&assignment)));
            }
            // A closed channel cannot be: this call holds the consortium.
            let _ = tokio::time::timeout_at(deadline, changes.changed()).await;
        }
    }

    type DownloadGroupStream = Pin<Box<dyn Stream<Item = Result<ValueChunk, Status>> + Send>>;

    async fn download_group(
        &self,
        request: Request<DownloadGroupRequest>,
    ) -> Reply<Self::DownloadGroupStream> {
        let participant = self.caller(&request)?;
        let site = participant.site.clone();
        let reply = self.download(participant, request.into_inner()).await;
        logged(&site, reply)
    }

    async fn upload_update(
        &self,
        request: Request<Streaming<UploadMessage>>,
    ) -> Reply<UploadReply> {
        let participant = self.caller(&request)?;
        let site = participant.site.clone();
        let superseded = self.0.begin_upload(&site);
        let reply = tokio::select! {
            reply = self.upload_noted(participant, request.into_inner()) => reply,
            _ = superseded => Err(refuse_for_now(
                "upload_superseded",
                "another upload of this site began: it sends one at a time",
                "run one agent for each site",
            )),
        };
        logged(&site, reply)
    }

    async fn withdraw(&self, request: Request<WithdrawRequest>) -> Reply<WithdrawReply> {
        let site = self.caller(&request)?.site;
        let asked = request.into_inner();
        logged(&site, self.check_study(&asked.study))?;
        let withdrawal = withdrawal_from_wire(asked);
        if let Err(invalid) = withdrawal.check() {
            let hint = "use programs of one version on both sides";
            return logged(
                &site,
                Err(refuse(invalid.code(), &invalid.to_string(), hint)),
            );
        }
        let event = Event::Withdrawn { site, withdrawal };
        self.0.take(event).await.map_err(store_failed)?;
        Ok(Response::new(WithdrawReply {}))
    }

    async fn accept(&self, request: Request<AcceptRequest>) -> Reply<AcceptReply> {
        let site = self.caller(&request)?.site;
        let asked = request.into_inner();
        logged(&site, self.check_study(&asked.study))?;
        let signed = signed_from_wire(asked.acceptance.as_ref(), "acceptance").map_err(malformed);
        let signed = logged(&site, signed)?;
        let taken = self.0.log().accept(&site, self.0.digest(), &signed).await;
        logged(&site, taken.map_err(log_failed))?;
        Ok(Response::new(AcceptReply {}))
    }

    async fn rejoin(&self, request: Request<RejoinRequest>) -> Reply<RejoinReply> {
        let site = self.caller(&request)?.site;
        logged(&site, self.check_study(&request.into_inner().study))?;
        let event = Event::Returned { site };
        self.0.take(event).await.map_err(store_failed)?;
        Ok(Response::new(RejoinReply {}))
    }

    async fn read_log(&self, request: Request<ReadLogRequest>) -> Reply<ReadLogReply> {
        let site = self.caller(&request)?.site;
        let asked = request.into_inner();
        logged(&site, self.check_study(&asked.study))?;
        if asked.updates.len() > MOST_UPDATES {
            return logged(&site, Err(malformed(BadMessage { field: "updates" })));
        }
        let updates = asked.updates.iter();
        let updates: Vec<_> = updates.map(|at| (at.round, at.attempt)).collect();
        let log = self.0.log();
        let view = log.view(&site, asked.seen, &updates, asked.committed).await;
        let view = logged(&site, view.map_err(log_failed))?;
        Ok(Response::new(view_to_wire(&view)))
    }

    async fn witness_log(&self, request: Request<WitnessLogRequest>) -> Reply<WitnessLogReply> {
        let site = self.caller(&request)?.site;
        let asked = request.into_inner();
        logged(&site, self.check_study(&asked.study))?;
        let signed = signed_from_wire(asked.witnessed.as_ref(), "witnessed").map_err(malformed);
        let signed = logged(&site, signed)?;
        let taken = self.0.log().witness(&site, &signed).await;
        logged(&site, taken.map_err(log_failed))?;
        Ok(Response::new(WitnessLogReply {}))
    }
}

impl Service {
    /// Adds the digests of the groups that this site shares, in the model that it is told of.
    async fn announce(
        &self,
        participant: &Participant,
        mut assignment: Assignment,
    ) -> Result<Assignment, Status> {
        if let Some(model) = assignment.model() {
            let digests = self.0.group_digests(model).await.map_err(store_failed)?;
            let shared = self.0.study().shared_groups(participant).into_iter();
            assignment.groups = shared
                .filter_map(|group| Some((digests.get(&group).copied()?, group)))
                .map(|(digest, group)| (group, digest))
                .collect();
        }
        Ok(assignment)
    }

    async fn download(
        &self,
        participant: Participant,
        asked: DownloadGroupRequest,
    ) -> Reply<<Self as Calls>::DownloadGroupStream> {
        self.check_study(&asked.study)?;
        let study = self.0.study();
        let model = digest_from_wire(&asked.model, "model").map_err(malformed)?;
        let group: Option<GroupName> = asked.group.parse().ok();
        let shared = study.shared_groups(&participant);
        let group = group.filter(|group| shared.contains(group));
        let place = group.and_then(|group| Some((self.0.place(&group)?, group)));
        let Some(((start, length), group)) = place else {
            let message = format!("group {:?} is not exchanged with this site", asked.group);
            return Err(refuse(
                "group_not_shared",
                &message,
                "ask for the site's shared groups",
            ));
        };
        if !self.0.blobs().contains(&model) {
            let message = format!("this server does not hold model {model:?}");
            return Err(refuse_for_now(
                "model_unknown",
                &message,
                "ask for the open round again",
            ));
        }
        if asked.offset > length as u64 {
            let message = format!("group {group} has {length} values, not {}", asked.offset);
            return Err(refuse(
                "offset_beyond_end",
                &message,
                "begin the download again",
            ));
        }
        let digest = self.0.group_digests(model).await.map_err(store_failed)?[&group];
        let consortium = Arc::clone(&self.0);
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            // A download that goes on after a break is compared by the site alone.
            let mut hasher = (asked.offset == 0).then(Sha256::new);
            let mut offset = asked.offset;
            while offset < length as u64 {
                let count = CHUNK.min(length - offset as usize);
                let this = Arc::clone(&consortium);
                let read = blocking(move || {
                    let mut values = vec![0; 4 * count];
                    let read = this.blobs().read(&model, start + offset, &mut values);
                    read.map(|()| values)
                });
                let chunk = read.await.map_err(store_failed).map(|values| {
                    if let Some(hasher) = &mut hasher {
                        hasher.update(&values);
                    }
                    ValueChunk { values }
                });
                let failed = chunk.is_err();
                if sender.send(chunk).await.is_err() || failed {
                    return;
                }
                offset += count as u64;
            }
            let sent = hasher.map(|hasher| Digest::from(<[u8; 32]>::from(hasher.finalize())));
            if sent.is_some_and(|sent| sent != digest) {
                let corrupt = consortium.blobs().corrupt(&model);
                let _ = sender.send(Err(store_failed(corrupt))).await;
                return;
            }
            drop(sender);
            consortium
                .count_served(&participant.site, Some((&group, &model)))
                .await;
        });
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        Ok(Response::new(Box::pin(stream)))
    }

    /// As [`Service::upload`]; a refusal that stands is recorded with the open round.
    async fn upload_noted(
        &self,
        participant: Participant,
        mut messages: Streaming<UploadMessage>,
    ) -> Reply<UploadReply> {
        let header = match next(&mut messages).await? {
            Some(Message::Header(header)) => header,
            _ => return Err(malformed(BadMessage { field: "header" })),
        };
        let (site, round, attempt) = (participant.site.clone(), header.round, header.attempt);
        let reply = self.upload(participant, header, messages).await;
        if let Err(status) = &reply
            && let Some(refused) = Refused::from_status(status)
            && !refused.retryable
        {
            let event = Event::UpdateRefused {
                site,
                round,
                attempt,
                code: refused.code,
            };
            self.0.take(event).await.map_err(store_failed)?;
        }
        reply
    }

    async fn upload(
        &self,
        participant: Participant,
        header: UpdateHeader,
        mut messages: Streaming<UploadMessage>,
    ) -> Reply<UploadReply> {
        let digest = self.check_header(&participant, &header)?;
        let (site, round, attempt) = (participant.site.clone(), header.round, header.attempt);
        // Before the values: what has left the site is in its ledger, whatever becomes of the update here.
        if let Some(ledger) = &header.ledger {
            let ledger = head_from_wire(ledger).map_err(malformed)?;
            let kept = self.0.keep_ledger_head(&site, ledger).await;
            if !kept.map_err(store_failed)? {
                return Err(refuse(
                    "privacy_ledger_behind",
                    "the privacy ledger of this site is behind the one that it had shown",
                    "see `consilium-site privacy settle`",
                ));
            }
        }
        let admitted = self
            .0
            .admits(&site, (round, attempt), digest)
            .await
            .map_err(|rejection| rejected(&rejection))?;
        if !admitted {
            return self.stored(&site, true).await;
        }
        let statement = statement::as_logged(&header.privacy);
        let mut writer = self.0.blobs().create().map_err(store_failed)?;
        receive(&header, &mut messages, &mut writer).await?;
        if writer.digest() != digest {
            return Err(refuse(
                "update_digest_mismatch",
                "the values do not have the digest in the header",
                "send the sealed bytes again",
            ));
        }
        self.0
            .store_update(writer, site.clone(), (round, attempt), statement)
            .await
            .map_err(store_failed)?;
        // The round may have closed while the values came in: then the update is late.
        self.0
            .admits(&site, (round, attempt), digest)
            .await
            .map_err(|rejection| rejected(&rejection))?;
        tracing::info!(%site, round, attempt, "update stored");
        self.stored(&site, false).await
    }

    async fn stored(&self, site: &SiteId, already_stored: bool) -> Reply<UploadReply> {
        let ledger = self.receipt(site).await?;
        Ok(Response::new(UploadReply {
            already_stored,
            ledger: ledger.as_ref().map(receipt_to_wire),
        }))
    }

    /// What this server has signed about the site's ledger.
    async fn receipt(&self, site: &SiteId) -> Result<Option<Receipt>, Status> {
        self.0.receipt(site).await.map_err(|error| {
            tracing::error!(%error, error.code = error.code(), "receipt not signed");
            let message = "the server cannot sign its receipt";
            refuse(error.code(), message, error.hint())
        })
    }

    /// Refuses an update of another site or study, or with other groups or lengths than agreed.
    fn check_header(
        &self,
        participant: &Participant,
        header: &UpdateHeader,
    ) -> Result<Digest, Status> {
        self.check_study(&header.study)?;
        if header.site != participant.site.as_str() {
            let message = format!(
                "the certificate is of {}, the update of {}",
                participant.site, header.site
            );
            return Err(refuse(
                "site_mismatch",
                &message,
                "a site acts only as itself",
            ));
        }
        let study = self.0.study();
        let lengths = study.manifest.group_lengths();
        let expected: BTreeMap<String, u64> = study
            .shared_groups(participant)
            .into_iter()
            .map(|group| (group.to_string(), lengths[&group] as u64))
            .collect();
        let hint = "send exactly the groups that this site shares, in name order";
        let names: Vec<&str> = header
            .groups
            .iter()
            .map(|group| group.group.as_str())
            .collect();
        if !names
            .iter()
            .copied()
            .eq(expected.keys().map(String::as_str))
        {
            let message = format!(
                "the update has groups {names:?}, the study expects {:?}",
                expected.keys()
            );
            return Err(refuse("update_wrong_groups", &message, hint));
        }
        for group in &header.groups {
            if group.values != expected[&group.group] {
                let message = format!(
                    "group {} has {} values, the study says {}",
                    group.group, group.values, expected[&group.group]
                );
                return Err(refuse("update_wrong_length", &message, hint));
            }
        }
        statement::check(study, participant, &header.privacy).map_err(|refused| {
            refuse(
                refused.code(),
                &refused.to_string(),
                "train under the agreement of this site, with programs of one version on both sides",
            )
        })?;
        digest_from_wire(&header.digest, "digest").map_err(malformed)
    }
}

async fn next(messages: &mut Streaming<UploadMessage>) -> Result<Option<Message>, Status> {
    match tokio::time::timeout(CHUNK_PATIENCE, messages.next()).await {
        Ok(Some(Ok(message))) => Ok(message.message),
        Ok(Some(Err(status))) if status.code() == Code::OutOfRange => Err(refuse(
            "message_too_large",
            &format!("a message is larger than the limit of {MAX_MESSAGE_BYTES} bytes"),
            "send chunks of at most 1 MiB: use programs of one version on both sides",
        )),
        Ok(Some(Err(status))) => Err(status),
        Ok(None) => Ok(None),
        Err(_) => Err(refuse_for_now(
            "upload_stalled",
            "no chunk came for a minute",
            "send the update again",
        )),
    }
}

/// Writes the announced groups, in order and complete, checking every value.
async fn receive(
    header: &UpdateHeader,
    messages: &mut Streaming<UploadMessage>,
    writer: &mut BlobWriter<'_>,
) -> Result<(), Status> {
    let out_of_order = |message: String| {
        refuse(
            "update_wrong_shape",
            &message,
            "send the groups of the header in order and complete",
        )
    };
    for group in &header.groups {
        let mut have = 0;
        while have < group.values {
            let Some(Message::Chunk(chunk)) = next(messages).await? else {
                let message = format!(
                    "group {} ends after {have} of {} values",
                    group.group, group.values
                );
                return Err(out_of_order(message));
            };
            check_chunk(&chunk, &group.group, have, group.values)?;
            tokio::task::block_in_place(|| writer.append(&chunk.values)).map_err(store_failed)?;
            have += chunk.values.len() as u64 / 4;
        }
    }
    match next(messages).await? {
        None => Ok(()),
        Some(_) => Err(out_of_order("values follow after the last group".into())),
    }
}

fn check_chunk(chunk: &GroupChunk, group: &str, have: u64, all: u64) -> Result<(), Status> {
    let bytes = chunk.values.len();
    if bytes > MAX_CHUNK_BYTES {
        let message = format!("a chunk has {bytes} bytes, the limit is {MAX_CHUNK_BYTES}");
        return Err(refuse("chunk_too_large", &message, "send smaller chunks"));
    }
    let fits = have + bytes as u64 / 4 <= all;
    if chunk.group != group
        || chunk.offset != have
        || bytes == 0
        || !bytes.is_multiple_of(4)
        || !fits
    {
        let message = format!(
            "expected values of {group} from {have} to {all}, got {} bytes of {} from {}",
            bytes, chunk.group, chunk.offset
        );
        let hint = "send the groups of the header in order and complete";
        return Err(refuse("update_wrong_shape", &message, hint));
    }
    let mut offset = have as usize;
    for block in chunk.values.chunks(CHECKED) {
        let values: Vec<f32> = bytes_to_values(block).collect();
        check_values(offset, &values).map_err(|refusal| {
            let message = format!("group {group}: {refusal}");
            refuse(
                refusal.code(),
                &message,
                "look for a training that diverged; nothing was stored",
            )
        })?;
        offset += values.len();
    }
    Ok(())
}

fn store_failed(error: ServerStoreError) -> Status {
    store_refusal(&error).into_status()
}

fn log_failed(error: LogError) -> Status {
    let message = error.to_string();
    match error {
        LogError::Store(error) => store_failed(error),
        LogError::Signing(error) => {
            tracing::error!(%error, error.code = error.code(), "head of the log not signed");
            let message = "the server cannot sign the head of its log";
            refuse(error.code(), message, error.hint())
        }
        LogError::BadAcceptance(_) => refuse(
            error.code(),
            &message,
            "accept the study again: `consilium-site study accept`",
        ),
        LogError::BadWitness(_) | LogError::UnknownHead => refuse(
            error.code(),
            &message,
            "counter-sign, with the site's own key, a head that this server has shown",
        ),
    }
}

fn rejected(rejection: &RejectUpdate) -> Status {
    refuse(
        rejection.code(),
        &rejection.to_string(),
        "ask for the open round again",
    )
}

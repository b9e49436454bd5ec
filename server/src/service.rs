//! The gRPC calls, each answered for the site in the caller's certificate and for no other.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use consilium_core::study::PROTOCOL_VERSION;
use consilium_core::vector::{bytes_to_values, values_to_bytes};
use consilium_core::{Digest, GroupName, Participant, SiteId};
use consilium_proto::consortium_server::Consortium as Calls;
use consilium_proto::upload_message::Message;
use consilium_proto::{
    AssignmentReply, AwaitAssignmentRequest, BadMessage, DownloadGroupRequest, GROUP_DIGEST_KEY,
    GetStudyReply, GetStudyRequest, GroupChunk, MAX_CHUNK_BYTES, Refused, UpdateHeader,
    UploadMessage, UploadReply, ValueChunk, assignment_to_wire, digest_from_wire,
};
use consilium_rounds::RejectUpdate;
use consilium_store::server::BlobWriter;
use consilium_strategies::check_values;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::aggregate::{CHUNK, places};
use crate::consortium::{Consortium, store_refusal};

/// Longest wait of one call for something new.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Longest wait for the next chunk of an upload.
const CHUNK_PATIENCE: Duration = Duration::from_secs(60);

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
        if digest == self.0.study().digest() {
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
        let site = self.caller(&request)?.site;
        let asked = request.into_inner();
        logged(&site, self.check_study(&asked.study))?;
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
        logged(&site, self.download(participant, request.into_inner()))
    }

    async fn upload_update(
        &self,
        request: Request<Streaming<UploadMessage>>,
    ) -> Reply<UploadReply> {
        let participant = self.caller(&request)?;
        let site = participant.site.clone();
        let reply = self.upload(participant, request.into_inner()).await;
        logged(&site, reply)
    }
}

impl Service {
    fn download(
        &self,
        participant: Participant,
        asked: DownloadGroupRequest,
    ) -> Reply<<Self as Calls>::DownloadGroupStream> {
        self.check_study(&asked.study)?;
        let study = self.0.study();
        let model = digest_from_wire(&asked.model, "model").map_err(malformed)?;
        let group: Option<GroupName> = asked.group.parse().ok();
        let shared = study.shared_groups(&participant);
        let Some(group) = group.filter(|group| shared.contains(group)) else {
            let message = format!("group {:?} is not exchanged with this site", asked.group);
            return Err(refuse(
                "group_not_shared",
                &message,
                "ask for the site's shared groups",
            ));
        };
        if !self.0.blobs().contains(&model) {
            let message = format!("this server does not hold model {model:?}");
            return Err(refuse(
                "model_unknown",
                &message,
                "ask for the open round again",
            ));
        }
        let (start, length) = places(study, &study.federated_groups())[&group];
        if asked.offset > length as u64 {
            let message = format!("group {group} has {length} values, not {}", asked.offset);
            return Err(refuse(
                "offset_beyond_end",
                &message,
                "begin the download again",
            ));
        }
        let digest = self
            .0
            .group_digest(&model, (start, length))
            .map_err(|error| store_refusal(&error).into_status())?;
        let consortium = Arc::clone(&self.0);
        let (sender, receiver) = tokio::sync::mpsc::channel(2);
        tokio::spawn(async move {
            let mut offset = asked.offset;
            while offset < length as u64 {
                let count = CHUNK.min(length - offset as usize);
                let chunk = consortium
                    .blobs()
                    .read(&model, start + offset, count)
                    .map(|values| ValueChunk {
                        values: values_to_bytes(&values),
                    })
                    .map_err(|error| store_refusal(&error).into_status());
                if sender.send(chunk).await.is_err() {
                    return;
                }
                offset += count as u64;
            }
            drop(sender);
            consortium
                .count_served(&participant.site, Some((&group, &model)))
                .await;
        });
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut response: Response<<Self as Calls>::DownloadGroupStream> =
            Response::new(Box::pin(stream));
        if let Ok(value) = digest.to_string().parse() {
            response.metadata_mut().insert(GROUP_DIGEST_KEY, value);
        }
        Ok(response)
    }

    async fn upload(
        &self,
        participant: Participant,
        mut messages: Streaming<UploadMessage>,
    ) -> Reply<UploadReply> {
        let header = match next(&mut messages).await? {
            Some(Message::Header(header)) => header,
            _ => return Err(malformed(BadMessage { field: "header" })),
        };
        let digest = self.check_header(&participant, &header)?;
        let (site, round, attempt) = (participant.site.clone(), header.round, header.attempt);
        let study = self.0.study();
        let admitted = self
            .0
            .coordination()
            .await
            .admits(study, &site, round, attempt, digest)
            .map_err(|rejection| rejected(&rejection))?;
        if !admitted {
            return Ok(Response::new(UploadReply {
                already_stored: true,
            }));
        }
        let mut writer = self
            .0
            .blobs()
            .create()
            .map_err(|error| store_refusal(&error).into_status())?;
        receive(&header, &mut messages, &mut writer).await?;
        if writer.digest() != digest {
            return Err(refuse(
                "update_digest_mismatch",
                "the values do not have the digest in the header",
                "send the sealed bytes again",
            ));
        }
        self.0
            .store_update(writer, site.clone(), (round, attempt))
            .await
            .map_err(|error| store_refusal(&error).into_status())?;
        // The round may have closed while the values came in: then the update is late.
        self.0
            .coordination()
            .await
            .admits(study, &site, round, attempt, digest)
            .map_err(|rejection| rejected(&rejection))?;
        tracing::info!(%site, round, attempt, "update stored");
        Ok(Response::new(UploadReply {
            already_stored: false,
        }))
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
        digest_from_wire(&header.digest, "digest").map_err(malformed)
    }
}

async fn next(messages: &mut Streaming<UploadMessage>) -> Result<Option<Message>, Status> {
    match tokio::time::timeout(CHUNK_PATIENCE, messages.next()).await {
        Ok(Some(Ok(message))) => Ok(message.message),
        Ok(Some(Err(status))) => Err(status),
        Ok(None) => Ok(None),
        Err(_) => Err(refuse(
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
            let values = check_chunk(&chunk, &group.group, have, group.values)?;
            tokio::task::block_in_place(|| writer.append(&values))
                .map_err(|error| store_refusal(&error).into_status())?;
            have += values.len() as u64;
        }
    }
    match next(messages).await? {
        None => Ok(()),
        Some(_) => Err(out_of_order("values follow after the last group".into())),
    }
}

fn check_chunk(chunk: &GroupChunk, group: &str, have: u64, all: u64) -> Result<Vec<f32>, Status> {
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
    let values: Vec<f32> = bytes_to_values(&chunk.values).collect();
    check_values(have as usize, &values).map_err(|refusal| {
        let message = format!("group {group}: {refusal}");
        refuse(
            refusal.code(),
            &message,
            "look for a training that diverged; nothing was stored",
        )
    })?;
    Ok(values)
}

fn rejected(rejection: &RejectUpdate) -> Status {
    refuse(
        rejection.code(),
        &rejection.to_string(),
        "ask for the open round again",
    )
}

//! The calls of the server in memory: the real messages, and its faults.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use consilium_core::vector::bytes_to_values;
use consilium_core::{GroupName, ModelVector, SiteId};
use consilium_proto::consortium_server::Consortium;
use consilium_proto::upload_message::Message;
use consilium_proto::{
    AcceptReply, AcceptRequest, AssignmentReply, AwaitAssignmentRequest, DownloadGroupRequest,
    GetStudyReply, GetStudyRequest, MAX_CHUNK_BYTES, ReadLogReply, ReadLogRequest, Refused,
    RejoinReply, RejoinRequest, UploadMessage, UploadReply, ValueChunk, WithdrawReply,
    WithdrawRequest, WitnessLogReply, WitnessLogRequest, assignment_to_wire, digest_from_wire,
    head_from_wire, receipt_to_wire, signed_from_wire, view_to_wire, withdrawal_from_wire,
};
use consilium_rounds::{Assignment, Event};
use consilium_transparency::{Head, Witnessed};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::ServerState;

pub(super) struct Service(pub Arc<ServerState>);

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

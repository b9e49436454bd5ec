//! What crosses the wire, and the border where it becomes domain types.
//!
//! Generated types stop here: [`plan_to_wire`] and [`plan_from_wire`], [`assignment_to_wire`] and
//! [`assignment_from_wire`] convert, [`Refused`] carries a refusal with code and hint inside a gRPC status,
//! and the constants limit every message.

#[allow(missing_docs, clippy::all)]
mod generated {
    tonic::include_proto!("consilium.v1");
}

mod convert;
mod log;
mod refused;

pub use convert::{
    BadMessage, assignment_from_wire, assignment_to_wire, digest_from_wire, digest_to_wire,
    head_from_wire, head_to_wire, plan_from_wire, plan_to_wire, receipt_from_wire, receipt_to_wire,
    withdrawal_from_wire, withdrawal_to_wire,
};
pub use generated::{
    AcceptReply, AcceptRequest, AssignmentReply, Attempt, AwaitAssignmentRequest, CertificateReply,
    CertificateRequest, DownloadGroupRequest, GetStudyReply, GetStudyRequest, GroupChunk,
    GroupDigest, GroupLength, LedgerHead, LoggedEntry, ReadLogReply, ReadLogRequest, Receipt,
    RejoinReply, RejoinRequest, RoundPlan, Signed, UpdateHeader, UploadMessage, UploadReply,
    ValueChunk, Waiting, WithdrawReply, WithdrawRequest, WitnessLogReply, WitnessLogRequest,
    WitnessedHead, assignment_reply, certificate_reply, consortium_client, consortium_server,
    identity_client, identity_server, upload_message,
};
pub use log::{signed_from_wire, signed_to_wire, view_from_wire, view_to_wire};
pub use refused::Refused;

/// Most bytes of values in one chunk.
pub const MAX_CHUNK_BYTES: usize = 1 << 20;

/// Most bytes of one message: a chunk and what surrounds it, or a study document.
pub const MAX_MESSAGE_BYTES: usize = 2 << 20;

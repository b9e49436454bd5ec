//! Between wire messages and domain types.

use consilium_core::clock::Timestamp;
use consilium_core::{Digest, GroupName, RoundPlan};
use consilium_rounds::{Assignment, LedgerHead, Receipt, Withdrawal};

use crate::generated::{self, assignment_reply::End};

/// A message that does not say what it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is missing or malformed")]
pub struct BadMessage {
    /// The field.
    pub field: &'static str,
}

impl BadMessage {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "message_malformed"
    }
}

/// The 32 bytes of a digest.
#[must_use]
pub fn digest_to_wire(digest: &Digest) -> Vec<u8> {
    digest.as_bytes().to_vec()
}

/// A digest out of exactly 32 bytes.
///
/// # Errors
/// [`BadMessage`] naming `field`.
pub fn digest_from_wire(bytes: &[u8], field: &'static str) -> Result<Digest, BadMessage> {
    let bytes: [u8; 32] = bytes.try_into().map_err(|_| BadMessage { field })?;
    Ok(bytes.into())
}

/// A round plan for the wire.
#[must_use]
pub fn plan_to_wire(plan: &RoundPlan) -> generated::RoundPlan {
    generated::RoundPlan {
        study: digest_to_wire(&plan.study),
        round: plan.round,
        attempt: plan.attempt,
        model: digest_to_wire(&plan.model),
        deadline: plan.deadline.0,
    }
}

/// A round plan from the wire.
///
/// # Errors
/// [`BadMessage`] for a malformed digest.
pub fn plan_from_wire(plan: &generated::RoundPlan) -> Result<RoundPlan, BadMessage> {
    Ok(RoundPlan {
        study: digest_from_wire(&plan.study, "plan.study")?,
        round: plan.round,
        attempt: plan.attempt,
        model: digest_from_wire(&plan.model, "plan.model")?,
        deadline: Timestamp(plan.deadline),
    })
}

/// An assignment for the wire.
#[must_use]
pub fn assignment_to_wire(assignment: &Assignment) -> generated::AssignmentReply {
    generated::AssignmentReply {
        sealed_was_used: assignment.sealed_was_used,
        plan: assignment.plan.as_ref().map(plan_to_wire),
        end: assignment.end.as_ref().map(|end| match end {
            Ok(model) => End::FinalModel(digest_to_wire(model)),
            Err(reason) => End::Failure(reason.clone()),
        }),
        groups: assignment
            .groups
            .iter()
            .map(|(group, digest)| generated::GroupDigest {
                group: group.to_string(),
                digest: digest_to_wire(digest),
            })
            .collect(),
        ledger: assignment.ledger.as_ref().map(receipt_to_wire),
    }
}

/// An assignment from the wire.
///
/// # Errors
/// [`BadMessage`] for a malformed digest or name.
pub fn assignment_from_wire(reply: &generated::AssignmentReply) -> Result<Assignment, BadMessage> {
    let end = match &reply.end {
        None => None,
        Some(End::FinalModel(model)) => Some(Ok(digest_from_wire(model, "final_model")?)),
        Some(End::Failure(reason)) => Some(Err(reason.clone())),
    };
    Ok(Assignment {
        sealed_was_used: reply.sealed_was_used,
        plan: reply.plan.as_ref().map(plan_from_wire).transpose()?,
        end,
        groups: reply
            .groups
            .iter()
            .map(group_from_wire)
            .collect::<Result<_, _>>()?,
        ledger: reply.ledger.as_ref().map(receipt_from_wire).transpose()?,
    })
}

fn group_from_wire(group: &generated::GroupDigest) -> Result<(GroupName, Digest), BadMessage> {
    let field = "groups.group";
    let name = group.group.parse().map_err(|_| BadMessage { field })?;
    Ok((name, digest_from_wire(&group.digest, "groups.digest")?))
}

/// A ledger's head for the wire.
#[must_use]
pub fn head_to_wire(ledger: &LedgerHead) -> generated::LedgerHead {
    generated::LedgerHead {
        length: ledger.length,
        head: digest_to_wire(&ledger.head),
    }
}

/// A ledger's head from the wire; it has at least one entry.
///
/// # Errors
/// [`BadMessage`].
pub fn head_from_wire(ledger: &generated::LedgerHead) -> Result<LedgerHead, BadMessage> {
    // More entries than a database counts are none.
    if ledger.length == 0 || i64::try_from(ledger.length).is_err() {
        return Err(BadMessage {
            field: "ledger.length",
        });
    }
    Ok(LedgerHead {
        length: ledger.length,
        head: digest_from_wire(&ledger.head, "ledger.head")?,
    })
}

/// A receipt for the wire; the connection shows the certificate.
#[must_use]
pub fn receipt_to_wire(receipt: &Receipt) -> generated::Receipt {
    generated::Receipt {
        statement: receipt.statement.clone(),
        scheme: receipt.scheme.into(),
        signature: receipt.signature.clone(),
    }
}

/// A receipt from the wire, not verified, without the certificate.
///
/// # Errors
/// [`BadMessage`] for a scheme that is none.
pub fn receipt_from_wire(receipt: &generated::Receipt) -> Result<Receipt, BadMessage> {
    let field = "receipt.scheme";
    Ok(Receipt {
        statement: receipt.statement.clone(),
        scheme: u16::try_from(receipt.scheme).map_err(|_| BadMessage { field })?,
        signature: receipt.signature.clone(),
        certificate: Vec::new(),
    })
}

/// A withdrawal for the wire.
#[must_use]
pub fn withdrawal_to_wire(study: &Digest, withdrawal: &Withdrawal) -> generated::WithdrawRequest {
    generated::WithdrawRequest {
        study: digest_to_wire(study),
        round: withdrawal.round,
        attempt: withdrawal.attempt,
        code: withdrawal.code.clone(),
        reason: withdrawal.reason.clone(),
        may_return: withdrawal.may_return,
    }
}

/// A withdrawal from the wire, as it was said.
#[must_use]
pub fn withdrawal_from_wire(request: generated::WithdrawRequest) -> Withdrawal {
    Withdrawal {
        round: request.round,
        attempt: request.attempt,
        code: request.code,
        reason: request.reason,
        may_return: request.may_return,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_survives_the_wire() {
        let plan = RoundPlan {
            study: Digest::of(b"study"),
            round: 3,
            attempt: 2,
            model: Digest::of(b"model"),
            deadline: Timestamp(77),
        };
        for end in [
            None,
            Some(Ok(Digest::of(b"end"))),
            Some(Err("no quorum".to_owned())),
        ] {
            let assignment = Assignment {
                sealed_was_used: Some(false),
                plan: Some(plan.clone()),
                end,
                groups: [("trunk".parse().unwrap(), Digest::of(b"trunk"))].into(),
                ledger: Some(Receipt {
                    statement: b"{}".to_vec(),
                    scheme: 0x0403,
                    signature: vec![1, 2],
                    certificate: Vec::new(),
                }),
            };
            let back = assignment_from_wire(&assignment_to_wire(&assignment));
            assert_eq!(back, Ok(assignment));
        }
        assert!(digest_from_wire(&[0; 31], "x").is_err());
        let mut head = head_to_wire(&LedgerHead {
            length: 3,
            head: Digest::of(b"head"),
        });
        assert_eq!(head_from_wire(&head).unwrap().length, 3);
        for length in [0, u64::MAX] {
            head.length = length;
            head_from_wire(&head).unwrap_err();
        }
    }
}

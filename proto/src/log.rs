//! The log, between wire messages and domain types.

use consilium_core::Digest;
use consilium_transparency::{CommittedRound, Found, Other, Signed, View};

use crate::convert::{BadMessage, digest_from_wire, digest_to_wire};
use crate::generated;

/// A signed statement for the wire.
#[must_use]
pub fn signed_to_wire(signed: &Signed) -> generated::Signed {
    generated::Signed {
        statement: signed.statement.clone(),
        scheme: signed.scheme.into(),
        signature: signed.signature.clone(),
        certificate: signed.certificate.clone(),
    }
}

/// A signed statement from the wire, not verified.
///
/// # Errors
/// [`BadMessage`] when it is missing, or for a scheme that is none.
pub fn signed_from_wire(
    signed: Option<&generated::Signed>,
    field: &'static str,
) -> Result<Signed, BadMessage> {
    let signed = signed.ok_or(BadMessage { field })?;
    Ok(Signed {
        statement: signed.statement.clone(),
        scheme: u16::try_from(signed.scheme).map_err(|_| BadMessage { field })?,
        signature: signed.signature.clone(),
        certificate: signed.certificate.clone(),
    })
}

/// A view of the log for the wire.
#[must_use]
pub fn view_to_wire(view: &View) -> generated::ReadLogReply {
    generated::ReadLogReply {
        head: Some(signed_to_wire(&view.head)),
        consistency: path_to_wire(&view.consistency),
        updates: view.updates.iter().map(found_to_wire).collect(),
        opened: (view.committed.as_ref()).map(|round| found_to_wire(&round.opened)),
        aggregated: (view.committed.as_ref()).map(|round| found_to_wire(&round.aggregated)),
        others: (view.others.iter())
            .map(|other| generated::WitnessedHead {
                head: Some(signed_to_wire(&other.head)),
                witnessed: Some(signed_to_wire(&other.witnessed)),
                consistency: path_to_wire(&other.consistency),
            })
            .collect(),
    }
}

/// A view of the log from the wire; nothing of it is verified.
///
/// # Errors
/// [`BadMessage`].
pub fn view_from_wire(reply: &generated::ReadLogReply) -> Result<View, BadMessage> {
    let updates = reply.updates.iter();
    let updates = updates.map(|found| found_from_wire(found, "updates.path"));
    let committed = match (&reply.opened, &reply.aggregated) {
        (Some(opened), Some(aggregated)) => Some(CommittedRound {
            opened: found_from_wire(opened, "opened.path")?,
            aggregated: found_from_wire(aggregated, "aggregated.path")?,
        }),
        _ => None,
    };
    let others = reply.others.iter().map(|other| {
        Ok(Other {
            head: signed_from_wire(other.head.as_ref(), "others.head")?,
            witnessed: signed_from_wire(other.witnessed.as_ref(), "others.witnessed")?,
            consistency: path_from_wire(&other.consistency, "others.consistency")?,
        })
    });
    Ok(View {
        head: signed_from_wire(reply.head.as_ref(), "head")?,
        consistency: path_from_wire(&reply.consistency, "consistency")?,
        updates: updates.collect::<Result<_, _>>()?,
        others: others.collect::<Result<_, _>>()?,
        committed,
    })
}

fn found_to_wire(found: &Found) -> generated::LoggedEntry {
    generated::LoggedEntry {
        index: found.index,
        entry: found.entry.clone(),
        path: path_to_wire(&found.path),
    }
}

fn found_from_wire(
    found: &generated::LoggedEntry,
    field: &'static str,
) -> Result<Found, BadMessage> {
    Ok(Found {
        index: found.index,
        entry: found.entry.clone(),
        path: path_from_wire(&found.path, field)?,
    })
}

fn path_to_wire(path: &[Digest]) -> Vec<Vec<u8>> {
    path.iter().map(digest_to_wire).collect()
}

fn path_from_wire(path: &[Vec<u8>], field: &'static str) -> Result<Vec<Digest>, BadMessage> {
    path.iter()
        .map(|node| digest_from_wire(node, field))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_survives_the_wire() {
        let signed = |text: &str| Signed {
            statement: text.into(),
            scheme: 0x0403,
            signature: vec![1, 2],
            certificate: vec![3],
        };
        let found = |index| Found {
            index,
            entry: b"{}".to_vec(),
            path: vec![Digest::of(b"c")],
        };
        let view = View {
            head: signed("head"),
            consistency: vec![Digest::of(b"a"), Digest::of(b"b")],
            updates: vec![found(7)],
            committed: Some(CommittedRound {
                opened: found(3),
                aggregated: found(9),
            }),
            others: vec![Other {
                head: signed("then"),
                witnessed: signed("seen"),
                consistency: Vec::new(),
            }],
        };
        let mut wire = view_to_wire(&view);
        assert_eq!(view_from_wire(&wire), Ok(view));
        wire.consistency[0].pop();
        assert_eq!(view_from_wire(&wire).unwrap_err().field, "consistency");
        wire.head = None;
        assert_eq!(view_from_wire(&wire).unwrap_err().field, "head");
    }
}

//! Checking proofs against heads, without the tree.

use consilium_core::Digest;

use crate::tree::{empty_root, node_hash};

/// A proof that does not prove what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the proof does not lead from the one to the other")]
pub struct BrokenProof;

/// Checks that `leaf` is entry `index` of the log with `size` entries and this root (RFC 9162, section 2.1.3.2).
///
/// # Errors
/// [`BrokenProof`].
pub fn verify_inclusion(
    leaf: Digest,
    index: u64,
    size: u64,
    path: &[Digest],
    root: Digest,
) -> Result<(), BrokenProof> {
    if index >= size {
        return Err(BrokenProof);
    }
    let (mut position, mut last) = (index, size - 1);
    let mut hash = leaf;
    for node in path {
        if last == 0 {
            return Err(BrokenProof);
        }
        if position & 1 == 1 || position == last {
            hash = node_hash(node, &hash);
            while position & 1 == 0 && position != 0 {
                position >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, node);
        }
        position >>= 1;
        last >>= 1;
    }
    holds(last == 0 && hash == root)
}

/// Checks that the log with `size` entries and `root` continues the one with `before` entries and `former`: the
/// older is its beginning (RFC 9162, section 2.1.4.2). Everything continues a log without entries.
///
/// # Errors
/// [`BrokenProof`].
pub fn verify_consistency(
    (before, former): (u64, Digest),
    (size, root): (u64, Digest),
    path: &[Digest],
) -> Result<(), BrokenProof> {
    if before > size {
        return Err(BrokenProof);
    }
    if before == size {
        return holds(path.is_empty() && former == root);
    }
    if before == 0 {
        return holds(path.is_empty() && former == empty_root());
    }
    let whole = before.is_power_of_two().then_some(&former);
    let mut nodes = whole.into_iter().chain(path);
    let first = nodes.next().ok_or(BrokenProof)?;
    let (mut position, mut last) = (before - 1, size - 1);
    while position & 1 == 1 {
        position >>= 1;
        last >>= 1;
    }
    let (mut old, mut new) = (*first, *first);
    for node in nodes {
        if last == 0 {
            return Err(BrokenProof);
        }
        if position & 1 == 1 || position == last {
            old = node_hash(node, &old);
            new = node_hash(node, &new);
            while position & 1 == 0 && position != 0 {
                position >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, node);
        }
        position >>= 1;
        last >>= 1;
    }
    holds(last == 0 && old == former && new == root)
}

fn holds(so: bool) -> Result<(), BrokenProof> {
    so.then_some(()).ok_or(BrokenProof)
}

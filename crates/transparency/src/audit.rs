//! The offline check: from an export, and nothing else, whether the log is whole and was never rewritten.

mod site;
mod summary;

use std::collections::{BTreeMap, BTreeSet};

use consilium_core::Digest;
use serde::Serialize;

use crate::entry::{Entry, Event};
use crate::export::Line;
use crate::head::{Acceptance, Head, Notary, Signed, Witnessed};
use crate::tree::{Tree, leaf_hash};

pub use summary::{Audited, SiteSummary};

/// Why a log is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{problem}")]
pub struct Finding {
    /// Stable code.
    pub code: &'static str,
    /// What is wrong.
    pub problem: String,
    /// The first entry of the server's log that cannot be trusted, where one can be named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
}

impl Finding {
    fn new(code: &'static str, entry: impl Into<Option<u64>>, problem: impl Into<String>) -> Self {
        Self {
            code,
            problem: problem.into(),
            entry: entry.into(),
        }
    }
}

/// Checks the server's export, and what sites have kept of the same log (their own exports, any number of them).
///
/// Every entry must have its hash and place; every head must be signed by a server of the consortium and have the
/// root of the entries; the newest must cover all of them; every counter-signature must be a site's and of such a
/// head; and every head that a site has kept must be of this very log. What is left to trust: that the sites whose
/// counter-signatures are shown looked at what they signed.
///
/// # Errors
/// The first [`Finding`].
pub fn check(
    server: &[Line],
    sites: &[Vec<Line>],
    notary: &dyn Notary,
) -> Result<Audited, Finding> {
    let entries = entries(server)?;
    let tree: Tree = entries.iter().map(|entry| leaf_hash(entry)).collect();
    let log = Log {
        id: tree.leaf(0),
        tree,
    };
    acceptances(&entries, notary)?;
    let mut heads = Vec::new();
    let mut witnessed = Vec::new();
    for line in server {
        match line {
            Line::Head { signed } => heads.push(head(signed, notary)?),
            Line::Witnessed { signed } => witnessed.push(witness(signed, notary)?),
            _ => {}
        }
    }
    heads.sort_by_key(|head| head.size);
    log.continues(&heads)?;
    let mut shown = heads.clone();
    for lines in sites {
        let kept = site::kept(lines, notary)?;
        for head in &kept.heads {
            log.was_shown(head, kept.site.as_str())?;
        }
        shown.extend(kept.heads);
        witnessed.extend(kept.witnessed);
    }
    for seen in &witnessed {
        if shown.contains(&seen.head) {
            continue;
        }
        log.was_shown(&seen.head, seen.site.as_str())?;
        let problem = format!(
            "site {} has counter-signed a head with {} entries that nobody has kept",
            seen.site, seen.head.size
        );
        return Err(Finding::new("log_witness_without_head", None, problem));
    }
    let covered = heads.last().map_or(0, |head| head.size);
    if covered < log.tree.len() {
        return Err(Finding::new(
            "log_entries_unsigned",
            covered,
            format!(
                "the newest signed head has {covered} entries, the export {}",
                log.tree.len()
            ),
        ));
    }
    let newest = newest_seen(&witnessed);
    summary::of(&entries, &log, &heads, &witnessed, newest)
}

/// A log as it was rebuilt from its entries.
struct Log {
    id: Option<Digest>,
    tree: Tree,
}

impl Log {
    /// Whether the heads, by size, are of this log.
    fn continues(&self, heads: &[Head]) -> Result<(), Finding> {
        let mut good = 0;
        for head in heads {
            if self.id != Some(head.log) {
                let problem = "a signed head is of a log that begins with another entry";
                return Err(Finding::new("log_rewritten", 0, problem));
            }
            match self.tree.root_at(head.size) {
                None => {
                    let problem = format!(
                        "the export ends after {} entries, the server has signed {}",
                        self.tree.len(),
                        head.size
                    );
                    return Err(Finding::new("log_truncated", self.tree.len(), problem));
                }
                Some(root) if root != head.root => {
                    let problem = format!(
                        "the entries from {good} to {} are not those that the server has signed",
                        head.size.saturating_sub(1)
                    );
                    return Err(Finding::new("log_rewritten", good, problem));
                }
                Some(_) => good = head.size,
            }
        }
        Ok(())
    }

    /// Whether a head that `site` was shown is of this log.
    fn was_shown(&self, head: &Head, site: &str) -> Result<(), Finding> {
        if self.id != Some(head.log) {
            let problem = format!("site {site} was shown a log that begins with another entry");
            return Err(Finding::new("log_split_view", 0, problem));
        }
        match self.tree.root_at(head.size) {
            None => {
                let problem = format!(
                    "site {site} was shown {} entries, the export ends after {}",
                    head.size,
                    self.tree.len()
                );
                Err(Finding::new("log_truncated", self.tree.len(), problem))
            }
            Some(root) if root != head.root => {
                let problem = format!(
                    "site {site} was shown other entries among the first {}",
                    head.size
                );
                Err(Finding::new("log_split_view", None, problem))
            }
            Some(_) => Ok(()),
        }
    }
}

/// The bytes of the entries, each with its own hash and in its own place.
fn entries(lines: &[Line]) -> Result<Vec<&[u8]>, Finding> {
    let mut entries = Vec::new();
    let present: BTreeSet<u64> = (lines.iter())
        .filter_map(|line| match line {
            Line::Entry { index, .. } => Some(*index),
            _ => None,
        })
        .collect();
    for line in lines {
        let Line::Entry { index, leaf, entry } = line else {
            continue;
        };
        let expected = entries.len() as u64;
        if *index != expected {
            let code = if present.contains(&expected) {
                "log_entry_out_of_place"
            } else {
                "log_entry_missing"
            };
            let problem = format!("entry {index} stands in the place of entry {expected}");
            return Err(Finding::new(code, expected, problem));
        }
        if leaf_hash(entry.as_bytes()) != *leaf {
            let problem = format!("entry {index} does not have its hash: it was altered");
            return Err(Finding::new("log_entry_altered", *index, problem));
        }
        entries.push(entry.as_bytes());
    }
    if entries.is_empty() {
        return Err(Finding::new("log_empty", 0, "the export holds no entry"));
    }
    Ok(entries)
}

/// Every written acceptance is signed by the site that it is of.
fn acceptances(entries: &[&[u8]], notary: &dyn Notary) -> Result<(), Finding> {
    for (index, bytes) in entries.iter().enumerate() {
        let Some(Event::AcceptanceSigned { site, acceptance }) =
            Entry::read(bytes).map(|entry| entry.event)
        else {
            continue;
        };
        let forged = |problem: String| {
            let problem = format!("the acceptance of site {site}: {problem}");
            Finding::new("log_acceptance_forged", index as u64, problem)
        };
        let (said, holder) = acceptance.verified::<Acceptance>(notary).map_err(forged)?;
        if said.site != site || holder != site.as_str() {
            return Err(forged(format!(
                "it is of {}, signed by {holder}",
                said.site
            )));
        }
    }
    Ok(())
}

/// A head with a good signature of a server.
fn head(signed: &Signed, notary: &dyn Notary) -> Result<Head, Finding> {
    let forged = |problem| Finding::new("log_head_forged", None, format!("a head: {problem}"));
    let (head, _) = signed.verified::<Head>(notary).map_err(forged)?;
    Ok(head)
}

/// A counter-signature with a good signature of the site that it names.
fn witness(signed: &Signed, notary: &dyn Notary) -> Result<Witnessed, Finding> {
    let forged = |problem: String| {
        let problem = format!("a counter-signature: {problem}");
        Finding::new("log_witness_forged", None, problem)
    };
    let (seen, holder) = signed.verified::<Witnessed>(notary).map_err(forged)?;
    if holder != seen.site.as_str() {
        let problem = format!("it is of site {}, signed by {holder}", seen.site);
        return Err(forged(problem));
    }
    Ok(seen)
}

/// How far each site has seen the log.
fn newest_seen(witnessed: &[Witnessed]) -> BTreeMap<&str, u64> {
    let mut newest = BTreeMap::new();
    for seen in witnessed {
        let size = newest.entry(seen.site.as_str()).or_insert(0);
        *size = seen.head.size.max(*size);
    }
    newest
}

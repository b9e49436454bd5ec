//! `consilium-site log show` and `export`: this site's own log, and what it has seen of the server's.

use std::path::{Path, PathBuf};

use consilium_core::StudyId;
use consilium_ops::{Format, OperatorError, output};
use consilium_store::site::{SeenHead, SiteStore};
use consilium_transparency::{Entry, Head, Line, Signed, leaf_hash, write_line};
use dp_rs::ledger::Moment;
use serde::Serialize;

use super::no_runtime;
use crate::agent::AgentError;
use crate::config::SiteConfig;
use crate::private_file::Pending;

/// What the state folder holds.
struct Kept {
    entries: Vec<Vec<u8>>,
    heads: Vec<SeenHead>,
    witnesses: Vec<(StudyId, Signed)>,
}

fn read(config: &SiteConfig) -> Result<Kept, OperatorError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| no_runtime(&error))?;
    runtime
        .block_on(async {
            let store = SiteStore::open_existing(&config.database()).await?;
            // In this order: an agent may be going on, and each of these needs those after it.
            let witnesses = store.witnesses().await?;
            let heads = store.heads().await?;
            let entries = store.log_from(0).await?;
            store.close().await;
            Ok(Kept {
                entries,
                heads,
                witnesses,
            })
        })
        .map_err(|error: AgentError| error.into())
}

#[derive(Serialize)]
struct Shown {
    site: String,
    /// The own log, oldest entry first.
    entries: Vec<ShownEntry>,
    /// Heads of servers' logs that were shown to this site.
    heads: Vec<ShownHead>,
}

#[derive(Serialize)]
struct ShownEntry {
    /// When, by the clock of this site.
    at: Option<Moment>,
    /// What happened; the bytes as they are where this version does not know the kind.
    event: serde_json::Value,
}

#[derive(Serialize)]
struct ShownHead {
    study: StudyId,
    /// Entries that it covers.
    size: u64,
    /// Root over them.
    root: String,
    /// When the server signed it, by its own clock.
    at: Moment,
    /// The code with which it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

/// Shows the log in the state folder; the agent may be running.
///
/// # Errors
/// [`OperatorError`], with exit code 3 when there is no state folder.
pub fn show(path: &Path, format: Format) -> Result<(), OperatorError> {
    let config = SiteConfig::read(path)?;
    let kept = read(&config)?;
    let shown = Shown {
        site: config.site.to_string(),
        entries: kept.entries.iter().map(|bytes| entry(bytes)).collect(),
        heads: kept.heads.iter().filter_map(head).collect(),
    };
    output::print(format, &shown, text);
    Ok(())
}

fn entry(bytes: &[u8]) -> ShownEntry {
    let at = Entry::read(bytes).map(|entry| Moment::from_unix_milliseconds(entry.at.0));
    let mut whole: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    ShownEntry {
        at,
        event: whole["event"].take(),
    }
}

fn head(seen: &SeenHead) -> Option<ShownHead> {
    let head: Head = seen.signed.says()?;
    Some(ShownHead {
        study: seen.study.clone(),
        size: head.size,
        root: head.root.to_string(),
        at: Moment::from_unix_milliseconds(head.at.0),
        refused: seen.refused.clone(),
    })
}

fn text(shown: &Shown) -> String {
    let mut text = format!(
        "site {}: {} entries in its own log\n",
        shown.site,
        shown.entries.len()
    );
    for entry in &shown.entries {
        let at = entry.at.map_or_else(String::new, |at| at.to_string());
        text.push_str(&format!("  {at} {}\n", entry.event));
    }
    for head in &shown.heads {
        let refused = match &head.refused {
            Some(code) => format!("; REFUSED: {code}"),
            None => String::new(),
        };
        text.push_str(&format!(
            "study {}: its server signed {} entries at {}, root {}{refused}\n",
            head.study, head.size, head.at, head.root
        ));
    }
    text
}

#[derive(Serialize)]
struct Exported {
    /// The file.
    file: PathBuf,
    /// The study whose server it is about.
    study: StudyId,
    /// Entries of the own log.
    entries: usize,
    /// Heads of the server's log.
    heads: usize,
}

/// Writes the own log, and what the server of the configured study has signed to this site, to `out`: for
/// `consilium-server audit verify --site`. The agent may be running.
///
/// # Errors
/// [`OperatorError`], with exit code 3 when there is no state folder.
pub fn export(path: &Path, out: &Path, format: Format) -> Result<(), OperatorError> {
    let config = SiteConfig::read(path)?;
    let kept = read(&config)?;
    let mut exported = Exported {
        file: out.to_owned(),
        study: config.study.clone(),
        entries: kept.entries.len(),
        heads: 0,
    };
    let mut lines = vec![Line::Export {
        schema_version: Line::VERSION,
        site: Some(config.site.clone()),
    }];
    for (index, bytes) in (0..).zip(kept.entries) {
        lines.push(Line::Entry {
            index,
            leaf: leaf_hash(&bytes),
            entry: String::from_utf8_lossy(&bytes).into_owned(),
        });
    }
    let heads = kept.heads.into_iter();
    for SeenHead { signed, .. } in heads.filter(|head| head.study == config.study) {
        exported.heads += 1;
        lines.push(Line::Head { signed });
    }
    let witnesses = kept.witnesses.into_iter();
    for (_, signed) in witnesses.filter(|(study, _)| *study == config.study) {
        lines.push(Line::Witnessed { signed });
    }
    let mut contents = Vec::new();
    for line in &lines {
        write_line(&mut contents, line).map_err(|error| OperatorError::file(out, &error))?;
    }
    Pending::write(out, &contents)?.place()?;
    output::print(format, &exported, |exported| {
        format!(
            "{} entries of the own log and {} heads of the server of study {} in {}",
            exported.entries,
            exported.heads,
            exported.study,
            exported.file.display()
        )
    });
    Ok(())
}

//! `consilium-site log show` and `export`: this site's own log, and what it has seen of the server's.

use std::path::{Path, PathBuf};

use consilium_core::{SiteId, StudyId};
use consilium_ops::{Format, OperatorError, output};
use consilium_store::site::{SeenHead, SiteStore, SiteStoreError};
use consilium_transparency::{Entry, Head, Line, Signed, leaf_hash, write_line};
use dp_rs::ledger::Moment;
use serde::Serialize;

use super::no_runtime;
use crate::agent::AgentError;
use crate::config::SiteConfig;
use crate::private_file::Pending;

/// What a site keeps of logs.
pub struct Kept {
    entries: Vec<Vec<u8>>,
    heads: Vec<SeenHead>,
    witnesses: Vec<(StudyId, Signed)>,
}

impl Kept {
    /// Reads it; an agent may be going on.
    ///
    /// # Errors
    /// What the database says.
    pub async fn read(store: &SiteStore) -> Result<Self, SiteStoreError> {
        // In this order: each of these needs those after it.
        let witnesses = store.witnesses().await?;
        let heads = store.heads().await?;
        let entries = store.log_from(0).await?;
        Ok(Self {
            entries,
            heads,
            witnesses,
        })
    }

    /// The lines of an export about the server of `study`.
    #[must_use]
    pub fn lines(&self, site: &SiteId, study: &StudyId) -> Vec<Line> {
        let mut lines = vec![Line::Export {
            schema_version: Line::VERSION,
            site: Some(site.clone()),
        }];
        lines.extend((0..).zip(&self.entries).map(|(index, bytes)| Line::Entry {
            index,
            leaf: leaf_hash(bytes),
            entry: String::from_utf8_lossy(bytes).into_owned(),
        }));
        let heads = self.heads.iter().filter(|head| head.study == *study);
        lines.extend(heads.map(|head| Line::Head {
            signed: head.signed.clone(),
        }));
        let witnesses = self.witnesses.iter().filter(|(of, _)| of == study);
        lines.extend(witnesses.map(|(_, signed)| Line::Witnessed {
            signed: signed.clone(),
        }));
        lines
    }
}

fn read(config: &SiteConfig) -> Result<Kept, OperatorError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| no_runtime(&error))?;
    runtime
        .block_on(async {
            let store = SiteStore::open_existing(&config.database()).await?;
            let kept = Kept::read(&store).await?;
            store.close().await;
            Ok(kept)
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
    let lines = kept.lines(&config.site, &config.study);
    exported.heads = lines
        .iter()
        .filter(|line| matches!(line, Line::Head { .. }))
        .count();
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

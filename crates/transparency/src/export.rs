//! A log as a file that can be checked anywhere: one JSON object a line.

use std::io::{self, Write};

use consilium_core::{Digest, SiteId};
use serde::{Deserialize, Serialize};

use crate::head::{Signed, hexadecimal};

/// One line of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case", deny_unknown_fields)]
pub enum Line {
    /// The first line.
    Export {
        /// [`Line::VERSION`].
        schema_version: u32,
        /// The site whose own log this is; nothing for the server's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<SiteId>,
    },
    /// A certificate of the authority.
    Authority {
        /// DER.
        #[serde(with = "hexadecimal")]
        certificate: Vec<u8>,
    },
    /// An entry of the log, in order.
    Entry {
        /// Its number, from 0.
        index: u64,
        /// Its leaf hash, to tell which entry was altered.
        leaf: Digest,
        /// The bytes that were hashed: JSON.
        entry: String,
    },
    /// A head of the server's log.
    Head {
        /// Signed by the server.
        signed: Signed,
    },
    /// A counter-signature of a head of the server's log.
    Witnessed {
        /// Signed by a site.
        signed: Signed,
    },
}

impl Line {
    /// Version of the form of exports.
    pub const VERSION: u32 = 1;
}

/// A file that is no export.
#[derive(Debug, thiserror::Error)]
#[error("line {line} is not of an export: {problem}")]
pub struct UnreadableExport {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// Writes one line.
///
/// # Errors
/// What the writer says, and a statement that is no text.
pub fn write_line(out: &mut impl Write, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// Reads a whole export.
///
/// # Errors
/// [`UnreadableExport`].
pub fn read_export(text: &str) -> Result<Vec<Line>, UnreadableExport> {
    let numbered = text.lines().enumerate();
    let lines: Vec<Line> = numbered
        .map(|(index, line)| {
            serde_json::from_str(line).map_err(|error| UnreadableExport {
                line: index + 1,
                problem: error.to_string(),
            })
        })
        .collect::<Result<_, _>>()?;
    match lines.first() {
        Some(Line::Export {
            schema_version: Line::VERSION,
            ..
        }) => Ok(lines),
        _ => Err(UnreadableExport {
            line: 1,
            problem: format!("it does not begin as version {} does", Line::VERSION),
        }),
    }
}

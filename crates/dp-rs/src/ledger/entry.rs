//! One release in its place in the chain.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Moment;
use crate::plan::Transcript;

/// Stands before the first entry.
pub(super) const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What was released, and in the course of what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the work that it was released for.
    pub study: String,
    /// Round of that work, from 1.
    pub round: u32,
    /// Attempt at that round, from 1. A failed attempt was a release like any other.
    pub attempt: u32,
    /// What it was for, for example `training` or `histogram of scores`.
    pub purpose: String,
    /// SHA-256 of what was released, in hexadecimal, where it has bytes that others saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// The delta at which this work was agreed to. Says how to read the entry; accounting does not use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// The mechanisms, the unit, and how far the noise can be trusted.
    pub transcript: Transcript,
}

/// A [`Record`] with its number, its time and the hashes that chain it to the one before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Number in the ledger, from 1 without gaps.
    pub sequence: u64,
    /// When it was written, by the clock of the machine that wrote it.
    pub at: Moment,
    /// What was released.
    #[serde(flatten)]
    pub record: Record,
    /// `sha256` of the entry before; 64 zeros in the first.
    pub previous: String,
    /// SHA-256 of this entry as compact JSON, fields in this order, with an empty text in this field.
    pub sha256: String,
}

impl Entry {
    pub(super) fn new(sequence: u64, at: Moment, previous: &str, record: Record) -> Self {
        let mut entry = Self {
            sequence,
            at,
            record,
            previous: previous.to_owned(),
            sha256: String::new(),
        };
        entry.sha256 = entry.hash();
        entry
    }

    /// Whether the contents are those that were hashed.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.hash() == self.sha256
    }

    fn hash(&self) -> String {
        let entry = Self {
            sha256: String::new(),
            ..self.clone()
        };
        // Cannot fail: plain numbers and text.
        let bytes = serde_json::to_vec(&entry).expect("an entry serialises");
        let digest = Sha256::digest(bytes);
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

//! A small cohort on disk.

use std::fs;
use std::path::PathBuf;

use consilium_data::{Finding, check};
use tempfile::TempDir;

/// A folder with a manifest and a table.
pub struct Folder(pub TempDir);

impl Folder {
    pub fn new(manifest: &str, table: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cohort.toml"), manifest).unwrap();
        fs::write(folder.path().join("records.csv"), table).unwrap();
        Self(folder)
    }

    pub fn manifest(&self) -> PathBuf {
        self.0.path().join("cohort.toml")
    }

    /// The findings, each with a code, a file, a problem and a remedy.
    pub fn check(&self) -> Vec<Finding> {
        let findings = check(&self.manifest());
        for finding in &findings {
            assert!(!finding.remedy.is_empty() && !finding.problem.is_empty());
            assert!(finding.problem.starts_with(|c: char| !c.is_uppercase()));
        }
        findings
    }
}

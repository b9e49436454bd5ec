//! Every test that the threat model names for a claim is there.

use std::fs;
use std::path::{Path, PathBuf};

/// All Rust files below `folder`, build folders left out.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with("target") && !name.starts_with('.') {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_test_that_the_threat_model_names_for_a_claim_is_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("docs/threat-model.md")).unwrap();
    let (_, table) = text.split_once("## Claims and the tests").unwrap();
    let named: Vec<&str> = table.split('`').skip(1).step_by(2).collect();
    assert!(named.len() > 30, "{} tests are named", named.len());
    let mut files = Vec::new();
    sources(&root, &mut files);
    let code: String = files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    for name in named {
        let declared = format!("fn {name}(");
        let at = code.find(&declared);
        let at = at.unwrap_or_else(|| panic!("the threat model names {name}, which is no test"));
        // The attribute stands between the last blank line and the function.
        let before = code[..at].rsplit("\n\n").next().unwrap_or_default();
        assert!(before.contains("test"), "{name} is no test");
    }
}

//! The cohorts of a folder.

use consilium::cohorts::{list, to_text};
use consilium_core::Seed;
use consilium_data::generated;

#[test]
fn usable_and_refused_cohorts_of_a_folder_are_listed_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let spec = generated::quickstart().remove(0);
    let cohort = generated::cohort(&spec, Seed(1)).unwrap();
    generated::write(&cohort, &folder.path().join("good")).unwrap();
    let good = folder.path().join("good/cohort.toml");
    let text = std::fs::read_to_string(&good).unwrap();
    // The same manifest where its files are not, and a file that is no manifest.
    std::fs::write(folder.path().join("moved.toml"), text).unwrap();
    std::fs::write(folder.path().join("other.toml"), "rounds = 3\n").unwrap();
    std::fs::write(folder.path().join("notes.txt"), "").unwrap();
    let found = list(folder.path()).unwrap();
    let [usable, moved, other] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(usable.manifest, good);
    assert_eq!(usable.refused, None);
    let said = usable.cohort.as_ref().unwrap();
    assert_eq!((&said.name, said.origin), (cohort.name(), "simulated"));
    assert_eq!(moved.refused.as_deref(), Some("file_missing"));
    assert_eq!(moved.cohort.as_ref(), Some(said));
    assert_eq!(other.cohort, None);
    assert!(other.refused.as_ref().unwrap().starts_with("manifest_"));
    let text = to_text(&found);
    assert!(text.contains("usable") && text.contains("refused: file_missing"));
}

#[test]
fn a_folder_without_cohorts_or_none_at_all_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = list(folder.path()).unwrap_err();
    assert_eq!(refused.code, "cohorts_none");
    assert_eq!(refused.exit, consilium_ops::ExitCode::Configuration);
    let refused = list(&folder.path().join("absent")).unwrap_err();
    assert_eq!(refused.code, "file_missing");
}

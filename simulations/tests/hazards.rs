//! A scenario whose survival task is in intervals.

use consilium::scenario::Loaded;
use consilium::simulate::{Options, simulate};
use consilium_models::DeviceChoice;
use consilium_ops::OperatorError;

/// Three simulated omics sites, one round; `task` is the line after the kind.
fn read(cut_points: &str) -> Result<Loaded, OperatorError> {
    let mut text = format!(
        "name = \"hazards\"\nseed = 5\nmodel = \"ehpal-net\"\n[schedule]\nrounds = 1\n\
         [ehpal-net.modalities.\"omics64.v1\"]\nkind = \"table\"\nslot = 3\nfeatures = 64\n\
         [ehpal-net.tasks.\"survival.overall.v1\"]\nkind = \"hazards\"\ncut_points = {cut_points}\n\
         [training.\"omics64.v1\"]\nlocal_steps = 2\nbatch = 16\nlearning_rate = 0.01\n"
    );
    for site in ["a", "b", "c"] {
        text.push_str(&format!(
            "[sites.{site}]\nmodality = \"omics64.v1\"\ntask = \"survival.overall.v1\"\n\
             declared_patients = 20\ncohort.generated = {{ name = \"{site}\", kind = \"omics\", \
             train = 20, validation = 10, test = 30 }}\n"
        ));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hazards.toml");
    std::fs::write(&path, text).unwrap();
    Loaded::read(path.to_str().unwrap())
}

#[test]
fn cut_points_reach_every_site_through_the_study_and_survival_is_ranked() {
    let loaded = read("[6, 15.5, 40]").unwrap();
    let task = &loaded.study.model.settings["tasks"]["survival.overall.v1"];
    assert_eq!(task["cut_points"], serde_json::json!([6.0, 15.5, 40.0]));
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        out: folder.path().join("run"),
        threads: 2,
        device: DeviceChoice::Cpu,
    };
    let outcome = simulate(&loaded, &options).unwrap();
    for row in &outcome.sites {
        assert_eq!(row.metric, "c_index");
        assert_eq!(row.constant, Some(0.5));
        assert!(row.federated.is_some_and(|value| value != 0.5));
    }
    // The resolved scenario of the run folder is read back to the same study.
    let resolved = options.out.join("scenario.toml");
    let again = Loaded::read(resolved.to_str().unwrap()).unwrap();
    assert_eq!(again.study.digest(), loaded.study.digest());
}

#[test]
fn cut_points_that_do_not_ascend_are_refused_before_anything_is_touched() {
    let Err(refused) = read("[6, 40, 15]") else {
        panic!("accepted");
    };
    assert_eq!(refused.code, "model_setting_invalid");
    assert!(
        refused
            .message
            .contains("tasks.survival.overall.v1.cut_points"),
        "{refused}"
    );
}

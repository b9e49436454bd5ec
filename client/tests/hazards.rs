//! Survival in intervals at a site: it learns who dies earlier, and gives each patient a curve.

mod consortium;

use consilium_core::{Seed, Study};
use consilium_data::generated::{self, GeneratedKind, GeneratedSpec};
use consilium_data::{Cohort, Part, Targets};
use consilium_models::DeviceChoice;
use consilium_site::predictions::table;
use consilium_site::training::{SiteRecords, SiteTraining, evaluated};
use consortium::site;

/// Months; the generated follow-ups end between the first weeks and 90 months.
const CUT_POINTS: [f32; 4] = [6.0, 15.0, 30.0, 60.0];

/// The small study, with the survival task of site `a` in intervals and enough steps to learn something.
fn study() -> Study {
    let (mut study, _) = consortium::real::study();
    study.model.settings["tasks"]["survival.overall.v1"] =
        serde_json::json!({"kind": "hazards", "cut_points": CUT_POINTS});
    study.training["omics64.v1"] =
        serde_json::json!({"local_steps": 40, "batch": 64, "learning_rate": 0.01});
    study.schedule.rounds = 1;
    study
}

fn cohort() -> Cohort {
    let spec = GeneratedSpec {
        name: site("a"),
        kind: GeneratedKind::Omics,
        hospital: 0,
        train: 160,
        validation: 10,
        test: 100,
        public_constants: false,
    };
    generated::cohort(&spec, Seed(3)).unwrap()
}

fn training(study: &Study, cohort: &Cohort) -> SiteTraining {
    let participant = study.participant(&site("a")).unwrap();
    let records = SiteRecords::of_parts(cohort).unwrap();
    SiteTraining::new(study, participant, cohort, records, DeviceChoice::Cpu).unwrap()
}

#[test]
fn a_site_learns_who_dies_earlier_and_gives_each_patient_a_falling_curve() {
    let (study, cohort) = (study(), cohort());
    let mut training = training(&study, &cohort);
    let model = training.train_alone(&mut |_| ()).unwrap();
    let predictions = training.predict(&model, Part::Test, 0).unwrap();
    let targets = training.targets_of(Part::Test);
    for prediction in &predictions {
        assert_eq!(prediction.outputs.len(), CUT_POINTS.len());
        let from_one = std::iter::once(&1.0).chain(&prediction.outputs);
        for (before, alive) in from_one.zip(&prediction.outputs) {
            assert!((0.0..=*before).contains(alive), "{:?}", prediction.outputs);
        }
    }
    // Harrell's C counted here pair by pair, with the expected number of intervals survived as the score.
    let Targets::Survival { time, event } = &targets else {
        panic!("not a survival cohort");
    };
    let score: Vec<f32> = predictions.iter().map(|p| p.outputs.iter().sum()).collect();
    let (mut right, mut pairs) = (0.0, 0.0);
    for i in (0..time.len()).filter(|&i| event[i]) {
        for j in 0..time.len() {
            if time[i] < time[j] || (time[i] == time[j] && !event[j]) {
                pairs += 1.0;
                right += match score[i].total_cmp(&score[j]) {
                    std::cmp::Ordering::Less => 1.0,
                    std::cmp::Ordering::Equal => 0.5,
                    std::cmp::Ordering::Greater => 0.0,
                };
            }
        }
    }
    let expected: f64 = right / pairs;
    let measured = evaluated(training.task(), &predictions, &targets).unwrap();
    let measured = measured.primary().unwrap();
    assert!((measured - expected).abs() < 1e-12, "{measured} {expected}");
    let told = training.evaluate_on(&model, Part::Test).unwrap();
    assert_eq!(
        (told[0].metric.as_str(), told[0].value),
        ("c_index", Some(measured))
    );
    // With some 55 events a coin stays within three standard errors, 0.15, of one half.
    assert!(measured > 0.65, "{measured}");
}

#[test]
fn the_table_of_predictions_has_a_column_for_each_cut_point() {
    let (study, cohort) = (study(), cohort());
    let mut training = training(&study, &cohort);
    let model = training.train_alone(&mut |_| ()).unwrap();
    let predictions = training.predict(&model, Part::Validation, 4).unwrap();
    let records = cohort.records_in(Part::Validation);
    let text = table(&cohort, &records, training.task(), &[], &predictions, 4);
    let text = String::from_utf8(text).unwrap();
    let mut lines = text.lines();
    assert_eq!(
        lines.next().unwrap(),
        "patient,row,risk,survival_6,survival_15,survival_30,survival_60,standard_deviation"
    );
    for (line, prediction) in lines.zip(&predictions) {
        let cells: Vec<f32> = (line.split(',').skip(2))
            .map(|cell| cell.parse().unwrap())
            .collect();
        assert_eq!(cells[1..5], prediction.outputs);
        assert!((cells[0] + prediction.outputs.iter().sum::<f32>()).abs() < 1e-5);
        assert!(cells[5] > 0.0);
    }
}

#[test]
fn cut_points_that_make_no_intervals_are_refused_by_name() {
    for wrong in [
        "[]",
        "[0.0, 1.0]",
        "[3.0, 3.0]",
        "[2.0, 1.0]",
        "[-1.0]",
        "[1e300]",
    ] {
        let mut study = study();
        study.model.settings["tasks"]["survival.overall.v1"]["cut_points"] =
            serde_json::from_str(wrong).unwrap();
        let refused = consilium_models::EhpalNet::from_json(&study.model.settings).unwrap_err();
        assert_eq!(refused.code(), "model_setting_invalid", "{wrong}");
        assert!(
            refused
                .to_string()
                .contains("survival.overall.v1.cut_points"),
            "{refused}"
        );
    }
}

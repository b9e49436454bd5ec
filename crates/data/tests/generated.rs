//! Generated cohorts: what they are marked as, that they can be learned, and that files give them back.

mod regression;

use consilium_core::{Seed, SiteId};
use consilium_data::generated::{GeneratedKind, GeneratedSpec, cohort, quickstart, write};
use consilium_data::manifest::Origin;
use consilium_data::{Cohort, Examples, Part, Scaling, Targets, Unit, check};
use regression::{Rows, auroc, fit, plain, rows};

fn spec(name: &str, kind: GeneratedKind, hospital: u32, train: u32) -> GeneratedSpec {
    GeneratedSpec {
        name: SiteId::new(name).unwrap(),
        kind,
        hospital,
        train,
        validation: 20,
        test: 200,
        public_constants: false,
    }
}

#[test]
fn the_quickstart_is_eight_simulated_hospitals_with_four_modalities() {
    let specs = quickstart();
    let mut keys = Vec::new();
    for spec in &specs {
        let cohort = cohort(spec, Seed(1)).unwrap();
        assert_eq!(cohort.manifest().origin, Origin::Simulated);
        assert_eq!(cohort.unit(), Unit::Patient);
        assert_eq!(cohort.patients_in(Part::Train), spec.train as usize);
        assert_eq!(cohort.patients_in(Part::Test), spec.test as usize);
        keys.push(cohort.manifest().modality.key.to_string());
    }
    keys.dedup();
    assert_eq!(specs.len(), 8);
    assert_eq!(
        keys,
        ["cxr2d.v1", "icu24.v1", "omics64.v1", "accelerometer3.v1"]
    );
}

#[test]
fn files_give_a_generated_cohort_back_bit_for_bit() {
    for spec in &quickstart() {
        let made = cohort(spec, Seed(5)).unwrap();
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let manifest = write(&made, one.path()).unwrap();
        assert_eq!(check(&manifest), []);
        let read = Cohort::read(&manifest).unwrap();
        assert_eq!(read.data_hash(), made.data_hash(), "{}", spec.name);
        assert_eq!(read.split_hash(), made.split_hash());
        assert_eq!(read.schema_hash(), made.schema_hash());
        assert_eq!(read.manifest(), made.manifest());
        let train = made.records_in(Part::Train);
        let bits = |cohort: &Cohort| -> Vec<u32> {
            let prepared = cohort.prepare(&train).unwrap();
            prepared
                .examples()
                .values
                .iter()
                .map(|v| v.to_bits())
                .collect()
        };
        assert_eq!(bits(&read), bits(&made));
        write(&read, two.path()).unwrap();
        for file in std::fs::read_dir(one.path()).unwrap() {
            let name = file.unwrap().file_name();
            let bytes =
                |folder: &tempfile::TempDir| std::fs::read(folder.path().join(&name)).unwrap();
            assert_eq!(bytes(&one), bytes(&two), "{name:?}");
        }
    }
}

#[test]
fn more_training_patients_leave_the_others_unchanged() {
    let test_of = |train| {
        let cohort = cohort(&spec("a", GeneratedKind::Icu, 0, train), Seed(1)).unwrap();
        let scaling = Scaling {
            mean: vec![0.0; 24],
            standard_deviation: vec![1.0; 24],
            ..Scaling::default()
        };
        let prepared = cohort.prepare_with(&scaling).unwrap();
        let test = cohort.records_in(Part::Test);
        prepared.examples().select(&test).unwrap().values
    };
    assert_eq!(test_of(30), test_of(90));
}

#[test]
fn another_seed_or_name_gives_other_patients() {
    let hash = |name, seed| {
        let cohort = cohort(&spec(name, GeneratedKind::Omics, 0, 30), Seed(seed)).unwrap();
        cohort.data_hash()
    };
    assert_ne!(hash("a", 1), hash("a", 2));
    assert_ne!(hash("a", 1), hash("b", 1));
    assert_eq!(hash("a", 1), hash("a", 1));
}

#[test]
fn a_part_without_patients_is_refused() {
    let mut spec = spec("a", GeneratedKind::Icu, 0, 30);
    spec.test = 0;
    let refusal = cohort(&spec, Seed(1)).unwrap_err();
    assert_eq!(refusal.code(), "manifest_invalid_value");
}

fn parts(cohort: &Cohort) -> [Vec<usize>; 2] {
    [Part::Train, Part::Test].map(|part| cohort.records_in(part))
}

/// Mean AUROC over the three hospitals of one kind: trained alone, and trained on all three together.
fn alone_and_together(
    kind: GeneratedKind,
    ridge: f64,
    features: impl Fn(&Examples, usize) -> Vec<f64> + Copy,
) -> (f64, f64) {
    let mut alone = Vec::new();
    let mut together = Vec::new();
    for seed in 0..3 {
        let hospitals: Vec<[Rows; 2]> = quickstart()
            .iter()
            .filter(|spec| spec.kind == kind)
            .map(|spec| {
                let cohort = cohort(spec, Seed(seed)).unwrap();
                let [train, test] = parts(&cohort);
                rows(&cohort, [&train, &test], 1, features)
            })
            .collect();
        let all: Rows = hospitals
            .iter()
            .flat_map(|[train, _]| train.clone())
            .collect();
        let pooled = fit(&all, ridge);
        for [train, test] in &hospitals {
            alone.push(auroc(&fit(train, ridge), test));
            together.push(auroc(&pooled, test));
        }
    }
    println!("{kind:?}: alone {alone:.3?}, together {together:.3?}");
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    (mean(&alone), mean(&together))
}

/// Means of 2 by 2 pixels.
fn pooled_pixels(examples: &Examples, record: usize) -> Vec<f64> {
    let pixels = examples.record(record).unwrap();
    (0..256)
        .map(|at| {
            let (row, column) = (at / 16 * 2, at % 16 * 2);
            let at = |r: usize, c: usize| f64::from(pixels[(row + r) * 32 + column + c]);
            (at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) / 4.0
        })
        .collect()
}

#[test]
fn xray_hospitals_learn_alone_but_better_together() {
    let (alone, together) = alone_and_together(GeneratedKind::Xray, 0.03, pooled_pixels);
    println!("x-ray: alone {alone:.3}, together {together:.3}");
    assert!((0.65..0.92).contains(&alone), "{alone}");
    assert!(together > alone + 0.02, "{alone} {together}");
}

#[test]
fn intensive_care_units_learn_alone_but_better_together() {
    let (alone, together) = alone_and_together(GeneratedKind::Icu, 0.01, plain);
    println!("icu: alone {alone:.3}, together {together:.3}");
    assert!((0.70..0.92).contains(&alone), "{alone}");
    assert!(together > alone + 0.01, "{alone} {together}");
}

#[test]
fn activities_can_be_told_from_how_much_and_how_fast_the_signal_moves() {
    let specs = quickstart();
    let spec = specs
        .iter()
        .find(|s| s.kind == GeneratedKind::Signal)
        .unwrap();
    let cohort = cohort(spec, Seed(1)).unwrap();
    let movement = |examples: &Examples, record: usize| -> Vec<f64> {
        let values = plain(examples, record);
        (values.chunks_exact(128))
            .flat_map(|channel| {
                let mean = channel.iter().sum::<f64>() / 128.0;
                let lagged = |lag: usize| {
                    let pairs = channel.iter().zip(&channel[lag..]);
                    pairs.map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>() / 128.0
                };
                [lagged(0), lagged(2), lagged(5), lagged(9), lagged(14)]
            })
            .collect()
    };
    let of_class = |class| {
        let [train, test] = parts(&cohort);
        let [train, test] = rows(&cohort, [&train, &test], class, movement);
        auroc(&fit(&train, 0.001), &test)
    };
    let scores: Vec<f64> = (0..4).map(of_class).collect();
    println!("signal: AUROC of each class against the others {scores:.3?}");
    let mean = scores.iter().sum::<f64>() / 4.0;
    assert!((0.75..0.99).contains(&mean), "{scores:?}");
}

#[test]
fn the_first_pathways_order_survival_and_censoring_is_common() {
    let specs = quickstart();
    let spec = specs
        .iter()
        .find(|s| s.kind == GeneratedKind::Omics)
        .unwrap();
    let cohort = cohort(spec, Seed(1)).unwrap();
    let all: Vec<usize> = (0..cohort.records()).collect();
    let prepared = cohort.prepare(&all).unwrap();
    let examples = prepared.examples();
    let Targets::Survival { time, event } = &examples.targets else {
        panic!("omics has survival targets");
    };
    let risk: Vec<f64> = (0..examples.len())
        .map(|r| {
            let row = plain(examples, r);
            let pathway = |p: usize| row[p * 9..(p + 1) * 9].iter().sum::<f64>();
            pathway(0) - 0.8 * pathway(1) + 0.6 * pathway(2)
        })
        .collect();
    let (mut right, mut pairs) = (0.0, 0.0);
    for i in (0..risk.len()).filter(|&i| event[i]) {
        for j in (0..risk.len()).filter(|&j| time[j] > time[i]) {
            pairs += 1.0;
            right += f64::from(u8::from(risk[i] > risk[j]));
        }
    }
    let events = event.iter().filter(|&&e| e).count() as f64 / event.len() as f64;
    println!("omics: C {:.3}, events {events:.2}", right / pairs);
    assert!((0.7..0.9).contains(&(right / pairs)));
    assert!((0.4..0.8).contains(&events), "{events}");
}

#[test]
fn with_public_constants_a_record_is_prepared_the_same_whoever_else_is_there() {
    for kind in [
        GeneratedKind::Xray,
        GeneratedKind::Icu,
        GeneratedKind::Omics,
        GeneratedKind::Signal,
    ] {
        // Neighbours: the second cohort has one patient more.
        let prepared = |patients: u32, public_constants: bool| {
            let spec = GeneratedSpec {
                public_constants,
                ..spec("a", kind, 1, patients)
            };
            let cohort = cohort(&spec, Seed(1)).unwrap();
            assert_eq!(cohort.fitted().is_empty(), public_constants);
            let train = cohort.records_in(Part::Train);
            let prepared = cohort.prepare(&train).unwrap();
            let records_per_patient = train.len() / patients as usize;
            let mut common = train[..20 * records_per_patient].to_vec();
            common.extend(cohort.records_in(Part::Test));
            let values = prepared.examples().select(&common).unwrap().values;
            (values, prepared.scaling().clone())
        };
        let ((without, scaling), (with, other)) = (prepared(20, true), prepared(21, true));
        assert_eq!(without, with, "{kind:?}");
        assert_eq!(scaling, other);
        assert!(scaling.source.is_some());
        // The constants are of the right size.
        let square: f32 = without.iter().map(|value| value * value).sum();
        let size = (square / without.len() as f32).sqrt();
        assert!((0.3..2.5).contains(&size), "{kind:?}: {size}");
        // Fitted, everybody moves with the one patient.
        let ((without, scaling), (with, other)) = (prepared(20, false), prepared(21, false));
        assert_ne!(without, with, "{kind:?}");
        assert_ne!(scaling, other);
        assert_eq!(scaling.source, None);
    }
}

#[test]
fn public_constants_survive_the_disk_and_gaps_take_their_stand_in() {
    let folder = tempfile::tempdir().unwrap();
    let spec = GeneratedSpec {
        public_constants: true,
        ..spec("a", GeneratedKind::Icu, 0, 20)
    };
    let written = write(&cohort(&spec, Seed(1)).unwrap(), folder.path()).unwrap();
    let text = std::fs::read_to_string(&written).unwrap();
    let read = |text: &str| {
        std::fs::write(&written, text).unwrap();
        Cohort::read(&written)
    };
    let values = |text: &str| {
        let cohort = read(text).unwrap();
        let train = cohort.records_in(Part::Train);
        let prepared = cohort.prepare(&train).unwrap();
        prepared.examples().values.clone()
    };
    let usual = values(&text);
    // Lactate: mean 2.2, deviation 1.2; a gap now stands for 4.6, two deviations above.
    let lactate = text.find("\"lact\"").unwrap();
    let mean = lactate + text[lactate..].find("mean =").unwrap();
    let mut other = text.clone();
    other.insert_str(mean, "missing = 4.6\n");
    let moved = values(&other);
    let changed: Vec<(f32, f32)> = (usual.iter().zip(&moved))
        .filter(|(one, other)| one != other)
        .map(|(one, other)| (*one, *other))
        .collect();
    assert!(!changed.is_empty());
    for (before, after) in changed {
        assert_eq!(before, 0.0);
        assert!((after - 2.0).abs() < 1e-3, "{after}");
    }
    for (from, to, words) in [
        ("\"lact\"", "\"lactate\"", "the first is `lact`"),
        (
            "source = ",
            "source = \"\" # ",
            "where the numbers come from",
        ),
        ("\nmean = ", "\nrange = [3, 2]\n#", "range = [low, high]"),
    ] {
        let at = text.find("[preprocessing.public]").unwrap();
        let broken = format!("{}{}", &text[..at], text[at..].replacen(from, to, 1));
        let refused = read(&broken).unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
}

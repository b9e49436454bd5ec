//! `consilium sweep`, stopped and called again.

use std::fs;
use std::path::Path;

use consilium::scenario::Loaded;
use consilium::sweep::{Level, Options, Sweep, sweep};
use consilium_models::DeviceChoice;

fn run(out: &Path, levels: &[Level]) -> Sweep {
    let loaded = Loaded::read("tests/small.toml").unwrap();
    let options = Options {
        levels: levels.to_vec(),
        seeds: 2,
        development: true,
        out: out.to_owned(),
        threads: 2,
        device: DeviceChoice::Cpu,
    };
    sweep(&loaded, &options).unwrap()
}

#[test]
fn a_sweep_goes_on_where_it_was_and_ends_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let levels = [Level(Some(2.0)), Level(None)];
    let found = run(folder.path(), &levels);
    assert_eq!(found.split, "validation");
    for curve in &found.curves {
        let [private, open] = &curve.points[..] else {
            panic!("two levels");
        };
        let spent = private.epsilon.unwrap();
        assert!(spent > 1.0 && spent <= 2.0, "{spent}");
        assert_eq!(open.epsilon, None);
        assert_ne!(private.values, open.values);
        assert_eq!(private.values.len(), 2);
    }
    assert!(found.to_text().contains("Conditional on preprocessing"));
    let cells = folder.path().join("cells.jsonl");
    let text = fs::read_to_string(&cells).unwrap();
    assert!(fs::metadata(folder.path().join("plots/curve.svg")).is_ok());
    // Nothing is missing, nothing is run.
    assert_eq!(run(folder.path(), &levels), found);
    assert_eq!(fs::read_to_string(&cells).unwrap(), text);
    // A line cut short by a kill is run again.
    let cut = text.trim_end().len() - 7;
    fs::write(&cells, &text[..cut]).unwrap();
    assert_eq!(run(folder.path(), &levels), found);
    assert!(fs::read_to_string(&cells).unwrap().len() > text.len());
    // Cells of other data are not taken for these.
    let changed = fs::read_to_string(&cells).unwrap();
    let first: serde_json::Value =
        serde_json::from_str(text.trim().lines().next().unwrap()).unwrap();
    let data = first["data_sha256"].as_str().unwrap();
    fs::write(
        &cells,
        changed.replace(data, &data.replace(&data[..8], "00000000")),
    )
    .unwrap();
    assert_eq!(run(folder.path(), &levels), found);
    let again = fs::read_to_string(&cells).unwrap();
    assert_eq!(again.matches(data).count(), 4);
    // Another order of levels, the same cells.
    let turned = run(folder.path(), &[levels[1], levels[0]]);
    assert_eq!(turned.curves[0].points[0], found.curves[0].points[1]);
}

#[test]
fn levels_are_positive_numbers_or_inf() {
    assert_eq!("inf".parse(), Ok(Level(None)));
    assert_eq!("0.5".parse(), Ok(Level(Some(0.5))));
    for wrong in ["0", "-1", "NaN", "infinity", "much"] {
        assert!(wrong.parse::<Level>().is_err(), "{wrong}");
    }
}

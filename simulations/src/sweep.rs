//! `consilium sweep`: one scenario at several epsilons and seeds, as a table and a curve.
//!
//! Every cell is a whole federation of its own. A cell that is done is kept in `cells.jsonl` and not computed
//! again, so that a sweep can be stopped and called again at any time.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use comfy_table::{Cell as TableCell, CellAlignment, Table, presets};
use consilium_core::study::PrivacyMode;
use consilium_core::{Digest, SiteId};
use consilium_data::Part;
use consilium_models::DeviceChoice;
use consilium_ops::OperatorError;
use consilium_site::training::{constant_metrics, primary_metric};
use serde::{Deserialize, Serialize};

use crate::errors::{failed_federation, failed_work};
use crate::federation::{self, each_in_threads};
use crate::plots;
use crate::run_folder::{MetricRow, to_csv, write_whole};
use crate::scenario::Loaded;
use crate::simulate::{self, FEDERATED};

/// What a study spends at most at every site: an epsilon, or none where nothing is protected.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Level(pub Option<f64>);

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "inf" {
            return Ok(Self(None));
        }
        match text.parse::<f64>() {
            Ok(epsilon) if epsilon > 0.0 && epsilon.is_finite() => Ok(Self(Some(epsilon))),
            _ => Err("give an epsilon above 0, or inf for no privacy".into()),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(epsilon) => write!(f, "{epsilon}"),
            None => f.write_str("inf"),
        }
    }
}

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Epsilons, in the order of the table.
    pub levels: Vec<Level>,
    /// Number of seeds, from the scenario's upwards.
    pub seeds: u32,
    /// Measure on the validation part and leave the test part closed.
    pub development: bool,
    /// Folder of the cells, the table and the curve.
    pub out: PathBuf,
    /// Cells computed at a time.
    pub threads: usize,
    /// Where networks compute.
    pub device: DeviceChoice,
}

impl Options {
    fn part(&self) -> Part {
        if self.development {
            Part::Validation
        } else {
            Part::Test
        }
    }
}

/// One federation: a level and a seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Cell {
    level: Level,
    seed: u64,
    /// What was run, and on what: a changed scenario or cohort is run anew.
    study_sha256: Digest,
    /// Of the cohorts as the scenario's own seed gives them.
    data_sha256: Digest,
    split: String,
    rows: Vec<CellRow>,
}

/// A site's value in a cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct CellRow {
    site: SiteId,
    metric: String,
    value: Option<f64>,
    constant: Option<f64>,
    /// What the rounds of this run cost the site's patients.
    epsilon: Option<f64>,
    /// Scaling was fitted on them outside of epsilon.
    conditional_on_preprocessing: bool,
}

/// One point of a site's curve.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The level that was asked for.
    pub level: Level,
    /// The largest epsilon that a seed of it spent.
    pub epsilon: Option<f64>,
    /// The metric under every seed; empty where it is undefined.
    pub values: Vec<Option<f64>>,
    /// Mean over the seeds at which it is defined.
    pub mean: Option<f64>,
    /// Standard deviation over these seeds (n - 1); empty below two.
    pub deviation: Option<f64>,
}

/// A site's curve.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// The site.
    pub site: SiteId,
    /// Its primary metric.
    pub metric: String,
    /// What a constant prediction reaches.
    pub constant: Option<f64>,
    /// Scaling was fitted on the site's patients outside of epsilon.
    pub conditional_on_preprocessing: bool,
    /// One point a level.
    pub points: Vec<Point>,
}

/// What `sweep` found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sweep {
    /// Name of the scenario.
    pub scenario: String,
    /// First seed.
    pub seed: u64,
    /// Number of seeds.
    pub seeds: u32,
    /// The part that was measured.
    pub split: String,
    /// One curve a site.
    pub curves: Vec<Curve>,
}

/// Runs what is missing of a sweep and writes `metrics.csv`, `curve.csv` and `plots/curve.svg`.
///
/// # Errors
/// [`OperatorError`]: an unacceptable scenario or cohort, a failing device or disk.
pub fn sweep(loaded: &Loaded, options: &Options) -> Result<Sweep, OperatorError> {
    loaded.must_be_simulation()?;
    let at_folder = |error: io::Error| OperatorError::file(&options.out, &error);
    // Everything that can be refused is refused before the first cell.
    let mut jobs = Vec::new();
    for &level in &options.levels {
        for offset in 0..u64::from(options.seeds) {
            jobs.push(variant(loaded, level, loaded.scenario.seed + offset)?);
        }
    }
    let cohorts = simulate::cohorts(loaded, options.threads)?;
    let hashes: Vec<Digest> = cohorts.iter().map(|site| site.cohort.data_hash()).collect();
    let data = Digest::of_json(&hashes);
    fs::create_dir_all(&options.out).map_err(at_folder)?;
    let split = options.part().as_str();
    let path = options.out.join("cells.jsonl");
    let mut cells: BTreeMap<Digest, Cell> = known(&path)
        .map_err(at_folder)?
        .into_iter()
        .filter(|cell| cell.split == split && cell.data_sha256 == data)
        .map(|cell| (cell.study_sha256, cell))
        .collect();
    let missing: Vec<&Variant> = jobs
        .iter()
        .filter(|variant| !cells.contains_key(&variant.digest()))
        .collect();
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(at_folder)?;
    let (file, ended) = (
        Mutex::new(file),
        AtomicUsize::new(jobs.len() - missing.len()),
    );
    let done = each_in_threads(
        missing,
        options.threads,
        |variant| -> Result<Cell, OperatorError> {
            let cell = variant.run(data, options)?;
            keep(&file, &cell).map_err(at_folder)?;
            let ended = ended.fetch_add(1, Ordering::Relaxed) + 1;
            let (level, seed, all) = (cell.level, cell.seed, jobs.len());
            eprintln!("epsilon {level}, seed {seed}: {ended} of {all} done");
            Ok(cell)
        },
    );
    for cell in done {
        let cell = cell?;
        cells.insert(cell.study_sha256, cell);
    }
    let ordered: Vec<&Cell> = jobs
        .iter()
        .map(|variant| &cells[&variant.digest()])
        .collect();
    let found = Sweep {
        scenario: loaded.scenario.name.to_string(),
        seed: loaded.scenario.seed,
        seeds: options.seeds,
        split: split.into(),
        curves: curves(loaded, &options.levels, &ordered),
    };
    write(&found, &ordered, &options.out).map_err(at_folder)?;
    Ok(found)
}

/// The scenario at one level and seed.
struct Variant {
    level: Level,
    loaded: Loaded,
}

fn variant(loaded: &Loaded, level: Level, seed: u64) -> Result<Variant, OperatorError> {
    let mut scenario = loaded.scenario.clone();
    scenario.seed = seed;
    let privacy = &mut scenario.privacy;
    privacy.noise_multiplier = None;
    privacy.epsilon = level.0;
    privacy.mode = match level.0 {
        Some(_) if privacy.mode == PrivacyMode::SiteUpdates => PrivacyMode::SiteUpdates,
        Some(_) => PrivacyMode::PrivateSteps,
        None => PrivacyMode::NoneSimulationOnly,
    };
    Ok(Variant {
        level,
        loaded: Loaded::resolve(scenario, loaded.folder.clone())?,
    })
}

impl Variant {
    fn digest(&self) -> Digest {
        self.loaded.study.digest()
    }

    fn run(&self, data: Digest, options: &Options) -> Result<Cell, OperatorError> {
        let (loaded, part) = (&self.loaded, options.part());
        let sites = simulate::cohorts(loaded, 1)?;
        let work = simulate::works(&loaded.study, &sites, options.device)?;
        let initial = loaded.initial_federated();
        let finished = federation::run(&loaded.study, &initial, work, 1, &|_| ())
            .map_err(failed_federation)?;
        let privacy = crate::privacy_report::rows(
            &loaded.agreements(),
            &finished.released,
            &simulate::fitted(loaded, &sites),
        )?;
        let mut rows = Vec::new();
        for site in &sites {
            let at_site = |error| failed_work(error).at(format!("site {}", site.name));
            let mut training = simulate::training(&loaded.study, site, options.device)?;
            let model = simulate::held(&loaded.study, &finished, &site.name);
            let values = training.evaluate_on(&model, part).map_err(at_site)?;
            let metric = primary_metric(training.task());
            let (known, targets) = (training.targets_of(Part::Train), training.targets_of(part));
            let constant = constant_metrics(training.task(), &known, &targets, part.as_str());
            let pick = |values: &[consilium_site::work::MetricValue]| {
                values.iter().find(|value| value.metric == metric)?.value
            };
            let spent = privacy.iter().rfind(|row| row.site == site.name);
            rows.push(CellRow {
                site: site.name.clone(),
                metric: metric.into(),
                value: pick(&values),
                constant: pick(&constant),
                epsilon: spent.map(|row| row.epsilon),
                conditional_on_preprocessing: spent
                    .is_some_and(|row| row.conditional_on_preprocessing),
            });
        }
        Ok(Cell {
            level: self.level,
            seed: loaded.scenario.seed,
            study_sha256: self.digest(),
            data_sha256: data,
            split: part.as_str().into(),
            rows,
        })
    }
}

/// The cells that were kept. The last line may have been cut short by a kill; it is run again.
fn known(path: &Path) -> io::Result<Vec<Cell>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

fn keep(file: &Mutex<File>, cell: &Cell) -> io::Result<()> {
    // A line of its own even after one that was cut short.
    let mut line = b"\n".to_vec();
    serde_json::to_writer(&mut line, cell)?;
    line.push(b'\n');
    let mut file = file.lock().unwrap_or_else(|e| e.into_inner());
    file.write_all(&line)?;
    file.sync_data()
}

fn curves(loaded: &Loaded, levels: &[Level], cells: &[&Cell]) -> Vec<Curve> {
    let sites = loaded.scenario.sites.keys().enumerate();
    sites
        .map(|(place, site)| {
            let point = |level: &Level| {
                let of_level = cells.iter().filter(|cell| cell.level == *level);
                let rows: Vec<&CellRow> = of_level.map(|cell| &cell.rows[place]).collect();
                let values: Vec<Option<f64>> = rows.iter().map(|row| row.value).collect();
                let defined: Vec<f64> = values.iter().flatten().copied().collect();
                let mean = mean(&defined);
                Point {
                    level: *level,
                    epsilon: rows.iter().filter_map(|row| row.epsilon).reduce(f64::max),
                    mean,
                    deviation: mean.and_then(|mean| deviation(&defined, mean)),
                    values,
                }
            };
            let constants: Vec<f64> = cells
                .iter()
                .filter_map(|cell| cell.rows[place].constant)
                .collect();
            Curve {
                site: site.clone(),
                metric: cells
                    .first()
                    .map_or_else(String::new, |cell| cell.rows[place].metric.clone()),
                constant: mean(&constants),
                conditional_on_preprocessing: cells
                    .iter()
                    .any(|cell| cell.rows[place].conditional_on_preprocessing),
                points: levels.iter().map(point).collect(),
            }
        })
        .collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn deviation(values: &[f64], mean: f64) -> Option<f64> {
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

fn write(found: &Sweep, cells: &[&Cell], out: &Path) -> io::Result<()> {
    let mut metrics = Vec::new();
    for cell in cells {
        for row in &cell.rows {
            metrics.push(MetricRow {
                run: found.scenario.clone(),
                arm: format!("{FEDERATED}@epsilon={}", cell.level),
                seed: cell.seed,
                round: None,
                site: row.site.clone(),
                split: cell.split.clone(),
                metric: row.metric.clone(),
                value: row.value,
            });
        }
    }
    #[derive(Serialize)]
    struct CurveRow<'a> {
        site: &'a SiteId,
        metric: &'a str,
        level: String,
        epsilon: Option<f64>,
        seeds: usize,
        mean: Option<f64>,
        deviation: Option<f64>,
        constant: Option<f64>,
    }
    let rows: Vec<CurveRow<'_>> = found
        .curves
        .iter()
        .flat_map(|curve| {
            curve.points.iter().map(|point| CurveRow {
                site: &curve.site,
                metric: &curve.metric,
                level: point.level.to_string(),
                epsilon: point.epsilon,
                seeds: point.values.iter().flatten().count(),
                mean: point.mean,
                deviation: point.deviation,
                constant: curve.constant,
            })
        })
        .collect();
    let figure = plots::privacy_curve(found).map_err(io::Error::other)?;
    write_whole(&out.join("metrics.csv"), &to_csv(&metrics)?)?;
    write_whole(&out.join("curve.csv"), &to_csv(&rows)?)?;
    write_whole(&out.join("plots/curve.svg"), figure.as_bytes())
}

impl Sweep {
    /// The table and what belongs under it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut table = Table::new();
        let mut header = vec!["site".to_owned(), "metric".into(), "constant".into()];
        if let Some(curve) = self.curves.first() {
            header.extend(
                curve
                    .points
                    .iter()
                    .map(|point| format!("ε {}", point.level)),
            );
        }
        table
            .load_style(presets::UTF8_FULL_CONDENSED)
            .set_header(header);
        for curve in &self.curves {
            let mut row = vec![
                TableCell::new(&curve.site),
                TableCell::new(&curve.metric),
                right(curve.constant.map_or("undefined".into(), three)),
            ];
            row.extend(curve.points.iter().map(|point| right(point.to_text())));
            table.add_row(row);
        }
        let fitted = self
            .curves
            .iter()
            .filter(|c| c.conditional_on_preprocessing);
        let fitted: Vec<&str> = fitted.map(|curve| curve.site.as_str()).collect();
        let conditional = if fitted.is_empty() {
            String::new()
        } else {
            format!(
                "Conditional on preprocessing: scaling and imputation were fitted outside ε at {}.\n",
                fitted.join(", ")
            )
        };
        format!(
            "{table}\n{} part; mean ± standard deviation over {} seeds from {}; ε is of every site, for the updates \
             of all rounds; inf: nothing clipped, nothing noised.\n{conditional}SIMULATION: seeded noise protects nobody. \
             Choosing a recipe by such a table is outside ε.\n",
            self.split, self.seeds, self.seed
        )
    }
}

impl Point {
    fn to_text(&self) -> String {
        match (self.mean, self.deviation) {
            (Some(mean), Some(deviation)) => format!("{mean:.3} ± {deviation:.3}"),
            (Some(mean), None) => three(mean),
            (None, _) => "undefined".into(),
        }
    }
}

fn three(value: f64) -> String {
    format!("{value:.3}")
}

fn right(text: String) -> TableCell {
    TableCell::new(text).set_alignment(CellAlignment::Right)
}

//! `consilium simulate`: a federation in one process, its controls, and the run folder.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use consilium_core::clock::{Clock as _, SystemClock};
use consilium_core::study::PrivacyMode;
use consilium_core::{ModelVector, SiteId, Study};
use consilium_data::{Cohort, Part};
use consilium_models::DeviceChoice;
use consilium_ops::OperatorError;
use consilium_site::training::{
    SiteRecords, SiteTraining, constant_metrics, metrics, primary_metric,
};
use consilium_site::work::{LocalWork, MetricValue};

use crate::errors::{failed_federation, failed_work};
use crate::federation::{self, Finished, Told, each_in_threads};
use crate::outcome::{Outcome, SiteRow};
use crate::privacy_report::{self, PrivacyRow};
use crate::progress::Watch;
use crate::run_folder::{CommunicationRow, MetricRow, RunFolder, RunManifest, SiteRecord};
use crate::scenario::Loaded;
use crate::{compare, plots, report};

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Run folder.
    pub out: PathBuf,
    /// Sites that train at a time.
    pub threads: usize,
    /// Where networks compute.
    pub device: DeviceChoice,
}

/// A site of a simulation with the cohort it was given.
pub(crate) struct Site {
    pub(crate) name: SiteId,
    pub(crate) cohort: Cohort,
}

/// Arm of the federated model, as in `metrics.csv`.
pub const FEDERATED: &str = "federated:fedavg";

/// Arm of the same federation with nothing protected, beside a private one.
pub const UNPROTECTED: &str = "unprotected:fedavg";

/// Runs a scenario and writes the run folder.
///
/// # Errors
/// [`OperatorError`]: an unacceptable scenario or cohort, a failing device or disk.
pub fn simulate(loaded: &Loaded, options: &Options) -> Result<Outcome, OperatorError> {
    let started = SystemClock.now().0;
    let clock = Instant::now();
    let at_folder = |error: io::Error| OperatorError::file(&options.out, &error);
    // Everything that can be refused is refused before the first file is written.
    loaded.must_be_simulation()?;
    RunFolder::refuse_finished(&options.out).map_err(at_folder)?;
    let sites = cohorts(loaded, options.threads)?;
    let work = works(&loaded.study, &sites, options.device)?;
    let folder = RunFolder::create(&options.out).map_err(at_folder)?;
    let watch = Watch::new(&loaded.study, folder);

    watch.stage("federated training");
    let tell = |told: Told| watch.told(&told);
    let mut finished = federation::run(
        &loaded.study,
        &loaded.initial_federated(),
        work,
        options.threads,
        &tell,
    )
    .map_err(failed_federation)?;

    let unprotected = if loaded.study.privacy != PrivacyMode::NoneSimulationOnly {
        watch.stage("the same without privacy, for comparison");
        let study = loaded.unprotected_study();
        let work = works(&study, &sites, options.device)?;
        let initial = loaded.initial_federated();
        // Its rounds are not the run's: nobody is told.
        let other = federation::run(&study, &initial, work, options.threads, &|_| ());
        Some(other.map_err(failed_federation)?)
    } else {
        None
    };

    watch.stage("local training, site by site");
    let measured = measure_all(
        loaded,
        &sites,
        (&mut finished, unprotected.as_ref()),
        options,
        &watch,
    )?;
    let fitted = fitted(loaded, &sites);
    let privacy = privacy_report::rows(&loaded.agreements(), &finished.released, &fitted)?;

    let outcome = outcome(
        loaded,
        &sites,
        &finished,
        &measured,
        &privacy,
        clock.elapsed().as_secs_f64(),
    );
    watch.done();
    write(
        loaded,
        &sites,
        &finished,
        &measured,
        (&outcome, &privacy),
        watch,
        started,
    )
    .map_err(at_folder)?;
    Ok(outcome)
}

pub(crate) fn cohorts(loaded: &Loaded, threads: usize) -> Result<Vec<Site>, OperatorError> {
    let names: Vec<&SiteId> = loaded.scenario.sites.keys().collect();
    each_in_threads(names, threads, |name| {
        let cohort = loaded.cohort(name).map_err(|error| {
            let place = error.location.clone();
            let place = place.map_or(format!("site {name}"), |place| {
                format!("site {name}: {place}")
            });
            error.at(place)
        })?;
        Ok(Site {
            name: name.clone(),
            cohort,
        })
    })
    .into_iter()
    .collect()
}

pub(crate) fn works(
    study: &Study,
    sites: &[Site],
    device: DeviceChoice,
) -> Result<BTreeMap<SiteId, Box<dyn LocalWork>>, OperatorError> {
    let mut works: BTreeMap<SiteId, Box<dyn LocalWork>> = BTreeMap::new();
    for site in sites {
        works.insert(site.name.clone(), Box::new(training(study, site, device)?));
    }
    Ok(works)
}

pub(crate) fn training(
    study: &Study,
    site: &Site,
    device: DeviceChoice,
) -> Result<SiteTraining, OperatorError> {
    // A scenario's sites are the study's participants.
    let participant = study.participant(&site.name).cloned().ok_or_else(|| {
        OperatorError::configuration("scenario_site", format!("no site {}", site.name), "")
    })?;
    let at_site = |error| failed_work(error).at(format!("site {}", site.name));
    let records = SiteRecords::of_parts(&site.cohort).map_err(at_site)?;
    SiteTraining::new(study, &participant, &site.cohort, records, device).map_err(at_site)
}

/// The sites whose cohorts fit scaling on the patients that epsilon is about. Where whole updates are clipped, what a
/// site computes from its own records is behind that clip.
pub(crate) fn fitted(loaded: &Loaded, sites: &[Site]) -> BTreeSet<SiteId> {
    let steps = loaded.study.privacy == PrivacyMode::PrivateSteps;
    sites
        .iter()
        .filter(|site| steps && !site.cohort.fitted().is_empty())
        .map(|site| site.name.clone())
        .collect()
}

/// Everything measured at one site.
struct Measured {
    arms: Vec<(&'static str, Vec<MetricValue>)>,
    difference: Option<[f64; 2]>,
}

fn measure_all(
    loaded: &Loaded,
    sites: &[Site],
    (finished, unprotected): (&mut Finished, Option<&Finished>),
    options: &Options,
    watch: &Watch,
) -> Result<Vec<Measured>, OperatorError> {
    // Alone, nothing leaves a site and nothing needs noise.
    let study = loaded.unprotected_study();
    // Not the same objects as in the federation: the local arm must owe nothing to it.
    let mut jobs = Vec::new();
    for site in sites {
        let mut models = vec![(FEDERATED, held(&loaded.study, finished, &site.name))];
        if let Some(other) = unprotected {
            models.push((UNPROTECTED, held(&loaded.study, other, &site.name)));
        }
        jobs.push((site, models));
    }
    each_in_threads(jobs, options.threads, |(site, models)| {
        measure(&study, site, models, options.device, watch)
    })
    .into_iter()
    .collect()
}

/// What a site holds at the end: its part of the global model, and the groups that stayed.
pub(crate) fn held(study: &Study, finished: &Finished, site: &SiteId) -> ModelVector {
    let mut model = finished.global.clone();
    model.extend(&finished.local[site]);
    let groups = study
        .participant(site)
        .map(|participant| participant.groups());
    model.restricted_to(groups.iter().flatten())
}

fn measure(
    study: &Study,
    site: &Site,
    mut models: Vec<(&'static str, ModelVector)>,
    device: DeviceChoice,
    watch: &Watch,
) -> Result<Measured, OperatorError> {
    let at_site = |error| failed_work(error).at(format!("site {}", site.name));
    let mut training = training(study, site, device)?;
    let local = training
        .train_alone(&mut |progress| watch.local(&site.name, progress))
        .map_err(at_site)?;
    models.push(("local", local));
    let (mut arms, mut tested) = (Vec::new(), Vec::new());
    for (arm, model) in &models {
        let mut values = Vec::new();
        for part in Part::ALL {
            let predictions = training.predict(model, part, 0).map_err(at_site)?;
            let targets = training.targets_of(part);
            let task = training.task();
            values.extend(metrics(task, &predictions, &targets, part.as_str()));
            if part == Part::Test {
                tested.push(predictions);
            }
        }
        arms.push((*arm, values));
    }
    let targets = training.targets_of(Part::Test);
    let train_targets = training.targets_of(Part::Train);
    let constant = constant_metrics(training.task(), &train_targets, &targets, "test");
    arms.push(("constant", constant));
    // The federated model came first, the local one last.
    let (one, other) = (&tested[0], &tested[tested.len() - 1]);
    let patients: Vec<u32> = training
        .records()
        .test
        .iter()
        .map(|&record| training.records().examples.patient[record])
        .collect();
    let difference = compare::bootstrap_difference(
        study.seed(),
        site.name.as_str(),
        training.task(),
        &targets,
        [one, other],
        &patients,
    );
    Ok(Measured { arms, difference })
}

impl Measured {
    fn value(&self, arm: &str, metric: &str) -> Option<f64> {
        let (_, values) = self.arms.iter().find(|(name, _)| *name == arm)?;
        values
            .iter()
            .find(|value| value.split == "test" && value.metric == metric)?
            .value
    }
}

fn outcome(
    loaded: &Loaded,
    sites: &[Site],
    finished: &Finished,
    measured: &[Measured],
    privacy: &[PrivacyRow],
    seconds: f64,
) -> Outcome {
    let rows = sites.iter().zip(measured).map(|(site, measured)| {
        let section = &loaded.scenario.sites[&site.name];
        let metric = primary_metric(&loaded.scenario.ehpal_net.tasks[&section.task]);
        let participant = loaded.study.participant(&site.name);
        let groups = |pick: fn(&Study, &consilium_core::Participant) -> _| {
            participant
                .map(|participant| pick(&loaded.study, participant))
                .into_iter()
                .flat_map(|groups: BTreeSet<_>| groups)
                .collect()
        };
        let [federated, unprotected, local, constant] =
            [FEDERATED, UNPROTECTED, "local", "constant"].map(|arm| measured.value(arm, metric));
        SiteRow {
            site: site.name.clone(),
            modality: section.modality.to_string(),
            origin: site.cohort.manifest().origin.as_str().into(),
            task: section.task.to_string(),
            unit: site.cohort.unit().as_str().into(),
            train: site.cohort.patients_in(Part::Train),
            test: site.cohort.patients_in(Part::Test),
            metric: metric.into(),
            federated,
            privacy: privacy.iter().rfind(|row| row.site == site.name).cloned(),
            unprotected,
            local,
            constant,
            difference: federated.zip(local).map(|(one, other)| one - other),
            interval: measured.difference,
            shared: groups(|study, participant| study.shared_groups(participant)),
            stayed: groups(|study, participant| study.local_groups(participant)),
        }
    });
    Outcome {
        scenario: loaded.scenario.name.to_string(),
        sites: rows.collect(),
        rounds: finished.coordination.committed_rounds(),
        minimum_holders: loaded.study.aggregation.minimum_holders,
        bytes_down: finished.traffic.values().map(|traffic| traffic.down).sum(),
        bytes_up: finished.traffic.values().map(|traffic| traffic.up).sum(),
        final_model_sha256: finished.global.sha256(),
        seconds,
    }
}

fn write(
    loaded: &Loaded,
    sites: &[Site],
    finished: &Finished,
    measured: &[Measured],
    (outcome, privacy): (&Outcome, &[PrivacyRow]),
    watch: Watch,
    started: u64,
) -> io::Result<()> {
    let run = loaded.scenario.name.to_string();
    let seed = loaded.scenario.seed;
    let mut metrics = Vec::new();
    for (site, measured) in sites.iter().zip(measured) {
        for (arm, values) in &measured.arms {
            metrics.extend(values.iter().map(|value| MetricRow {
                run: run.clone(),
                arm: (*arm).into(),
                seed,
                round: None,
                site: site.name.clone(),
                split: value.split.clone(),
                metric: value.metric.clone(),
                value: value.value,
            }));
        }
    }
    let communication: Vec<CommunicationRow> = finished
        .traffic
        .iter()
        .map(|(site, traffic)| CommunicationRow {
            site: site.clone(),
            bytes_down: traffic.down,
            bytes_up: traffic.up,
        })
        .collect();
    let figure = plots::comparison(outcome).map_err(io::Error::other)?;
    let folder = watch.into_folder();
    let resolved = toml::to_string_pretty(&loaded.scenario).map_err(io::Error::other)?;
    folder.write("scenario.toml", resolved.as_bytes())?;
    folder.write("study.json", &serde_json::to_vec(&loaded.study)?)?;
    folder.write_csv("metrics.csv", &metrics)?;
    folder.write_csv("communication.csv", &communication)?;
    if !privacy.is_empty() {
        folder.write_csv("privacy.csv", privacy)?;
    }
    folder.write_model(&finished.global, &loaded.study.manifest)?;
    folder.write("plots/comparison.svg", figure.as_bytes())?;
    folder.write(
        "report.html",
        report::html(outcome, seed, &[figure]).as_bytes(),
    )?;
    folder.finish(&RunManifest {
        schema_version: 1,
        scenario: run,
        code_version: env!("CARGO_PKG_VERSION").into(),
        seed,
        study_sha256: loaded.study.digest(),
        sites: sites
            .iter()
            .map(|site| SiteRecord {
                site: site.name.clone(),
                data_sha256: site.cohort.data_hash().to_string(),
                split_sha256: site.cohort.split_hash().to_string(),
                local_groups_sha256: finished.local[&site.name].sha256(),
            })
            .collect(),
        rounds: outcome.rounds,
        final_model_sha256: outcome.final_model_sha256,
        started,
        ended: SystemClock.now().0,
        test_openings: 1,
    })
}

/// The federated values of one site in a run folder, as `metrics.csv` has them.
///
/// # Errors
/// [`OperatorError`] when the file cannot be read.
pub fn federated_values(
    out: &std::path::Path,
    site: &SiteId,
) -> Result<Vec<MetricValue>, OperatorError> {
    let path = out.join("metrics.csv");
    let unreadable = |error: csv::Error| {
        OperatorError::failed("metrics_unreadable", error.to_string(), "").at(path.display())
    };
    let mut values = Vec::new();
    for row in csv::Reader::from_path(&path)
        .map_err(unreadable)?
        .deserialize()
    {
        let row: MetricRow = row.map_err(unreadable)?;
        if row.arm == FEDERATED && row.round.is_none() && row.site == *site {
            values.push(MetricValue {
                split: row.split,
                metric: row.metric,
                value: row.value,
            });
        }
    }
    Ok(values)
}

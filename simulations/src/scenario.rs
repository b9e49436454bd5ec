//! A scenario: one TOML file that describes a study, its sites and their cohorts.
//!
//! The same file drives `simulate`, `demo` and, through its study document, a deployment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use consilium_core::study::{
    Aggregation, ModelChoice, PROTOCOL_VERSION, Participant, PrivacyMode, Randomness, Schedule,
    WeightRule,
};
use consilium_core::{
    ModalityKey, ModelManifest, ModelVector, Seed, SiteId, Study, StudyId, TaskKey,
};
use consilium_data::Cohort;
use consilium_models::{DeviceChoice, EhpalNet, NormKind, SiteNetwork};
use consilium_ops::OperatorError;
use consilium_ops::units::Seconds;
use consilium_site::training::TrainingSettings;
use dp_rs::agreement::Agreement;
use dp_rs::noise::Randomness as NoiseFrom;
use dp_rs::plan::Unit;
use serde::{Deserialize, Serialize};

use crate::privacy_section::PrivacySection;

/// The built-in scenarios: name and text.
pub const BUILT_IN: [(&str, &str); 1] = [("quickstart", include_str!("../quickstart.toml"))];

/// A scenario as its file says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Name of the study and of the run.
    pub name: StudyId,
    /// One sentence for people.
    #[serde(default)]
    pub description: String,
    /// Root of every random stream.
    pub seed: u64,
    /// Network to train.
    pub model: Network,
    /// Rounds, quorum, deadline.
    pub schedule: ScheduleSection,
    /// How updates are combined.
    #[serde(default)]
    pub aggregation: AggregationSection,
    /// What protects the patients in what the sites send; private unless said otherwise.
    #[serde(default)]
    pub privacy: PrivacySection,
    /// Settings of `ehpal-net`, modalities and tasks included.
    #[serde(rename = "ehpal-net")]
    pub ehpal_net: EhpalNet,
    /// How the sites of each modality train.
    pub training: TrainingSettings,
    /// The sites.
    pub sites: BTreeMap<SiteId, SiteSection>,
}

/// A built-in network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// EHPAL-Net.
    EhpalNet,
}

/// Rounds, quorum, deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleSection {
    /// Rounds to commit.
    pub rounds: u32,
    /// Failed attempts the study can afford.
    #[serde(default = "one")]
    pub retry_rounds: u32,
    /// Updates without which a round fails; all sites when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<u32>,
    /// Time from the opening of a round to its deadline.
    #[serde(default = "ten_minutes")]
    pub deadline: Seconds,
}

/// How updates are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AggregationSection {
    /// What each site's update weighs.
    pub weights: WeightRule,
    /// A group held by fewer sites stays at its sites.
    pub minimum_holders: u32,
}

impl Default for AggregationSection {
    fn default() -> Self {
        Self {
            weights: WeightRule::EqualModality,
            minimum_holders: 3,
        }
    }
}

/// One site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteSection {
    /// The modality its cohort holds.
    pub modality: ModalityKey,
    /// What its head predicts.
    pub task: TaskKey,
    /// Patients it declares.
    pub declared_patients: u32,
    /// What is protected here; `record` only for cohorts that do not know their patients.
    #[serde(default = "patient", skip_serializing_if = "is_patient")]
    pub privacy_unit: Unit,
    /// Its cohort.
    pub cohort: CohortChoice,
}

/// Where a site's cohort comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CohortChoice {
    /// A `cohort.toml`, relative to the scenario.
    Manifest(PathBuf),
    /// A generated cohort.
    Generated(consilium_data::generated::GeneratedSpec),
}

fn patient() -> Unit {
    Unit::Patient
}

fn is_patient(unit: &Unit) -> bool {
    *unit == Unit::Patient
}

fn one() -> u32 {
    1
}

fn ten_minutes() -> Seconds {
    Seconds(600)
}

/// A scenario that was read and checked, with what follows from it.
pub struct Loaded {
    /// The scenario.
    pub scenario: Scenario,
    /// Folder of its file, for relative paths.
    pub folder: PathBuf,
    /// The study document.
    pub study: Study,
    /// Initial values of every group of the model.
    pub initial: ModelVector,
}

impl Loaded {
    /// Reads a built-in scenario by name, or a file.
    ///
    /// # Errors
    /// [`OperatorError`] with the line for a file that is not acceptable.
    pub fn read(choice: &str) -> Result<Self, OperatorError> {
        let (scenario, folder, place) = match BUILT_IN.iter().find(|(name, _)| *name == choice) {
            Some((name, text)) => {
                let place = PathBuf::from(format!("{name} (built in)"));
                let scenario = consilium_ops::config::parse_toml(&place, text)?;
                (scenario, PathBuf::new(), place)
            }
            None => {
                let path = Path::new(choice);
                if !path.exists() && path.extension().is_none() {
                    let names: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
                    return Err(OperatorError::configuration(
                        "scenario_unknown",
                        format!("there is no scenario {choice:?}"),
                        format!("give a .toml file, or one of: {}", names.join(", ")),
                    ));
                }
                let folder = path.parent().unwrap_or(Path::new("")).to_owned();
                (
                    consilium_ops::config::read_toml(path)?,
                    folder,
                    path.to_owned(),
                )
            }
        };
        Self::resolve(scenario, folder).map_err(|error| match error.location {
            Some(_) => error,
            None => error.at(place.display()),
        })
    }

    /// Checks a scenario as a whole and derives the study document.
    ///
    /// # Errors
    /// [`OperatorError`] naming what contradicts what.
    pub fn resolve(scenario: Scenario, folder: PathBuf) -> Result<Self, OperatorError> {
        check(&scenario)?;
        let spec = &scenario.ehpal_net;
        let wrong = |error: consilium_models::ModelError| {
            OperatorError::configuration(
                error.code(),
                error.to_string(),
                "see [ehpal-net] in the scenario",
            )
        };
        spec.check().map_err(wrong)?;
        let seed = Seed(scenario.seed);
        let device = DeviceChoice::Cpu.open().map_err(wrong)?;
        let whole =
            SiteNetwork::whole(spec, seed, scenario.name.as_str(), &device).map_err(wrong)?;
        let initial = whole.groups();
        let study = study(&scenario, whole.manifest().clone(), &initial)?;
        Ok(Self {
            scenario,
            folder,
            study,
            initial,
        })
    }

    /// Initial values of the federated groups.
    #[must_use]
    pub fn initial_federated(&self) -> ModelVector {
        self.initial.restricted_to(&self.study.federated_groups())
    }

    /// What every site agreed to; empty where nothing is protected.
    #[must_use]
    pub fn agreements(&self) -> BTreeMap<SiteId, Agreement> {
        let read = |participant: &Participant| {
            let agreement = participant.privacy.clone()?;
            // Cannot fail: it was written from an agreement when the scenario was resolved.
            let agreement = serde_json::from_value(agreement).expect("an agreement");
            Some((participant.site.clone(), agreement))
        };
        self.study.sites.iter().filter_map(read).collect()
    }

    /// The same study with nothing protected, for comparison in a simulation; the study itself where it protects
    /// nothing.
    #[must_use]
    pub fn unprotected_study(&self) -> Study {
        let mut study = self.study.clone();
        study.privacy = PrivacyMode::NoneSimulationOnly;
        study.randomness = Randomness::SimulationSeeded { seed: study.seed() };
        for participant in &mut study.sites {
            participant.privacy = None;
        }
        study
    }

    /// Refuses a study that cannot be repeated, for commands that promise the same bytes.
    ///
    /// # Errors
    /// [`OperatorError`], unless all randomness is seeded.
    pub fn must_be_simulation(&self) -> Result<(), OperatorError> {
        if self.study.is_simulation() {
            return Ok(());
        }
        Err(OperatorError::configuration(
            "scenario_not_simulation",
            "randomness is operating-system: this study has other bytes each time, and here it would be a simulation",
            "leave out privacy.randomness to simulate it; `consilium study prepare` writes it for separate programs",
        )
        .at("privacy.randomness"))
    }

    /// The site's cohort.
    ///
    /// # Errors
    /// [`OperatorError`] listing everything that is wrong with it.
    pub fn cohort(&self, site: &SiteId) -> Result<Cohort, OperatorError> {
        let section = &self.scenario.sites[site];
        let seed = Seed(self.scenario.seed);
        match &section.cohort {
            CohortChoice::Manifest(path) => {
                Cohort::read(&self.folder.join(path)).map_err(crate::errors::refused_cohort)
            }
            CohortChoice::Generated(spec) => {
                consilium_data::generated::cohort(spec, seed).map_err(crate::errors::refused_cohort)
            }
        }
    }
}

fn check(scenario: &Scenario) -> Result<(), OperatorError> {
    let refuse = |message: String, hint: &str| {
        Err(OperatorError::configuration(
            "scenario_contradiction",
            message,
            hint,
        ))
    };
    if scenario.ehpal_net.norm == NormKind::Batch {
        return refuse(
            "norm = \"batch\" mixes the records of a batch and its statistics are not trained here"
                .into(),
            "use norm = \"group\"",
        );
    }
    for (site, section) in &scenario.sites {
        if !scenario
            .ehpal_net
            .modalities
            .contains_key(&section.modality)
        {
            return refuse(
                format!(
                    "site {site} holds modality {}, which [ehpal-net.modalities] does not have",
                    section.modality
                ),
                "add the modality with its slot and kind",
            );
        }
        if !scenario.ehpal_net.tasks.contains_key(&section.task) {
            return refuse(
                format!(
                    "site {site} has task {}, which [ehpal-net.tasks] does not have",
                    section.task
                ),
                "add the task with its kind",
            );
        }
        let Some(training) = scenario.training.get(&section.modality) else {
            return refuse(
                format!(
                    "there is no [training.\"{}\"] for site {site}",
                    section.modality
                ),
                "say how the sites of this modality train",
            );
        };
        if let Some(problem) = training.problem() {
            return refuse(
                format!("[training.\"{}\"]: {problem}", section.modality),
                "correct the value",
            );
        }
    }
    Ok(())
}

fn study(
    scenario: &Scenario,
    manifest: ModelManifest,
    initial: &ModelVector,
) -> Result<Study, OperatorError> {
    let mut agreements = scenario.privacy.agreements(scenario, &manifest)?;
    let sites: Vec<Participant> = scenario
        .sites
        .iter()
        .map(|(site, section)| Participant {
            site: site.clone(),
            modality: section.modality.clone(),
            task: section.task.clone(),
            declared_patients: section.declared_patients,
            privacy: agreements
                .remove(site)
                .map(|agreement| serde_json::to_value(agreement).expect("plain numbers and text")),
        })
        .collect();
    let schedule = &scenario.schedule;
    let mut study = Study {
        protocol_version: PROTOCOL_VERSION,
        name: scenario.name.clone(),
        randomness: match scenario.privacy.randomness {
            NoiseFrom::SimulationSeeded => Randomness::SimulationSeeded {
                seed: Seed(scenario.seed),
            },
            NoiseFrom::OperatingSystem => Randomness::OperatingSystem {
                public_seed: Seed(scenario.seed),
            },
        },
        model: ModelChoice {
            name: "ehpal-net".into(),
            settings: scenario.ehpal_net.to_json(),
        },
        manifest,
        initial_model_sha256: ModelVector::default().sha256(),
        schedule: Schedule {
            rounds: schedule.rounds,
            retry_rounds: schedule.retry_rounds,
            quorum: schedule.quorum.unwrap_or(sites.len() as u32),
            deadline_seconds: schedule.deadline.0,
        },
        sites,
        training: serde_json::to_value(&scenario.training).expect("plain numbers and text"),
        aggregation: Aggregation {
            weights: scenario.aggregation.weights,
            minimum_holders: scenario.aggregation.minimum_holders,
        },
        privacy: scenario.privacy.mode,
    };
    let federated = study.federated_groups();
    study.initial_model_sha256 = initial.restricted_to(&federated).sha256();
    study.check().map_err(|error| {
        OperatorError::configuration(
            error.code(),
            error.to_string(),
            "see [schedule], [aggregation] and [sites] in the scenario",
        )
    })?;
    Ok(study)
}

//! What the consortium agreed to train, and the plan of one round.
//!
//! Server and sites hold the same [`Study`]; its [`Study::digest`] is in every plan, so that a site
//! notices when it is asked for something it did not agree to.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::manifest::InvalidManifest;
use crate::{Digest, GroupName, ModalityKey, ModelManifest, Seed, SiteId, StudyId, TaskKey};

/// Version of the wire protocol and of the study document.
pub const PROTOCOL_VERSION: u32 = 1;

/// The agreement: model, sites, schedule, aggregation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// [`PROTOCOL_VERSION`] of the program that wrote it.
    pub protocol_version: u32,
    /// Its name.
    pub name: StudyId,
    /// Where its randomness comes from.
    pub randomness: Randomness,
    /// Name and settings of the network; only programs with models read the settings.
    pub model: ModelChoice,
    /// Tensors and groups of the whole model.
    pub manifest: ModelManifest,
    /// SHA-256 of the initial values of the federated groups.
    pub initial_model_sha256: Digest,
    /// Who takes part, with what, in name order.
    pub sites: Vec<Participant>,
    /// Rounds and deadlines.
    pub schedule: Schedule,
    /// How a site trains between two rounds; the settings are the network's own.
    pub training: serde_json::Value,
    /// How updates are combined.
    pub aggregation: Aggregation,
    /// What protects the patients in what the sites send.
    pub privacy: PrivacyMode,
}

/// What protects the patients in what the sites send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PrivacyMode {
    /// Every local step is differentially private, as each participant's agreement says.
    PrivateSteps,
    /// Every update is clipped as a whole and noised before it leaves, as each participant's agreement says. What is
    /// hidden is the part of a whole site; training itself is not private.
    SiteUpdates,
    /// Nothing: for simulations with generated or public cohorts.
    NoneSimulationOnly,
}

/// Where a study's randomness comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Randomness {
    /// Every draw from named streams of this seed: repeatable, for simulations only.
    SimulationSeeded {
        /// The seed.
        seed: Seed,
    },
    /// Everything that a guarantee rests on (noise, sampling of patients, what else is drawn for a patient in a
    /// private step) from the operating system of each site, never twice.
    OperatingSystem {
        /// For what does not depend on anybody's data and may be known to everybody: initial weights, order of
        /// batches where they are not sampled privately.
        public_seed: Seed,
    },
}

/// Name and settings of a built-in network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelChoice {
    /// For example `ehpal-net`.
    pub name: String,
    /// The network's settings.
    pub settings: serde_json::Value,
}

/// One site's part in a study.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Participant {
    /// The site.
    pub site: SiteId,
    /// The modality its cohort holds.
    pub modality: ModalityKey,
    /// What its head predicts.
    pub task: TaskKey,
    /// Patients it declared, rounded, fixed at acceptance. Realised counts never leave the site.
    pub declared_patients: u32,
    /// What its patients are protected by: plan, steps and budget of private training, as the JSON of
    /// `dp_rs::agreement::Agreement`; nothing where nothing is protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<serde_json::Value>,
}

/// Most rounds of a study: with the most local steps of a round, the steps of a study fit 32 bits.
pub const MOST_ROUNDS: u32 = 40_000;

/// Rounds, quorum, deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Rounds to commit.
    pub rounds: u32,
    /// Failed attempts the study can afford in all.
    pub retry_rounds: u32,
    /// Updates without which a round fails.
    pub quorum: u32,
    /// Seconds from the opening of a round to its deadline.
    pub deadline_seconds: u64,
}

/// How updates are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aggregation {
    /// What each site's update weighs.
    pub weights: WeightRule,
    /// A group held by fewer sites stays at its sites and is never sent.
    pub minimum_holders: u32,
}

/// What each site's update weighs inside a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightRule {
    /// Each (modality key, task key) class weighs the same; inside a class by declared patients.
    EqualModality,
    /// By declared patients.
    DeclaredPatients,
    /// Every site the same.
    EqualSite,
}

/// Why a study document is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidStudy {
    /// Written by a program with another protocol.
    #[error("the study speaks protocol {got}, this program {PROTOCOL_VERSION}")]
    Protocol {
        /// The document's version.
        got: u32,
    },
    /// No site, a site twice, or sites out of name order.
    #[error("the study's sites must be listed once each, in name order; see {0}")]
    Sites(String),
    /// A site that declared no patient.
    #[error("site {0} declared no patients")]
    NoPatients(SiteId),
    /// Minimum of holders 0 or 1.
    #[error("minimum_holders is {0}: a group with one holder would be that site's update in clear")]
    MinimumHolders(u32),
    /// Quorum of 0, or more than there are sites.
    #[error("quorum is {quorum}, but the study has {sites} sites")]
    Quorum {
        /// The quorum.
        quorum: u32,
        /// The number of sites.
        sites: usize,
    },
    /// No rounds, more than anybody runs, or no time.
    #[error("rounds must be from 1 to {MOST_ROUNDS}, and deadline_seconds at least 1")]
    Schedule,
    /// A group that a site needs is not in the manifest.
    #[error("site {site} needs group {group}, which the model does not have")]
    MissingGroup {
        /// The site.
        site: SiteId,
        /// The group.
        group: GroupName,
    },
    /// Private training without an agreement, or an agreement without private training.
    #[error("site {0}: a private study has an agreement for every site, any other study has none")]
    Privacy(SiteId),
    /// Randomness of real studies in one that protects nobody.
    #[error("the study protects nobody and is not marked as a simulation")]
    UnprotectedOutsideSimulation,
    /// Nothing reaches the minimum of holders.
    #[error("no group has {0} holders: nothing would be federated")]
    NothingFederated(u32),
    /// The manifest contradicts itself.
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
}

impl InvalidStudy {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Protocol { .. } => "study_protocol_version",
            Self::Sites(_) => "study_sites",
            Self::NoPatients(_) => "study_no_patients",
            Self::MinimumHolders(_) => "study_minimum_holders",
            Self::Quorum { .. } => "study_quorum",
            Self::Schedule => "study_schedule",
            Self::MissingGroup { .. } => "study_missing_group",
            Self::Privacy(_) => "study_privacy",
            Self::UnprotectedOutsideSimulation => "study_unprotected_outside_simulation",
            Self::NothingFederated(_) => "study_nothing_federated",
            Self::Manifest(_) => "study_manifest",
        }
    }
}

impl Study {
    /// Checks the document as a whole.
    ///
    /// # Errors
    /// [`InvalidStudy`], naming what contradicts what.
    pub fn check(&self) -> Result<(), InvalidStudy> {
        if self.protocol_version != PROTOCOL_VERSION {
            return Err(InvalidStudy::Protocol {
                got: self.protocol_version,
            });
        }
        self.manifest.check()?;
        if self.sites.is_empty() {
            return Err(InvalidStudy::Sites("an empty list".into()));
        }
        if let Some(pair) = self
            .sites
            .windows(2)
            .find(|pair| pair[0].site >= pair[1].site)
        {
            return Err(InvalidStudy::Sites(pair[1].site.to_string()));
        }
        if self.aggregation.minimum_holders < 2 {
            return Err(InvalidStudy::MinimumHolders(
                self.aggregation.minimum_holders,
            ));
        }
        let quorum = self.schedule.quorum;
        if quorum == 0 || quorum as usize > self.sites.len() {
            return Err(InvalidStudy::Quorum {
                quorum,
                sites: self.sites.len(),
            });
        }
        if !(1..=MOST_ROUNDS).contains(&self.schedule.rounds) || self.schedule.deadline_seconds == 0
        {
            return Err(InvalidStudy::Schedule);
        }
        if self.privacy == PrivacyMode::NoneSimulationOnly && !self.is_simulation() {
            return Err(InvalidStudy::UnprotectedOutsideSimulation);
        }
        let groups = self.manifest.group_lengths();
        for participant in &self.sites {
            if participant.declared_patients == 0 {
                return Err(InvalidStudy::NoPatients(participant.site.clone()));
            }
            if participant.privacy.is_some() == (self.privacy == PrivacyMode::NoneSimulationOnly) {
                return Err(InvalidStudy::Privacy(participant.site.clone()));
            }
            if let Some(group) = participant
                .groups()
                .into_iter()
                .find(|group| !groups.contains_key(group))
            {
                return Err(InvalidStudy::MissingGroup {
                    site: participant.site.clone(),
                    group,
                });
            }
        }
        if self.federated_groups().is_empty() {
            return Err(InvalidStudy::NothingFederated(
                self.aggregation.minimum_holders,
            ));
        }
        Ok(())
    }

    /// SHA-256 of the document.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of_json(self)
    }

    /// The site's part, if it has one.
    #[must_use]
    pub fn participant(&self, site: &SiteId) -> Option<&Participant> {
        self.sites
            .iter()
            .find(|participant| &participant.site == site)
    }

    /// Who holds each group of the model, by declaration.
    #[must_use]
    pub fn holders(&self) -> BTreeMap<GroupName, BTreeSet<SiteId>> {
        let mut holders: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for participant in &self.sites {
            for group in participant.groups() {
                holders
                    .entry(group)
                    .or_default()
                    .insert(participant.site.clone());
            }
        }
        holders
    }

    /// The groups with at least the minimum of declared holders. All others stay at their sites.
    #[must_use]
    pub fn federated_groups(&self) -> BTreeSet<GroupName> {
        let enough =
            |holders: &BTreeSet<SiteId>| holders.len() >= self.aggregation.minimum_holders as usize;
        self.holders()
            .into_iter()
            .filter(|(_, holders)| enough(holders))
            .map(|(group, _)| group)
            .collect()
    }

    /// The groups this site exchanges with the others.
    #[must_use]
    pub fn shared_groups(&self, participant: &Participant) -> BTreeSet<GroupName> {
        let federated = self.federated_groups();
        participant
            .groups()
            .into_iter()
            .filter(|group| federated.contains(group))
            .collect()
    }

    /// The groups this site keeps to itself.
    #[must_use]
    pub fn local_groups(&self, participant: &Participant) -> BTreeSet<GroupName> {
        let federated = self.federated_groups();
        participant
            .groups()
            .into_iter()
            .filter(|group| !federated.contains(group))
            .collect()
    }

    /// The seed of everything that is drawn from named streams. Outside of a simulation nothing that protects a
    /// patient is.
    #[must_use]
    pub fn seed(&self) -> Seed {
        match self.randomness {
            Randomness::SimulationSeeded { seed } => seed,
            Randomness::OperatingSystem { public_seed } => public_seed,
        }
    }

    /// Whether noise and sampling can be repeated by whoever has the document, so that they protect nobody.
    #[must_use]
    pub fn is_simulation(&self) -> bool {
        matches!(self.randomness, Randomness::SimulationSeeded { .. })
    }
}

impl Participant {
    /// The groups its part of the model consists of.
    #[must_use]
    pub fn groups(&self) -> BTreeSet<GroupName> {
        BTreeSet::from([
            GroupName::stem(&self.modality),
            GroupName::trunk(),
            GroupName::head(&self.task),
        ])
    }
}

/// What the server asks for in one round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundPlan {
    /// The study's digest.
    pub study: Digest,
    /// Round number, from 1.
    pub round: u32,
    /// Attempt at this round, from 1.
    pub attempt: u32,
    /// Hash of the global model that the round starts from.
    pub model: Digest,
    /// When the round closes.
    pub deadline: Timestamp,
}

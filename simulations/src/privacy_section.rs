//! `[privacy]` of a scenario: what is to be guaranteed, turned into one agreement a site.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use consilium_core::study::{PrivacyMode, WeightRule};
use consilium_core::{GroupName, ModelManifest, SiteId};
use consilium_ops::OperatorError;
use dp_rs::accounting::calibration::{Target, noise_multiplier};
use dp_rs::adjacency::Adjacency;
use dp_rs::agreement::{AgreedPlan, Agreement};
use dp_rs::clipping::ClipRule;
use dp_rs::event::Event;
use dp_rs::noise::{NoiseLevel, Randomness};
use dp_rs::plan::{Clip, Plan, PlanSettings, Unit};
use dp_rs::release::{Against, ReleasePlan, ReleaseSettings};
use serde::{Deserialize, Serialize};

use crate::scenario::Scenario;

/// What protects the patients in what the sites send. The steps follow from `[schedule]` and `[training]`, so
/// that epsilon or the noise multiplier is given, not both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrivacySection {
    /// Private steps, unless a simulation says that it protects nobody.
    pub mode: PrivacyMode,
    /// Epsilon of the whole study at each site; 8 if neither this nor the noise is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// Standard deviation of the noise / clip norm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_multiplier: Option<f64>,
    /// `min(1e-5, 1 / (10 declared patients))` at each site if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// Which data sets are neighbours.
    pub adjacency: Adjacency,
    /// How a patient's gradient is bounded.
    pub clip: ClipChoice,
    /// How far the noise can be trusted; `fast` in a simulation and `hardened` elsewhere if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_level: Option<NoiseLevel>,
    /// Norm to which a site's whole update is clipped: `site-updates` only, where it is required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// From whom whole sites are hidden: `site-updates` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<AgainstChoice>,
    /// Where noise and sampling come from. `simulate` and `demo` need `simulation-seeded`, real studies
    /// `operating-system`.
    pub randomness: Randomness,
}

/// From whom whole sites are hidden.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgainstChoice {
    /// Each site adds all of the noise: the server and everybody else.
    #[default]
    Everybody,
    /// Each site adds a share, so that any sum of the minimum of holders has all of it without the share of one curious
    /// member: the other sites and who gets the model, not the server.
    OtherSites,
}

/// How a patient's gradient is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClipChoice {
    /// To the clip norm where it is longer (Abadi et al. 2016).
    Flat,
    /// Scaled to just below the clip norm, whatever its length (Bu et al. 2023, AUTO-S): no norm to tune.
    Automatic,
    /// Each of stem, trunk and head that is trained on its own, with equal shares of the clip norm.
    PerGroup,
}

impl Default for PrivacySection {
    fn default() -> Self {
        Self {
            mode: PrivacyMode::PrivateSteps,
            epsilon: None,
            noise_multiplier: None,
            delta: None,
            adjacency: Adjacency::AddRemove,
            clip: ClipChoice::Automatic,
            noise_level: None,
            clip_norm: None,
            against: None,
            randomness: Randomness::SimulationSeeded,
        }
    }
}

/// Epsilon of a study that does not say its own.
const DEFAULT_EPSILON: f64 = 8.0;

impl PrivacySection {
    /// One agreement a site; none where nothing is protected.
    ///
    /// # Errors
    /// [`OperatorError`] for targets that contradict each other or cannot be reached.
    pub fn agreements(
        &self,
        scenario: &Scenario,
        manifest: &ModelManifest,
    ) -> Result<BTreeMap<SiteId, Agreement>, OperatorError> {
        let mut agreements = BTreeMap::new();
        if self.mode == PrivacyMode::NoneSimulationOnly {
            return Ok(agreements);
        }
        let noise_level = self.noise_level()?;
        if self.epsilon.is_some() && self.noise_multiplier.is_some() {
            return Err(refuse(
                "epsilon and noise_multiplier are both given, and the steps follow from the schedule",
                "give one of the two: the other follows",
            ));
        }
        if self.mode == PrivacyMode::SiteUpdates {
            return self.whole_sites(scenario, noise_level);
        }
        if self.clip_norm.is_some() || self.against.is_some() {
            return Err(refuse(
                "clip_norm and against belong to mode = \"site-updates\"",
                "private steps are clipped as [training] says: private.clip_norm",
            ));
        }
        // Sites with the same rate, steps and delta share a calibration.
        let mut known = BTreeMap::<[u64; 3], f64>::new();
        for (site, section) in &scenario.sites {
            let training =
                scenario.training[&section.modality].as_private(section.declared_patients);
            let schedule = &scenario.schedule;
            let attempts = u64::from(schedule.rounds) + u64::from(schedule.retry_rounds);
            let steps = attempts * u64::from(training.local_steps);
            let declared = f64::from(section.declared_patients);
            let rate = (training.batch as f64 / declared).min(1.0);
            let delta = self
                .delta
                .unwrap_or((1e-5_f64).min(1.0 / (10.0 * declared)));
            if !(delta > 0.0 && delta <= 1.0 / declared) {
                return Err(refuse(
                    &format!(
                        "delta {delta} is not above 0 and at most one of site {site}'s {declared} patients"
                    ),
                    "leave delta out, or give at most 1 / (10 declared_patients)",
                ));
            }
            let multiplier = match self.noise_multiplier {
                Some(given) => given,
                None => {
                    let key = [rate.to_bits(), steps, delta.to_bits()];
                    match known.get(&key) {
                        Some(found) => *found,
                        None => {
                            let found = self.calibrate(rate, steps, delta)?;
                            known.insert(key, found);
                            found
                        }
                    }
                }
            };
            let norm = training.clip_norm();
            let rule = match self.clip {
                ClipChoice::Flat => ClipRule::flat(norm),
                ClipChoice::Automatic => ClipRule::automatic(norm),
                ClipChoice::PerGroup => {
                    let held = [
                        GroupName::stem(&section.modality),
                        GroupName::trunk(),
                        GroupName::head(&section.task),
                    ];
                    let tensors = manifest.tensors.iter().filter(|t| held.contains(&t.group));
                    let trained = tensors.filter(|tensor| training.trains_privately(tensor));
                    let groups: BTreeSet<_> = trained.map(|tensor| &tensor.group).collect();
                    ClipRule::per_group_uniform(norm, groups.len())
                }
            };
            let records = u32::try_from(training.max_records_per_patient).unwrap_or(u32::MAX);
            let plan = Plan::new(PlanSettings {
                unit: section.privacy_unit,
                adjacency: self.adjacency,
                clip: Clip::Fixed(
                    rule.map_err(|error| refuse(&error.to_string(), "see [training]"))?,
                ),
                noise_multiplier: multiplier,
                noise_level,
                sampling_rate: rate,
                expected_units: rate * declared,
                max_records: records
                    .try_into()
                    .map_err(|_| refuse("max_records_per_patient is 0", "give at least 1"))?,
            })
            .map_err(|error| refuse(&error.to_string(), "see [privacy] and [training]"))?;
            let guarantee = plan
                .guarantee(steps, delta)
                .map_err(|error| refuse(&error.to_string(), "see [privacy]"))?;
            let agreement = Agreement {
                plan: AgreedPlan::Steps(plan),
                steps,
                delta,
                epsilon: guarantee.epsilon,
            };
            agreements.insert(site.clone(), agreement);
        }
        Ok(agreements)
    }

    /// The same agreement for every site: clip and noise of its whole update, once an attempt.
    fn whole_sites(
        &self,
        scenario: &Scenario,
        noise_level: NoiseLevel,
    ) -> Result<BTreeMap<SiteId, Agreement>, OperatorError> {
        let Some(clip_norm) = self.clip_norm else {
            return Err(refuse(
                "site-updates without clip_norm: the norm to which each site's update is clipped",
                "give for example clip_norm = 1.0",
            ));
        };
        let aggregation = &scenario.aggregation;
        let against = match self.against.unwrap_or_default() {
            AgainstChoice::Everybody => Against::Everybody,
            AgainstChoice::OtherSites if aggregation.weights != WeightRule::EqualSite => {
                return Err(refuse(
                    "against = \"other-sites\" puts a share of the noise into each update, and the updates weigh \
                     differently",
                    "set weights = \"equal_site\" in [aggregation]",
                ));
            }
            AgainstChoice::OtherSites => {
                let shares = aggregation.minimum_holders.saturating_sub(1);
                let shares = NonZeroU32::new(shares)
                    .ok_or_else(|| refuse("minimum_holders is below 2", "see [aggregation]"))?;
                Against::SumsOf { shares }
            }
        };
        let sites = scenario.sites.len() as f64;
        let delta = self.delta.unwrap_or((1e-5_f64).min(1.0 / (10.0 * sites)));
        if !(delta > 0.0 && delta <= 1.0 / sites) {
            return Err(refuse(
                &format!("delta {delta} is not above 0 and at most one of {sites} sites"),
                "leave delta out, or give at most 1 / (10 sites)",
            ));
        }
        let schedule = &scenario.schedule;
        let releases = u64::from(schedule.rounds) + u64::from(schedule.retry_rounds);
        let plan = |noise_multiplier| {
            ReleasePlan::new(ReleaseSettings {
                unit: Unit::Site,
                // Who takes part is in the study document.
                adjacency: Adjacency::ZeroOut,
                clip_norm,
                noise_multiplier,
                noise_level,
                against,
            })
        };
        let refused = |error: &dyn std::fmt::Display| refuse(&error.to_string(), "see [privacy]");
        let multiplier = match self.noise_multiplier {
            Some(given) => given,
            None => {
                let epsilon = self.epsilon.unwrap_or(DEFAULT_EPSILON);
                let target =
                    Target::new(epsilon, delta, Adjacency::ZeroOut).map_err(|e| refused(&e))?;
                let cost = |noise: f64| {
                    let event = match noise_level {
                        NoiseLevel::Exact => Event::zcdp(1.0 / (2.0 * noise * noise))?,
                        _ => Event::gaussian(noise)?,
                    };
                    Ok(vec![event.repeated(releases, Adjacency::ZeroOut)])
                };
                noise_multiplier(target, cost)
                    .map_err(|e| refused(&e))?
                    .value
            }
        };
        let plan = plan(multiplier).map_err(|e| refused(&e))?;
        let epsilon = plan
            .guarantee(releases, delta)
            .map_err(|e| refused(&e))?
            .epsilon;
        let agreement = Agreement {
            plan: AgreedPlan::Releases(plan),
            steps: releases,
            delta,
            epsilon,
        };
        let sites = scenario.sites.keys();
        Ok(sites
            .map(|site| (site.clone(), agreement.clone()))
            .collect())
    }

    /// The noise level that is meant.
    fn noise_level(&self) -> Result<NoiseLevel, OperatorError> {
        match (self.randomness, self.noise_level) {
            (Randomness::OperatingSystem, Some(NoiseLevel::Fast)) => Err(refuse(
                "noise_level is fast, which is for simulations, and randomness is operating-system",
                "leave noise_level out: hardened is the default of real studies",
            )),
            (_, Some(given)) => Ok(given),
            (Randomness::OperatingSystem, None) => Ok(NoiseLevel::Hardened),
            (Randomness::SimulationSeeded, None) => Ok(NoiseLevel::Fast),
        }
    }

    fn calibrate(&self, rate: f64, steps: u64, delta: f64) -> Result<f64, OperatorError> {
        let epsilon = self.epsilon.unwrap_or(DEFAULT_EPSILON);
        let unreachable = |error: dp_rs::accounting::AccountingError| {
            refuse(
                &error.to_string(),
                "see [privacy], [schedule] and [training]",
            )
        };
        let target = Target::new(epsilon, delta, self.adjacency).map_err(unreachable)?;
        noise_multiplier(target, |noise| {
            Ok(vec![
                Event::poisson_gaussian(noise, rate)?.repeated(steps, self.adjacency),
            ])
        })
        .map(|calibrated| calibrated.value)
        .map_err(unreachable)
    }
}

fn refuse(message: &str, hint: &str) -> OperatorError {
    OperatorError::configuration("scenario_privacy", message, hint)
}

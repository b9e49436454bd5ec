//! What one private study may do at this site.

use consilium_core::study::{PrivacyMode, WeightRule};
use consilium_core::{Digest, Participant, RoundPlan, Study, StudyId};
use consilium_data::manifest::Origin;
use dp_rs::agreement::{AgreedPlan, Agreement};
use dp_rs::event::Repeated;
use dp_rs::ledger::{Account, Budget, NotAdmitted, Record, Spending};
use dp_rs::noise::{NoiseLevel, Randomness};
use dp_rs::plan::{Transcript, Unit};
use dp_rs::release::Against;

use super::refusal::NotSimulated;
use super::{CohortFacts, Refusal, SiteBudget, Standing, Whose};

/// The agreement of this site in one study, checked, with the two budgets that every round is held against.
#[derive(Clone, Debug, PartialEq)]
pub struct Protection {
    study: StudyId,
    agreement: Agreement,
    site: SiteBudget,
    sites: usize,
    randomness: Randomness,
}

impl Protection {
    /// Reads and checks what `study` says about the privacy of this site; `None` where it protects nobody and
    /// this site has set no budget that it would exceed.
    ///
    /// # Errors
    /// [`Refusal::Agreement`] for an agreement that cannot be read or costs more than it says,
    /// [`Refusal::UnknownMode`], [`Refusal::NoProtection`] where the study keeps no budget and one is set, or the
    /// cohort is of real patients, [`Refusal::NoSiteBudget`] where the site has not said what it can spend,
    /// [`Refusal::Simulation`] for seeded noise where it is not allowed, and [`Refusal::NoiseLevel`] for noise of a
    /// simulation in a study that is none, [`Refusal::Fitted`] for a cohort whose scaling would be computed from
    /// its patients outside of the guarantee.
    pub fn of(
        study: &Study,
        participant: &Participant,
        site: Option<SiteBudget>,
        cohort: &CohortFacts,
    ) -> Result<Option<Self>, Refusal> {
        let name = study.name.clone();
        match study.privacy {
            PrivacyMode::PrivateSteps | PrivacyMode::SiteUpdates => {}
            PrivacyMode::NoneSimulationOnly if site.is_some() || cohort.origin == Origin::Real => {
                return Err(Refusal::NoProtection(name));
            }
            PrivacyMode::NoneSimulationOnly => return Ok(None),
            _ => return Err(Refusal::UnknownMode(name)),
        }
        let broken = |problem: String| Refusal::Agreement {
            study: name.clone(),
            problem,
        };
        let agreement = participant.privacy.clone().unwrap_or_default();
        let agreement: Agreement =
            serde_json::from_value(agreement).map_err(|error| broken(error.to_string()))?;
        let Agreement { epsilon, delta, .. } = agreement;
        Budget::new(epsilon, delta).map_err(|error| broken(error.to_string()))?;
        agreement
            .check()
            .map_err(|error| broken(error.to_string()))?;
        let Some(site) = site else {
            return Err(Refusal::NoSiteBudget {
                study: name,
                epsilon,
                delta,
            });
        };
        let steps = matches!(agreement.plan, AgreedPlan::Steps(_));
        if steps != (study.privacy == PrivacyMode::PrivateSteps) {
            return Err(broken("its plan is of another kind than the study".into()));
        }
        if let Against::SumsOf { shares } = agreement.plan.against() {
            if !site.trust_server_with_single_updates {
                return Err(Refusal::TrustedServer(name));
            }
            enough_shares(study, participant, shares.get()).map_err(broken)?;
        }
        if study.is_simulation() {
            let missing = if !site.allow_simulation {
                Some(NotSimulated::Policy)
            } else if cohort.origin == Origin::Real {
                Some(NotSimulated::Cohort(cohort.manifest.clone()))
            } else {
                None
            };
            if let Some(missing) = missing {
                return Err(Refusal::Simulation {
                    study: name,
                    missing,
                });
            }
        } else if agreement.plan.noise_level() == NoiseLevel::Fast {
            return Err(Refusal::NoiseLevel(name));
        } else if study.privacy == PrivacyMode::PrivateSteps && !cohort.fitted.is_empty() {
            return Err(Refusal::Fitted {
                study: name,
                cohort: cohort.clone(),
            });
        }
        Ok(Some(Self {
            study: name,
            agreement,
            site,
            sites: study.sites.len(),
            randomness: if study.is_simulation() {
                Randomness::SimulationSeeded
            } else {
                Randomness::OperatingSystem
            },
        }))
    }

    /// How many sites hide in each other, where whole sites are protected.
    #[must_use]
    pub fn sites(&self) -> Option<usize> {
        (self.agreement.plan.unit() == Unit::Site).then_some(self.sites)
    }

    /// The cost of a single step: the least that training can begin with.
    #[must_use]
    pub fn one_step(&self) -> Repeated {
        self.agreement.plan.events(1)
    }

    /// Whether `cost` may be spent, by the study and by the site. To be asked before anything is trained.
    ///
    /// # Errors
    /// [`Refusal::Exhausted`], [`Refusal::Unprotected`], [`Refusal::Mixed`], [`Refusal::OtherSteps`] for steps
    /// that are not those of the agreement, [`Refusal::Accounting`].
    pub fn admit(&self, standing: &Standing, cost: &Repeated) -> Result<(), Refusal> {
        let ledger = &standing.ledger;
        let spent = ledger.study(self.study.as_str());
        let spent = spent.map_err(|mixed| self.mixed(mixed))?;
        self.judged(Whose::Study, self.agreement.admit(&spent, cost))?;
        if let Some(unprotected) = standing.unprotected.first() {
            return Err(Refusal::Unprotected {
                study: self.study.clone(),
                unprotected: unprotected.clone(),
            });
        }
        let spent = ledger.total().map_err(|mixed| self.mixed(mixed))?;
        let budget = self.site_budget(standing)?;
        self.hold(Whose::Site, &spent, cost, budget)
    }

    /// Whether all that the study agreed to would fit in what is left of the site's budget.
    ///
    /// # Errors
    /// As [`Protection::admit`].
    pub fn fits_as_a_whole(&self, standing: &Standing) -> Result<(), Refusal> {
        let spent = standing.ledger.total().map_err(|mixed| self.mixed(mixed))?;
        let all = self.agreement.events();
        self.hold(Whose::Site, &spent, &all, self.site_budget(standing)?)
    }

    /// What the ledger is to hold about an update that was trained for `plan`.
    ///
    /// # Errors
    /// [`Refusal::OtherSteps`] unless the steps are exactly those admitted, with the noise and randomness that
    /// were agreed.
    pub fn record(
        &self,
        plan: &RoundPlan,
        admitted: &Repeated,
        transcript: Transcript,
        update: Digest,
    ) -> Result<Record, Refusal> {
        let agreed = &self.agreement.plan;
        if transcript.events != *admitted {
            return Err(self.other_steps(format!(
                "{} steps were admitted, {} of another kind or number were taken",
                admitted.count, transcript.events.count
            )));
        }
        if transcript.unit != agreed.unit() {
            return Err(self.other_steps(format!(
                "the unit is {}, agreed is {}",
                transcript.unit,
                agreed.unit()
            )));
        }
        if transcript.noise_level != agreed.noise_level() {
            return Err(self.other_steps(format!(
                "the noise level is {:?}, agreed is {:?}",
                transcript.noise_level,
                agreed.noise_level()
            )));
        }
        if transcript.against != agreed.against() {
            return Err(self.other_steps(format!(
                "it protects from {}, agreed is from {}",
                transcript.against,
                agreed.against()
            )));
        }
        if transcript.randomness != self.randomness {
            return Err(self.other_steps(format!(
                "the randomness is {:?}, agreed is {:?}",
                transcript.randomness, self.randomness
            )));
        }
        Ok(record(
            &self.study,
            plan,
            transcript,
            update,
            Some(self.agreement.delta),
        ))
    }

    fn hold(
        &self,
        whose: Whose,
        spent: &Account,
        cost: &Repeated,
        budget: Budget,
    ) -> Result<(), Refusal> {
        let unit = self.agreement.plan.unit();
        self.judged(whose, spent.admit(unit, cost, budget))
    }

    fn judged(&self, whose: Whose, verdict: Result<Spending, NotAdmitted>) -> Result<(), Refusal> {
        match verdict {
            Ok(_) => Ok(()),
            Err(NotAdmitted::Exhausted(exhausted)) => Err(Refusal::Exhausted {
                study: self.study.clone(),
                whose,
                exhausted,
            }),
            Err(NotAdmitted::Mixed(mixed)) => Err(self.mixed(mixed)),
            Err(NotAdmitted::Accounting(error)) => Err(error.into()),
            Err(other) => Err(self.other_steps(other.to_string())),
        }
    }

    fn site_budget(&self, standing: &Standing) -> Result<Budget, Refusal> {
        let delta = standing.delta(self.site.delta, Some(self.agreement.delta));
        Budget::new(self.site.epsilon, delta).map_err(|error| Refusal::Agreement {
            study: self.study.clone(),
            problem: error.to_string(),
        })
    }

    fn mixed(&self, mixed: dp_rs::ledger::MixedLedger) -> Refusal {
        let study = self.study.clone();
        Refusal::Mixed { study, mixed }
    }

    fn other_steps(&self, problem: String) -> Refusal {
        let study = self.study.clone();
        Refusal::OtherSteps { study, problem }
    }
}

/// Whether every sum that is published holds the noise of `shares` others beside that of a curious member, and all of
/// them noise of the same size.
fn enough_shares(study: &Study, participant: &Participant, shares: u32) -> Result<(), String> {
    let minimum = study.aggregation.minimum_holders;
    if study.aggregation.weights != WeightRule::EqualSite {
        return Err("noise in shares needs weights = \"equal_site\"".into());
    }
    if minimum <= shares {
        return Err(format!(
            "a sum of {minimum} updates, the minimum of holders, has less than {shares} shares of noise that a \
             member does not know"
        ));
    }
    let plan = |of: &Participant| of.privacy.as_ref().map(|agreed| agreed["plan"].clone());
    if study
        .sites
        .iter()
        .any(|other| plan(other) != plan(participant))
    {
        return Err("noise in shares needs the same clip and noise at every site".into());
    }
    Ok(())
}

/// A record of the update that was trained for `plan`.
pub(crate) fn record(
    study: &StudyId,
    plan: &RoundPlan,
    transcript: Transcript,
    update: Digest,
    delta: Option<f64>,
) -> Record {
    Record {
        study: study.to_string(),
        round: plan.round,
        attempt: plan.attempt,
        purpose: "training".into(),
        release: Some(update.to_string()),
        delta,
        transcript,
    }
}

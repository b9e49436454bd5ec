//! A server that demands what this site did not agree to. Every demand is refused with its code, the consortium is
//! told that code and nothing else, and no value leaves: what is checked is everything that arrives at the server's
//! end of the connection.

mod consortium;

use std::sync::Arc;

use consilium_core::ModelVector;
use consilium_core::clock::SystemClock;
use consilium_core::study::PrivacyMode;
use consilium_core::{Digest, Participant, RoundPlan, Seed, Study, TensorSpec};
use consilium_data::manifest::Origin;
use consilium_ops::ExitCode;
use consilium_ops::units::Bytes;
use consilium_site::agent::{Agent, AgentError, Joined, MakeWork};
use consilium_site::policy::{EachStudy, Policy, SecureAggregation, Transfer};
use consilium_site::privacy::{CohortFacts, SiteBudget};
use consilium_site::work::{LocalWork, MetricValue, Progress, Trained, WorkError};
use consortium::{Consortium, ROUNDS, ServerState, TRUNK, Toy, initial, simulated, site};
use dp_rs::adjacency::Adjacency;
use dp_rs::agreement::{AgreedPlan, Agreement};
use dp_rs::clipping::{ClipRule, QuantileClipConfig};
use dp_rs::event::Repeated;
use dp_rs::noise::{NoiseLevel, Randomness};
use dp_rs::plan::{Clip, Plan, PlanSettings, Transcript, Unit};
use dp_rs::release::{Against, ReleasePlan, ReleaseSettings};

const DELTA: f64 = 1e-6;

/// Retries that the study affords.
const RETRIES: u64 = 2;

fn settings() -> PlanSettings {
    PlanSettings {
        unit: Unit::Patient,
        adjacency: Adjacency::AddRemove,
        clip: Clip::Fixed(ClipRule::flat(1.0).unwrap()),
        noise_multiplier: 2.0,
        noise_level: NoiseLevel::Hardened,
        sampling_rate: 0.1,
        expected_units: 1.0,
        max_records: 4.try_into().unwrap(),
    }
}

/// One step a round, retries included, at exactly what it costs.
fn agreement_of(plan: AgreedPlan) -> Agreement {
    let steps = u64::from(ROUNDS) + RETRIES;
    let epsilon = plan.guarantee(steps, DELTA).unwrap().epsilon;
    Agreement {
        plan,
        steps,
        delta: DELTA,
        epsilon,
    }
}

fn steps(change: impl FnOnce(&mut PlanSettings)) -> AgreedPlan {
    let mut settings = settings();
    change(&mut settings);
    AgreedPlan::Steps(Plan::new(settings).unwrap())
}

fn agree(study: &mut Study, agreement: &Agreement) {
    for participant in &mut study.sites {
        participant.privacy = Some(serde_json::to_value(agreement).unwrap());
    }
}

/// What the site has agreed to: a private study of real patients.
fn agreed() -> Study {
    let mut study = consortium::study();
    study.privacy = PrivacyMode::PrivateSteps;
    study.randomness = consilium_core::study::Randomness::OperatingSystem {
        public_seed: Seed(1),
    };
    agree(&mut study, &agreement_of(steps(|_| ())));
    study.check().unwrap();
    study
}

/// What the site permits: that, to the last digit.
fn permitted() -> Policy {
    let study = agreed();
    let agreement = agreement_of(steps(|_| ()));
    let budget = SiteBudget {
        epsilon: agreement.epsilon,
        delta: Some(DELTA),
        allow_simulation: false,
        trust_server_with_single_updates: false,
    };
    let own = study.participant(&site("a")).unwrap();
    Policy {
        each_study: EachStudy {
            epsilon: Some(agreement.epsilon),
            delta: Some(DELTA),
            clip_norm: Some(1.0),
            noise_multiplier: Some(2.0),
        },
        transfer: Transfer {
            hours: None,
            // All rounds on one day.
            bytes_a_day: Some(Bytes(4 * (TRUNK as u64 + 4) * u64::from(ROUNDS))),
        },
        ..Policy::exactly(&study, own, Some(budget))
    }
}

/// Toy work that says that it took its one step.
struct Private {
    toy: Toy,
    plan: AgreedPlan,
    randomness: Randomness,
}

impl LocalWork for Private {
    fn train(
        &mut self,
        plan: &RoundPlan,
        global: &ModelVector,
        local: &ModelVector,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Trained, WorkError> {
        let trained = self.toy.train(plan, global, local, progress)?;
        let transcript = Transcript {
            unit: self.plan.unit(),
            events: self.plan.events(1),
            noise_level: self.plan.noise_level(),
            randomness: self.randomness,
            against: self.plan.against(),
        };
        Ok(Trained {
            privacy: Some(transcript),
            ..trained
        })
    }

    fn evaluate(
        &mut self,
        global: &ModelVector,
        local: &ModelVector,
    ) -> Result<Vec<MetricValue>, WorkError> {
        self.toy.evaluate(global, local)
    }

    fn initial_local(&self) -> ModelVector {
        self.toy.initial_local()
    }

    fn round_cost(&self) -> Option<Repeated> {
        Some(self.plan.events(1))
    }
}

fn work() -> MakeWork {
    Box::new(|study: &Study, participant: &Participant| {
        let agreement = participant.privacy.clone().unwrap_or_default();
        let agreement: Agreement = serde_json::from_value(agreement).unwrap();
        Ok(Box::new(Private {
            toy: Toy::new(study, participant),
            plan: agreement.plan,
            randomness: Randomness::OperatingSystem,
        }) as Box<dyn LocalWork>)
    })
}

/// What is demanded of a site, and what the site is.
struct Demand {
    study: Study,
    policy: Policy,
    cohort: CohortFacts,
    /// The document as it is shown, where it is not the study's.
    document: Option<Vec<u8>>,
    /// What is made of every plan.
    plan: Option<fn(&mut RoundPlan)>,
    /// A document that the site had accepted before.
    before: Option<Study>,
    /// What the site has accepted in writing, where it is not the study.
    accepts: Option<Study>,
    /// Models are damaged, and announced as they are then.
    damaged: bool,
}

impl Demand {
    fn agreed() -> Self {
        Self {
            study: agreed(),
            policy: permitted(),
            cohort: CohortFacts {
                origin: Origin::Real,
                ..simulated()
            },
            document: None,
            plan: None,
            before: None,
            accepts: None,
            damaged: false,
        }
    }

    fn plan(&mut self, plan: AgreedPlan) {
        agree(&mut self.study, &agreement_of(plan));
    }

    /// The document with another value in it.
    fn write(&mut self, change: impl FnOnce(&mut serde_json::Value)) {
        let mut document = serde_json::to_value(&self.study).unwrap();
        change(&mut document);
        self.document = Some(serde_json::to_vec(&document).unwrap());
    }
}

async fn run(
    consortium: &Consortium,
    address: &str,
    policy: &Policy,
    cohort: &CohortFacts,
    study: &Study,
    to_its_end: bool,
) -> Result<(), AgentError> {
    let mut errand = consortium.errand("a");
    errand.policy = consortium.folder.path().join("strict.toml");
    std::fs::write(&errand.policy, toml::to_string(policy).unwrap()).unwrap();
    let store = consortium.store("a").await;
    consortium.accept("a", study, &store).await;
    let (peer, clock, cohort) = (
        consortium.peer("a", address),
        Arc::new(SystemClock),
        cohort.clone(),
    );
    let open = Box::new(move || Ok((cohort, work())));
    let ended = match Agent::join(errand, store.clone(), peer, clock, open).await {
        Ok(Joined::Agent(agent)) if to_its_end => agent.run().await.map(|_| ()),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    store.close().await;
    ended
}

/// Puts the demand to a site; what it refused with.
async fn put(demand: Demand) -> (Arc<ServerState>, AgentError) {
    let consortium = Consortium::new();
    if let Some(before) = &demand.before {
        let state = ServerState::of(before.clone(), initial());
        let server = consortium.serve(state).await;
        let joined = run(
            &consortium,
            &server.address,
            &demand.policy,
            &demand.cohort,
            before,
            false,
        );
        joined.await.unwrap();
    }
    let study = demand.accepts.unwrap_or_else(|| demand.study.clone());
    let state = ServerState::of(demand.study, initial());
    {
        let mut inner = state.inner();
        inner.faults.document = demand.document;
        inner.faults.plan = demand.plan;
        if demand.damaged {
            inner.faults.wrong_models.insert(initial().sha256());
        }
    }
    let server = consortium.serve(Arc::clone(&state)).await;
    let ended = run(
        &consortium,
        &server.address,
        &demand.policy,
        &demand.cohort,
        &study,
        true,
    )
    .await;
    (state, ended.expect_err("the demand was met"))
}

/// Sends `demand` and expects `code`, exit code 3 or 5, and nothing on the wire but that code.
async fn refused(name: &str, code: &str, change: impl FnOnce(&mut Demand)) {
    let mut demand = Demand::agreed();
    change(&mut demand);
    let (state, error) = put(demand).await;
    assert_eq!(error.code(), code, "{name}: {error}");
    let told = error.withdrawal(None).map(|withdrawal| withdrawal.code);
    let exit = consilium_ops::OperatorError::from(error).exit;
    let damaged = code == "model_hash_mismatch";
    assert!(
        matches!(exit, ExitCode::Refused | ExitCode::Configuration) || damaged,
        "{name}: {exit:?}"
    );
    let inner = state.inner();
    assert_eq!(inner.arrived_groups, [], "{name}: something left");
    assert!(inner.uploads.is_empty(), "{name}: something left");
    let withdrawn: Vec<&str> = (inner.withdrawals.iter())
        .map(|(_, withdrawal)| withdrawal.code.as_str())
        .collect();
    assert_eq!(
        withdrawn,
        told.as_deref().as_slice(),
        "{name}: what is said"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_agreed_is_done() {
    let (consortium, demand) = (Consortium::new(), Demand::agreed());
    let study = demand.study.clone();
    let state = ServerState::of(demand.study, initial());
    let server = consortium.serve(Arc::clone(&state)).await;
    let run = run(
        &consortium,
        &server.address,
        &demand.policy,
        &demand.cohort,
        &study,
        true,
    );
    let update = state.wait_until(|inner| !inner.arrived_groups.is_empty());
    // Alone, the site waits for the others; that its update has arrived is enough.
    tokio::select! {
        ended = run => panic!("{ended:?}"),
        () = update => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn demands_for_weaker_privacy_are_refused() {
    refused("less noise", "policy_noise_multiplier", |demand| {
        // At the agreed epsilon: as fewer steps.
        demand.plan(steps(|settings| settings.noise_multiplier = 1.99));
        demand.policy.each_study.epsilon = None;
        demand.policy.privacy.as_mut().unwrap().epsilon = 100.0;
    })
    .await;
    refused("a larger clip norm", "policy_clip_norm", |demand| {
        demand.plan(steps(|settings| {
            settings.clip = Clip::Fixed(ClipRule::flat(1.01).unwrap());
        }));
    })
    .await;
    refused(
        "clip norms that are larger together",
        "policy_clip_norm",
        |demand| {
            demand.plan(steps(|settings| {
                settings.clip = Clip::Fixed(ClipRule::per_group(vec![0.8, 0.8]).unwrap());
            }));
        },
    )
    .await;
    refused("a clip norm that grows", "policy_clip_norm", |demand| {
        demand.plan(steps(|settings| {
            let quantile = QuantileClipConfig::new(settings.noise_multiplier, 100.0);
            settings.clip = Clip::Quantile(quantile);
        }));
    })
    .await;
    refused("a larger epsilon", "policy_epsilon", |demand| {
        let mut more = agreement_of(steps(|_| ()));
        more.epsilon *= 1.01;
        agree(&mut demand.study, &more);
    })
    .await;
    refused("a larger delta", "policy_delta", |demand| {
        let mut more = agreement_of(steps(|_| ()));
        more.delta *= 10.0;
        agree(&mut demand.study, &more);
    })
    .await;
    refused(
        "an epsilon below what the steps cost",
        "privacy_agreement_broken",
        |demand| {
            let mut lie = agreement_of(steps(|_| ()));
            lie.epsilon *= 0.5;
            agree(&mut demand.study, &lie);
        },
    )
    .await;
    refused(
        "more steps at the same epsilon",
        "privacy_agreement_broken",
        |demand| {
            let mut lie = agreement_of(steps(|_| ()));
            lie.steps *= 2;
            agree(&mut demand.study, &lie);
        },
    )
    .await;
    refused(
        "single records instead of patients",
        "policy_unit",
        |demand| {
            demand.plan(steps(|settings| settings.unit = Unit::Record));
        },
    )
    .await;
    refused("more often each patient", "policy_epsilon", |demand| {
        demand.plan(steps(|settings| settings.sampling_rate = 0.2));
    })
    .await;
    refused(
        "more than is left of the budget",
        "privacy_budget_exhausted",
        |demand| {
            demand.policy.privacy.as_mut().unwrap().epsilon = 1e-6;
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn demands_for_noise_that_protects_nobody_are_refused() {
    let seeded = consilium_core::study::Randomness::SimulationSeeded { seed: Seed(7) };
    refused("seeded noise", "privacy_simulation_not_allowed", |demand| {
        demand.study.randomness = seeded;
    })
    .await;
    refused(
        "seeded noise for real patients",
        "privacy_simulation_real_cohort",
        |demand| {
            demand.study.randomness = seeded;
            demand.policy.privacy.as_mut().unwrap().allow_simulation = true;
        },
    )
    .await;
    refused("noise of a simulation", "privacy_noise_level", |demand| {
        demand.plan(steps(|settings| settings.noise_level = NoiseLevel::Fast));
    })
    .await;
    refused("no protection", "privacy_unprotected_study", |demand| {
        demand.study.privacy = PrivacyMode::NoneSimulationOnly;
        demand.study.randomness = seeded;
        for participant in &mut demand.study.sites {
            participant.privacy = None;
        }
    })
    .await;
    refused("no agreement", "study_privacy", |demand| {
        demand.study.sites[0].privacy = None;
    })
    .await;
    refused(
        "no protection outside of a simulation",
        "study_unprotected_outside_simulation",
        |demand| {
            demand.study.privacy = PrivacyMode::NoneSimulationOnly;
        },
    )
    .await;
    refused(
        "a share of the noise",
        "privacy_server_not_trusted",
        |demand| {
            let shared = ReleasePlan::new(ReleaseSettings {
                unit: Unit::Site,
                adjacency: Adjacency::AddRemove,
                clip_norm: 1.0,
                noise_multiplier: 20.0,
                noise_level: NoiseLevel::Hardened,
                against: Against::SumsOf {
                    shares: 2.try_into().unwrap(),
                },
            });
            demand.study.privacy = PrivacyMode::SiteUpdates;
            demand.plan(AgreedPlan::Releases(shared.unwrap()));
            demand.policy.units.push(Unit::Site);
        },
    )
    .await;
    refused(
        "releases under the name of steps",
        "privacy_agreement_broken",
        |demand| {
            let whole = ReleasePlan::new(ReleaseSettings {
                unit: Unit::Patient,
                adjacency: Adjacency::AddRemove,
                clip_norm: 1.0,
                noise_multiplier: 20.0,
                noise_level: NoiseLevel::Hardened,
                against: Against::Everybody,
            });
            demand.plan(AgreedPlan::Releases(whole.unwrap()));
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn demands_for_other_learning_are_refused() {
    refused("another study", "policy_study", |demand| {
        demand.policy.studies = vec!["another".parse().unwrap()];
    })
    .await;
    refused("another network", "policy_model", |demand| {
        demand.study.model.name = "memoriser".into();
    })
    .await;
    refused("another task", "policy_task", |demand| {
        demand.study.sites[0].task = "income".parse().unwrap();
        demand.study.manifest.tensors.push(TensorSpec {
            name: "head/income".into(),
            group: "head/income".parse().unwrap(),
            shape: vec![1],
        });
    })
    .await;
    refused("a group more", "policy_group", |demand| {
        // Held by two sites.
        demand.study.aggregation.minimum_holders = 2;
    })
    .await;
    refused(
        "groups with fewer holders",
        "policy_minimum_holders",
        |demand| {
            demand.study.aggregation.minimum_holders = 2;
            demand.policy.groups.push("stem/m".parse().unwrap());
        },
    )
    .await;
    refused(
        "sums of fewer sites",
        "policy_minimum_participants",
        |demand| {
            demand.study.aggregation.minimum_holders = 2;
            demand.policy.groups.push("stem/m".parse().unwrap());
            demand.policy.minimum_holders = 2;
        },
    )
    .await;
    refused(
        "the update of one site in clear",
        "study_minimum_holders",
        |demand| {
            demand.study.aggregation.minimum_holders = 1;
        },
    )
    .await;
    refused("single updates", "policy_secure_aggregation", |demand| {
        demand.policy.secure_aggregation = SecureAggregation::Required;
    })
    .await;
    refused(
        "a larger model than a day allows",
        "policy_bytes_a_day",
        |demand| {
            demand.policy.transfer.bytes_a_day = Some(Bytes(4 * TRUNK as u64));
        },
    )
    .await;
    refused("a metric", "study_unreadable", |demand| {
        demand.write(|document| document["metrics"] = serde_json::json!(["auroc"]));
    })
    .await;
    refused("code", "study_unreadable", |demand| {
        demand.write(|document| document["model"]["code"] = "import os".into());
    })
    .await;
    refused(
        "the part of another site",
        "study_without_this_site",
        |demand| {
            demand.study.sites[0].site = "aa".parse().unwrap();
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_or_document_than_was_accepted_is_refused() {
    for version in [0, 2] {
        refused(
            "another version of the protocol",
            "study_protocol_version",
            |demand| {
                demand.study.protocol_version = version;
            },
        )
        .await;
    }
    refused(
        "a document under another name",
        "study_unreadable",
        |demand| {
            demand.write(|document| document["name"] = "other".into());
        },
    )
    .await;
    refused("bytes with another hash", "study_unreadable", |demand| {
        let mut document = serde_json::to_vec(&demand.study).unwrap();
        document.push(b' ');
        demand.document = Some(document);
    })
    .await;
    refused(
        "a document that was changed since",
        "study_changed",
        |demand| {
            demand.before = Some(demand.study.clone());
            demand.study.schedule.deadline_seconds += 1;
        },
    )
    .await;
    refused(
        "a round more than was accepted",
        "study_changed",
        |demand| {
            demand.before = Some(demand.study.clone());
            demand.study.schedule.rounds += 1;
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_that_are_not_of_the_study_are_refused() {
    refused("the plan of another study", "plan_other_study", |demand| {
        demand.plan = Some(|plan| plan.study = Digest::of(b"another"));
    })
    .await;
    refused("a round that is over", "plan_wrong_round", |demand| {
        demand.plan = Some(|plan| plan.round = 0);
    })
    .await;
    refused("a round beyond the last", "plan_wrong_round", |demand| {
        demand.plan = Some(|plan| plan.round = ROUNDS + 1);
    })
    .await;
    refused(
        "another model to begin with",
        "plan_other_model",
        |demand| {
            demand.plan = Some(|plan| plan.model = Digest::of(b"another"));
        },
    )
    .await;
    refused(
        "values that are not the model",
        "model_hash_mismatch",
        |demand| {
            demand.damaged = true;
            // All groups are shared, so that the site can tell.
            demand.study.aggregation.minimum_holders = 3;
        },
    )
    .await;
}

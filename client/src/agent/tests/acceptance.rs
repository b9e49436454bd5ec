//! Which studies a site takes part in.

use consilium_core::study::PrivacyMode;
use dp_rs::agreement::{AgreedPlan, Agreement};
use dp_rs::noise::NoiseLevel;
use dp_rs::plan::Unit;
use dp_rs::release::{Against, ReleasePlan, ReleaseSettings};

use super::consortium::{DELTA, STEPS, entries, hardened, plan, real_study};
use super::*;

#[tokio::test]
async fn private_work_that_does_not_say_what_it_spends_is_not_sent() {
    for (announced, taken, code) in [
        (None, Some(STEPS), "privacy_missing"),
        (Some(STEPS), None, "privacy_missing"),
        (Some(STEPS), Some(STEPS + 1), "privacy_other_steps"),
        (Some(STEPS), Some(STEPS - 1), "privacy_other_steps"),
        (Some(0), Some(0), "privacy_other_steps"),
    ] {
        let site = Site::with(100.0).await;
        let server = site.server("first");
        let mut work = Work::private();
        (work.announced, work.taken) = (announced, taken);
        let (got, exit, _) = site.refused(&server, &work).await;
        assert_eq!((got.as_str(), exit), (code, ExitCode::Refused));
        assert!(server.arrived().is_empty());
        assert_eq!(entries(&site.store).await, []);
    }
    let site = Site::with(100.0).await;
    let server = site.server("first");
    let mut quieter = Work::private();
    quieter.plan = Some(plan(0.5));
    let (code, ..) = site.refused(&server, &quieter).await;
    assert_eq!(code, "privacy_other_steps");
    assert_eq!(*quieter.trained.lock().unwrap(), 0);
}

#[tokio::test]
async fn an_agreement_that_does_not_hold_is_not_accepted() {
    let mut promising = agreement();
    promising.epsilon = promising.epsilon.next_down();
    let mut wordless = study("first", Some(&agreement()));
    wordless.sites[0].privacy = Some(serde_json::json!({"epsilon": 1.0}));
    for study in [study("first", Some(&promising)), wordless] {
        let site = Site::with(100.0).await;
        let server = Server::new(study, &site.store);
        let (code, exit, _) = site.refused(&server, &Work::private()).await;
        assert_eq!(
            (code.as_str(), exit),
            ("privacy_agreement_broken", ExitCode::Refused)
        );
        assert!(!site.has_accepted(&server).await);
    }
}

#[tokio::test]
async fn a_site_without_a_budget_takes_part_in_no_private_study() {
    let mut site = Site::with(100.0).await;
    site.budget = None;
    let server = site.server("first");
    let (code, exit, error) = site.refused(&server, &Work::private()).await;
    assert_eq!(
        (code.as_str(), exit),
        ("privacy_budget_not_set", ExitCode::Configuration)
    );
    assert!(error.hint.contains("[privacy]\nepsilon = "), "{error}");
    assert!(!site.has_accepted(&server).await);
}

#[tokio::test]
async fn a_study_without_protection_exceeds_every_budget() {
    let mut site = Site::with(100.0).await;
    let open = Server::new(study("open", None), &site.store);
    let (code, ..) = site.refused(&open, &Work::open()).await;
    assert_eq!(code, "privacy_unprotected_study");
    assert!(!site.has_accepted(&open).await);
    // A simulation has no budget; what it sent is not forgotten when somebody sets one.
    let budget = site.budget.take();
    site.run(&open, &Work::open()).await.unwrap();
    site.budget = budget;
    let private = site.server("first");
    let (code, exit, error) = site.refused(&private, &Work::private()).await;
    assert_eq!(
        (code.as_str(), exit),
        ("privacy_budget_exhausted", ExitCode::Refused)
    );
    assert!(error.message.contains("study open"), "{error}");
}

#[tokio::test]
async fn a_site_that_does_not_simulate_is_asked_for_nothing() {
    let seeded = study("first", Some(&agreement()));
    let fast = real_study("first", plan(1.0));
    for (study, allowed, origin, code, exit, words) in [
        (
            &seeded,
            false,
            Origin::Simulated,
            "privacy_simulation_not_allowed",
            ExitCode::Configuration,
            "allow_simulation = true",
        ),
        (
            &seeded,
            true,
            Origin::Real,
            "privacy_simulation_real_cohort",
            ExitCode::Refused,
            "operating-system",
        ),
        (
            &fast,
            true,
            Origin::Simulated,
            "privacy_noise_level",
            ExitCode::Refused,
            "hardened",
        ),
    ] {
        let mut site = Site::with(100.0).await;
        site.budget.as_mut().unwrap().allow_simulation = allowed;
        site.cohort.origin = origin;
        let server = Server::new(study.clone(), &site.store);
        let unread: MakeWork = Box::new(|_, _| panic!("the records were read"));
        let joined = Agent::join(
            site.errand(&server),
            site.store.clone(),
            server.clone(),
            site.clock.clone(),
            {
                let facts = site.cohort.clone();
                Box::new(move || Ok((facts, unread)))
            },
        )
        .await;
        let Err(error) = joined else {
            panic!("{code}: not refused");
        };
        let error = OperatorError::from(error);
        assert_eq!((error.code.as_str(), error.exit), (code, exit));
        assert!(error.hint.contains(words), "{error}");
        assert_eq!(error.location.is_some(), study.is_simulation(), "{error}");
        assert!(!site.has_accepted(&server).await);
    }
    // Scaling that is computed from patients is for simulations.
    let mut site = Site::with(100.0).await;
    site.cohort.origin = Origin::Real;
    site.cohort.fitted = ["age", "heart rate"].map(str::to_owned).to_vec();
    let server = Server::new(real_study("first", hardened()), &site.store);
    let (code, exit, error) = site.refused(&server, &Work::secret()).await;
    assert_eq!(
        (code.as_str(), exit),
        ("privacy_preprocessing_fitted", ExitCode::Configuration)
    );
    assert!(error.hint.contains("age, heart rate"), "{error}");
    assert_eq!(
        error.location.as_deref(),
        Some("preprocessing.public in cohort.toml")
    );
    assert!(!site.has_accepted(&server).await);
    site.cohort.fitted.clear();
    site.run(&server, &Work::secret()).await.unwrap();
    // A public cohort may simulate.
    let mut site = Site::with(100.0).await;
    site.cohort.origin = Origin::Public;
    site.run(&site.server("first"), &Work::private())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_share_of_the_noise_is_sent_to_a_trusted_server_only_and_only_where_sums_make_it_up() {
    let shared = |shares: u32, change: &dyn Fn(&mut Study)| {
        let plan = ReleasePlan::new(ReleaseSettings {
            unit: Unit::Site,
            adjacency: dp_rs::adjacency::Adjacency::ZeroOut,
            clip_norm: 1.0,
            noise_multiplier: 8.0,
            noise_level: NoiseLevel::Hardened,
            against: shares
                .try_into()
                .map_or(Against::Everybody, |shares| Against::SumsOf { shares }),
        })
        .unwrap();
        let agreed = Agreement {
            plan: AgreedPlan::Releases(plan),
            steps: 4,
            delta: DELTA,
            epsilon: 3.0,
        };
        let mut study = study("first", Some(&agreed));
        study.randomness = real_study("first", hardened()).randomness;
        study.privacy = PrivacyMode::SiteUpdates;
        change(&mut study);
        study.check().unwrap();
        study
    };
    let mut site = Site::with(100.0).await;
    site.cohort.origin = Origin::Real;
    // What is fitted at a site is behind the clip of its update.
    site.cohort.fitted = vec!["age".into()];
    let code = |site: &Site, study: &Study| {
        let own = &study.sites[0];
        match Protection::of(study, own, site.budget, &site.cohort) {
            Ok(protection) => protection.map(|_| "accepted"),
            Err(refusal) => Some(refusal.code()),
        }
    };
    let usual = |_: &mut Study| ();
    assert_eq!(code(&site, &shared(0, &usual)), Some("accepted"));
    assert_eq!(
        code(&site, &shared(1, &usual)),
        Some("privacy_server_not_trusted")
    );
    site.budget
        .as_mut()
        .unwrap()
        .trust_server_with_single_updates = true;
    assert_eq!(code(&site, &shared(1, &usual)), Some("accepted"));
    // Two holders: one of them knows its own share.
    let broken = Some("privacy_agreement_broken");
    assert_eq!(code(&site, &shared(2, &usual)), broken);
    let weighted = shared(1, &|study| {
        study.aggregation.weights = consilium_core::study::WeightRule::DeclaredPatients;
    });
    assert_eq!(code(&site, &weighted), broken);
    let quieter = shared(1, &|study| {
        let plan = study.sites[1].privacy.as_mut().unwrap();
        plan["plan"]["noise_multiplier"] = 0.5.into();
    });
    assert_eq!(code(&site, &quieter), broken);
    let steps = shared(1, &|study| study.privacy = PrivacyMode::PrivateSteps);
    assert_eq!(code(&site, &steps), broken);
}

#[tokio::test]
async fn real_patients_take_part_in_no_study_without_protection() {
    let mut site = Site::with(100.0).await;
    site.budget = None;
    site.cohort.origin = Origin::Real;
    let open = Server::new(study("open", None), &site.store);
    let (code, ..) = site.refused(&open, &Work::open()).await;
    assert_eq!(code, "privacy_unprotected_study");
    assert!(!site.has_accepted(&open).await);
}

/// A cohort that must not be opened.
fn closed() -> OpenCohort {
    Box::new(|| panic!("the cohort was opened"))
}

#[tokio::test]
async fn a_study_that_the_policy_does_not_permit_is_refused_before_the_cohort_is_opened() {
    let site = Site::with(100.0).await;
    let server = site.server("forbidden");
    let errand = site.errand(&server);
    let text = std::fs::read_to_string(&errand.policy).unwrap();
    std::fs::write(&errand.policy, text.replace("\"trunk\"", "\"head/t\"")).unwrap();
    let store = site.store.clone();
    let joined = Agent::join(errand, store, server.clone(), site.clock.clone(), closed()).await;
    let error = OperatorError::from(joined.err().unwrap());
    assert_eq!(
        (error.code.as_str(), error.exit),
        ("policy_group", ExitCode::Refused)
    );
    assert!(!site.has_accepted(&server).await);
    let told = server.script.lock().unwrap().told.clone();
    assert_eq!(told.last().unwrap().0.code, "policy_group");
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_permits_nothing() {
    let site = Site::with(100.0).await;
    let server = site.server("unread");
    let errand = site.errand(&server);
    std::fs::write(&errand.policy, "studies = 3").unwrap();
    let store = site.store.clone();
    let joined = Agent::join(errand, store, server.clone(), site.clock.clone(), closed()).await;
    let error = OperatorError::from(joined.err().unwrap());
    assert_eq!(
        (error.code.as_str(), error.exit),
        ("config_wrong_value", ExitCode::Configuration)
    );
}

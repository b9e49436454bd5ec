//! Whatever happens to the agent, its ledger holds at least what has left the site, and at most what was agreed.

mod acceptance;
mod consortium;
mod countersigned;
mod halting;
mod operating_system;
mod permitting;
mod spending;
mod witness;

use std::sync::atomic::{AtomicU64, Ordering};

use consilium_core::clock::Timestamp;
use consilium_data::manifest::Origin;
use consilium_ops::{ExitCode, OperatorError};

use super::*;
use crate::policy::Policy;
use crate::privacy::SiteBudget;
use consortium::{Arrived, Server, Work, agreement, study};

/// A site with a state folder.
struct Site {
    store: SiteStore,
    folder: tempfile::TempDir,
    budget: Option<SiteBudget>,
    cohort: CohortFacts,
    clock: Arc<Hand>,
}

/// A clock that goes on a second whenever it is looked at, and that a test moves.
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1000, Ordering::SeqCst))
    }
}

/// 2026-03-01T12:00:00Z.
const NOON: u64 = 1_772_366_400_000;

/// What the patients of a site that simulates may spend.
fn budget(epsilon: f64, delta: Option<f64>) -> Option<SiteBudget> {
    Some(SiteBudget {
        epsilon,
        delta,
        allow_simulation: true,
        trust_server_with_single_updates: false,
    })
}

impl Site {
    async fn with(epsilon: f64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SiteStore::open(&folder.path().join("site.sqlite"))
            .await
            .unwrap();
        Self {
            store,
            folder,
            budget: budget(epsilon, None),
            cohort: CohortFacts {
                manifest: "cohort.toml".into(),
                origin: Origin::Simulated,
                fitted: Vec::new(),
            },
            clock: Arc::new(Hand(NOON.into())),
        }
    }

    fn errand(&self, server: &Server) -> Errand {
        Errand {
            site: "a".parse().unwrap(),
            study: server.study.name.clone(),
            metrics_file: self.folder.path().join("metrics.json"),
            policy: self.policy(&server.study),
        }
    }

    /// Writes a policy that permits exactly `study`, with this site's budget.
    fn policy(&self, study: &Study) -> PathBuf {
        let own = study.participant(&"a".parse().unwrap());
        let policy = Policy::exactly(study, own.unwrap_or(&study.sites[0]), self.budget);
        let path = self.folder.path().join("policy.toml");
        std::fs::write(&path, toml::to_string(&policy).unwrap()).unwrap();
        path
    }

    /// One process, from its start to its end.
    async fn run(&self, server: &Server, work: &Work) -> Result<Outcome, AgentError> {
        let (store, clock) = (self.store.clone(), Arc::clone(&self.clock));
        match Agent::join(
            self.errand(server),
            store,
            server.clone(),
            clock,
            self.open(work),
        )
        .await?
        {
            Joined::Finished(outcome) => Ok(outcome),
            Joined::Agent(agent) => agent.run().await,
        }
    }

    fn open(&self, work: &Work) -> OpenCohort {
        let (cohort, make) = (self.cohort.clone(), work.make());
        Box::new(move || Ok((cohort, make)))
    }

    /// Runs into a refusal; its code and exit code.
    async fn refused(&self, server: &Server, work: &Work) -> (String, ExitCode, OperatorError) {
        let error = self.run(server, work).await.unwrap_err();
        let code = error.code().to_owned();
        let error = OperatorError::from(error);
        (code, error.exit, error)
    }

    fn server(&self, name: &str) -> Server {
        Server::new(study(name, Some(&agreement())), &self.store)
    }

    async fn has_accepted(&self, server: &Server) -> bool {
        let accepted = self.store.accepted(&server.study.name).await.unwrap();
        accepted.is_some()
    }
}

fn all_recorded(arrived: &[Arrived]) -> bool {
    arrived.iter().all(Arrived::is_recorded)
}

//! A thread of its own for everything that computes, so that the connection stays alive meanwhile.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use consilium_core::{ModelVector, Participant, RoundPlan, Study};
use dp_rs::event::Repeated;
use tokio::sync::{mpsc, oneshot};
use tracing::info;

use super::{AgentError, MakeWork};
use crate::preparation::Preparation;
use crate::work::{LocalWork, MetricValue, Progress, Trained, WorkError};

/// The handle to that thread. It ends when the handle is dropped and its present job is done.
pub(super) struct Worker {
    jobs: mpsc::UnboundedSender<Job>,
    round_cost: Option<Repeated>,
}

/// What the work begins with, once it is made.
pub(super) struct Begin {
    /// Initial values of the groups that stay.
    pub(super) initial: ModelVector,
    /// How records are prepared.
    pub(super) preparation: Option<Preparation>,
}

/// One job at a time is sent: the agent waits for each answer.
enum Job {
    Train {
        plan: RoundPlan,
        excluded: BTreeSet<String>,
        global: ModelVector,
        local: ModelVector,
        answer: oneshot::Sender<Result<Trained, WorkError>>,
    },
    Evaluate {
        excluded: BTreeSet<String>,
        global: ModelVector,
        local: ModelVector,
        answer: oneshot::Sender<Result<Vec<MetricValue>, WorkError>>,
    },
}

impl Worker {
    /// Starts the thread and makes the work in it.
    pub(super) async fn start(
        make_work: MakeWork,
        study: &Study,
        participant: &Participant,
    ) -> Result<(Self, Begin), AgentError> {
        let (jobs, inbox) = mpsc::unbounded_channel();
        let (ready, made) = oneshot::channel();
        let (study, participant) = (study.clone(), participant.clone());
        let body = move || match make_work(&study, &participant) {
            Ok(work) => {
                // The agent may have been stopped while the work was made.
                let begin = Begin {
                    initial: work.initial_local(),
                    preparation: work.preparation(),
                };
                if ready.send(Ok((begin, work.round_cost()))).is_ok() {
                    serve(work, inbox);
                }
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        };
        std::thread::Builder::new()
            .name("training".into())
            // Graphs of deep networks are walked recursively.
            .stack_size(64 << 20)
            .spawn(body)
            .map_err(|error| WorkError {
                code: "threads",
                message: error.to_string(),
                hint: "let this account start threads".into(),
            })?;
        let (begin, round_cost) = made.await.map_err(|_| AgentError::WorkPanicked)??;
        Ok((Self { jobs, round_cost }, begin))
    }

    /// The private steps of one round; see [`LocalWork::round_cost`].
    pub(super) fn round_cost(&self) -> Option<&Repeated> {
        self.round_cost.as_ref()
    }

    /// Trains without those who are `excluded`; see [`LocalWork::train`].
    pub(super) async fn train(
        &self,
        plan: RoundPlan,
        excluded: BTreeSet<String>,
        global: ModelVector,
        local: ModelVector,
    ) -> Result<Trained, AgentError> {
        let (answer, result) = oneshot::channel();
        let job = Job::Train {
            plan,
            excluded,
            global,
            local,
            answer,
        };
        self.jobs.send(job).map_err(|_| AgentError::WorkPanicked)?;
        Ok(result.await.map_err(|_| AgentError::WorkPanicked)??)
    }

    /// Evaluates without those who are `excluded`; see [`LocalWork::evaluate`].
    pub(super) async fn evaluate(
        &self,
        excluded: BTreeSet<String>,
        global: ModelVector,
        local: ModelVector,
    ) -> Result<Vec<MetricValue>, AgentError> {
        let (answer, result) = oneshot::channel();
        let job = Job::Evaluate {
            excluded,
            global,
            local,
            answer,
        };
        self.jobs.send(job).map_err(|_| AgentError::WorkPanicked)?;
        Ok(result.await.map_err(|_| AgentError::WorkPanicked)??)
    }
}

fn serve(mut work: Box<dyn LocalWork>, mut inbox: mpsc::UnboundedReceiver<Job>) {
    while let Some(job) = inbox.blocking_recv() {
        // Nobody listens any more when the agent was stopped: the result is not needed then.
        match job {
            Job::Train {
                plan,
                excluded,
                global,
                local,
                answer,
            } => {
                let mut report = reporter(plan.round);
                let trained = work
                    .exclude(&excluded)
                    .and_then(|()| work.train(&plan, &global, &local, &mut report));
                let _ = answer.send(trained);
            }
            Job::Evaluate {
                excluded,
                global,
                local,
                answer,
            } => {
                let values = work.exclude(&excluded);
                let _ = answer.send(values.and_then(|()| work.evaluate(&global, &local)));
            }
        }
    }
}

/// Tells of the first and the last step, and of one a second in between.
fn reporter(round: u32) -> impl FnMut(Progress) {
    let mut told: Option<Instant> = None;
    move |Progress { step, steps }| {
        let due = told.is_none_or(|at| at.elapsed() >= Duration::from_secs(1));
        if due || step == steps {
            told = Some(Instant::now());
            info!(round, step, steps, "training");
        }
    }
}

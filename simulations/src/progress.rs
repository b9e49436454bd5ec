//! What a person sees while a run goes on, and what `events.jsonl` keeps of it.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::Mutex;

use consilium_core::{SiteId, Study};
use consilium_site::work::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::federation::Told;
use crate::run_folder::RunFolder;

/// Watches one run: a bar on a terminal, one line a round elsewhere, every event in the folder.
pub struct Watch {
    bar: ProgressBar,
    terminal: bool,
    sites: usize,
    rounds: u32,
    state: Mutex<State>,
}

struct State {
    folder: RunFolder,
    /// Steps each site has done in the present stage.
    steps: BTreeMap<SiteId, u64>,
}

impl Watch {
    /// A watch over `study` that writes events into `folder`.
    #[must_use]
    pub fn new(study: &Study, folder: RunFolder) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal {
            ProgressBar::new(0)
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) =
            ProgressStyle::with_template("{prefix:32} {bar:30} {pos}/{len} steps {msg} {elapsed}")
        {
            bar.set_style(style);
        }
        Self {
            bar,
            terminal,
            sites: study.sites.len(),
            rounds: study.schedule.rounds,
            state: Mutex::new(State {
                folder,
                steps: BTreeMap::new(),
            }),
        }
    }

    /// A new stage of the run.
    pub fn stage(&self, name: &str) {
        self.state().steps.clear();
        self.bar.set_position(0);
        self.bar.set_length(0);
        self.bar.set_prefix(name.to_owned());
        if !self.terminal {
            eprintln!("{name}");
        }
        self.event(&json!({"event": "stage", "name": name}));
    }

    /// Something happened in the federation.
    pub fn told(&self, told: &Told) {
        match told {
            Told::RoundOpened(plan) => {
                let (round, attempt) = (plan.round, plan.attempt);
                self.bar
                    .set_message(format!("round {round}/{}", self.rounds));
                self.event(&json!({"event": "round opened", "round": round, "attempt": attempt, "model": plan.model}));
            }
            Told::Training { site, progress } => {
                self.step(site, u64::from(progress.steps) * u64::from(self.rounds));
            }
            Told::UpdateStored { site, round } => {
                self.event(&json!({"event": "update stored", "round": round, "site": site}));
            }
            Told::RoundCommitted { round, model } => {
                if !self.terminal {
                    eprintln!("round {round}/{} committed, model {model:?}", self.rounds);
                }
                self.event(&json!({"event": "round committed", "round": round, "model": model}));
            }
        }
    }

    /// A site trains alone.
    pub fn local(&self, site: &SiteId, progress: Progress) {
        self.step(site, u64::from(progress.steps));
        if progress.step == progress.steps && !self.terminal {
            eprintln!("{site} trained alone");
        }
    }

    /// The bar goes away.
    pub fn done(&self) {
        self.bar.finish_and_clear();
    }

    /// The folder, to write results into.
    #[must_use]
    pub fn into_folder(self) -> RunFolder {
        self.state
            .into_inner()
            .unwrap_or_else(|e| e.into_inner())
            .folder
    }

    fn step(&self, site: &SiteId, of_this_site: u64) {
        let done = {
            let mut state = self.state();
            *state.steps.entry(site.clone()).or_default() += 1;
            state.steps.values().sum()
        };
        // Sites of one study take about as many steps each; the length grows if one takes more.
        self.bar
            .set_length((of_this_site * self.sites as u64).max(done));
        self.bar.set_position(done);
    }

    fn event(&self, event: &serde_json::Value) {
        // A full disk is reported when the results are written; a lost event line is not worth a run.
        let _ = self.state().folder.event(event);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

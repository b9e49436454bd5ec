//! Simulations, demonstrations and tools on one machine.
//!
//! * [`scenario`]: one TOML file for a study, its sites and their cohorts.
//! * [`cohorts`]: the cohorts of a folder.
//! * [`federation`]: a whole federation in one process, driving the same objects as the real programs.
//! * [`demo`]: the same federation as separate processes, compared bit for bit; [`prepare`] writes its files.
//! * [`evaluate`]: networks trained alone against the simple models of [`baseline`], on the same folds.
//! * [`sweep`]: a scenario at several epsilons and seeds.
//! * [`simulate`]: a run with its controls; [`outcome`] is its table, [`run_folder`] what it leaves behind.

pub mod baseline;
pub mod cohorts;
pub mod compare;
pub mod demo;
pub mod errors;
pub mod evaluate;
pub mod federation;
pub mod outcome;
pub mod plots;
pub mod prepare;
pub mod privacy;
pub mod privacy_ledger;
pub mod privacy_report;
pub mod privacy_section;
pub mod progress;
pub mod report;
pub mod run_folder;
pub mod scenario;
pub mod simulate;
pub mod sweep;

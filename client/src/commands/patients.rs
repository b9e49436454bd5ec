//! `consilium-site patients exclude`: people who are taken out.

use std::collections::BTreeSet;
use std::path::Path;

use consilium_core::clock::{Clock as _, SystemClock};
use consilium_ops::{Format, OperatorError, output};
use consilium_store::site::SiteStore;
use serde::Serialize;
use tracing::info;

use super::{cohort, no_runtime};
use crate::agent::AgentError;
use crate::config::SiteConfig;

/// How many; never who.
#[derive(Serialize)]
struct Excluded {
    /// Of those in the file: in this cohort.
    in_cohort: usize,
    /// Of those in the file: not in this cohort. They stay out should they come.
    not_in_cohort: usize,
    /// Out now and not before.
    new: u64,
    /// Out in all.
    in_all: usize,
}

/// Takes the patients whose ids stand in `file`, one a line, out of training and evaluation from the next round on; the
/// agent may be running. What earlier rounds learned from them stays in the models, protected as the ledger says.
///
/// # Errors
/// [`OperatorError`] with exit code 3 for a file or cohort that cannot be read; then nobody is excluded.
pub fn exclude(path: &Path, file: &Path, format: Format) -> Result<(), OperatorError> {
    let config = SiteConfig::read(path)?;
    let text = std::fs::read_to_string(file).map_err(|error| {
        let mut error = OperatorError::file(file, &error);
        error.exit = consilium_ops::ExitCode::Configuration;
        error
    })?;
    let ids: BTreeSet<String> = (text.lines().map(str::trim))
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    if ids.is_empty() {
        return Err(OperatorError::configuration(
            "patients_none",
            "the file names nobody",
            "write one patient id a line, as in the cohort's patient-id column",
        )
        .at(file.display()));
    }
    let cohort = cohort(&config)?;
    let known: BTreeSet<&str> = (0..cohort.records())
        .filter_map(|record| cohort.id_of(record))
        .collect();
    let in_cohort = ids.iter().filter(|id| known.contains(id.as_str())).count();
    std::fs::create_dir_all(&config.state)
        .map_err(|error| OperatorError::file(&config.state, &error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| no_runtime(&error))?;
    let stored = runtime.block_on(async {
        let store = SiteStore::open(&config.database()).await?;
        let new = store.exclude(&ids, SystemClock.now()).await?;
        let in_all = store.excluded().await?.len();
        store.close().await;
        Ok::<_, AgentError>((new, in_all))
    });
    let (new, in_all) = stored.map_err(OperatorError::from)?;
    info!(new, in_all, "patients excluded");
    let excluded = Excluded {
        in_cohort,
        not_in_cohort: ids.len() - in_cohort,
        new,
        in_all,
    };
    output::print(format, &excluded, text_of);
    Ok(())
}

fn text_of(excluded: &Excluded) -> String {
    let Excluded {
        in_cohort,
        not_in_cohort,
        new,
        in_all,
    } = excluded;
    format!(
        "{in_cohort} patients of this cohort are out from the next round on ({new} new, {in_all} in all); {not_in_cohort} \
         of the file are not in it.\nModels of earlier rounds keep what they learned, protected as the ledger says."
    )
}

//! `consilium-site privacy show`: what was spent of the privacy of this site's patients, from its own ledger.

use std::path::{Path, PathBuf};

use consilium_core::study::PrivacyMode;
use consilium_core::{Study, StudyId};
use consilium_ops::{Format, OperatorError, output};
use consilium_store::site::SiteStore;
use dp_rs::agreement::Agreement;
use dp_rs::event::Repeated;
use dp_rs::ledger::Ledger;
use serde::Serialize;

use super::no_runtime;
use crate::agent::AgentError;
use crate::config::SiteConfig;
use crate::preparation::Preparation;
use crate::privacy::{Refusal, SiteBudget, Standing, Statement};
use crate::private_file::Pending;

#[derive(Serialize)]
struct Shown {
    site: String,
    /// The most that may be spent over all studies; nothing where the configuration does not say.
    budget: Option<SiteBudget>,
    /// Every private study that this site accepted or spent something in.
    studies: Vec<Statement>,
    /// All of them together: what concerns a patient. Nothing when they cannot be summed.
    total: Option<Statement>,
    /// Why there is no total.
    #[serde(skip_serializing_if = "Option::is_none")]
    mixed: Option<String>,
    /// Studies that sent updates without protection: with them, nothing is guaranteed.
    unprotected: Vec<StudyId>,
    /// Entries of the ledger, whose chain was checked.
    entries: usize,
    /// Hash of the newest entry; 64 zeros without any. Kept elsewhere, it shows a ledger that was cut short.
    head: String,
    /// Files that were written.
    #[serde(skip_serializing_if = "Option::is_none")]
    exported: Option<Exported>,
}

#[derive(Serialize)]
struct Exported {
    /// The entries, one after the other, as they are chained.
    ledger: PathBuf,
    /// Their mechanisms, for `consilium privacy epsilon --events`.
    events: PathBuf,
}

/// Shows the ledger in the state folder and writes it to `export` if asked; the agent may be running.
///
/// # Errors
/// [`OperatorError`], with exit code 3 when there is no state folder or the ledger is not as it was written.
pub fn show(path: &Path, export: Option<&Path>, format: Format) -> Result<(), OperatorError> {
    let config = SiteConfig::read(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| no_runtime(&error))?;
    let (standing, agreements) = runtime.block_on(read(&config))?;
    let mut shown = shown(&config, &standing, &agreements)?;
    if let Some(path) = export {
        shown.exported = Some(write(path, &standing.ledger)?);
    }
    output::print(format, &shown, text);
    Ok(())
}

/// A private study that this site accepted.
struct Agreed {
    study: StudyId,
    agreement: Agreement,
    /// Scaling was computed from the patients that the study protects, outside of its guarantee.
    fitted: bool,
}

/// The standing of the site, and every private study that it accepted.
async fn read(config: &SiteConfig) -> Result<(Standing, Vec<Agreed>), AgentError> {
    let store = SiteStore::open_existing(&config.database()).await?;
    let mut agreements = Vec::new();
    for name in store.studies().await? {
        let Some(accepted) = store.accepted(&name).await? else {
            continue;
        };
        let unreadable = |problem: serde_json::Error| AgentError::UnreadableStudy {
            study: name.clone(),
            problem: problem.to_string(),
        };
        let study: Study = serde_json::from_slice(&accepted.document).map_err(unreadable)?;
        let agreement = study
            .participant(&config.site)
            .and_then(|own| own.privacy.clone());
        if let Some(agreement) = agreement {
            let agreement = serde_json::from_value(agreement).map_err(unreadable)?;
            let preparation = accepted.preparation.as_deref();
            let preparation = preparation.map(serde_json::from_str::<Preparation>);
            let fitted = match preparation.transpose().map_err(unreadable)? {
                Some(preparation) => preparation.is_fitted(),
                None => false,
            };
            agreements.push(Agreed {
                fitted: fitted && study.privacy == PrivacyMode::PrivateSteps,
                study: name,
                agreement,
            });
        }
    }
    let standing = Standing::read(&store).await?;
    store.close().await;
    Ok((standing, agreements))
}

fn shown(
    config: &SiteConfig,
    standing: &Standing,
    agreements: &[Agreed],
) -> Result<Shown, Refusal> {
    let ledger = &standing.ledger;
    let smallest = agreements.iter().map(|agreed| agreed.agreement.delta);
    let fitted = agreements.iter().any(|agreed| agreed.fitted);
    let delta = standing.delta(
        config.privacy.and_then(|budget| budget.delta),
        smallest.reduce(f64::min),
    );
    let mut studies = Vec::new();
    for Agreed {
        study: name,
        agreement,
        fitted,
    } in agreements
    {
        let account = ledger
            .study(name.as_str())
            .map_err(|mixed| Refusal::Mixed {
                study: name.clone(),
                mixed,
            })?;
        let (at, agreed) = (agreement.delta, Some(agreement.epsilon));
        let statement = Statement::of(Some(name.clone()), &account, at, agreed)?;
        studies.push(statement.conditional_on_preprocessing(*fitted));
    }
    let agreed = config.privacy.map(|budget| budget.epsilon);
    let (total, mixed) = match ledger.total() {
        Ok(account) => {
            let total = Statement::of(None, &account, delta, agreed)?;
            let total = total.conditional_on_preprocessing(fitted);
            let total = match &standing.unprotected[..] {
                [] => total,
                _ => total.without_protection(),
            };
            (Some(total), None)
        }
        Err(mixed) => (None, Some(mixed.to_string())),
    };
    Ok(Shown {
        site: config.site.to_string(),
        budget: config.privacy,
        studies,
        total,
        mixed,
        unprotected: standing.unprotected.clone(),
        entries: ledger.len(),
        head: ledger.head().to_owned(),
        exported: None,
    })
}

/// Writes the entries to `path` and their mechanisms beside it; both or nothing.
fn write(path: &Path, ledger: &Ledger) -> Result<Exported, OperatorError> {
    let events: Vec<Repeated> = match ledger.total() {
        Ok(account) => account.events().to_vec(),
        // Listed all the same; an accountant refuses to sum them.
        Err(_) => (ledger.entries().iter())
            .map(|entry| entry.record.transcript.events.clone())
            .collect(),
    };
    let exported = Exported {
        ledger: path.to_owned(),
        events: path.with_extension("events.json"),
    };
    if exported.events == exported.ledger {
        return Err(OperatorError::new(
            consilium_ops::ExitCode::Usage,
            "export_same_file",
            "the entries and their mechanisms would have the same file name",
            "name the file for example ledger.json: the mechanisms go to ledger.events.json",
        )
        .at(path.display()));
    }
    let ledger = Pending::write(&exported.ledger, &pretty(&ledger.entries()))?;
    let events = Pending::write(&exported.events, &pretty(&events))?;
    ledger.place()?;
    events.place()?;
    Ok(exported)
}

fn pretty(value: &impl Serialize) -> Vec<u8> {
    // Cannot fail: plain numbers and text.
    let mut bytes = serde_json::to_vec_pretty(value).expect("entries serialise");
    bytes.push(b'\n');
    bytes
}

fn text(shown: &Shown) -> String {
    let mut text = format!(
        "site {}: {} entries in the privacy ledger, head {}\n",
        shown.site, shown.entries, shown.head
    );
    for statement in shown.studies.iter().chain(&shown.total) {
        text.push_str(&statement.text());
    }
    if let Some(mixed) = &shown.mixed {
        text.push_str(&format!("all studies: no total, {mixed}\n"));
    }
    for study in &shown.unprotected {
        text.push_str(&format!(
            "study {study} sent updates without protection: nothing is guaranteed to its patients\n"
        ));
    }
    if shown.budget.is_none() {
        text.push_str("no [privacy] budget in the configuration: private studies are refused\n");
    }
    if let Some(Exported { ledger, events }) = &shown.exported {
        text.push_str(&format!(
            "entries written to {}, their mechanisms to {}\n",
            ledger.display(),
            events.display()
        ));
    }
    text
}

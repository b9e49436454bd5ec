//! `consilium-site privacy show` and `settle`: what was spent of the privacy of this site's patients, from its own
//! ledger, and what is missing from it.

use std::path::{Path, PathBuf};

use consilium_certs::Signature;
use consilium_core::clock::{Clock as _, SystemClock};
use consilium_core::study::PrivacyMode;
use consilium_core::{Study, StudyId};
use consilium_ops::{Format, OperatorError, StateLock, output};
use consilium_rounds::{LedgerHead, Receipt};
use consilium_store::site::SiteStore;
use dp_rs::agreement::Agreement;
use dp_rs::event::Repeated;
use dp_rs::ledger::{Ledger, Moment};
use serde::Serialize;

use super::{cohort, no_runtime, run};
use crate::agent::AgentError;
use crate::config::SiteConfig;
use crate::preparation::Preparation;
use crate::privacy::{Decision, Refusal, SiteBudget, Standing, Statement, row, settlement};
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
    /// Numbers of entries that are dated before the one before them: the clock was set back.
    clock_went_back: Vec<u64>,
    /// Hash of the newest entry; 64 zeros without any. Kept elsewhere, it shows a ledger that was cut short.
    head: String,
    /// The newest entry that the server of each study has counter-signed.
    countersigned: Vec<ShownReceipt>,
    /// Releases that may be missing from the ledger; nothing where it holds all that was counter-signed.
    missing: Option<u64>,
    /// Files that were written.
    #[serde(skip_serializing_if = "Option::is_none")]
    exported: Option<Exported>,
}

#[derive(Serialize)]
struct ShownReceipt {
    /// The study whose server it was.
    study: StudyId,
    /// Entries that the ledger had.
    length: u64,
    /// Hash of the newest one.
    head: String,
    /// When it was signed.
    at: Option<Moment>,
    /// Whether the signature fits the statement and the certificate that is kept with it.
    signature_fits: bool,
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
    let (standing, agreements, receipts) = runtime.block_on(read(&config))?;
    let mut shown = shown(
        &config,
        config.read_policy()?.privacy,
        &standing,
        &agreements,
    )?;
    // By study and length: the last of each study is its newest.
    for receipt in receipts {
        shown
            .countersigned
            .retain(|known| known.study != receipt.study);
        shown.countersigned.push(receipt);
    }
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

/// Standing, agreements, receipts.
type Read = (Standing, Vec<Agreed>, Vec<ShownReceipt>);

/// The standing of the site, and every private study that it accepted.
async fn read(config: &SiteConfig) -> Result<Read, AgentError> {
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
    let receipts = store.receipts().await?;
    store.close().await;
    let receipts = receipts.into_iter().map(receipt_shown).collect();
    Ok((standing, agreements, receipts))
}

fn receipt_shown((study, ledger, receipt): (StudyId, LedgerHead, Receipt)) -> ShownReceipt {
    let signature = Signature {
        scheme: receipt.scheme,
        bytes: receipt.signature.clone(),
    };
    let signed = Receipt::signed_bytes(&receipt.statement);
    let verified = consilium_certs::verify(&receipt.certificate, &signed, &signature);
    let said = receipt.says();
    ShownReceipt {
        study,
        length: ledger.length,
        head: ledger.head.to_string(),
        at: (said.as_ref()).map(|said| Moment::from_unix_milliseconds(said.at.0)),
        signature_fits: verified.is_ok() && said.is_some_and(|said| said.ledger == ledger),
    }
}

fn shown(
    config: &SiteConfig,
    budget: Option<SiteBudget>,
    standing: &Standing,
    agreements: &[Agreed],
) -> Result<Shown, Refusal> {
    let ledger = &standing.ledger;
    let smallest = agreements.iter().map(|agreed| agreed.agreement.delta);
    let fitted = agreements.iter().any(|agreed| agreed.fitted);
    let delta = standing.delta(
        budget.and_then(|budget| budget.delta),
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
    let agreed = budget.map(|budget| budget.epsilon);
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
        budget,
        studies,
        total,
        mixed,
        unprotected: standing.unprotected.clone(),
        entries: ledger.len(),
        clock_went_back: ledger.clock_went_back(),
        head: ledger.head().to_owned(),
        countersigned: Vec::new(),
        missing: standing
            .uncovered()
            .map(|(study, known)| standing.missing(study, known))
            .max(),
        exported: None,
    })
}

#[derive(Serialize)]
struct Settled {
    /// The study whose round each missing release is charged as.
    study: StudyId,
    /// Entries that were, or would be, added.
    releases: usize,
    /// The mechanism of each.
    events: Repeated,
    /// What all studies together have spent with them.
    total: Statement,
    /// Whether nothing was written.
    dry_run: bool,
}

/// Charges the releases that a server has counter-signed and this ledger does not hold. The agent must not be
/// running.
///
/// # Errors
/// [`OperatorError`]: `state_in_use`, `privacy_nothing_to_settle`, `privacy_settlement_too_small`, or what the
/// configuration, the cohort or the database says; then nothing is written.
pub fn settle(
    path: &Path,
    decision: &Decision,
    dry_run: bool,
    format: Format,
) -> Result<(), OperatorError> {
    let config = SiteConfig::read(path)?;
    let budget = config.read_policy()?.privacy;
    let cohort = cohort(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| no_runtime(&error))?;
    let settled = runtime.block_on(async {
        let store = SiteStore::open_existing(&config.database())
            .await
            .map_err(AgentError::from)?;
        let _lock = StateLock::take(&config.state, "agent")?;
        let mut standing = Standing::read(&store).await?;
        let accepted = store.accepted(&config.study).await;
        let accepted = accepted.map_err(AgentError::from)?;
        let unreadable = |problem: String| AgentError::UnreadableStudy {
            study: config.study.clone(),
            problem,
        };
        let accepted = accepted.ok_or_else(|| unreadable("it was not accepted here".into()))?;
        let study: Study = serde_json::from_slice(&accepted.document)
            .map_err(|error| unreadable(error.to_string()))?;
        let Some(participant) = study.participant(&config.site).cloned() else {
            return Err(unreadable("it does not list this site".into()).into());
        };
        let work = run::work(cohort, config.device)(&study, &participant);
        let round = work.map_err(AgentError::from)?.round_cost();
        let round = round.ok_or_else(|| Refusal::Missing(study.name.clone()))?;
        let now = Moment::from_unix_milliseconds(SystemClock.now().0);
        let entries = settlement(&standing, &study, &participant, &round, decision, now)?;
        let rows: Vec<_> = entries
            .iter()
            .map(|entry| row(&study.name, entry))
            .collect();
        // `settlement` gives at least one.
        let events = entries[0].record.transcript.events.clone();
        for entry in entries {
            standing.ledger.push(entry).map_err(Refusal::from)?;
        }
        let configured = budget.and_then(|budget| budget.delta);
        let delta = standing.delta(configured, None);
        let mixed = |mixed| Refusal::Mixed {
            study: study.name.clone(),
            mixed,
        };
        let total = standing.ledger.total().map_err(mixed)?;
        let agreed = budget.map(|budget| budget.epsilon);
        let total = Statement::of(None, &total, delta, agreed)?;
        if !dry_run {
            let added = store.settle_ledger(&rows).await;
            added.map_err(AgentError::from)?;
        }
        store.close().await;
        Ok::<_, OperatorError>(Settled {
            total,
            study: study.name,
            releases: rows.len(),
            events,
            dry_run,
        })
    })?;
    output::print(format, &settled, |settled| {
        let done = if settled.dry_run {
            "would be added"
        } else {
            "added"
        };
        format!(
            "{} entries {done} to the privacy ledger, each at least as a round of study {}\n{}",
            settled.releases,
            settled.study,
            settled.total.text()
        )
    });
    Ok(())
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
    for receipt in &shown.countersigned {
        let at = receipt
            .at
            .map_or("an unknown time".into(), |at| at.to_string());
        let fits = if receipt.signature_fits {
            ""
        } else {
            "; its signature does NOT fit"
        };
        text.push_str(&format!(
            "study {}: its server counter-signed entry {} at {at}{fits}\n",
            receipt.study, receipt.length
        ));
    }
    if let Some(missing) = shown.missing {
        text.push_str(&format!(
            "the ledger is BEHIND what was counter-signed, up to {missing} releases are missing: nothing is trained \
             before `consilium-site privacy settle`\n"
        ));
    }
    for sequence in &shown.clock_went_back {
        text.push_str(&format!(
            "entry {sequence} is dated before the one before it: the clock of this machine was set back\n"
        ));
    }
    if shown.budget.is_none() {
        text.push_str("no [privacy] budget in the policy: private studies are refused\n");
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

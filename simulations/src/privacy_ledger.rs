//! `consilium privacy ledger`: what an exported ledger has spent, computed again by somebody else than the site.

use std::path::{Path, PathBuf};

use clap::Args;
use comfy_table::{Table, presets};
use consilium_ops::OperatorError;
use dp_rs::accounting::AccountingError;
use dp_rs::ledger::{Account, Entry, Ledger, Moment};
use serde::Serialize;

/// Which ledger, at which delta.
#[derive(Args)]
pub struct LedgerArguments {
    /// The entries, as `consilium-site privacy show --export FILE` writes them.
    pub file: PathBuf,
    /// Probability with which the guarantee may fail; at most one tenth of one over the patients.
    #[arg(long, default_value_t = 1e-5)]
    pub delta: f64,
}

/// A ledger whose chain was checked, with what it spent.
#[derive(Debug, Serialize)]
pub struct Audited {
    /// Entries.
    pub entries: usize,
    /// Hash of the newest entry.
    pub head: String,
    /// Numbers of entries that are dated before the one before them: the site's clock was set back.
    pub clock_went_back: Vec<u64>,
    /// The delta of every epsilon.
    pub delta: f64,
    /// One line a study.
    pub studies: Vec<Spent>,
    /// All studies together: what concerns a patient.
    pub total: Spent,
}

/// What was spent.
#[derive(Debug, Serialize)]
pub struct Spent {
    /// The study; nothing for all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub study: Option<String>,
    /// What is protected.
    pub unit: String,
    /// Which data sets are neighbours.
    pub adjacency: String,
    /// Releases, each with its steps.
    pub releases: usize,
    /// When the first of them was written, in UTC.
    pub first: Option<Moment>,
    /// When the last of them was written.
    pub last: Option<Moment>,
    /// By loss distributions.
    pub epsilon: f64,
    /// By Renyi divergences.
    pub rdp_epsilon: f64,
    /// Whether some of the noise was seeded, so that it protects nobody.
    pub simulation: bool,
}

/// Reads a ledger, checks its chain and accounts for it.
///
/// # Errors
/// [`OperatorError`] for a file that is no ledger, a chain that does not hold, and entries that cannot be summed.
pub fn ledger(arguments: &LedgerArguments) -> Result<Audited, OperatorError> {
    let ledger = read(&arguments.file)?;
    let at_file = |error: OperatorError| error.at(arguments.file.display());
    let mixed = |error: dp_rs::ledger::MixedLedger| {
        OperatorError::failed(
            "ledger_mixed",
            error.to_string(),
            "account for each kind of entry on its own",
        )
    };
    let mut studies = Vec::new();
    for name in ledger.studies() {
        let account = ledger.study(name).map_err(mixed).map_err(at_file)?;
        studies.push(spent(Some(name.to_owned()), &account, arguments.delta).map_err(at_file)?);
    }
    let account = ledger.total().map_err(mixed).map_err(at_file)?;
    Ok(Audited {
        entries: ledger.len(),
        head: ledger.head().to_owned(),
        clock_went_back: ledger.clock_went_back(),
        delta: arguments.delta,
        studies,
        total: spent(None, &account, arguments.delta).map_err(at_file)?,
    })
}

fn read(file: &Path) -> Result<Ledger, OperatorError> {
    let text = std::fs::read_to_string(file).map_err(|error| OperatorError::file(file, &error))?;
    let entries: Vec<Entry> = serde_json::from_str(&text).map_err(|error| {
        OperatorError::configuration(
            "ledger_unreadable",
            error.to_string(),
            "give the file that `consilium-site privacy show --export FILE` wrote, not its .events.json",
        )
        .at(format!("{}:{}", file.display(), error.line()))
    })?;
    Ledger::from_entries(entries).map_err(|error| {
        OperatorError::configuration(
            error.code(),
            error.to_string(),
            "the file was changed or cut: export it again, and compare its head with the site's",
        )
        .at(file.display())
    })
}

fn spent(study: Option<String>, account: &Account, delta: f64) -> Result<Spent, OperatorError> {
    let refused = |error: AccountingError| {
        OperatorError::configuration("privacy_accounting", error.to_string(), "see --delta")
    };
    let spending = account.spending(delta).map_err(refused)?;
    let first_and_last = account.period().unzip();
    let (unit, adjacency) = account.protects().map_or_else(
        || ("nobody".to_owned(), "none".to_owned()),
        |(unit, adjacency)| (unit.to_string(), adjacency.to_string()),
    );
    Ok(Spent {
        study,
        unit,
        adjacency,
        releases: account.releases(),
        first: first_and_last.0,
        last: first_and_last.1,
        epsilon: spending.map_or(0.0, |spending| spending.epsilon()),
        rdp_epsilon: spending.map_or(0.0, |spending| spending.cross_check.epsilon),
        simulation: account.is_simulated(),
    })
}

impl Audited {
    /// A table for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header([
            "study",
            "unit",
            "adjacency",
            "releases",
            "epsilon",
            "RDP",
            "",
        ]);
        for spent in self.studies.iter().chain([&self.total]) {
            table.add_row([
                spent.study.clone().unwrap_or_else(|| "all studies".into()),
                spent.unit.clone(),
                spent.adjacency.clone(),
                spent.releases.to_string(),
                format!("{:.4}", spent.epsilon),
                format!("{:.4}", spent.rdp_epsilon),
                if spent.simulation { "SIMULATION" } else { "" }.into(),
            ]);
        }
        let period = match (self.total.first, self.total.last) {
            (Some(first), Some(last)) => format!(" from {first} to {last}"),
            _ => String::new(),
        };
        let mut text = format!(
            "{table}\n\n{} entries{period}, chain intact, head {}; delta {:e}, accountant PLD, cross-check RDP\n",
            self.entries, self.head, self.delta
        );
        for sequence in &self.clock_went_back {
            text.push_str(&format!(
                "entry {sequence} is dated before the one before it: the site's clock was set back\n"
            ));
        }
        text
    }
}

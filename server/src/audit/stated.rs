//! What the sites have stated of the privacy of their updates, added up again from the log.

use std::collections::BTreeMap;

use consilium_core::SiteId;
use consilium_transparency::{Audited, SiteSummary};
use dp_rs::ledger::{Ledger, Moment, Record};
use dp_rs::plan::Transcript;
use serde::Serialize;

/// The privacy of all updates of one site in this study, by its own statements.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Stated {
    /// Their sum.
    Sum {
        /// Epsilon of all updates together.
        epsilon: f64,
        /// At this delta, as agreed.
        delta: f64,
        /// The same in words, with adjacency and accountant.
        guarantee: String,
        /// What is protected.
        unit: String,
        /// Updates with a statement.
        releases: usize,
        /// Whether randomness came from a seed: the numbers then protect nobody.
        simulation: bool,
    },
    /// Why there is none.
    Unknown {
        /// In words.
        problem: String,
    },
}

/// Adds up the statements of every site that made one.
#[must_use]
pub fn stated(audited: &Audited) -> BTreeMap<SiteId, Stated> {
    let sites = audited.sites.iter();
    let with_statements = sites.filter(|(_, site)| !site.statements.is_empty());
    with_statements
        .map(|(name, site)| {
            let sum = sum(site).unwrap_or_else(|problem| Stated::Unknown { problem });
            (name.clone(), sum)
        })
        .collect()
}

fn sum(site: &SiteSummary) -> Result<Stated, String> {
    let agreed = site.agreed.ok_or("the study has no agreement with it")?;
    let mut ledger = Ledger::default();
    for statement in &site.statements {
        let transcript: Transcript = serde_json::from_value(statement.clone())
            .map_err(|error| format!("a statement cannot be read: {error}"))?;
        let record = Record {
            study: String::new(),
            round: 1,
            attempt: 1,
            purpose: String::new(),
            release: None,
            delta: None,
            transcript,
        };
        ledger.append(record, Moment::from_unix_milliseconds(0));
    }
    let account = ledger.total().map_err(|mixed| mixed.to_string())?;
    let spending = account.spending(agreed.delta);
    let spending = spending.map_err(|error| error.to_string())?;
    let (Some(spent), Some((unit, _))) = (spending, account.protects()) else {
        return Err("no statement".into());
    };
    Ok(Stated::Sum {
        epsilon: spent.epsilon(),
        delta: agreed.delta,
        guarantee: spent.guarantee.to_string(),
        unit: unit.to_string(),
        releases: account.releases(),
        simulation: account.is_simulated(),
    })
}

impl std::fmt::Display for Stated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sum {
                guarantee,
                unit,
                releases,
                simulation,
                ..
            } => {
                write!(f, "{releases} updates stated as {guarantee}, unit {unit}")?;
                if *simulation {
                    f.write_str("; SIMULATION: randomness came from a seed, protects nobody")?;
                }
                Ok(())
            }
            Self::Unknown { problem } => write!(f, "no sum of its privacy statements: {problem}"),
        }
    }
}

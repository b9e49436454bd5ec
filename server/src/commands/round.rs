//! `consilium-server round list`: the closed rounds, who took part, who was missing and why.

use std::path::Path;

use consilium_ops::{Format, OperatorError, output};
use consilium_rounds::{Coordination, Outcome, RoundRecord, Withdrawal};

use super::stored;
use crate::config::ServerConfig;

/// Lists the closed rounds of the configuration file's study.
///
/// # Errors
/// [`OperatorError`]: exit 3 for the configuration, `study_not_started`, or a database that fails.
pub fn list(config: &Path, format: Format) -> Result<(), OperatorError> {
    let (_, coordination) = stored(&ServerConfig::read(config)?)?;
    output::print(format, &coordination, text);
    Ok(())
}

fn text(coordination: &Coordination) -> String {
    let mut text = String::new();
    for record in coordination.closed.iter() {
        let outcome = match &record.outcome {
            Outcome::Committed { model } => format!("committed, model {model}"),
            Outcome::QuorumMissed { received, quorum } => {
                format!("failed: {received} updates, quorum {quorum}")
            }
            Outcome::QuorumOutOfReach { reachable, quorum } => {
                format!("failed: at most {reachable} updates could come, quorum {quorum}")
            }
            Outcome::SumFailed { code, problem } => format!("failed: {code}: {problem}"),
        };
        text.push_str(&format!(
            "round {} attempt {}: {} updates, {outcome}{}\n",
            record.round,
            record.attempt,
            record.received.len(),
            missing(record)
        ));
    }
    for (site, withdrawal) in &coordination.withdrawn {
        text.push_str(&format!("site {site}: {}\n", withdrawn(withdrawal)));
    }
    text.push_str(&format!("model {}", coordination.model));
    text
}

fn missing(record: &RoundRecord) -> String {
    if record.missing.is_empty() {
        return String::new();
    }
    let named = |site| match record.why_missing.get(site) {
        Some(why) => format!("{site} ({why})"),
        None => site.to_string(),
    };
    let missing: Vec<_> = record.missing.iter().map(named).collect();
    format!("; missing {}", missing.join(", "))
}

/// Where and why a site does not go on.
pub(super) fn withdrawn(withdrawal: &Withdrawal) -> String {
    let Withdrawal {
        round,
        attempt,
        code,
        reason,
        may_return,
    } = withdrawal;
    let place = match round {
        0 => "before its first round".to_owned(),
        _ => format!("at round {round}, attempt {attempt}"),
    };
    let awaited = if *may_return { "; may return" } else { "" };
    format!("withdrawn {place}: {code}, {reason}{awaited}")
}

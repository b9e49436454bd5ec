//! What may leave this site, and what must stay. The site enforces it, whatever the server asks.

use consilium_core::{ModelVector, Participant, Study};
use consilium_strategies::check_values;

use super::AgentError;

/// An update that may leave: exactly the groups that this participant shares, complete, finite and inside
/// the fixed-point range.
pub(super) fn leaves(
    study: &Study,
    participant: &Participant,
    update: &ModelVector,
) -> Result<(), AgentError> {
    let shared = study.shared_groups(participant);
    if let Some(group) = update.0.keys().find(|group| !shared.contains(group)) {
        return Err(AgentError::MustStay(group.clone()));
    }
    if let Some(group) = shared.iter().find(|group| !update.0.contains_key(group)) {
        return Err(AgentError::WrongGroups(format!(
            "the update lacks group {group}"
        )));
    }
    update.check(&study.manifest)?;
    for (group, values) in &update.0 {
        check_values(0, values).map_err(|refusal| AgentError::BadValue {
            group: group.clone(),
            code: refusal.code(),
            problem: refusal.to_string(),
        })?;
    }
    Ok(())
}

/// Local groups that stay: exactly those that this participant does not share, complete and finite.
pub(super) fn stays(
    study: &Study,
    participant: &Participant,
    local: &ModelVector,
) -> Result<(), AgentError> {
    let expected = study.local_groups(participant);
    if !local.0.keys().eq(expected.iter()) {
        let got: Vec<_> = local.0.keys().map(ToString::to_string).collect();
        let expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
        return Err(AgentError::WrongGroups(format!(
            "local groups are [{}], the study says [{}]",
            got.join(", "),
            expected.join(", ")
        )));
    }
    local.check(&study.manifest)?;
    for (group, values) in &local.0 {
        if let Some(position) = values.iter().position(|value| !value.is_finite()) {
            let group = group.clone();
            return Err(AgentError::NotFinite { group, position });
        }
    }
    Ok(())
}

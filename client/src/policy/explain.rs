//! The policy in plain words, for whoever signs it.

use super::{EachStudy, Policy, SecureAggregation, Transfer};

/// What `policy` permits, a sentence a line.
#[must_use]
pub fn explain(policy: &Policy) -> Vec<String> {
    let mut lines = vec![
        format!("Studies: {}.", listed(&policy.studies)),
        format!("Networks: {}.", listed(&policy.models)),
        format!("What may be predicted: {}.", listed(&policy.tasks)),
        format!(
            "Parameter groups whose updates may leave: {}. All others stay.",
            listed(&policy.groups)
        ),
        format!(
            "A group leaves only where at least {} sites hold it, and only sums of at least {} sites are published.",
            policy.minimum_holders, policy.minimum_participants
        ),
        match policy.secure_aggregation {
            SecureAggregation::Required => {
                "The server must not see this site's single update; only studies with secure aggregation are permitted."
            }
            SecureAggregation::NotRequired => {
                "The server may see this site's single update; what protects patients in it is differential privacy."
            }
        }
        .to_owned(),
        format!(
            "A private study protects each {}.",
            listed(&policy.units).replace(", ", " or each ")
        ),
        "Metrics: none leaves; results stay in this site's state folder.".to_owned(),
    ];
    let EachStudy {
        epsilon,
        delta,
        clip_norm,
        noise_multiplier,
    } = policy.each_study;
    let limits = [
        epsilon.map(|most| format!("epsilon at most {most}")),
        delta.map(|most| format!("delta at most {most:e}")),
        clip_norm.map(|most| format!("clip norm at most {most}")),
        noise_multiplier.map(|least| format!("noise multiplier at least {least}")),
    ];
    let limits: Vec<_> = limits.into_iter().flatten().collect();
    if !limits.is_empty() {
        lines.push(format!("Any one private study: {}.", limits.join(", ")));
    }
    lines.extend(match &policy.privacy {
        None => vec!["No privacy budget is set: every private study is refused.".to_owned()],
        Some(budget) => {
            let delta = budget
                .delta
                .map_or(String::new(), |delta| format!(" at delta {delta:e}"));
            let mut lines = vec![format!(
                "All studies together may spend epsilon {}{delta}; the agent stops before it is exceeded.",
                budget.epsilon
            )];
            if budget.allow_simulation {
                lines.push(
                    "Simulations, whose noise protects nobody, are permitted with a cohort that is marked simulated \
                     or public."
                        .to_owned(),
                );
            }
            if budget.trust_server_with_single_updates {
                lines.push(
                    "Noise may be shared between sites: the server, which sees single updates, is trusted."
                        .to_owned(),
                );
            }
            lines
        }
    });
    let Transfer { hours, bytes_a_day } = policy.transfer;
    if let Some(hours) = hours {
        lines.push(format!("Trains and sends within {hours} UTC only."));
    }
    if let Some(most) = bytes_a_day {
        lines.push(format!("Sends at most {most} of updates a day."));
    }
    lines
}

fn listed<T: std::fmt::Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    let words: Vec<_> = items.iter().map(ToString::to_string).collect();
    words.join(", ")
}

//! What a study would send and cost, in plain words, and this site's written answer.

use std::collections::BTreeSet;

use consilium_certs::{CertificateError, Signer};
use consilium_core::clock::Timestamp;
use consilium_core::study::PrivacyMode;
use consilium_core::{Digest, GroupName, Participant, SiteId, Study};
use consilium_transparency::{Acceptance, Signed};
use dp_rs::agreement::{AgreedPlan, Agreement};

/// What taking part in `study` means for the site of `participant`, a sentence a line.
#[must_use]
pub fn in_plain_words(study: &Study, participant: &Participant) -> Vec<String> {
    let lengths = study.manifest.group_lengths();
    let with_numbers = |groups: &BTreeSet<GroupName>| {
        let names: Vec<_> = groups.iter().map(ToString::to_string).collect();
        let numbers: usize = groups.iter().filter_map(|group| lengths.get(group)).sum();
        format!("{} ({numbers} numbers)", names.join(", "))
    };
    let (shared, local) = (
        study.shared_groups(participant),
        study.local_groups(participant),
    );
    let schedule = &study.schedule;
    let most = schedule.rounds + schedule.retry_rounds;
    let mut lines = vec![
        format!(
            "{} sites train {} together over {} rounds; at most {} failed attempts are repeated.",
            study.sites.len(),
            study.model.name,
            schedule.rounds,
            schedule.retry_rounds
        ),
        format!(
            "This site trains on its {} records to predict {}.",
            participant.modality, participant.task
        ),
        "No record, prediction or metric leaves this site.".to_owned(),
        format!(
            "What leaves: in each round the change of {}, at most {most} times.",
            with_numbers(&shared)
        ),
    ];
    if !local.is_empty() {
        lines.push(format!(
            "What stays: {}, because fewer than {} sites hold it.",
            with_numbers(&local),
            study.aggregation.minimum_holders
        ));
    }
    lines.push(format!(
        "A round is published when at least {} sites have sent their part.",
        schedule.quorum
    ));
    lines.push(
        "The server sees this site's single update: there is no secure aggregation.".to_owned(),
    );
    lines.extend(match (study.privacy, readable(participant)) {
        (PrivacyMode::NoneSimulationOnly, _) => vec![
            "NOT PRIVATE: nothing protects the patients in what leaves; for simulations only."
                .to_owned(),
        ],
        (_, None) => vec!["The privacy agreement cannot be read.".to_owned()],
        (_, Some(agreement)) => cost(study, &agreement),
    });
    lines
}

fn cost(study: &Study, agreement: &Agreement) -> Vec<String> {
    let unit = agreement.plan.unit();
    let mut lines = vec![format!(
        "What it costs: epsilon at most {:.4} at delta {:e} for each {unit} ({} adjacency), over all {} attempts. The \
         chance of anything that is concluded about a {unit} rises by a factor of {:.1} at most, except with the \
         probability delta.",
        agreement.epsilon,
        agreement.delta,
        agreement.plan.events(1).adjacency,
        study.schedule.rounds + study.schedule.retry_rounds,
        agreement.epsilon.exp()
    )];
    lines.push(match &agreement.plan {
        AgreedPlan::Steps(plan) => format!(
            "How: {} steps; in each, every {unit} takes part with probability {:.4}, is clipped to norm {}, and noise of \
             {:.4} times that is added.",
            agreement.steps,
            plan.settings().sampling_rate,
            agreement.plan.largest_clip_norm(),
            agreement.plan.noise_multiplier()
        ),
        AgreedPlan::Releases(_) => format!(
            "How: every update is clipped to norm {}, and noise of {:.4} times that is added.",
            agreement.plan.largest_clip_norm(),
            agreement.plan.noise_multiplier()
        ),
    });
    if study.is_simulation() {
        lines.push(
            "SIMULATION: the noise comes from a seed in the document and protects nobody."
                .to_owned(),
        );
    }
    lines
}

fn readable(participant: &Participant) -> Option<Agreement> {
    let agreement = participant.privacy.clone()?;
    serde_json::from_value(agreement).ok()
}

/// The acceptance of `study` by `site`, whose policy has the digest `policy`, signed with its key.
///
/// # Errors
/// [`CertificateError`] for a key that cannot sign.
pub fn sign(
    signer: &Signer,
    site: &SiteId,
    study: &Study,
    policy: Digest,
    at: Timestamp,
) -> Result<Signed, CertificateError> {
    let said = Acceptance {
        site: site.clone(),
        name: study.name.clone(),
        study: study.digest(),
        policy,
        at,
    };
    signer.state(&said)
}

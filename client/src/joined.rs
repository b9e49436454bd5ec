//! The model that a committed round left at this site: the groups it received and those that stayed, joined.

use consilium_core::{Digest, ModelVector, Participant, SiteId, Study, StudyId};
use consilium_ops::OperatorError;
use consilium_store::site::{Held, SiteStore};

use crate::agent::AgentError;
use crate::config::SiteConfig;
use crate::preparation::Preparation;

/// A site's whole part of the network after a committed round.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinedModel {
    /// The study as this site accepted it.
    pub study: Study,
    /// Digest of its document.
    pub study_sha256: Digest,
    /// This site's part in it.
    pub participant: Participant,
    /// The committed round, from 1.
    pub round: u32,
    /// The round whose receipt made the groups that stay here the site's own: below `round` where later
    /// rounds did not use this site's update, 0 for initial values. Nothing where no group stays.
    pub local_round: Option<u32>,
    /// Hash of the whole global model of the round.
    pub global_model_sha256: Digest,
    /// All groups of the participant.
    pub groups: ModelVector,
    /// How records are prepared for it.
    pub preparation: Preparation,
}

impl JoinedModel {
    /// Reads it from the state folder; the agent may be running.
    ///
    /// # Errors
    /// [`OperatorError`]: a study that is not known here, no committed round yet, or a round that is not
    /// here any more or not yet.
    pub async fn load(
        config: &SiteConfig,
        study: &StudyId,
        round: Option<u32>,
    ) -> Result<Self, OperatorError> {
        let place = config.database();
        let store = SiteStore::open_existing(&place)
            .await
            .map_err(AgentError::from)?;
        let loaded = Self::read(&store, &config.site, study, round).await;
        store.close().await;
        loaded.map_err(|error| error.at(place.display()))
    }

    async fn read(
        store: &SiteStore,
        site: &SiteId,
        name: &StudyId,
        round: Option<u32>,
    ) -> Result<Self, OperatorError> {
        let accepted = store.accepted(name).await.map_err(AgentError::from)?;
        let Some(accepted) = accepted else {
            let known = store.studies().await.map_err(AgentError::from)?;
            return Err(unknown(name, &known));
        };
        let unreadable = |problem: String| AgentError::UnreadableStudy {
            study: name.clone(),
            problem,
        };
        let study: Study = serde_json::from_slice(&accepted.document)
            .map_err(|error| unreadable(error.to_string()))?;
        study.check().map_err(AgentError::from)?;
        let participant = study.participant(site).cloned();
        let participant = participant.ok_or_else(|| AgentError::NotAParticipant {
            study: name.clone(),
            site: site.clone(),
        })?;
        let held = store.held(name).await.map_err(AgentError::from)?;
        let held = chosen(name, held, round)?;
        let preparation = accepted.preparation.as_deref().ok_or_else(|| {
            OperatorError::failed(
                "preparation_missing",
                format!("the state folder does not say how records were prepared in study {name}"),
                "it was written by an earlier version of consilium-site; run the study with this one",
            )
        })?;
        let preparation =
            serde_json::from_str(preparation).map_err(|error| unreadable(error.to_string()))?;
        let mut groups = held.shared.groups;
        groups.extend(&held.local.groups);
        groups.check(&study.manifest).map_err(AgentError::from)?;
        if !groups.0.keys().eq(participant.groups().iter()) {
            let got: Vec<_> = groups.0.keys().map(ToString::to_string).collect();
            return Err(AgentError::WrongGroups(got.join(", ")).into());
        }
        Ok(Self {
            study,
            study_sha256: accepted.digest,
            participant,
            round: held.shared.round,
            local_round: (!held.local.groups.is_empty()).then_some(held.local.round),
            global_model_sha256: held.model,
            groups,
            preparation,
        })
    }
}

fn unknown(name: &StudyId, known: &[StudyId]) -> OperatorError {
    let known: Vec<_> = known.iter().map(ToString::to_string).collect();
    let hint = match &known[..] {
        [] => "this site has not accepted any study yet: start the agent".to_owned(),
        known => format!("known here: {}", known.join(", ")),
    };
    OperatorError::configuration(
        "study_unknown",
        format!("this site has not accepted a study {name}"),
        hint,
    )
}

/// The held model if it is of a committed round, and of the one asked for.
fn chosen(name: &StudyId, held: Option<Held>, round: Option<u32>) -> Result<Held, OperatorError> {
    let Some(held) = held.filter(|held| held.shared.round > 0) else {
        return Err(OperatorError::failed(
            "round_none_committed",
            format!("no committed round of study {name} has reached this site yet"),
            "wait until a round is committed; `consilium-site status` shows where this site stands",
        ));
    };
    let here = held.shared.round;
    match round {
        Some(asked) if asked < here => Err(OperatorError::failed(
            "round_not_kept",
            format!(
                "round {asked} of study {name} is not kept any more: round {here} took its place"
            ),
            format!("leave out --round to use round {here}; export a round that you want to keep"),
        )),
        Some(asked) if asked > here => Err(OperatorError::failed(
            "round_not_received",
            format!(
                "round {asked} of study {name} has not reached this site: the newest is {here}"
            ),
            format!("leave out --round to use round {here}, or wait"),
        )),
        _ => Ok(held),
    }
}

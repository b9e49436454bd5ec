//! Policy and acceptance at every step: read again, and held against what is to be trained or sent.

use std::path::Path;
use std::time::Duration;

use consilium_core::{Digest, ModelVector, StudyId};
use consilium_store::site::{SiteStore, StoredAcceptance};
use tracing::info;

use super::{Agent, AgentError};
use crate::peer::Peer;
use crate::policy::{Policy, day};

/// Reads the policy file.
pub(super) fn read(path: &Path) -> Result<Policy, AgentError> {
    Policy::read(path).map_err(AgentError::Site)
}

/// The acceptance of this document, if it holds.
pub(super) async fn accepted(
    store: &SiteStore,
    study: &StudyId,
    digest: Digest,
) -> Result<StoredAcceptance, AgentError> {
    let study = study.clone();
    match store.acceptance(&study).await? {
        Some(StoredAcceptance {
            withdrawn: Some(reason),
            ..
        }) => Err(AgentError::Withdrawn { study, reason }),
        Some(accepted) if accepted.digest == digest => Ok(accepted),
        _ => Err(AgentError::NotAccepted { study, digest }),
    }
}

/// As [`accepted`], and the server knows of it afterwards.
pub(super) async fn show_acceptance<P: Peer>(
    store: &SiteStore,
    peer: &mut P,
    study: &StudyId,
    digest: Digest,
) -> Result<(), AgentError> {
    let accepted = accepted(store, study, digest).await?;
    if !accepted.told {
        peer.accept(digest, &accepted.signed).await?;
        store.acceptance_was_told(study, digest).await?;
    }
    Ok(())
}

impl<P: Peer> Agent<P> {
    /// Holds the study against policy and acceptance as they are now.
    pub(super) async fn permitted(&self) -> Result<Policy, AgentError> {
        let policy = read(&self.errand.policy)?;
        policy.judge(&self.study, &self.participant)?;
        accepted(&self.store, &self.study.name, self.participation.study).await?;
        Ok(policy)
    }

    /// Waits outside of the policy's hours, and says whether it did. What there is to do is asked for anew then.
    pub(super) async fn waited_for_its_hours(&mut self) -> Result<bool, AgentError> {
        let transfer = self.permitted().await?.transfer;
        let hours = transfer.hours;
        let Some(seconds) = hours.and_then(|hours| hours.opens_in(self.clock.now())) else {
            return Ok(false);
        };
        self.pause(seconds, "outside of the policy's hours").await;
        Ok(true)
    }

    /// Whether `update` may be sent now. Counts it as sent if so: what is sent twice is counted twice, and a
    /// process that is killed here has counted too much rather than too little.
    pub(super) async fn may_send(&mut self, update: &ModelVector) -> Result<bool, AgentError> {
        let transfer = self.permitted().await?.transfer;
        let now = self.clock.now();
        if let Some(seconds) = transfer.hours.and_then(|hours| hours.opens_in(now)) {
            self.pause(seconds, "outside of the policy's hours").await;
            return Ok(false);
        }
        let (today, bytes) = (day(now), 4 * update.len() as u64);
        let sent = self.store.sent_on(today).await?;
        if let Some(seconds) = transfer.room_in(now, sent, bytes) {
            self.pause(seconds, "the policy's bytes of this day are used up")
                .await;
            return Ok(false);
        }
        self.store.count_sent(today, bytes).await?;
        Ok(true)
    }

    async fn pause(&mut self, seconds: u64, reason: &str) {
        info!(opens_in_seconds = seconds, "waiting: {reason}");
        tokio::time::sleep(Duration::from_secs(seconds).min(LOOK_AGAIN)).await;
        // Ask as if nothing had been told.
        self.known = None;
    }
}

/// Longest wait before the policy and the server are asked again.
const LOOK_AGAIN: Duration = if cfg!(test) {
    Duration::from_millis(1)
} else {
    Duration::from_secs(60)
};

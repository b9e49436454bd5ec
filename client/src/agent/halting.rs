//! A site that stops says so: first to its own disk, then to the server.

use std::time::Duration;

use consilium_core::{Digest, RoundPlan, StudyId};
use consilium_rounds::Withdrawal;
use consilium_store::site::{Halt, SiteStore};
use tracing::{info, warn};

use super::{Agent, AgentError};
use crate::peer::Peer;
use crate::privacy::Refusal;

/// Longest wait for a server that is to be told why this site stops. Otherwise it is told by the next process.
const TELL: Duration = Duration::from_secs(30);

impl AgentError {
    /// What the consortium may know about an error that ends this site's part: a stable code and fixed words,
    /// never a number, path or name from this site. Nothing for what is not a decision or failure of this site.
    #[must_use]
    pub fn withdrawal(&self, plan: Option<&RoundPlan>) -> Option<Withdrawal> {
        let (reason, may_return) = match self {
            Self::Privacy(refusal) => refusal.public(),
            Self::Policy(_) => ("this site's policy does not permit it", true),
            Self::NotAccepted { .. } => ("nobody at this site has accepted the study yet", true),
            Self::Withdrawn { .. } => ("this site has withdrawn its acceptance", false),
            Self::Site(_) => ("a file of this site is not acceptable", true),
            Self::Log(_) => (
                "the server's log is not the one that this site or another has seen",
                false,
            ),
            Self::Plan(_) => ("the plan is not what this site agreed to", false),
            Self::CohortChanged { .. } => ("the records are not those of the beginning", true),
            Self::Work(_) => ("training or evaluation failed", true),
            Self::WorkPanicked => ("the training program failed", true),
            Self::MustStay(_) | Self::WrongGroups(_) | Self::Mismatch(_) => {
                ("training gave something that must not leave", false)
            }
            Self::BadValue { .. } => ("training diverged", false),
            Self::NotFinite { .. } | Self::OtherModel { .. } => {
                ("the model that the server sent is not acceptable", true)
            }
            Self::Store(_) | Self::File { .. } => ("storage at this site failed", true),
            Self::Peer(_)
            | Self::InvalidStudy(_)
            | Self::UnreadableStudy { .. }
            | Self::StudyChanged { .. }
            | Self::NotAParticipant { .. }
            | Self::StudyFailed(_) => return None,
        };
        Some(Withdrawal {
            round: plan.map_or(0, |plan| plan.round),
            attempt: plan.map_or(0, |plan| plan.attempt),
            code: self.code().to_owned(),
            reason: reason.to_owned(),
            may_return,
        })
    }
}

impl Refusal {
    /// Why, in words that everybody in the consortium may read, and whether somebody at the site can put it in
    /// order within a round.
    fn public(&self) -> (&'static str, bool) {
        match self {
            Self::Exhausted { .. } | Self::Unprotected { .. } => {
                ("the privacy budget does not cover the next round", false)
            }
            Self::Agreement { .. } | Self::UnknownMode(_) | Self::Accounting(_) => {
                ("the privacy agreement is not acceptable", false)
            }
            Self::NoProtection(_) => ("the study protects nobody", false),
            Self::Mixed { .. } => (
                "the study is stated for another unit or adjacency than the ledger",
                false,
            ),
            Self::NoSiteBudget { .. } => ("no privacy budget is set", true),
            Self::Simulation { .. } => ("this site does not take part in simulations", true),
            Self::TrustedServer(_) => (
                "this site does not trust the server with single updates",
                true,
            ),
            Self::NoiseLevel(_) => ("the noise is not fit for a real study", false),
            Self::Fitted { .. } => (
                "preprocessing is fitted on patients outside of epsilon",
                true,
            ),
            Self::LedgerBehind { .. } => (
                "the privacy ledger is behind the one that the server has counter-signed",
                true,
            ),
            Self::BrokenLedger(_) | Self::UnreadableEntry { .. } => {
                ("the privacy ledger is not as it was written", true)
            }
            // Of the command that settles a ledger.
            Self::NothingToSettle | Self::TooFewSettled { .. } => ("the ledger is settled", true),
            Self::Missing(_) | Self::OtherSteps { .. } | Self::NotRecorded { .. } => {
                ("training did not do what was agreed", false)
            }
        }
    }
}

/// Tells the server of a halt that an earlier process recorded and may not have told. One that would end this site's
/// part for good is left to the next plan, which repeats it unless somebody has put it in order since: a study must
/// not end because of what is no longer so.
pub(super) async fn tell_again<P: Peer>(
    store: &SiteStore,
    peer: &mut P,
    study: &StudyId,
    digest: Digest,
) -> Result<Option<Halt>, AgentError> {
    let halt = store.halted(study).await?;
    match &halt {
        Some(halt) if !halt.told && halt.withdrawal.may_return && halt.digest == digest => {
            tell(store, peer, study, digest, &halt.withdrawal).await;
        }
        _ => {}
    }
    Ok(halt)
}

/// Records that this site stops because of `error`, then tells the server. What goes wrong here is logged: the
/// error itself is what the operator must see.
pub(super) async fn halt<P: Peer>(
    store: &SiteStore,
    peer: &mut P,
    study: &StudyId,
    digest: Digest,
    plan: Option<&RoundPlan>,
    error: &AgentError,
) {
    let Some(withdrawal) = error.withdrawal(plan) else {
        return;
    };
    if let Err(error) = store.halt(study, digest, &withdrawal).await {
        warn!(%error, error.code = error.code(), "not recorded that this site stops");
    }
    tell(store, peer, study, digest, &withdrawal).await;
}

async fn tell<P: Peer>(
    store: &SiteStore,
    peer: &mut P,
    study: &StudyId,
    digest: Digest,
    withdrawal: &Withdrawal,
) {
    match tokio::time::timeout(TELL, peer.withdraw(digest, withdrawal)).await {
        Ok(Ok(())) => {
            info!(
                error.code = withdrawal.code,
                "the server knows that this site stops"
            );
            if let Err(error) = store.halt_was_told(study).await {
                warn!(%error, error.code = error.code(), "not recorded that the server knows");
            }
        }
        Ok(Err(error)) => {
            warn!(%error, error.code = error.code(), "the server does not know that this site stops");
        }
        Err(_) => warn!("the server does not know that this site stops: it did not answer"),
    }
}

impl<P: Peer> Agent<P> {
    /// Before a round is trained: a site that had stopped says that it goes on.
    pub(super) async fn go_on(&mut self) -> Result<(), AgentError> {
        if !self.halted {
            return Ok(());
        }
        self.peer.rejoin(self.participation.study).await?;
        self.store.go_on(&self.study.name).await?;
        self.halted = false;
        info!("this site takes part again");
        Ok(())
    }
}

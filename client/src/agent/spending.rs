//! What a round costs, asked before it is trained and written down after it.

use std::sync::Arc;

use consilium_core::{Digest, RoundPlan};
use dp_rs::event::Repeated;
use dp_rs::ledger::{Entry, Moment, Record};
use dp_rs::plan::Transcript;

use super::{Agent, AgentError};
use crate::peer::Peer;
use crate::privacy::{Refusal, record};

impl<P: Peer> Agent<P> {
    /// The cost of the next round, if the study is private: it is within the budgets of study and site.
    pub(super) async fn admitted(&self) -> Result<Option<Repeated>, AgentError> {
        let Some(protection) = &self.protection else {
            return Ok(None);
        };
        let cost = self.worker.round_cost();
        let cost = cost.ok_or_else(|| Refusal::Missing(self.study.name.clone()))?;
        // Accounting takes long enough to let a connection starve.
        let (protection, standing, asked) =
            (protection.clone(), Arc::clone(&self.standing), cost.clone());
        tokio::task::spawn_blocking(move || protection.admit(&standing, &asked))
            .await
            .map_err(|_| AgentError::WorkPanicked)??;
        Ok(Some(cost.clone()))
    }

    /// The entry that is to hold `record`, dated now.
    pub(super) fn entry(&self, record: Record) -> Entry {
        let now = Moment::from_unix_milliseconds(self.clock.now().0);
        self.standing.ledger.following(record, now)
    }

    /// What the ledger is to hold about the update of `plan`.
    pub(super) fn record(
        &self,
        plan: &RoundPlan,
        admitted: Option<&Repeated>,
        transcript: Option<Transcript>,
        update: Digest,
    ) -> Result<Option<Record>, AgentError> {
        let name = &self.study.name;
        match (&self.protection, admitted, transcript) {
            (Some(protection), Some(admitted), Some(transcript)) => {
                Ok(Some(protection.record(plan, admitted, transcript, update)?))
            }
            (Some(_), ..) => Err(Refusal::Missing(name.clone()).into()),
            // Nothing was agreed, and all the same something was spent.
            (None, _, Some(transcript)) => Ok(Some(record(name, plan, transcript, update, None))),
            (None, _, None) => Ok(None),
        }
    }
}

//! The ledger as the server has seen it, held against the ledger as it lies here.

use std::sync::Arc;

use consilium_rounds::{LedgerHead, Receipt};

use super::{Agent, AgentError};
use crate::peer::{Peer, PeerError};

impl<P: Peer> Agent<P> {
    /// Keeps what the server has signed about this site's ledger, and stops where the ledger is behind it.
    pub(super) async fn countersigned(&mut self, receipt: &Receipt) -> Result<(), AgentError> {
        let name = &self.study.name;
        let about_us = |said: &consilium_rounds::Countersigned| {
            said.site == self.errand.site && said.study == self.participation.study
        };
        let Some(said) = receipt.says().filter(about_us) else {
            let problem = "its receipt is not about this site's ledger in this study";
            return Err(PeerError::Nonsense(problem.into()).into());
        };
        if self.confirmed != Some(said.ledger) {
            self.store.keep_receipt(name, &said.ledger, receipt).await?;
            let standing = Arc::make_mut(&mut self.standing);
            standing.keep(name.clone(), said.ledger);
            self.confirmed = Some(said.ledger);
        }
        Ok(self.standing.check(name, &said.ledger)?)
    }

    /// The head of this site's ledger, as the server is shown it.
    pub(super) fn ledger_head(&self) -> Option<LedgerHead> {
        self.standing.head()
    }
}

//! Attempts at one call, with growing pauses between them, and not for ever.

use std::time::Duration;

use consilium_core::SiteId;
use tokio::time::Instant;
use tracing::warn;

use crate::pause::pause;
use crate::peer::PeerError;

/// The attempts at one call.
pub(super) struct Patience {
    since: Instant,
    limit: Duration,
    site: SiteId,
    attempt: u32,
}

impl Patience {
    pub(super) fn new(limit: Duration, site: &SiteId) -> Self {
        Self {
            since: Instant::now(),
            limit,
            site: site.clone(),
            attempt: 0,
        }
    }

    /// Waits before the next attempt.
    pub(super) async fn wait(&mut self, address: &str, problem: String) -> Result<(), PeerError> {
        let waited = self.since.elapsed();
        if waited >= self.limit {
            return Err(PeerError::Unreachable {
                address: address.to_owned(),
                waited,
                problem,
            });
        }
        let pause = pause(&self.site, self.attempt).min(self.limit - waited);
        self.attempt += 1;
        warn!(
            address,
            problem,
            retry_in_seconds = pause.as_secs_f32(),
            give_up_in_seconds = (self.limit - waited).as_secs(),
            "server unreachable"
        );
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_end_comes_when_the_limit_is_over() {
        let site = "a".parse().unwrap();
        let mut patience = Patience::new(Duration::from_secs(60), &site);
        let started = Instant::now();
        let error = loop {
            if let Err(error) = patience.wait("localhost:1", "refused".into()).await {
                break error;
            }
        };
        assert_eq!(error.code(), "server_unreachable");
        assert!((60..=61).contains(&started.elapsed().as_secs()));
    }
}

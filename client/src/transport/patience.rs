//! Pauses between attempts: growing, different at every site, and not for ever.

use std::time::Duration;

use consilium_core::seed::stream;
use consilium_core::{Seed, SiteId, StreamKey};
use rand::RngExt as _;
use tokio::time::Instant;
use tracing::warn;

use crate::peer::PeerError;

/// The attempts at one call.
pub(super) struct Patience {
    since: Instant,
    limit: Duration,
    site: String,
    attempt: u32,
}

impl Patience {
    pub(super) fn new(limit: Duration, site: &SiteId) -> Self {
        Self {
            since: Instant::now(),
            limit,
            site: site.to_string(),
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

/// Doubles from 0.2 s to 10 s, times 0.5 to 1.5, so that sites do not all come back at the same moment.
fn pause(site: &str, attempt: u32) -> Duration {
    let key = StreamKey {
        purpose: "retry-pause",
        step: attempt,
        site,
        ..StreamKey::default()
    };
    let doubled = Duration::from_millis(200) * 2_u32.pow(attempt.min(10));
    doubled
        .min(Duration::from_secs(10))
        .mul_f64(stream(Seed(0), &key).random_range(0.5..1.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ_between_sites() {
        let all: Vec<_> = (0..40).map(|attempt| pause("a", attempt)).collect();
        assert!(all[0] <= Duration::from_millis(300));
        assert!(all.iter().all(|pause| *pause <= Duration::from_secs(15)));
        assert!(
            all[8..]
                .iter()
                .all(|pause| *pause >= Duration::from_secs(5))
        );
        assert_ne!(pause("a", 3), pause("b", 3));
    }

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

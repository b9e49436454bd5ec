//! How long to wait before something is tried again.

use std::time::Duration;

use consilium_core::seed::stream;
use consilium_core::{Seed, SiteId, StreamKey};
use rand::RngExt as _;

/// Doubles from 0.2 s to 10 s, times 0.5 to 1.5, so that sites do not all come back at the same moment.
/// `attempt` counts from 0.
pub(crate) fn pause(site: &SiteId, attempt: u32) -> Duration {
    let key = StreamKey {
        purpose: "retry-pause",
        step: attempt,
        site: site.as_str(),
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
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let all: Vec<_> = (0..40).map(|attempt| pause(&a, attempt)).collect();
        assert!(all[0] <= Duration::from_millis(300));
        assert!(all.iter().all(|pause| *pause <= Duration::from_secs(15)));
        assert!(
            all[8..]
                .iter()
                .all(|pause| *pause >= Duration::from_secs(5))
        );
        assert_ne!(pause(&a, 3), pause(&b, 3));
    }
}

//! When a certificate is valid.

use time::{Duration, OffsetDateTime};

/// When a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    pub(crate) from: OffsetDateTime,
    pub(crate) to: OffsetDateTime,
}

impl Validity {
    /// From five minutes ago (clocks differ) for so many days; a negative number has already passed.
    #[must_use]
    pub fn days(days: i64) -> Self {
        let now = OffsetDateTime::now_utc();
        let end = now + Duration::days(days);
        Self {
            from: now.min(end) - Duration::minutes(5),
            to: end,
        }
    }

    /// From now on for so many seconds: for tests that watch a certificate grow old.
    #[must_use]
    pub fn seconds_for_tests(seconds: i64) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            from: now,
            to: now + Duration::seconds(seconds),
        }
    }
}

/// Days that certificates of servers and sites are valid.
pub const CERTIFICATE_DAYS: i64 = 90;

//! When this site trains and sends, and how much.

use std::fmt;

use consilium_core::clock::Timestamp;
use consilium_ops::units::Bytes;
use serde::{Deserialize, Serialize};

/// When and how much may be sent; what is left out does not limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// Hours of the day, UTC, in which rounds are trained and updates sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<Hours>,
    /// Most bytes of updates a day, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_a_day: Option<Bytes>,
}

impl Transfer {
    /// Seconds until `bytes` more may be sent, after `sent` on this day; nothing where they may be sent now.
    #[must_use]
    pub fn room_in(&self, now: Timestamp, sent: u64, bytes: u64) -> Option<u64> {
        let most = self.bytes_a_day?;
        (sent.saturating_add(bytes) > most.0).then(|| DAY - second_of_day(now))
    }
}

/// The day of a moment, UTC, counted from 1970-01-01.
#[must_use]
pub fn day(now: Timestamp) -> i64 {
    // At most 2^64 / 86,400,000.
    (now.0 / 1000 / DAY).cast_signed()
}

const DAY: u64 = 86_400;

fn second_of_day(now: Timestamp) -> u64 {
    now.0 / 1000 % DAY
}

/// A part of every day, UTC: `"19:00-07:00"`. The end is outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hours {
    /// Minutes after midnight.
    from: u64,
    to: u64,
}

/// A text that names no part of the day.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no part of the day; write for example \"19:00-07:00\", in UTC")]
pub struct InvalidHours(String);

impl Hours {
    /// Seconds until this part of the day begins; nothing inside it.
    #[must_use]
    pub fn opens_in(self, now: Timestamp) -> Option<u64> {
        let second = second_of_day(now);
        let (from, to) = (self.from * 60, self.to * 60);
        let inside = if from < to {
            (from..to).contains(&second)
        } else {
            second >= from || second < to
        };
        (!inside).then(|| (from + DAY - second) % DAY)
    }
}

impl TryFrom<String> for Hours {
    type Error = InvalidHours;

    fn try_from(text: String) -> Result<Self, InvalidHours> {
        let minutes = |part: &str| -> Option<u64> {
            let (hour, minute) = part.trim().split_once(':')?;
            let two = |digits: &str, below: u64| -> Option<u64> {
                let plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
                digits.parse().ok().filter(|n: &u64| plain && *n < below)
            };
            Some(two(hour, 24)? * 60 + two(minute, 60)?)
        };
        let read = text.split_once('-').and_then(|(from, to)| {
            let (from, to) = (minutes(from)?, minutes(to)?);
            (from != to).then_some(Self { from, to })
        });
        read.ok_or(InvalidHours(text))
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [from, to] = [self.from, self.to].map(|m| format!("{:02}:{:02}", m / 60, m % 60));
        write!(f, "{from}-{to}")
    }
}

impl From<Hours> for String {
    fn from(hours: Hours) -> Self {
        hours.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: u64, minute: u64) -> Timestamp {
        // Some day.
        Timestamp((20_000 * DAY + hour * 3600 + minute * 60) * 1000)
    }

    #[test]
    fn hours_may_pass_midnight_and_end_before_their_end() {
        let night = Hours::try_from("19:00-07:00".to_owned()).unwrap();
        assert_eq!(night.opens_in(at(19, 0)), None);
        assert_eq!(night.opens_in(at(6, 59)), None);
        assert_eq!(night.opens_in(at(7, 0)), Some(12 * 3600));
        assert_eq!(night.opens_in(at(18, 59)), Some(60));
        let noon = Hours::try_from("12:00-13:30".to_owned()).unwrap();
        assert_eq!(noon.opens_in(at(13, 29)), None);
        assert_eq!(noon.opens_in(at(13, 30)), Some(22 * 3600 + 1800));
        assert_eq!(String::from(noon), "12:00-13:30");
        for bad in [
            "",
            "7-9",
            "12:00",
            "12:00-12:00",
            "24:00-01:00",
            "12:60-13:00",
            "+1:00-02:00",
        ] {
            assert!(Hours::try_from(bad.to_owned()).is_err(), "{bad} was read");
        }
    }

    #[test]
    fn what_does_not_fit_into_a_day_waits_for_the_next() {
        let transfer = Transfer {
            bytes_a_day: Some(Bytes(100)),
            ..Transfer::default()
        };
        assert_eq!(transfer.room_in(at(23, 0), 60, 40), None);
        assert_eq!(transfer.room_in(at(23, 0), 61, 40), Some(3600));
        assert_eq!(transfer.room_in(at(23, 0), u64::MAX, 40), Some(3600));
        assert_eq!(Transfer::default().room_in(at(23, 0), u64::MAX, 1), None);
        assert_eq!(day(at(23, 59)), 20_000);
    }
}

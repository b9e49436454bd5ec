//! When an entry was written.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment in UTC to the millisecond, written as in RFC 3339 and in one form only, `2026-03-01T12:00:00.000Z`, so
/// that what is read back has the same hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// A text that is not a moment in the one form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a moment of the form 2026-03-01T12:00:00.000Z")]
pub struct InvalidMoment(String);

impl Moment {
    /// From milliseconds since 1970 began; saturates at the end of the year 9999.
    #[must_use]
    pub fn from_unix_milliseconds(milliseconds: u64) -> Self {
        Self(milliseconds.min(LAST))
    }

    /// Milliseconds since 1970 began.
    #[must_use]
    pub fn unix_milliseconds(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, milliseconds) = (self.0 / 1000, self.0 % 1000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z"
        )
    }
}

impl FromStr for Moment {
    type Err = InvalidMoment;

    fn from_str(text: &str) -> Result<Self, InvalidMoment> {
        let invalid = || InvalidMoment(text.to_owned());
        if text.len() != FORM.len() || !text.is_ascii() {
            return Err(invalid());
        }
        let number = |from: usize, to: usize| text[from..to].parse::<u64>().map_err(|_| invalid());
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || day == 0 {
            return Err(invalid());
        }
        let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
        let moment = Self(seconds * 1000 + number(20, 23)?);
        // Separators, signs and days or seconds that there are not do not come back as they went in.
        if moment.to_string() == text {
            Ok(moment)
        } else {
            Err(invalid())
        }
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Days from the 1st of March of the year 0 to the beginning of 1970, in the proleptic Gregorian calendar.
const EPOCH: u64 = 719_468;

/// Days of 400 years.
const ERA: u64 = 146_097;

/// Year, month and day of a number of days since 1970 began. Years are counted from March, so that the leap day is
/// the last (Hinnant, "chrono-compatible low-level date algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + EPOCH;
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + next, month, day)
}

/// The inverse of [`date`].
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let (era, year) = (year / 400, year % 400);
    let day = (153 * month + 2) / 5 + day - 1;
    (era * ERA + 365 * year + year / 4 - year / 100 + day).saturating_sub(EPOCH)
}

const FORM: &str = "2026-03-01T12:00:00.000Z";

/// 9999-12-31T23:59:59.999Z.
const LAST: u64 = 253_402_300_799_999;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_are_written_as_every_calendar_writes_them() {
        for (milliseconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_000_000_000_000, "2001-09-09T01:46:40.000Z"),
            (1_234_567_890_123, "2009-02-13T23:31:30.123Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (LAST, "9999-12-31T23:59:59.999Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            let moment = Moment::from_unix_milliseconds(milliseconds);
            assert_eq!(moment.to_string(), text);
            assert_eq!(text.parse(), Ok(moment));
        }
    }

    #[test]
    fn every_day_comes_back() {
        for day in 0..=LAST / 86_400_000 {
            let (year, month, of_month) = date(day);
            assert_eq!(days(year, month, of_month), day);
        }
    }

    #[test]
    fn other_forms_and_days_that_there_are_not_are_refused() {
        for text in [
            "",
            "2026-03-01T12:00:00Z",
            "2026-03-01T12:00:00.000+00:00",
            "2026-03-01 12:00:00.000Z",
            "2026-03-01t12:00:00.000z",
            "2026-02-29T12:00:00.000Z",
            "2026-02-00T12:00:00.000Z",
            "2026-13-01T12:00:00.000Z",
            "2026-00-01T12:00:00.000Z",
            "2026-03-01T24:00:00.000Z",
            "2026-03-01T12:00:60.000Z",
            "+026-03-01T12:00:00.000Z",
            "1969-12-31T23:59:59.999Z",
            "0000-01-01T00:00:00.000Z",
            "2026-03-01T12:00:00.00\u{e9}",
        ] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }
}

//! Durations and sizes as people write them: `"30s"`, `"10m"`, `"64 MiB"`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is neither a duration nor a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidUnit(String);

impl fmt::Display for InvalidUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidUnit {}

macro_rules! quantity {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $example:literal, [$(($unit:literal, $factor:expr)),* $(,)?]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(pub u64);

        impl FromStr for $type {
            type Err = InvalidUnit;

            fn from_str(text: &str) -> Result<Self, InvalidUnit> {
                let text = text.trim();
                let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
                let (number, unit) = (&text[..digits], text[digits..].trim());
                let factor: Option<u64> = match unit {
                    $($unit => Some($factor),)*
                    _ => None,
                };
                number
                    .parse::<u64>()
                    .ok()
                    .zip(factor)
                    .and_then(|(number, factor)| number.checked_mul(factor))
                    .map(Self)
                    .ok_or_else(|| {
                        InvalidUnit(format!(
                            concat!("{:?} is not a ", $kind, "; write for example ", $example),
                            text
                        ))
                    })
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidUnit;

            fn try_from(text: String) -> Result<Self, InvalidUnit> {
                text.parse()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // The largest unit that leaves no remainder.
                let units: &[(&str, u64)] = &[$(($unit, $factor)),*];
                let fits = units.iter().filter(|(_, factor)| self.0 % factor == 0);
                let (unit, factor) = fits.max_by_key(|(_, factor)| *factor).unwrap_or(&units[0]);
                write!(f, "{}{unit}", self.0 / factor)
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}

quantity!(
    /// A duration in whole seconds.
    Seconds, "duration", "\"30s\", \"10m\" or \"24h\"",
    [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)]
);
quantity!(
    /// A size in bytes.
    Bytes, "size", "\"64MiB\" or \"2GiB\"",
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read_and_written_back() {
        assert_eq!("10m".parse(), Ok(Seconds(600)));
        assert_eq!("64 MiB".parse(), Ok(Bytes(64 << 20)));
        assert_eq!(Seconds(600).to_string(), "10m");
        assert_eq!(Bytes(1536).to_string(), "1536B");
        for bad in ["", "10", "m", "-3s", "3 weeks", "99999999999999999999s"] {
            assert!(bad.parse::<Seconds>().is_err(), "{bad:?} was read");
        }
    }
}

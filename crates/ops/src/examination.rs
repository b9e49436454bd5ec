//! `doctor`: one check after the other, in the order in which things fail, and who can mend what is broken.

use std::path::Path;

use serde::Serialize;

use crate::error::{ExitCode, OperatorError};
use crate::output::{self, Format};

/// Who can mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Who {
    /// Whoever runs this program.
    Operator,
    /// Whoever runs the network of this institution.
    Network,
    /// Whoever runs the aggregation server and its authority.
    Consortium,
    /// Whoever answers for the patients here.
    ProtectionOfficer,
}

impl Who {
    fn words(self) -> &'static str {
        match self {
            Self::Operator => "whoever runs this program",
            Self::Network => "your network team",
            Self::Consortium => "the consortium's operator",
            Self::ProtectionOfficer => "your data-protection officer",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "found", rename_all = "kebab-case")]
pub enum Found {
    /// In order.
    Good {
        /// What was seen.
        seen: String,
    },
    /// In order for now.
    Warning {
        /// What is not as it should be.
        error: OperatorError,
        /// Who can mend it.
        who: Who,
    },
    /// Broken.
    Broken {
        /// What is wrong.
        error: OperatorError,
        /// Who can mend it.
        who: Who,
    },
    /// Not looked at, because something before it is broken.
    NotReached,
}

/// One layer, and what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The layer, for example `certificate`.
    pub layer: &'static str,
    /// What was found.
    #[serde(flatten)]
    pub found: Found,
}

/// The checks so far. After one that is broken the others are not reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Examination {
    /// In the order in which things fail.
    pub checks: Vec<Check>,
}

impl Examination {
    /// Checks `layer` unless something before it is broken; what it gives, if it is in order.
    pub fn check<T>(
        &mut self,
        layer: &'static str,
        who: Who,
        look: impl FnOnce() -> Result<(T, String), OperatorError>,
    ) -> Option<T> {
        if self.broken().is_some() {
            self.push(layer, Found::NotReached);
            return None;
        }
        match look() {
            Ok((value, seen)) => {
                self.push(layer, Found::Good { seen });
                Some(value)
            }
            Err(error) => {
                self.push(layer, Found::Broken { error, who });
                None
            }
        }
    }

    /// Adds what was found otherwise.
    pub fn push(&mut self, layer: &'static str, found: Found) {
        self.checks.push(Check { layer, found });
    }

    /// The layer that is broken, and why.
    #[must_use]
    pub fn broken(&self) -> Option<(&'static str, &OperatorError, Who)> {
        self.checks.iter().find_map(|check| match &check.found {
            Found::Broken { error, who } => Some((check.layer, error, *who)),
            _ => None,
        })
    }

    /// Prints every check, and ends with what is broken.
    ///
    /// # Errors
    /// The error of the broken layer, with its exit code.
    pub fn finish(&self, format: Format) -> Result<(), OperatorError> {
        match (format, self.broken()) {
            (Format::Json, Some((layer, error, who))) => {
                let details =
                    serde_json::json!({"layer": layer, "who": who, "checks": self.checks});
                Err(error.clone().with_details(&details))
            }
            (_, broken) => {
                output::print(format, self, Self::text);
                broken.map_or(Ok(()), |(layer, error, who)| {
                    let mut error = error.clone();
                    error.message = format!("{layer}: {}", error.message);
                    error.hint = format!("{} ({} can mend it)", error.hint, who.words());
                    Err(error)
                })
            }
        }
    }

    fn text(&self) -> String {
        let width = self.checks.iter().map(|check| check.layer.len()).max();
        let width = width.unwrap_or(0);
        let lines = self
            .checks
            .iter()
            .map(|Check { layer, found }| match found {
                Found::Good { seen } => format!("good     {layer:<width$}  {seen}\n"),
                Found::Warning { error, who } => format!(
                    "WARNING  {layer:<width$}  {} [{}]; {} ({})\n",
                    error.message,
                    error.code,
                    error.hint,
                    who.words()
                ),
                Found::Broken { error, .. } => {
                    format!(
                        "BROKEN   {layer:<width$}  {} [{}]\n",
                        error.message, error.code
                    )
                }
                Found::NotReached => format!("         {layer:<width$}  not reached\n"),
            });
        lines.collect()
    }
}

/// Whether this account can write into `folder`, or make it.
///
/// # Errors
/// [`OperatorError`] with exit code 3.
pub fn writable(folder: &Path) -> Result<((), String), OperatorError> {
    let refused = |error: std::io::Error| {
        let mut error = OperatorError::file(folder, &error);
        error.exit = ExitCode::Configuration;
        error
    };
    // The first folder above it that is there: nothing is made by looking.
    let there = folder.ancestors().find(|folder| folder.is_dir());
    let there = there.unwrap_or(Path::new("."));
    let probe = there.join(format!(".consilium-doctor.{}", std::process::id()));
    std::fs::write(&probe, b"").map_err(refused)?;
    std::fs::remove_file(&probe).map_err(refused)?;
    Ok(((), format!("{} can be written", folder.display())))
}

/// Space on the disk of `folder`.
///
/// # Errors
/// [`OperatorError`] where less than `least` bytes are free.
pub fn room(folder: &Path, least: u64) -> Result<((), String), OperatorError> {
    let there = folder.ancestors().find(|folder| folder.is_dir());
    let there = there.unwrap_or(Path::new("."));
    let disk = rustix::fs::statvfs(there)
        .map_err(|error| OperatorError::file(there, &std::io::Error::from(error)))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let mebibytes = free >> 20;
    if free < least {
        return Err(OperatorError::failed(
            "disk_full",
            format!("{mebibytes} MiB are free, {} MiB are needed", least >> 20),
            "free some space",
        )
        .at(there.display()));
    }
    Ok(((), format!("{mebibytes} MiB free")))
}

/// Whether the machine's clock can be right: certificates and deadlines depend on it.
///
/// # Errors
/// [`OperatorError`] for a clock before `built`, in seconds since 1970-01-01.
pub fn clock(now: u64, built: u64) -> Result<((), String), OperatorError> {
    if now < built {
        return Err(OperatorError::configuration(
            "clock_wrong",
            "this machine's clock is before this program was written",
            "set the clock, and keep it right with NTP",
        ));
    }
    Ok(((), "plausible".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_layer_that_is_broken_nothing_is_looked_at() {
        let mut examination = Examination::default();
        let one = examination.check("clock", Who::Operator, || Ok((1, "plausible".into())));
        assert_eq!(one, Some(1));
        let broken = examination.check("name", Who::Network, || {
            Err::<((), String), _>(OperatorError::failed("name_unknown", "no such name", "ask"))
        });
        assert_eq!(broken, None);
        let looked = examination.check::<()>("tcp", Who::Network, || panic!("looked"));
        assert_eq!(looked, None);
        let error = examination.finish(Format::Json).unwrap_err();
        let details = error.details.unwrap();
        assert_eq!(
            (&details["layer"], &details["who"]),
            (&"name".into(), &"network".into())
        );
        assert_eq!(details["checks"][2]["found"], "not-reached");
        assert!(
            examination
                .text()
                .contains("BROKEN   name   no such name [name_unknown]")
        );
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_looked_at_without_making_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("a/b");
        writable(&state).unwrap();
        assert!(!folder.path().join("a").exists());
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        room(&state, 1).unwrap();
        assert_eq!(room(&state, u64::MAX).unwrap_err().code, "disk_full");
        assert_eq!(clock(5, 6).unwrap_err().code, "clock_wrong");
    }
}

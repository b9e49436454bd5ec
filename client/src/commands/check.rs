//! `consilium-site config check`: everything that can be known without the server.

use std::path::Path;

use consilium_ops::{Format, OperatorError, output};
use serde::Serialize;

use super::{cohort, identity, server_address};
use crate::config::SiteConfig;

/// What was checked and found in order.
#[derive(Serialize)]
struct Checked {
    site: String,
    study: String,
    records: usize,
    patients: usize,
    /// What may be wrong with the cohort, but does not stop it.
    notes: Vec<String>,
}

/// Checks the configuration and everything that it names, and reports all problems together.
///
/// # Errors
/// [`OperatorError`] with exit code 3.
pub fn check(path: &Path, format: Format) -> Result<(), OperatorError> {
    let config = SiteConfig::read(path)?;
    let mut problems = Vec::new();
    problems.extend(config.read_policy().err());
    problems.extend(identity(&config).err());
    problems.extend(
        server_address(&config)
            .err()
            .map(|error| error.at(path.display())),
    );
    problems.extend(config.device.open().err().map(|error| {
        OperatorError::configuration(error.code(), error.to_string(), "set device = \"cpu\"")
            .at(path.display())
    }));
    let cohort = cohort(&config).map_err(|error| problems.push(error)).ok();
    match (cohort, &mut problems[..]) {
        (Some(cohort), []) => {
            let checked = Checked {
                site: config.site.to_string(),
                study: config.study.to_string(),
                records: cohort.records(),
                patients: cohort.patients(),
                notes: cohort.notes().iter().map(ToString::to_string).collect(),
            };
            output::print(format, &checked, text);
            Ok(())
        }
        (_, [_]) => Err(problems.remove(0)),
        (_, problems) => {
            let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Err(OperatorError::configuration(
                "config_not_acceptable",
                format!("{} problems\n{}", problems.len(), all.join("\n")),
                "correct each of them; nothing was touched",
            )
            .at(path.display()))
        }
    }
}

fn text(checked: &Checked) -> String {
    let mut text = format!(
        "site {}, study {}: configuration, policy, certificates and cohort are acceptable\n{} records of {} patients\n",
        checked.site, checked.study, checked.records, checked.patients
    );
    for note in &checked.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}

//! What a run found, per site, and the table that says it.

use comfy_table::{Cell, CellAlignment, Table, presets};
use consilium_core::{Digest, GroupName, SiteId};
use consilium_site::agent::FEW_SITES;
use dp_rs::noise::Randomness;
use dp_rs::release::Against;
use serde::Serialize;

use crate::privacy_report::PrivacyRow;

/// One site's line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteRow {
    /// The site.
    pub site: SiteId,
    /// Modality key of its cohort.
    pub modality: String,
    /// Where the records come from: `real`, `public` or `simulated`.
    pub origin: String,
    /// Task key.
    pub task: String,
    /// `patient`, or `record` where the cohort has no patient ids.
    pub unit: String,
    /// Units (patients or records) in the training part.
    pub train: usize,
    /// Units in the test part.
    pub test: usize,
    /// Name of the primary metric.
    pub metric: String,
    /// The federated model on the test part.
    pub federated: Option<f64>,
    /// What it cost the patients of this site, where training was private.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy: Option<PrivacyRow>,
    /// The same federation with nothing protected; only beside a private one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unprotected: Option<f64>,
    /// The same model trained at this site alone, with as many steps on its own data.
    pub local: Option<f64>,
    /// A constant prediction.
    pub constant: Option<f64>,
    /// Federated minus local.
    pub difference: Option<f64>,
    /// 95 % interval of the difference over a patient bootstrap of the test part, models fixed.
    pub interval: Option<[f64; 2]>,
    /// Groups this site exchanged.
    pub shared: Vec<GroupName>,
    /// Groups that stayed, because fewer sites than the minimum hold them.
    pub stayed: Vec<GroupName>,
}

/// What a run found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The scenario's name.
    pub scenario: String,
    /// One line per site.
    pub sites: Vec<SiteRow>,
    /// Rounds committed.
    pub rounds: u32,
    /// Minimum of holders below which a group stays at its sites.
    pub minimum_holders: u32,
    /// Bytes of model values received by all sites.
    pub bytes_down: u64,
    /// Bytes of model values sent by all sites.
    pub bytes_up: u64,
    /// SHA-256 over the federated groups in name order, little-endian f32.
    pub final_model_sha256: Digest,
    /// Wall time of the whole run, seconds.
    pub seconds: f64,
}

impl Outcome {
    /// The table and what belongs under it.
    #[must_use]
    pub fn to_text(&self) -> String {
        let private = self.is_private();
        let mut table = Table::new();
        let mut header = vec![
            "site",
            "cohort",
            "task",
            "train/test",
            "metric",
            "federated",
        ];
        if private {
            header.extend(["\u{3b5}", "not private"]);
        }
        header.extend(["local", "constant", "difference [95 %]", "shared"]);
        table
            .load_style(presets::UTF8_FULL_CONDENSED)
            .set_header(header);
        for row in &self.sites {
            let mut cells = vec![
                Cell::new(&row.site),
                Cell::new(format!("{} ({})", row.modality, row.origin)),
                Cell::new(&row.task),
                right(format!("{}/{} {}s", row.train, row.test, row.unit)),
                Cell::new(&row.metric),
                right(number(row.federated)),
            ];
            if private {
                let epsilon = row.privacy.as_ref().map(|privacy| privacy.epsilon);
                cells.push(right(
                    epsilon.map_or("infinite".into(), |epsilon| format!("{epsilon:.2}")),
                ));
                cells.push(right(number(row.unprotected)));
            }
            cells.extend([
                right(number(row.local)),
                right(number(row.constant)),
                right(difference(row)),
                Cell::new(shared(row)),
            ]);
            table.add_row(cells);
        }
        let mut text = table.to_string();
        text.push('\n');
        for line in self.notes() {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    /// Whether patients were protected.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.sites.iter().any(|row| row.privacy.is_some())
    }

    /// What is guaranteed, or that nothing is, in the words of `differential-privacy.md` section 7.12.
    #[must_use]
    pub fn privacy_notes(&self) -> Vec<String> {
        let rows: Vec<&PrivacyRow> = self
            .sites
            .iter()
            .filter_map(|row| row.privacy.as_ref())
            .collect();
        let Some(first) = rows.first() else {
            return vec!["NOT PRIVATE: what the sites sent was neither clipped nor noised; for simulations only.".into()];
        };
        let range = |pick: fn(&PrivacyRow) -> f64| {
            let least = rows
                .iter()
                .map(|row| pick(row))
                .fold(f64::INFINITY, f64::min);
            let most = rows.iter().map(|row| pick(row)).fold(0.0, f64::max);
            (least, most)
        };
        let ((e0, e1), (d0, d1)) = (range(|row| row.epsilon), range(|row| row.delta));
        let ((s0, s1), (q0, q1)) = (
            range(|row| row.noise_multiplier),
            range(|row| row.sampling_rate),
        );
        let units: std::collections::BTreeSet<&str> =
            rows.iter().map(|row| row.unit.as_str()).collect();
        let units = units.into_iter().collect::<Vec<_>>().join(" or ");
        if first.unit == "site" {
            return self.site_notes(first);
        }
        let mut notes = vec![format!(
            "\u{3b5} {e0:.2} to {e1:.2} at \u{3b4} {d0:.1e} to {d1:.1e}; unit {units}, adjacency {}, Poisson-subsampled \
             Gaussian, noise multiplier {s0:.2} to {s1:.2}, sampling rate {q0:.3} to {q1:.3}, accountant PLD \
             (cross-check RDP in privacy.csv); scope: the updates of all rounds.",
            first.adjacency
        )];
        let conditional: Vec<&str> = rows
            .iter()
            .filter(|row| row.conditional_on_preprocessing)
            .map(|row| row.site.as_str())
            .collect();
        if !conditional.is_empty() {
            let whose = if conditional.len() == self.sites.len() {
                String::new()
            } else {
                format!(" at {}", conditional.join(", "))
            };
            notes.push(format!(
                "Conditional on preprocessing{whose}: scaling and imputation were fitted on the training part outside \u{3b5}."
            ));
        }
        notes.push(
            "Not private: the same federation without noise; local: trained alone without noise, nothing leaves."
                .into(),
        );
        if rows
            .iter()
            .any(|row| row.randomness == Randomness::SimulationSeeded)
        {
            notes.push(SIMULATION.into());
        }
        notes
    }

    /// What is guaranteed to a whole site, and what is not.
    fn site_notes(&self, row: &PrivacyRow) -> Vec<String> {
        let everybody = row.against == Against::Everybody.to_string();
        let (kind, whom) = if everybody {
            (
                "all of the noise in every update, local",
                "the server, the other sites and everybody after them".to_owned(),
            )
        } else {
            (
                "a share of the noise in every update, distributed",
                format!(
                    "other sites, one of them curious, and who gets the model ({}); NOT against the server, which sees \
                     single updates as long as there is no secure aggregation",
                    row.against
                ),
            )
        };
        let mut notes = vec![
            format!(
                "\u{3b5} {:.2} at \u{3b4} {:.1e}; unit site (the part of one whole institution; NOT a claim about single \
                 patients), adjacency {}, Gaussian on the clipped update of every round, all sites take part (no \
                 amplification), noise multiplier {:.2}, accountant {} (cross-check RDP in privacy.csv); {kind}; \
                 against {whom}; scope: the updates of all rounds.",
                row.epsilon,
                row.delta,
                row.adjacency,
                row.noise_multiplier,
                row.accountant.to_uppercase(),
            ),
            "Not private: the same federation without clip and noise; local: trained alone, nothing leaves.".into(),
        ];
        if self.sites.len() < FEW_SITES {
            notes.push(format!(
                "WARNING: {} sites are few to hide one in: below {FEW_SITES}, the noise drowns what the others learned.",
                self.sites.len()
            ));
        }
        if row.randomness == Randomness::SimulationSeeded {
            notes.push(SIMULATION.into());
        }
        notes
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.privacy_notes();
        if self.sites.iter().any(|row| row.origin == "simulated") {
            notes.push(
                "Cohorts marked (simulated) are generated; no patient is behind them.".into(),
            );
        }
        if self.sites.iter().any(|row| !row.stayed.is_empty()) {
            notes.push(format!(
                "A group held by fewer than {} sites stays at its site and is never sent.",
                self.minimum_holders
            ));
        }
        notes.push(
            "Difference: federated minus local on the site's test part, one seed; interval: patient \
             bootstrap with both models fixed, so it does not cover the spread over seeds."
                .into(),
        );
        notes.push(format!(
            "{} rounds, {} down, {} up, {:.1} s",
            self.rounds,
            bytes(self.bytes_down),
            bytes(self.bytes_up),
            self.seconds
        ));
        notes.push(format!("model {}", self.final_model_sha256));
        notes
    }
}

const SIMULATION: &str =
    "SIMULATION: seeded noise can be repeated by anybody who has the seed and protects nobody.";

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "undefined".into(), |value| format!("{value:.3}"))
}

fn difference(row: &SiteRow) -> String {
    match (row.difference, row.interval) {
        (Some(value), Some([low, high])) => format!("{value:+.3} [{low:+.3}, {high:+.3}]"),
        (Some(value), None) => format!("{value:+.3}"),
        (None, _) => "undefined".into(),
    }
}

fn shared(row: &SiteRow) -> String {
    let kind = |group: &GroupName| {
        let text = group.as_str();
        text.split('/').next().unwrap_or(text).to_owned()
    };
    let list = |groups: &[GroupName]| groups.iter().map(kind).collect::<Vec<_>>().join(", ");
    if row.stayed.is_empty() {
        list(&row.shared)
    } else {
        format!("{}; {} local", list(&row.shared), list(&row.stayed))
    }
}

/// Bytes in binary units.
#[must_use]
pub fn bytes(count: u64) -> String {
    let mebibytes = count as f64 / f64::from(1 << 20);
    if mebibytes < 1024.0 {
        format!("{mebibytes:.1} MiB")
    } else {
        format!("{:.2} GiB", mebibytes / 1024.0)
    }
}

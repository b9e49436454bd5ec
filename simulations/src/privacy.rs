//! `consilium privacy`: what a plan or a list of events costs, and which plan meets a target.

use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use consilium_ops::{ExitCode, OperatorError};
use dp_rs::accounting::calibration::{self, Calibrated, Target};
use dp_rs::accounting::{Accountant, AccountingError, Guarantee, Method, Profile};
use dp_rs::adjacency::Adjacency;
use dp_rs::event::{Event, InvalidEvent, Mechanism, Repeated};
use serde::Serialize;

/// Which accountants answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Accountants {
    /// Privacy loss distributions, the tight one.
    Pld,
    /// Renyi divergences.
    Rdp,
    /// Loss distributions, with Renyi divergences as the cross-check.
    #[default]
    Both,
}

/// Whose presence is protected: what is sampled and clipped as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// All records of a patient at one site.
    #[default]
    Patient,
    /// One record; a patient with several is not protected as a person.
    Record,
    /// The whole data of a site.
    Site,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Patient => "patient",
            Self::Record => "record",
            Self::Site => "site",
        }
    }
}

/// `consilium privacy epsilon`.
#[derive(Clone, Debug, clap::Args)]
pub struct EpsilonArguments {
    /// Standard deviation of the noise / clip norm.
    #[arg(long, required_unless_present = "events")]
    pub noise_multiplier: Option<f64>,
    /// Probability that a unit is in a step's batch; 1 for all of them.
    #[arg(long, required_unless_present = "events")]
    pub sampling_rate: Option<f64>,
    /// Number of noisy steps: rounds times local steps, failed rounds included.
    #[arg(long, required_unless_present = "events")]
    pub steps: Option<u64>,
    /// Probability that the guarantee may fail; at most one over ten times the number of units.
    #[arg(long)]
    pub delta: f64,
    /// Which data sets are neighbours: add-remove, zero-out or replace-one. Add-remove when left out;
    /// with --events, what the entries say.
    #[arg(long)]
    pub adjacency: Option<Adjacency>,
    /// Which accountants answer.
    #[arg(long, value_enum, default_value_t)]
    pub accountant: Accountants,
    /// Records are sampled and clipped one by one, and a patient has at most so many of them.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub records_per_patient: Option<u32>,
    /// Whose presence is protected.
    #[arg(long, value_enum, default_value_t)]
    pub unit: Unit,
    /// JSON file with a list of `{"event": {"mechanism": ...}, "count": n, "adjacency": ...}`.
    #[arg(long, conflicts_with_all = ["noise_multiplier", "sampling_rate", "steps", "records_per_patient"])]
    pub events: Option<PathBuf>,
}

/// `consilium privacy calibrate`: exactly one of noise, rate and steps is left out and solved for.
#[derive(Clone, Debug, clap::Args)]
pub struct CalibrateArguments {
    /// Epsilon to stay at or below.
    #[arg(long)]
    pub epsilon: f64,
    /// Probability that the guarantee may fail; at most one over ten times the number of units.
    #[arg(long)]
    pub delta: f64,
    /// Probability that a unit is in a step's batch; the largest one when left out.
    #[arg(long)]
    pub sampling_rate: Option<f64>,
    /// Number of noisy steps; the most when left out.
    #[arg(long)]
    pub steps: Option<u64>,
    /// Standard deviation of the noise / clip norm; the smallest one when left out.
    #[arg(long)]
    pub noise_multiplier: Option<f64>,
    /// Which data sets are neighbours: add-remove, zero-out or replace-one.
    #[arg(long, default_value_t = Adjacency::AddRemove)]
    pub adjacency: Adjacency,
    /// Which accountant the target is for; both means loss distributions, cross-checked.
    #[arg(long, value_enum, default_value_t)]
    pub accountant: Accountants,
    /// Whose presence is protected.
    #[arg(long, value_enum, default_value_t)]
    pub unit: Unit,
}

/// What a ledger costs.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// Probability that the guarantee may fail.
    pub delta: f64,
    /// Which data sets are neighbours.
    pub adjacency: Adjacency,
    /// Whose presence is protected.
    pub unit: Unit,
    /// What was accounted for.
    pub ledger: Vec<Repeated>,
    /// By loss distributions; absent when not asked for, or when only Renyi bounds are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pld: Option<Guarantee>,
    /// By Renyi divergences; absent when not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rdp: Option<Guarantee>,
}

/// A plan that meets a target.
#[derive(Clone, Debug, Serialize)]
pub struct Calibration {
    /// Epsilon that was asked for.
    pub target_epsilon: f64,
    /// Which of the next three was solved for.
    pub solved_for: &'static str,
    /// Standard deviation of the noise / clip norm.
    pub noise_multiplier: f64,
    /// Probability that a unit is in a step's batch.
    pub sampling_rate: f64,
    /// Number of noisy steps.
    pub steps: u64,
    /// What the plan costs.
    #[serde(flatten)]
    pub cost: Cost,
}

/// Accounts for a plan or a file of events.
///
/// # Errors
///
/// `privacy_out_of_range` (usage), `privacy_events_unreadable` and `privacy_not_accountable`
/// (configuration).
pub fn epsilon(arguments: &EpsilonArguments) -> Result<Cost, OperatorError> {
    let ledger = match &arguments.events {
        Some(file) => read_events(file)?,
        None => plan(arguments)?,
    };
    let adjacency = match (arguments.adjacency, ledger.first()) {
        (Some(adjacency), _) => adjacency,
        (None, Some(entry)) => entry.adjacency,
        (None, None) => Adjacency::AddRemove,
    };
    cost(
        ledger,
        arguments.delta,
        adjacency,
        arguments.unit,
        arguments.accountant,
    )
}

/// Solves for the one of noise multiplier, sampling rate and steps that is left out.
///
/// # Errors
///
/// `privacy_calibrate_one` (usage) unless exactly one is left out, `privacy_target_unreachable` (refused),
/// and as [`epsilon`].
pub fn calibrate(arguments: &CalibrateArguments) -> Result<Calibration, OperatorError> {
    let accountant = match arguments.accountant {
        Accountants::Rdp => Accountant::Rdp,
        Accountants::Pld | Accountants::Both => Accountant::Pld,
    };
    let adjacency = arguments.adjacency;
    let target = Target::new(arguments.epsilon, arguments.delta, adjacency)
        .map_err(refused)?
        .by(accountant);
    let ledger = |noise, rate, steps| -> Result<Vec<Repeated>, InvalidEvent> {
        Ok(vec![
            Event::poisson_gaussian(noise, rate)?.repeated(steps, adjacency),
        ])
    };
    let given = (
        arguments.noise_multiplier,
        arguments.sampling_rate,
        arguments.steps,
    );
    let value = |found: Result<Calibrated<f64>, _>| found.map(|c| c.value).map_err(refused);
    let (solved_for, noise, rate, steps) = match given {
        (None, Some(rate), Some(steps)) => {
            let found = calibration::noise_multiplier(target, |noise| ledger(noise, rate, steps));
            ("noise-multiplier", value(found)?, rate, steps)
        }
        (Some(noise), None, Some(steps)) => {
            let found = calibration::sampling_rate(target, |rate| ledger(noise, rate, steps));
            ("sampling-rate", noise, value(found)?, steps)
        }
        (Some(noise), Some(rate), None) => {
            let found = calibration::steps(target, |steps| ledger(noise, rate, steps));
            ("steps", noise, rate, found.map_err(refused)?.value)
        }
        _ => {
            return Err(usage(
                "privacy_calibrate_one",
                "exactly one of --noise-multiplier, --sampling-rate and --steps is solved for",
                "give the other two",
            ));
        }
    };
    let plan = ledger(noise, rate, steps).map_err(|error| refused(error.into()))?;
    Ok(Calibration {
        target_epsilon: arguments.epsilon,
        solved_for,
        noise_multiplier: noise,
        sampling_rate: rate,
        steps,
        cost: cost(
            plan,
            arguments.delta,
            adjacency,
            arguments.unit,
            arguments.accountant,
        )?,
    })
}

fn plan(arguments: &EpsilonArguments) -> Result<Vec<Repeated>, OperatorError> {
    let (Some(noise), Some(rate), Some(steps)) = (
        arguments.noise_multiplier,
        arguments.sampling_rate,
        arguments.steps,
    ) else {
        return Err(usage(
            "privacy_plan_incomplete",
            "noise multiplier, sampling rate and steps are needed together",
            "give all three, or --events FILE",
        ));
    };
    let event = match arguments.records_per_patient {
        Some(records) => Event::mixture_of_gaussians(noise, rate, records),
        None => Event::poisson_gaussian(noise, rate),
    };
    let event = event.map_err(|error| refused(error.into()))?;
    let adjacency = arguments.adjacency.unwrap_or(Adjacency::AddRemove);
    Ok(vec![event.repeated(steps, adjacency)])
}

fn read_events(file: &Path) -> Result<Vec<Repeated>, OperatorError> {
    let unreadable = |message: String, location: String| {
        OperatorError::configuration(
            "privacy_events_unreadable",
            message,
            "write a JSON list of {\"event\": {\"mechanism\": ...}, \"count\": n, \"adjacency\": ...}",
        )
        .at(location)
    };
    let text = std::fs::read_to_string(file)
        .map_err(|error| unreadable(error.to_string(), file.display().to_string()))?;
    serde_json::from_str(&text).map_err(|error| {
        let place = format!("{}:{}:{}", file.display(), error.line(), error.column());
        unreadable(error.to_string(), place)
    })
}

fn cost(
    ledger: Vec<Repeated>,
    delta: f64,
    adjacency: Adjacency,
    unit: Unit,
    accountants: Accountants,
) -> Result<Cost, OperatorError> {
    let profile = Profile::of(&ledger, adjacency).map_err(refused)?;
    let by = |accountant| profile.epsilon_by(accountant, delta);
    let pld = match (accountants, by(Accountant::Pld)) {
        (Accountants::Rdp, _) => None,
        // Renyi divergences answer as well, so that nothing is left unsaid.
        (Accountants::Both, Err(AccountingError::NoLossDistribution)) => None,
        (_, answer) => Some(answer.map_err(refused)?),
    };
    let rdp = match accountants {
        Accountants::Pld => None,
        Accountants::Rdp | Accountants::Both => Some(by(Accountant::Rdp).map_err(refused)?),
    };
    Ok(Cost {
        delta,
        adjacency,
        unit,
        ledger,
        pld,
        rdp,
    })
}

fn usage(code: &str, message: impl Into<String>, hint: &str) -> OperatorError {
    OperatorError::new(ExitCode::Usage, code, message, hint)
}

fn refused(error: AccountingError) -> OperatorError {
    let message = error.to_string();
    match error {
        AccountingError::Delta(_) | AccountingError::Epsilon(_) | AccountingError::Event(_) => {
            usage(
                "privacy_out_of_range",
                message,
                "see the help of the command",
            )
        }
        AccountingError::Unreachable { .. } => OperatorError::new(
            ExitCode::Refused,
            "privacy_target_unreachable",
            message,
            "choose another target or plan",
        ),
        _ => OperatorError::configuration(
            "privacy_not_accountable",
            message,
            "account for one adjacency at a time, by an accountant that knows every event",
        ),
    }
}

impl Cost {
    /// A table and the sentence that belongs beside any epsilon.
    pub fn to_text(&self) -> String {
        format!("{}\n\n{}", self.table(), self.sentence())
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["accountant", "epsilon", "delta", "how"]);
        for guarantee in self.pld.iter().chain(&self.rdp) {
            let (name, how) = method(guarantee.method);
            let row = [
                name,
                &number(guarantee.epsilon),
                &format!("{:e}", self.delta),
                &how,
            ];
            table.add_row(row);
        }
        table
    }

    fn sentence(&self) -> String {
        let Some(main) = self.pld.or(self.rdp) else {
            return String::new();
        };
        let check = match (self.pld, self.rdp) {
            (Some(_), Some(rdp)) => format!(", RDP cross-check {}", number(rdp.epsilon)),
            _ => String::new(),
        };
        let (name, how) = method(main.method);
        format!(
            "(eps, delta) = ({}, {:e}), unit {}, adjacency {}, mechanism {}, accountant {name} {how}{check}, noise \
             mode not part of this calculation, scope: the events above, fixed in advance; not covered: anything \
             else that is released, such as metrics, counts or other runs on the same {}s.",
            number(main.epsilon),
            self.delta,
            self.unit.name(),
            self.adjacency,
            self.mechanisms(),
            self.unit.name(),
        )
    }

    fn mechanisms(&self) -> String {
        let each: Vec<_> = self.ledger.iter().map(mechanism).collect();
        each.join(" + ")
    }
}

impl Calibration {
    /// The plan, and what it costs.
    pub fn to_text(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let solved = |name| {
            if self.solved_for == name {
                "solved for"
            } else {
                "given"
            }
        };
        // In full: a rounded value might miss the target.
        let noise = self.noise_multiplier.to_string();
        let rate = self.sampling_rate.to_string();
        table.add_row(["noise multiplier", &noise, solved("noise-multiplier")]);
        table.add_row(["sampling rate", &rate, solved("sampling-rate")]);
        table.add_row(["steps", &self.steps.to_string(), solved("steps")]);
        table.add_row(["epsilon", &number(self.target_epsilon), "target"]);
        format!("{table}\n\n{}", self.cost.to_text())
    }
}

/// Rounded up, never down: a printed epsilon is a promise.
fn number(epsilon: f64) -> String {
    if epsilon.is_infinite() {
        return "infinity".into();
    }
    format!("{:.4}", (epsilon * 1e4).ceil() / 1e4)
}

fn method(method: Method) -> (&'static str, String) {
    match method {
        Method::Pld { mesh: Some(mesh) } => ("PLD", format!("h={mesh:.1e} connect-the-dots")),
        Method::Pld { mesh: None } => ("PLD", "exact".into()),
        Method::Rdp {
            order,
            order_at_end_of_grid: false,
        } => ("RDP", format!("order {order}")),
        Method::Rdp { order, .. } => (
            "RDP",
            format!("order {order}, the end of the list: other orders could give less"),
        ),
    }
}

fn mechanism(entry: &Repeated) -> String {
    let times = entry.count;
    match entry.event.mechanism() {
        Mechanism::PoissonGaussian {
            noise_multiplier,
            sampling_rate,
        } => format!(
            "Poisson-subsampled Gaussian, q = {sampling_rate}, sigma = {noise_multiplier}, T = {times}"
        ),
        Mechanism::MixtureOfGaussians {
            noise_multiplier,
            sampling_rate,
            max_records,
        } => format!(
            "Poisson-subsampled Gaussian over records, at most {max_records} of a patient, q = {sampling_rate}, \
             sigma = {noise_multiplier}, T = {times}"
        ),
        other => {
            let name = serde_json::to_value(other).unwrap_or_default();
            let name = name["mechanism"].as_str().unwrap_or("unknown").to_owned();
            format!("{name}, {times} times")
        }
    }
}

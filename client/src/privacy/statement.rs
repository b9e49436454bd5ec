//! What a site has spent, with everything that must be said beside a number.

use consilium_core::StudyId;
use dp_rs::accounting::{Guarantee, Method};
use dp_rs::adjacency::Adjacency;
use dp_rs::event::Repeated;
use dp_rs::ledger::{Account, Moment};
use dp_rs::noise::NoiseLevel;
use dp_rs::plan::Unit;
use dp_rs::release::Against;
use serde::Serialize;
use serde_json::Value;

use super::Refusal;

/// One line of `consilium-site privacy show`: a study, or everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Statement {
    /// The study; nothing for the total of all.
    pub study: Option<StudyId>,
    /// What is protected.
    pub unit: Option<Unit>,
    /// Which data sets are neighbours.
    pub adjacency: Option<Adjacency>,
    /// Probability with which the guarantee may fail.
    pub delta: f64,
    /// Epsilon of everything that was released; `"infinity"` when nothing is guaranteed.
    pub spent: Value,
    /// Epsilon that may be spent; nothing where nobody has set it.
    pub agreed: Option<f64>,
    /// Epsilon between the two. Epsilons do not add up: it may pay for more than its difference says.
    pub remaining: Option<f64>,
    /// How `spent` was found: the accountant, its grid or order.
    pub accountant: Option<Method>,
    /// The same by Renyi divergences, as a check.
    pub rdp_cross_check: Option<Value>,
    /// From whom it protects.
    pub against: Against,
    /// How far the noise can be trusted.
    pub noise_levels: Vec<NoiseLevel>,
    /// Entries of the ledger.
    pub releases: usize,
    /// When the first of them was written, in UTC.
    pub first: Option<Moment>,
    /// When the last of them was written.
    pub last: Option<Moment>,
    /// The mechanisms, equal ones merged.
    pub events: Vec<Repeated>,
    /// `simulation` when any randomness came from a seed: the numbers then protect nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stamp: Option<&'static str>,
    /// `conditional on preprocessing` when scaling was computed from the same patients outside of these numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditional: Option<&'static str>,
}

impl Statement {
    /// What `account` amounts to at `delta`, beside what was `agreed`.
    ///
    /// # Errors
    /// [`Refusal::Accounting`].
    pub fn of(
        study: Option<StudyId>,
        account: &Account,
        delta: f64,
        agreed: Option<f64>,
    ) -> Result<Self, Refusal> {
        let spending = account.spending(delta)?;
        let epsilon = spending.map_or(0.0, |spending| spending.epsilon());
        let (unit, adjacency) = account.protects().unzip();
        let first_and_last = account.period().unzip();
        let value = |guarantee: Guarantee| number(guarantee.epsilon);
        Ok(Self {
            study,
            unit,
            adjacency,
            delta,
            spent: number(epsilon),
            agreed,
            remaining: agreed.map(|agreed| (agreed - epsilon).max(0.0)),
            accountant: spending.map(|spending| spending.guarantee.method),
            rdp_cross_check: spending.map(|spending| value(spending.cross_check)),
            against: account.against(),
            noise_levels: account.noise_levels().to_vec(),
            releases: account.releases(),
            first: first_and_last.0,
            last: first_and_last.1,
            events: account.events().to_vec(),
            stamp: account.is_simulated().then_some(SIMULATION),
            conditional: None,
        })
    }

    /// The same, of patients from whom scaling was computed as well, if it was.
    #[must_use]
    pub fn conditional_on_preprocessing(self, fitted: bool) -> Self {
        Self {
            conditional: fitted.then_some(PREPROCESSING),
            ..self
        }
    }

    /// The same for a site that also sent updates without protection: nothing is guaranteed any more.
    #[must_use]
    pub fn without_protection(self) -> Self {
        Self {
            spent: number(f64::INFINITY),
            remaining: self.remaining.map(|_| 0.0),
            rdp_cross_check: self.rdp_cross_check.map(|_| number(f64::INFINITY)),
            ..self
        }
    }

    /// The sentence for a report.
    #[must_use]
    pub fn text(&self) -> String {
        let name = match &self.study {
            Some(study) => format!("study {study}"),
            None => "all studies".into(),
        };
        let limit = match (self.agreed, self.remaining) {
            (Some(agreed), Some(remaining)) => {
                format!("agreed epsilon {agreed}, remaining {remaining:.4}")
            }
            _ => "no budget set".into(),
        };
        let (Some(unit), Some(adjacency), Some(method)) =
            (self.unit, self.adjacency, self.accountant)
        else {
            return format!(
                "{name}: (epsilon, delta) = ({}, {:e}), {limit}; no entry in the ledger\n",
                shown(&self.spent),
                self.delta
            );
        };
        let accountant = match method {
            Method::Pld { mesh: Some(mesh) } => format!("PLD h={mesh:.1e} connect-the-dots"),
            Method::Pld { mesh: None } => "PLD exact".into(),
            Method::Rdp { order, .. } => format!("RDP order {order}"),
        };
        let noise: Vec<String> = (self.noise_levels.iter())
            .map(|level| format!("{level:?}").to_lowercase())
            .collect();
        let steps: u64 = self.events.iter().map(|events| events.count).sum();
        let period = match (self.first, self.last) {
            (Some(first), Some(last)) => format!(" from {first} to {last}"),
            _ => String::new(),
        };
        let stamp = match self.stamp {
            Some(_) => "\n  SIMULATION: randomness came from a seed, these numbers protect nobody",
            None => "",
        };
        let against = match self.against {
            Against::Everybody => String::new(),
            against => format!(
                "\n  protects from {against}; NOT from the server, which sees single updates"
            ),
        };
        let conditional = match self.conditional {
            Some(_) => {
                "\n  CONDITIONAL ON PREPROCESSING: scaling was computed from the patients outside of these numbers"
            }
            None => "",
        };
        format!(
            "{name}: (epsilon, delta) = ({}, {:e}), {limit}\n  unit {unit}, adjacency {adjacency}, accountant \
             {accountant}, RDP cross-check {}, noise level {}\n  scope: {} releases{period}, {steps} mechanisms in all; not \
             covered: what left this site by other ways than these studies{against}{conditional}{stamp}\n",
            shown(&self.spent),
            self.delta,
            self.rdp_cross_check.as_ref().map_or("none".into(), shown),
            noise.join(" and "),
            self.releases,
        )
    }
}

/// JSON has no infinity.
pub(super) fn number(epsilon: f64) -> Value {
    if epsilon.is_finite() {
        epsilon.into()
    } else {
        "infinity".into()
    }
}

fn shown(number: &Value) -> String {
    match number.as_f64() {
        Some(epsilon) => format!("{epsilon:.4}"),
        None => "infinity".into(),
    }
}

/// Stands beside every number that seeded randomness went into.
pub const SIMULATION: &str = "simulation";

/// Stands beside a number of patients from whom scaling was computed outside of it.
pub const PREPROCESSING: &str = "conditional on preprocessing";

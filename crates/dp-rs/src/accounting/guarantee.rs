//! The answers of the accountants.

use serde::{Serialize, Serializer};

use super::pld::LossProfile;
use super::rdp::{RenyiCurve, default_orders};
use super::{AccountingError, check_delta};
use crate::adjacency::Adjacency;
use crate::event::Repeated;

/// Which way of counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accountant {
    /// Privacy loss distributions.
    Pld,
    /// Renyi divergences.
    Rdp,
}

/// How an answer was found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "accountant", rename_all = "kebab-case")]
pub enum Method {
    /// Loss distributions by connect-the-dots on a grid; pessimistic.
    Pld {
        /// Width of the grid. `None`: exact profile of one Gaussian, or no grid was needed.
        mesh: Option<f64>,
    },
    /// Renyi divergences, improved conversion.
    Rdp {
        /// The best order.
        order: f64,
        /// The best order is the first or last that was tried: other orders could give less.
        order_at_end_of_grid: bool,
    },
}

/// A privacy guarantee, with everything that must be said with it except the unit and the scope, which
/// only the caller knows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Guarantee {
    /// Zero or larger; `"infinity"` in files when nothing is guaranteed.
    #[serde(serialize_with = "number_or_infinity")]
    pub epsilon: f64,
    /// From 0 to 1.
    pub delta: f64,
    /// Which data sets are neighbours.
    pub adjacency: Adjacency,
    /// How it was computed.
    #[serde(flatten)]
    pub method: Method,
}

/// JSON has no infinity, and a null would look like a missing answer.
fn number_or_infinity<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_infinite() {
        serializer.serialize_str("infinity")
    } else {
        serializer.serialize_f64(*value)
    }
}

/// The privacy of a ledger at every epsilon and delta.
#[derive(Clone, Debug)]
pub struct Profile {
    adjacency: Adjacency,
    ledger: Vec<Repeated>,
    /// `None` when only Renyi bounds are known of some event.
    losses: Option<LossProfile>,
}

impl Profile {
    /// Accounts for every entry; all must be stated for `adjacency`.
    ///
    /// # Errors
    ///
    /// [`AccountingError::MixedAdjacency`] for an entry of another relation, and
    /// [`AccountingError::Adjacency`] for a mechanism that has no guarantee under it.
    pub fn of(ledger: &[Repeated], adjacency: Adjacency) -> Result<Self, AccountingError> {
        if let Some(other) = ledger.iter().find(|entry| entry.adjacency != adjacency) {
            return Err(AccountingError::MixedAdjacency {
                first: adjacency,
                second: other.adjacency,
            });
        }
        let losses = match LossProfile::of(ledger) {
            Ok(losses) => Some(losses),
            Err(AccountingError::NoLossDistribution) => {
                // Entries behind the first such event have not been looked at.
                RenyiCurve::of(ledger, &[2.0])?;
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            adjacency,
            ledger: ledger.to_vec(),
            losses,
        })
    }

    /// The best guarantee at `delta`: by loss distributions, or by Renyi divergences where those are
    /// all that is known.
    ///
    /// # Errors
    ///
    /// [`AccountingError::Delta`] unless `delta` is from 0 to 1.
    pub fn epsilon(&self, delta: f64) -> Result<Guarantee, AccountingError> {
        match self.epsilon_by(Accountant::Pld, delta) {
            Err(AccountingError::NoLossDistribution) => self.epsilon_by(Accountant::Rdp, delta),
            // Also for a delta that is too small for a grid.
            Ok(answer) if answer.epsilon.is_infinite() => self.epsilon_by(Accountant::Rdp, delta),
            answer => answer,
        }
    }

    /// The guarantee at `delta` by one accountant.
    ///
    /// # Errors
    ///
    /// [`AccountingError::Delta`] unless `delta` is from 0 to 1, and
    /// [`AccountingError::NoLossDistribution`].
    pub fn epsilon_by(
        &self,
        accountant: Accountant,
        delta: f64,
    ) -> Result<Guarantee, AccountingError> {
        check_delta(delta)?;
        let (epsilon, method) = match accountant {
            Accountant::Pld => {
                let losses = self.losses.as_ref();
                let at = losses
                    .ok_or(AccountingError::NoLossDistribution)?
                    .epsilon(delta);
                (at.value, Method::Pld { mesh: at.mesh })
            }
            Accountant::Rdp => {
                let renyi = self.renyi()?;
                let best = renyi.epsilon(delta);
                let method = Method::Rdp {
                    order: best.order,
                    order_at_end_of_grid: renyi.is_at_the_end(best),
                };
                (best.epsilon, method)
            }
        };
        Ok(self.guarantee(epsilon, delta, method))
    }

    /// The guarantee at `epsilon`.
    ///
    /// # Errors
    ///
    /// [`AccountingError::Epsilon`] unless `epsilon` is finite and not negative.
    pub fn delta(&self, epsilon: f64) -> Result<Guarantee, AccountingError> {
        if !(epsilon.is_finite() && epsilon >= 0.0) {
            return Err(AccountingError::Epsilon(epsilon));
        }
        let (delta, method) = match &self.losses {
            Some(losses) => {
                let at = losses.delta(epsilon);
                (at.value, Method::Pld { mesh: at.mesh })
            }
            None => {
                let (delta, order) = self.renyi()?.delta_and_order(epsilon);
                let method = Method::Rdp {
                    order,
                    order_at_end_of_grid: false,
                };
                (delta, method)
            }
        };
        Ok(self.guarantee(epsilon, delta, method))
    }

    /// Loss distributions; `None` when only Renyi bounds are known of some event.
    pub fn losses(&self) -> Option<&LossProfile> {
        self.losses.as_ref()
    }

    /// Renyi divergences at the default orders.
    ///
    /// # Errors
    ///
    /// None for a ledger that [`Profile::of`] accepted.
    pub fn renyi(&self) -> Result<RenyiCurve, AccountingError> {
        RenyiCurve::of(&self.ledger, &default_orders())
    }

    fn guarantee(&self, epsilon: f64, delta: f64, method: Method) -> Guarantee {
        Guarantee {
            epsilon,
            delta,
            adjacency: self.adjacency,
            method,
        }
    }
}

impl std::fmt::Display for Guarantee {
    /// The sentence of a report, without unit and scope; epsilon is rounded up, never down.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            delta, adjacency, ..
        } = self;
        let epsilon = (self.epsilon * 1e4).ceil() / 1e4;
        write!(
            f,
            "(eps, delta) = ({epsilon:.4}, {delta:e}), adjacency {adjacency}, accountant "
        )?;
        match self.method {
            Method::Pld { mesh: Some(mesh) } => write!(f, "PLD h={mesh:.1e} connect-the-dots"),
            Method::Pld { mesh: None } => write!(f, "PLD exact"),
            Method::Rdp {
                order,
                order_at_end_of_grid,
            } => {
                let end = if order_at_end_of_grid {
                    " (end of the grid)"
                } else {
                    ""
                };
                write!(f, "RDP order {order}{end}")
            }
        }
    }
}

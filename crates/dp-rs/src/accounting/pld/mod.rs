//! Privacy loss distributions: the tight accountant, and the default.
//!
//! Both directions of every step are discretised so that the result is never optimistic
//! (`discretise`), composed by Fourier transforms (`compose`), and the mesh is halved until the answer
//! stands (`refine`). Gaussian releases without sampling are merged into one before anything else, and a
//! ledger of nothing else is answered by the exact profile.

mod compose;
mod discrete;
mod discretise;
mod distribution;
mod refine;

pub use discrete::discrete_gaussian_masses;

use super::dominating::{Loss, dominating};
use super::{AccountingError, common_adjacency, gaussian};
use crate::event::Repeated;
use refine::Refinement;

/// The worst cases of a ledger, ready to be composed.
#[derive(Clone, Debug)]
pub struct LossProfile {
    /// Equal events merged, Gaussians merged into one `Normal`.
    steps: Vec<(Loss, u64)>,
    unbounded: bool,
    mesh: Option<f64>,
}

/// A number and how it was computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AtMesh {
    /// Epsilon or delta.
    pub value: f64,
    /// Width of the grid of losses; `None` when the exact profile of a Gaussian was used.
    pub mesh: Option<f64>,
}

/// Below this delta a grid is not answered from: what is cut off at its ends is no longer small beside it, and
/// measured answers were off by factors from 1e-28 on.
pub const SMALLEST_DELTA: f64 = 1e-25;

impl LossProfile {
    /// Prepares a ledger.
    ///
    /// # Errors
    ///
    /// [`AccountingError::MixedAdjacency`], [`AccountingError::Adjacency`], and
    /// [`AccountingError::NoLossDistribution`] for events of which only Renyi bounds are known.
    pub fn of(ledger: &[Repeated]) -> Result<Self, AccountingError> {
        common_adjacency(ledger)?;
        let mut steps: Vec<(Loss, u64)> = Vec::new();
        let mut squared_mu = 0.0;
        let mut unbounded = false;
        for entry in ledger.iter().filter(|entry| entry.count > 0) {
            match dominating(&entry.event, entry.adjacency)? {
                Loss::None => {}
                Loss::Unbounded => unbounded = true,
                Loss::Normal { mu } => squared_mu += entry.count as f64 * mu * mu,
                Loss::Curve(_) => return Err(AccountingError::NoLossDistribution),
                loss => match steps.iter_mut().find(|(known, _)| *known == loss) {
                    Some((_, count)) => *count = count.saturating_add(entry.count),
                    None => steps.push((loss, entry.count)),
                },
            }
        }
        if squared_mu > 0.0 {
            let mu = squared_mu.sqrt();
            steps.push((Loss::Normal { mu }, 1));
        }
        Ok(Self {
            steps,
            unbounded,
            mesh: None,
        })
    }

    /// Fixes the width of the grid instead of refining it, and never uses the exact profile.
    #[must_use]
    pub fn with_mesh(mut self, mesh: f64) -> Self {
        self.mesh = Some(mesh);
        self
    }

    /// Smallest epsilon for `delta`; on a grid, the largest loss of all for a delta below [`SMALLEST_DELTA`].
    pub fn epsilon(&self, delta: f64) -> AtMesh {
        if self.unbounded {
            return AtMesh::exact(if delta >= 1.0 { 0.0 } else { f64::INFINITY });
        }
        match (&self.steps[..], self.mesh) {
            ([], _) => AtMesh::exact(0.0),
            (_, _) if delta >= 1.0 => AtMesh::exact(0.0),
            ([(Loss::Normal { mu }, 1)], None) => AtMesh::exact(gaussian::epsilon(*mu, delta)),
            _ if delta < SMALLEST_DELTA => AtMesh::exact(self.largest_loss()),
            (_, Some(mesh)) => Refinement::for_delta(&self.steps, delta).epsilon_at(mesh, delta),
            (_, None) => Refinement::for_delta(&self.steps, delta).epsilon(delta),
        }
    }

    /// Smallest delta for `epsilon`; on a grid, at least [`SMALLEST_DELTA`] below the largest loss of all.
    pub fn delta(&self, epsilon: f64) -> AtMesh {
        if self.unbounded {
            return AtMesh::exact(1.0);
        }
        let mut found = match (&self.steps[..], self.mesh) {
            ([], _) => return AtMesh::exact((-epsilon.exp_m1()).max(0.0)),
            ([(Loss::Normal { mu }, 1)], None) => {
                return AtMesh::exact(gaussian::delta(*mu, epsilon));
            }
            (_, Some(mesh)) => {
                Refinement::for_epsilon(&self.steps, epsilon).delta_at(mesh, epsilon)
            }
            (_, None) => Refinement::for_epsilon(&self.steps, epsilon).delta(epsilon),
        };
        if epsilon < self.largest_loss() {
            found.value = found.value.max(SMALLEST_DELTA);
        }
        found
    }

    /// The ratio of sensitivity to standard deviation, when the ledger is one Gaussian release.
    pub fn exact_mu(&self) -> Option<f64> {
        match (&self.steps[..], self.unbounded) {
            ([], false) => Some(0.0),
            ([(Loss::Normal { mu }, 1)], false) => Some(*mu),
            _ => None,
        }
    }

    /// Points `(epsilon, delta)` of the profile, epsilon increasing from zero, until delta is below
    /// `smallest_delta`.
    pub fn curve(&self, smallest_delta: f64) -> Vec<(f64, f64)> {
        const POINTS: u32 = 1000;
        let end = self.epsilon(smallest_delta);
        let last = end.value;
        let at = |k: u32| last * f64::from(k) / f64::from(POINTS);
        if self.unbounded || last.is_infinite() {
            return vec![(0.0, 1.0), (f64::MAX, 1.0)];
        }
        if last == 0.0 {
            let delta = self.delta(0.0).value;
            return vec![(0.0, delta), (0.0, delta)];
        }
        let epsilons: Vec<f64> = (0..=POINTS).map(at).collect();
        let deltas = match (&self.steps[..], self.mesh) {
            ([(Loss::Normal { mu }, 1)], None) => {
                epsilons.iter().map(|e| gaussian::delta(*mu, *e)).collect()
            }
            _ => {
                let mesh = end.mesh.or(self.mesh);
                let refinement = Refinement::for_delta(&self.steps, smallest_delta);
                refinement.deltas_at(mesh.unwrap_or(1e-4), smallest_delta, &epsilons)
            }
        };
        epsilons.into_iter().zip(deltas).collect()
    }

    /// Epsilon at delta zero: finite only when every loss is bounded.
    fn largest_loss(&self) -> f64 {
        self.steps
            .iter()
            .map(|(loss, count)| match loss {
                Loss::Laplace { epsilon } => *count as f64 * epsilon,
                _ => f64::INFINITY,
            })
            .sum()
    }
}

impl AtMesh {
    fn exact(value: f64) -> Self {
        Self { value, mesh: None }
    }
}

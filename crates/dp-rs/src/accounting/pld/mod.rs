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

    /// Smallest epsilon for `delta`.
    pub fn epsilon(&self, delta: f64) -> AtMesh {
        if self.unbounded {
            return AtMesh::exact(if delta >= 1.0 { 0.0 } else { f64::INFINITY });
        }
        match (&self.steps[..], self.mesh) {
            ([], _) => AtMesh::exact(0.0),
            (_, _) if delta >= 1.0 => AtMesh::exact(0.0),
            ([(Loss::Normal { mu }, 1)], None) => AtMesh::exact(gaussian::epsilon(*mu, delta)),
            _ if delta == 0.0 => AtMesh::exact(self.largest_loss()),
            (_, Some(mesh)) => Refinement::for_delta(&self.steps, delta).epsilon_at(mesh, delta),
            (_, None) => Refinement::for_delta(&self.steps, delta).epsilon(delta),
        }
    }

    /// Smallest delta for `epsilon`.
    pub fn delta(&self, epsilon: f64) -> AtMesh {
        if self.unbounded {
            return AtMesh::exact(1.0);
        }
        match (&self.steps[..], self.mesh) {
            ([], _) => AtMesh::exact((-epsilon.exp_m1()).max(0.0)),
            ([(Loss::Normal { mu }, 1)], None) => AtMesh::exact(gaussian::delta(*mu, epsilon)),
            (_, Some(mesh)) => Refinement::for_epsilon(&self.steps).delta_at(mesh, epsilon),
            (_, None) => Refinement::for_epsilon(&self.steps).delta(epsilon),
        }
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

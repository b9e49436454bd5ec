//! How fine the grid has to be.

use super::AtMesh;
use super::compose::Composition;
use super::discretise::{Directions, Grid, discretise, loss_range, loss_variance};
use crate::accounting::dominating::Loss;

/// The grid adds at most this share to the standard deviation of the composed loss, if it may be so long.
const EXCESS_DEVIATION: f64 = 1e-5;
/// Coarsest grid, unless the losses spread over thousands.
const COARSEST: f64 = 1e-2;
/// Finest grid: losses are not known better.
const FINEST: f64 = 1e-11;
/// Points of one step's grid at the first try and at most.
const FIRST_POINTS: f64 = (1 << 18) as f64;
const MOST_POINTS: f64 = (1 << 21) as f64;
/// Points of the composed grid at most.
const MOST_COMPOSED: f64 = (1 << 22) as f64;
/// The grid is fine enough when halving it changes the answer by less than this share.
const STANDS: f64 = 1e-3;
/// Or by less than this, for epsilons.
const STANDS_ABSOLUTE: f64 = 2e-5;

/// Evaluates a ledger on grids of different width.
pub(super) struct Refinement<'a> {
    steps: &'a [(Loss, u64)],
    range: f64,
    variance: f64,
    count: f64,
    deviations: f64,
}

impl<'a> Refinement<'a> {
    /// For epsilon at `delta`: the mass outside the grids is a 1e-9th part of it.
    pub fn for_delta(steps: &'a [(Loss, u64)], delta: f64) -> Self {
        let count: f64 = steps.iter().map(|(_, n)| *n as f64).sum();
        // P[Z > z] <= exp(-z^2 / 2) / 2.
        Self::new(
            steps,
            (2.0 * (count.ln() - delta.ln() - 1e-9_f64.ln())).sqrt(),
        )
    }

    /// For delta at `epsilon`: the mass outside the grids is small beside it.
    pub fn for_epsilon(steps: &'a [(Loss, u64)], epsilon: f64) -> Self {
        let usual = Self::new(steps, 14.0);
        let rough = usual
            .delta_at((usual.range / 4096.0).max(FINEST), epsilon)
            .value;
        if rough < 1e-30 {
            // 1e-250 outside is enough for anything that a number can hold.
            return Self::new(steps, 34.0);
        }
        // The rough grid may be far above the answer.
        Self::for_delta(steps, rough * 1e-6)
    }

    fn new(steps: &'a [(Loss, u64)], deviations: f64) -> Self {
        let width = |loss: &Loss| {
            let (low, high) = loss_range(loss, deviations);
            high - low
        };
        Self {
            steps,
            range: steps
                .iter()
                .map(|(loss, _)| width(loss))
                .fold(0.0, f64::max),
            variance: steps
                .iter()
                .map(|(loss, n)| *n as f64 * loss_variance(loss))
                .sum(),
            count: steps.iter().map(|(_, n)| *n as f64).sum(),
            deviations,
        }
    }

    pub fn epsilon(&self, delta: f64) -> AtMesh {
        let allowed = |epsilon: f64| STANDS_ABSOLUTE.max(STANDS * epsilon);
        self.refine(allowed, |mesh| self.epsilon_at(mesh, delta))
    }

    pub fn delta(&self, epsilon: f64) -> AtMesh {
        // Near one a grid that is far too coarse looks settled; what is left of one is not.
        let allowed = |delta: f64| STANDS * delta.min(1.0 - delta);
        self.refine(allowed, |mesh| self.delta_at(mesh, epsilon))
    }

    pub fn epsilon_at(&self, mesh: f64, delta: f64) -> AtMesh {
        self.worse(mesh, |composition| composition.epsilon(delta))
    }

    pub fn delta_at(&self, mesh: f64, epsilon: f64) -> AtMesh {
        self.worse(mesh, |composition| composition.delta(epsilon))
    }

    /// Halves the grid until the answer stands or the arrays would be too long. Every grid gives a valid
    /// answer; the smallest is returned.
    fn refine(&self, allowed: impl Fn(f64) -> f64, at: impl Fn(f64) -> AtMesh) -> AtMesh {
        let mut mesh = self.first_mesh();
        let mut best = at(4.0 * mesh);
        loop {
            let finer = at(mesh);
            let change = best.value - finer.value;
            let previous = best.value;
            if finer.value <= best.value {
                best = finer;
            }
            if change.abs() <= allowed(previous) || previous.is_infinite() {
                return best;
            }
            mesh /= 2.0;
            let composed = 20.0 * self.variance.sqrt();
            if mesh < FINEST || self.range / mesh > MOST_POINTS || composed / mesh > MOST_COMPOSED {
                return best;
            }
        }
    }

    /// Splitting a mass between two grid points adds a variance of at most `mesh^2 / 4`, about
    /// `mesh^2 / 6` on average, in every step.
    fn first_mesh(&self) -> f64 {
        let wanted = (12.0 * EXCESS_DEVIATION * self.variance / self.count).sqrt();
        wanted
            .clamp(FINEST, COARSEST)
            .max(self.range / FIRST_POINTS)
            .max(20.0 * self.variance.sqrt() / FIRST_POINTS)
    }

    /// Delta at each of `epsilons`, none of which has a delta far below `smallest`.
    pub fn deltas_at(&self, mesh: f64, smallest: f64, epsilons: &[f64]) -> Vec<f64> {
        let mut worst = vec![0.0_f64; epsilons.len()];
        for composition in self.directions(mesh) {
            for (worst, delta) in worst.iter_mut().zip(composition.deltas(smallest, epsilons)) {
                *worst = worst.max(delta);
            }
        }
        worst
    }

    /// The larger of the two directions, each composed on its own.
    fn worse(&self, mesh: f64, value: impl Fn(&Composition) -> f64) -> AtMesh {
        let directions = self.directions(mesh);
        AtMesh {
            value: directions.iter().map(value).fold(0.0, f64::max),
            mesh: Some(mesh),
        }
    }

    /// One direction, or two when they differ.
    fn directions(&self, mesh: f64) -> Vec<Composition> {
        let grid = Grid {
            mesh,
            deviations: self.deviations,
        };
        let steps: Vec<(Directions, u64)> = self
            .steps
            .iter()
            .map(|(loss, count)| (discretise(loss, grid), *count))
            .collect();
        let symmetric = steps.iter().all(|(step, _)| step.add.is_none());
        let mut remove = Vec::with_capacity(steps.len());
        let mut add = Vec::with_capacity(steps.len());
        for (step, count) in steps {
            if !symmetric {
                add.push((step.add.unwrap_or_else(|| step.remove.clone()), count));
            }
            remove.push((step.remove, count));
        }
        let mut directions = vec![Composition::new(remove, mesh)];
        if !symmetric {
            directions.push(Composition::new(add, mesh));
        }
        directions
    }
}

//! The distribution of the privacy loss of one step on a grid, never smaller than the true one.

/// Probability masses at losses `first * mesh, (first + 1) * mesh, ...`, and the mass at infinity.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LossDistribution {
    pub mesh: f64,
    pub first: i64,
    pub masses: Vec<f64>,
    pub infinity: f64,
}

impl LossDistribution {
    pub fn empty(mesh: f64, first: i64, len: usize) -> Self {
        Self {
            mesh,
            first,
            masses: vec![0.0; len],
            infinity: 0.0,
        }
    }

    /// Loss at a position of [`Self::masses`].
    pub fn loss(&self, index: usize) -> f64 {
        (self.first + index as i64) as f64 * self.mesh
    }

    /// Divides so that the masses, with that at infinity, sum to one: removes quadrature round-off.
    pub fn normalise(&mut self) {
        let sum: f64 = self.masses.iter().sum();
        let factor = (1.0 - self.infinity) / sum;
        for mass in &mut self.masses {
            *mass *= factor;
        }
    }

    /// Adds an atom at any loss as two masses on the neighbouring grid points, keeping both the mass and
    /// the mass under the other distribution.
    pub fn add_atom(&mut self, loss: f64, mass: f64) {
        let below = (loss / self.mesh).floor();
        let excess = loss - below * self.mesh;
        let upper = mass * (-excess).exp_m1() / (-self.mesh).exp_m1();
        let index = (below as i64 - self.first) as usize;
        self.masses[index] += mass - upper;
        if upper > 0.0 {
            self.masses[index + 1] += upper;
        }
    }

    /// `ln E[exp(lambda loss)]` over the finite losses; any real `lambda`.
    pub fn log_moment(&self, lambda: f64) -> f64 {
        // Blocks are short enough that their powers neither overflow nor vanish.
        let block = (600.0 / (lambda.abs() * self.mesh)).clamp(1.0, 256.0) as usize;
        let ratio = (lambda * self.mesh).exp();
        let (mut top, mut sum) = (f64::NEG_INFINITY, 0.0);
        for (number, masses) in self.masses.chunks(block).enumerate() {
            let inner = masses
                .iter()
                .rev()
                .fold(0.0, |acc, mass| acc * ratio + mass);
            if inner == 0.0 {
                continue;
            }
            let term = inner.ln() + lambda * self.loss(number * block);
            if term > top {
                sum = sum * (top - term).exp() + 1.0;
                top = term;
            } else {
                sum += (term - top).exp();
            }
        }
        top + sum.ln()
    }
}

//! From a dominating pair to masses on a grid ("connect the dots", arXiv 2207.04380).
//!
//! In every cell between two neighbouring grid losses `a < b` the outcomes have some mass under each of
//! the two distributions. Both are kept by moving the mass to the two ends: the hockey-stick curve of
//! the result passes through the true one at every grid point and lies above it between them. The
//! shares of the ends are integrals of functions without sign, so that nothing cancels, however fine
//! the grid; differences of the profile would lose `1e-16 / mesh`.

use super::distribution::LossDistribution;
use crate::accounting::dominating::Loss;
use crate::accounting::pair::Pair;

/// A grid of losses, and how much of the noise it covers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    /// Distance of the points.
    pub mesh: f64,
    /// Standard deviations of the noise beyond which mass is counted as an infinite loss.
    pub deviations: f64,
}

/// The two orders of one step's pair.
#[derive(Clone, Debug)]
pub(crate) struct Directions {
    /// Unit present against unit absent.
    pub remove: LossDistribution,
    /// The reverse; `None` when it is the same.
    pub add: Option<LossDistribution>,
}

/// Nodes and weights on `[0, 1]` for short and for long pieces.
const SHORT: [(f64, f64); 3] = [
    (0.112_701_665_379_258_31, 0.277_777_777_777_777_8),
    (0.5, 0.444_444_444_444_444_4),
    (0.887_298_334_620_741_7, 0.277_777_777_777_777_8),
];
const LONG: [(f64, f64); 8] = [
    (0.019_855_071_751_231_856, 0.050_614_268_145_188_13),
    (0.101_666_761_293_186_64, 0.111_190_517_226_687_23),
    (0.237_233_795_041_835_5, 0.156_853_322_938_943_64),
    (0.408_282_678_752_175_1, 0.181_341_891_689_181),
    (0.591_717_321_247_825, 0.181_341_891_689_181),
    (0.762_766_204_958_164_5, 0.156_853_322_938_943_64),
    (0.898_333_238_706_813_4, 0.111_190_517_226_687_23),
    (0.980_144_928_248_768_1, 0.050_614_268_145_188_13),
];
/// Pieces up to this many [smooth steps](Pair::smooth_step) take the short rule.
const SHORT_PIECE: f64 = 0.2;
/// Longer pieces are cut to this many smooth steps.
const LONG_PIECE: f64 = 2.0;

/// Smallest and largest finite loss of a step.
pub(super) fn loss_range(loss: &Loss, deviations: f64) -> (f64, f64) {
    match loss {
        Loss::Pairs(pairs) => pairs
            .iter()
            .map(|(_, pair)| pair_range(pair, deviations))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (l, h)| {
                (low.min(l), high.max(h))
            }),
        Loss::Normal { mu } => pair_range(&Pair::shifted(1.0, 1.0 / mu), deviations),
        Loss::Laplace { epsilon } => (-epsilon, *epsilon),
        Loss::DiscreteGaussian { deviation, shift } => {
            let largest = super::discrete::largest_loss(*deviation, *shift, deviations);
            (-largest, largest)
        }
        Loss::None | Loss::Unbounded | Loss::Curve(_) => (0.0, 0.0),
    }
}

fn pair_range(pair: &Pair, deviations: f64) -> (f64, f64) {
    let (low, high) = pair.range(deviations);
    (pair.at(low).loss(), pair.at(high).loss())
}

/// Variance of the loss under the first distribution, roughly; for the choice of the grid.
pub(super) fn loss_variance(loss: &Loss) -> f64 {
    match loss {
        Loss::Pairs(pairs) => pairs.iter().map(|(w, pair)| w * pair_variance(pair)).sum(),
        Loss::Normal { mu } => mu * mu,
        Loss::Laplace { epsilon } => epsilon * epsilon,
        Loss::DiscreteGaussian { deviation, shift } => (*shift as f64 / deviation).powi(2),
        Loss::None | Loss::Unbounded | Loss::Curve(_) => 0.0,
    }
}

fn pair_variance(pair: &Pair) -> f64 {
    let (low, high) = pair.range(8.0);
    let step = pair.smooth_step();
    let (mut mean, mut square) = (0.0, 0.0);
    for node in 0..=((high - low) / step) as usize {
        let x = low + step * node as f64;
        let outcome = pair.at(x);
        let mass = step * (pair.log_standard(x) + outcome.upper).exp();
        mean += mass * outcome.loss();
        square += mass * outcome.loss().powi(2);
    }
    (square - mean * mean).max(0.0)
}

/// Both directions of one step on a grid of `mesh`.
pub(super) fn discretise(loss: &Loss, grid: Grid) -> Directions {
    let mesh = grid.mesh;
    match loss {
        Loss::Pairs(pairs) => discretise_pairs(pairs, grid),
        Loss::Normal { mu } => discretise_pairs(&[(1.0, Pair::shifted(1.0, 1.0 / mu))], grid),
        Loss::Laplace { epsilon } => Directions {
            remove: laplace(*epsilon, mesh),
            add: None,
        },
        Loss::DiscreteGaussian { deviation, shift } => Directions {
            remove: super::discrete::discretise(*deviation, *shift, grid),
            add: None,
        },
        Loss::None | Loss::Unbounded | Loss::Curve(_) => {
            let mut certain = LossDistribution::empty(mesh, 0, 1);
            certain.masses[0] = 1.0;
            Directions {
                remove: certain,
                add: None,
            }
        }
    }
}

fn discretise_pairs(pairs: &[(f64, Pair)], grid: Grid) -> Directions {
    let mesh = grid.mesh;
    let (low, high) = loss_range(&Loss::Pairs(pairs.to_vec()), grid.deviations);
    let first = (low / mesh).floor() as i64;
    let last = (high / mesh).ceil() as i64;
    let len = (last - first) as usize + 1;
    let symmetric = pairs.iter().all(|(_, pair)| pair.symmetric);
    let mut remove = LossDistribution::empty(mesh, first, len);
    let mut add = (!symmetric).then(|| LossDistribution::empty(mesh, -last, len));
    for (weight, pair) in pairs {
        spread(pair, *weight, grid.deviations, &mut remove, add.as_mut());
    }
    remove.normalise();
    if let Some(add) = &mut add {
        add.normalise();
    }
    Directions { remove, add }
}

/// Walks through the cells of the grid and moves each one's mass to its two ends.
fn spread(
    pair: &Pair,
    weight: f64,
    deviations: f64,
    remove: &mut LossDistribution,
    mut add: Option<&mut LossDistribution>,
) {
    let mesh = remove.mesh;
    let (low, high) = pair.range(deviations);
    let first = (pair.at(low).loss() / mesh).floor() as i64;
    let last = (pair.at(high).loss() / mesh).ceil() as i64;
    let smooth = pair.smooth_step();
    let mut from = low;
    let mut guess = low;
    for cell in first..last {
        let (a, b) = (cell as f64 * mesh, (cell + 1) as f64 * mesh);
        let to = if cell + 1 == last {
            high
        } else {
            pair.outcome_with_loss(b, guess, from, high)
        };
        let ends = integrate(pair, a, b, from, to, smooth, add.is_some());
        let lower = (cell - remove.first) as usize;
        remove.masses[lower] += weight * ends.upper_at_a;
        remove.masses[lower + 1] += weight * ends.upper_at_b;
        if let Some(add) = &mut add {
            // In the reverse direction the cell is [-b, -a].
            let upper = (-cell - add.first) as usize;
            add.masses[upper] += weight * ends.lower_at_a;
            add.masses[upper - 1] += weight * ends.lower_at_b;
        }
        // The next cell is about as wide as this one.
        guess = (2.0 * to - from).min(high);
        from = to;
    }
    let outside = weight * 0.5 * libm::erfc(deviations / std::f64::consts::SQRT_2);
    remove.infinity += outside;
    if let Some(add) = add {
        add.infinity += outside;
    }
}

/// Mass of a cell under both distributions, at its two ends.
#[derive(Default)]
struct Ends {
    upper_at_a: f64,
    upper_at_b: f64,
    lower_at_a: f64,
    lower_at_b: f64,
}

fn integrate(pair: &Pair, a: f64, b: f64, from: f64, to: f64, smooth: f64, both: bool) -> Ends {
    let width = to - from;
    let (rule, pieces): (&[_], _) = if width <= SHORT_PIECE * smooth {
        (&SHORT, 1)
    } else {
        (&LONG, (width / (LONG_PIECE * smooth)).ceil() as usize)
    };
    let piece = width / pieces as f64;
    let whole = (b - a).exp_m1();
    let mut ends = Ends::default();
    for number in 0..pieces {
        let start = from + piece * number as f64;
        for (node, weight) in rule {
            let x = start + piece * node;
            let outcome = pair.at(x);
            // Newton's last digits may put a node a hair outside its cell.
            let part = (outcome.loss().clamp(a, b) - a).exp_m1();
            let log_standard = pair.log_standard(x);
            // With d = loss - a: upper (exp(b - loss) - 1) and upper (1 - exp(a - loss)), over exp(-d).
            let upper = weight * piece * (log_standard + outcome.upper).exp() / (1.0 + part);
            ends.upper_at_a += upper * (whole - part);
            ends.upper_at_b += upper * part;
            if both {
                // lower (1 - exp(loss - b)) exp(b - a) and lower (exp(loss - a) - 1)
                let lower = weight * piece * (log_standard + outcome.lower).exp();
                ends.lower_at_a += lower * (whole - part);
                ends.lower_at_b += lower * part;
            }
        }
    }
    ends.upper_at_a /= whole;
    ends.upper_at_b *= (1.0 + whole) / whole;
    ends.lower_at_a /= whole;
    ends.lower_at_b /= whole;
    ends
}

/// Losses of Laplace noise: two atoms at the ends, `exp((l - e)/2)/4` between them.
fn laplace(epsilon: f64, mesh: f64) -> LossDistribution {
    let last = (epsilon / mesh).ceil() as i64 + 1;
    let mut losses = LossDistribution::empty(mesh, -last, 2 * last as usize + 1);
    losses.add_atom(epsilon, 0.5);
    losses.add_atom(-epsilon, 0.5 * (-epsilon).exp());
    let cells = (-last)..last;
    for cell in cells {
        let (a, b) = (cell as f64 * mesh, (cell + 1) as f64 * mesh);
        let (from, to) = (a.max(-epsilon), b.min(epsilon));
        if from >= to {
            continue;
        }
        let index = (cell + last) as usize;
        for (node, weight) in SHORT {
            let loss = from + (to - from) * node;
            let mass = weight * (to - from) * 0.25 * ((loss - epsilon) / 2.0).exp();
            losses.masses[index + 1] += mass * (a - loss).exp_m1() / (a - b).exp_m1();
            losses.masses[index] += mass * (b - loss).exp_m1() / (b - a).exp_m1();
        }
    }
    losses.normalise();
    losses
}

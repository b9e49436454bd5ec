//! Many steps: one Fourier transform for each distinct event, tilted towards the answer.
//!
//! The masses `p(l)` of each step are replaced by `p(l) exp(theta l) / M(theta)` before the transform and
//! the factor is taken out afterwards. With `theta` near the minimiser of the Chernoff bound at the
//! asked epsilon, the composed masses that matter are the largest ones, so that the round-off of the
//! transform is relative to them: deltas of 1e-30 are as accurate as deltas of 1e-5.

use realfft::RealFftPlanner;
use realfft::num_complex::Complex;

use super::distribution::LossDistribution;

/// Mass cut off on the right of the window, relative to the delta that is asked for; it is counted as
/// an infinite loss.
const RELATIVE_TAIL: f64 = 1e-9;
/// Logarithm of the share of the tilted mass that the answer should have: far above round-off.
const LOG_WANTED: f64 = -12.0;
/// The same below which another, stronger tilt is tried.
const LOG_RESOLVED: f64 = -16.0;
/// Tilts that are tried.
const TILTS: usize = 4;
/// Longest window: 2^23 complex numbers of 16 bytes.
const MAX_WINDOW: usize = 1 << 23;

/// One direction of a ledger on a common grid.
pub(super) struct Composition {
    parts: Vec<(LossDistribution, u64)>,
    mesh: f64,
    /// Mass of an infinite loss in any step.
    infinity: f64,
}

/// Losses of the whole ledger around the asked point, from low to high.
struct Window {
    first: i64,
    /// Tilted masses.
    masses: Vec<f64>,
    /// `p(l) = masses(l) exp(log_scale - theta l)`.
    log_scale: f64,
    theta: f64,
    /// Infinite losses, and those beyond the right end.
    infinity: f64,
}

impl Composition {
    pub fn new(parts: Vec<(LossDistribution, u64)>, mesh: f64) -> Self {
        let log_finite: f64 = parts
            .iter()
            .map(|(part, count)| *count as f64 * (-part.infinity).ln_1p())
            .sum();
        Self {
            parts,
            mesh,
            infinity: -log_finite.exp_m1(),
        }
    }

    /// `ln E[exp(lambda loss)]` of all steps.
    fn log_moment(&self, lambda: f64) -> f64 {
        self.parts
            .iter()
            .map(|(part, count)| *count as f64 * part.log_moment(lambda))
            .sum()
    }

    /// Smallest epsilon, zero or larger, at which delta is at most `delta`, which is above zero.
    pub fn epsilon(&self, delta: f64) -> f64 {
        if self.infinity >= delta {
            return f64::INFINITY;
        }
        let log_delta = delta.ln();
        let (strongest, bound) =
            minimise(1.0, |lambda| (self.log_moment(lambda) - log_delta) / lambda);
        if !bound.is_finite() {
            // More repetitions than moments can be computed of: nothing is promised.
            return f64::INFINITY;
        }
        let mut epsilon = bound;
        for _ in 0..TILTS {
            if epsilon <= 0.0 {
                return 0.0;
            }
            let theta = self.tilt(strongest, log_delta, epsilon);
            let window = self.window(theta, log_delta, 0.0);
            epsilon = window.epsilon(delta, self.mesh).clamp(0.0, bound);
            if self.log_share(theta, log_delta, epsilon) >= LOG_RESOLVED {
                break;
            }
        }
        epsilon
    }

    /// Delta at `epsilon`.
    pub fn delta(&self, epsilon: f64) -> f64 {
        let (strongest, log_bound) =
            minimise(1.0, |lambda| self.log_moment(lambda) - lambda * epsilon);
        if log_bound < -690.0 {
            // Below the smallest numbers; the bound itself is as good as any.
            return self.infinity + log_bound.exp().max(f64::MIN_POSITIVE);
        }
        let mut log_delta = log_bound.min(0.0);
        let mut delta = log_delta.exp();
        for _ in 0..TILTS {
            let theta = self.tilt(strongest, log_delta, epsilon);
            let window = self.window(theta, log_delta - 10.0, epsilon.max(0.0));
            delta = window
                .delta(epsilon, self.mesh)
                .clamp(f64::MIN_POSITIVE, 1.0);
            if self.log_share(theta, delta.ln(), epsilon) >= LOG_RESOLVED {
                break;
            }
            log_delta = delta.ln();
        }
        delta
    }

    /// Delta at each of `epsilons`, which increase; none of them has a delta far below `smallest`.
    pub fn deltas(&self, smallest: f64, epsilons: &[f64]) -> Vec<f64> {
        let window = self.window(0.0, smallest.ln(), 0.0);
        window.deltas(epsilons, self.mesh)
    }

    /// Logarithm of the tilted mass that is behind a delta of `exp(log_delta)` at `epsilon`.
    fn log_share(&self, theta: f64, log_delta: f64, epsilon: f64) -> f64 {
        log_delta - self.log_moment(theta) + theta * epsilon
    }

    /// The weakest tilt, up to `strongest`, that lifts the answer above round-off.
    ///
    /// A tilt magnifies what a circular transform brings back from beyond the right end, so that a
    /// stronger one needs a longer window.
    fn tilt(&self, strongest: f64, log_delta: f64, epsilon: f64) -> f64 {
        if log_delta >= LOG_WANTED {
            return 0.0;
        }
        let (mut low, mut high) = (0.0, strongest);
        for _ in 0..6 {
            let middle = 0.5 * (low + high);
            if self.log_share(middle, log_delta, epsilon) >= LOG_WANTED {
                high = middle;
            } else {
                low = middle;
            }
        }
        high
    }

    /// Composed losses around the epsilon, at least `epsilon`, where delta is about `exp(log_delta)`.
    fn window(&self, theta: f64, log_delta: f64, epsilon: f64) -> Window {
        let log_scale = self.log_moment(theta);
        let log_tail = log_delta + RELATIVE_TAIL.ln();
        let (lambda, plain) = minimise(1.0 + theta, |lambda| {
            (self.log_moment(lambda) - log_tail) / lambda
        });
        let log_right = log_tail - log_scale + theta * epsilon;
        let right = if theta == 0.0 {
            plain
        } else {
            let (_, tilted) = minimise(lambda, |lambda| {
                (self.log_moment(theta + lambda) - log_scale - log_right) / lambda
            });
            plain.max(tilted)
        };
        // What lies to the left comes back at the right end, where the tilt is taken out most.
        let log_left = (log_tail - log_scale + theta * right).min(-30.0);
        let (_, negative_left) = minimise(lambda, |lambda| {
            (self.log_moment(theta - lambda) - log_scale - log_left) / lambda
        });
        let first = (-negative_left / self.mesh).floor() as i64;
        let last = (right / self.mesh).ceil() as i64;
        let needed = usize::try_from(last - first + 2).unwrap_or(2).max(2);
        let length = needed.next_power_of_two().min(2 * MAX_WINDOW);
        let spectrum = self.spectrum(theta, length);
        let circular = inverse(spectrum, length);
        let masses = (0..length as i64)
            .map(|i| circular[(first + i).rem_euclid(length as i64) as usize].max(0.0))
            .collect();
        Window {
            first,
            masses,
            log_scale,
            theta,
            infinity: self.infinity + log_tail.exp(),
        }
    }

    /// Product over all steps of the transforms of the tilted masses.
    ///
    /// Each transform is formed as `1 + w`, where `w` is small at low frequencies and keeps its relative
    /// accuracy; the power is taken in polar form.
    fn spectrum(&self, theta: f64, length: usize) -> Vec<Complex<f64>> {
        let transform = RealFftPlanner::new().plan_fft_forward(length);
        let mut total = transform.make_output_vec();
        let mut frequencies = transform.make_output_vec();
        let mut masses = transform.make_input_vec();
        for (part, count) in &self.parts {
            let log_moment = part.log_moment(theta);
            masses.fill(0.0);
            for (index, mass) in part.masses.iter().enumerate() {
                if *mass == 0.0 {
                    continue;
                }
                let position = (part.first + index as i64).rem_euclid(length as i64) as usize;
                masses[position] += mass * (theta * part.loss(index) - log_moment).exp();
            }
            masses[0] -= 1.0;
            transform
                .process(&mut masses, &mut frequencies)
                // Cannot fail: both buffers were made by the transform.
                .expect("buffers have the transform's length");
            for (sum, w) in total.iter_mut().zip(&frequencies) {
                let value = Complex::new(1.0 + w.re, w.im);
                let log_modulus = if w.norm_sqr() < 0.25 {
                    0.5 * (2.0 * w.re + w.norm_sqr()).ln_1p()
                } else {
                    value.norm().ln()
                };
                let angle = value.im.atan2(value.re);
                *sum += Complex::new(log_modulus, angle) * *count as f64;
            }
        }
        total
    }
}

/// Real sequence of an even length from the logarithm of its spectrum.
fn inverse(log_spectrum: Vec<Complex<f64>>, length: usize) -> Vec<f64> {
    let transform = RealFftPlanner::new().plan_fft_inverse(length);
    let mut spectrum: Vec<_> = log_spectrum
        .into_iter()
        .map(|value| match value.re.exp() {
            0.0 => Complex::new(0.0, 0.0),
            modulus => Complex::from_polar(modulus, value.im),
        })
        .collect();
    // The ends of the spectrum of a real sequence are real.
    for end in [0, length / 2] {
        spectrum[end].im = 0.0;
    }
    let mut sequence = transform.make_output_vec();
    transform
        .process(&mut spectrum, &mut sequence)
        // Cannot fail: lengths match and the ends are real.
        .expect("buffers have the transform's length");
    let factor = 1.0 / length as f64;
    for value in &mut sequence {
        *value *= factor;
    }
    sequence
}

impl Window {
    /// Walks down from the largest loss, keeping the mass above and its mass under the other
    /// distribution, until the crossing lies in the current cell.
    fn epsilon(&self, delta: f64, mesh: f64) -> f64 {
        let decay = (-mesh).exp();
        let (mut above, mut other) = (self.infinity, 0.0);
        for index in (0..self.masses.len()).rev() {
            let loss = (self.first + index as i64) as f64 * mesh;
            let mass = self.mass(index, loss);
            above += mass;
            // Relative to exp(-loss).
            other = other * decay + mass;
            if above > delta && other > 0.0 {
                let crossing = loss + ((above - delta) / other).ln();
                if crossing >= loss - mesh {
                    return crossing;
                }
            }
        }
        self.first as f64 * mesh
    }

    fn delta(&self, epsilon: f64, mesh: f64) -> f64 {
        let mut delta = 0.0;
        for index in (0..self.masses.len()).rev() {
            let loss = (self.first + index as i64) as f64 * mesh;
            if loss <= epsilon {
                break;
            }
            delta -= self.mass(index, loss) * (epsilon - loss).exp_m1();
        }
        delta + self.infinity
    }

    /// [`Window::delta`] at increasing epsilons, in one pass.
    fn deltas(&self, epsilons: &[f64], mesh: f64) -> Vec<f64> {
        let decay = (-mesh).exp();
        let (mut above, mut other) = (self.infinity, 0.0);
        let mut deltas = vec![1.0; epsilons.len()];
        let mut open = epsilons.len();
        for index in (0..self.masses.len()).rev() {
            let loss = (self.first + index as i64) as f64 * mesh;
            while open > 0 && epsilons[open - 1] >= loss {
                // `other` is relative to the point above.
                let epsilon = epsilons[open - 1];
                let delta: f64 = above - other * (epsilon - loss - mesh).exp();
                deltas[open - 1] = delta.clamp(0.0, 1.0);
                open -= 1;
            }
            let mass = self.mass(index, loss);
            above += mass;
            other = other * decay + mass;
        }
        deltas
    }

    fn mass(&self, index: usize, loss: f64) -> f64 {
        let tilted = self.masses[index];
        if tilted == 0.0 {
            return 0.0;
        }
        tilted * (self.log_scale - self.theta * loss).exp()
    }
}

/// Where a function of a positive number with one minimum is smallest, and its value there.
///
/// Any argument gives a valid Chernoff bound, so a rough minimiser is enough.
fn minimise(start: f64, f: impl Fn(f64) -> f64) -> (f64, f64) {
    const SMALLEST: f64 = 1e-6;
    const LARGEST: f64 = 1e9;
    let mut best = (start, f(start));
    let mut factor = 4.0;
    while factor > 1.2 {
        let mut moved = false;
        for direction in [factor, 1.0 / factor] {
            let mut next = best.0 * direction;
            while (SMALLEST..=LARGEST).contains(&next) {
                let value = f(next);
                // A NaN never wins.
                if value < best.1 {
                    best = (next, value);
                    moved = true;
                    next *= direction;
                } else {
                    break;
                }
            }
            if moved {
                break;
            }
        }
        factor = factor.sqrt();
    }
    best
}

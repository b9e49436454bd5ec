//! Cox's partial likelihood with tied event times (Cox 1972; Breslow 1974; Efron 1977).

/// How events at the same time share their risk set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ties {
    /// Every tied event sees the whole risk set.
    Breslow,
    /// The l-th of d tied events sees the risk set less l/d of the tied events' weight.
    Efron,
}

/// Negative log partial likelihood, summed over events, and its gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct CoxLoss {
    /// Sum over events; 0 without events.
    pub sum: f64,
    /// Number of events.
    pub events: usize,
    /// Derivative of `sum` with respect to each row's log-risk.
    pub gradient: Vec<f64>,
}

impl CoxLoss {
    /// Mean over events; 0 without events.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.events == 0 {
            0.0
        } else {
            self.sum / self.events as f64
        }
    }
}

/// The loss of log-risks `risks`. With `strata`, risk sets never cross strata: the loss is the sum of theirs.
/// Sums of exponentials are taken in the log domain, so that no risk set over- or underflows.
///
/// # Panics
/// Where the columns have different lengths.
#[must_use]
pub fn partial_likelihood(
    times: &[f64],
    events: &[bool],
    risks: &[f64],
    strata: Option<&[usize]>,
    ties: Ties,
) -> CoxLoss {
    let rows = times.len();
    assert!(events.len() == rows && risks.len() == rows && strata.is_none_or(|s| s.len() == rows));
    let mut loss = CoxLoss {
        sum: 0.0,
        events: events.iter().filter(|&&event| event).count(),
        gradient: vec![0.0; rows],
    };
    let stratum = |row: usize| strata.map_or(0, |strata| strata[row]);
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_by(|&a, &b| {
        (stratum(a).cmp(&stratum(b))).then(times[b].total_cmp(&times[a])) // latest first
    });
    for members in order.chunk_by(|&a, &b| stratum(a) == stratum(b)) {
        one_stratum(members, times, events, risks, ties, &mut loss);
    }
    loss
}

/// `members` are the rows of one stratum, latest time first.
fn one_stratum(
    members: &[usize],
    times: &[f64],
    events: &[bool],
    risks: &[f64],
    ties: Ties,
    loss: &mut CoxLoss,
) {
    // Per event time: log of sum_l 1/S_l, and of sum_l (1 - l/d)/S_l, where S_l is the risk set that the
    // l-th tied event sees.
    let mut at_times = Vec::new();
    let mut at_risk = LogSum::default();
    for tied in members.chunk_by(|&a, &b| times[a] == times[b]) {
        let mut dying = LogSum::default();
        let mut deaths = 0_u32;
        for &row in tied {
            at_risk.add(risks[row]);
            if events[row] {
                dying.add(risks[row]);
                deaths += 1;
                loss.sum -= risks[row];
            }
        }
        let (mut others, mut themselves) = (LogSum::default(), LogSum::default());
        for death in 0..deaths {
            let shared = match ties {
                Ties::Breslow => 0.0,
                Ties::Efron => f64::from(death) / f64::from(deaths),
            };
            let share_of_risk_set = shared * (dying.log() - at_risk.log()).exp();
            let seen = at_risk.log() + (-share_of_risk_set).ln_1p();
            loss.sum += seen;
            others.add(-seen);
            themselves.add((1.0 - shared).ln() - seen);
        }
        at_times.push((tied, others, themselves));
    }
    let mut before = LogSum::default();
    for (tied, others, themselves) in at_times.into_iter().rev() {
        let (mut censored, mut dying) = (before, before);
        censored.add(others.log());
        dying.add(themselves.log());
        for &row in tied {
            let hazard = if events[row] { dying } else { censored };
            loss.gradient[row] =
                (risks[row] + hazard.log()).exp() - f64::from(u8::from(events[row]));
        }
        before = censored;
    }
}

/// Log of a sum of exponentials, one term at a time.
#[derive(Clone, Copy)]
struct LogSum {
    largest: f64,
    scaled: f64,
}

impl Default for LogSum {
    fn default() -> Self {
        Self {
            largest: f64::NEG_INFINITY,
            scaled: 0.0,
        }
    }
}

impl LogSum {
    /// Adds `exp(log)`; adding an empty sum changes nothing.
    fn add(&mut self, log: f64) {
        if log == f64::NEG_INFINITY {
            return;
        }
        if log > self.largest {
            self.scaled *= (self.largest - log).exp();
            self.largest = log;
        }
        self.scaled += (log - self.largest).exp();
    }

    fn log(self) -> f64 {
        self.largest + self.scaled.ln()
    }
}

/// Breslow's estimate of the cumulative baseline hazard: a step at every event time.
#[derive(Clone, Debug, PartialEq)]
pub struct BaselineHazard {
    /// Distinct event times, ascending.
    pub times: Vec<f64>,
    /// Cumulative hazard of a patient with log-risk 0, from each of these times on.
    pub cumulative: Vec<f64>,
}

impl BaselineHazard {
    /// Estimates it from the patients the model was fitted to.
    ///
    /// # Panics
    /// Where the columns have different lengths.
    #[must_use]
    pub fn estimate(times: &[f64], events: &[bool], risks: &[f64]) -> Self {
        assert!(events.len() == times.len() && risks.len() == times.len());
        let mut order: Vec<usize> = (0..times.len()).collect();
        order.sort_by(|&a, &b| times[b].total_cmp(&times[a]));
        let mut at_risk = LogSum::default();
        let mut steps = Vec::new();
        for tied in order.chunk_by(|&a, &b| times[a] == times[b]) {
            for &row in tied {
                at_risk.add(risks[row]);
            }
            let deaths = tied.iter().filter(|&&row| events[row]).count();
            if deaths > 0 {
                steps.push((times[tied[0]], deaths as f64 * (-at_risk.log()).exp()));
            }
        }
        let mut sum = 0.0;
        let (times, cumulative) = steps
            .into_iter()
            .rev()
            .map(|(time, step)| {
                sum += step;
                (time, sum)
            })
            .unzip();
        Self { times, cumulative }
    }

    /// Probability that a patient with log-risk `risk` has had no event up to and including `time`.
    #[must_use]
    pub fn survival(&self, time: f64, risk: f64) -> f64 {
        let passed = self.times.partition_point(|&event| event <= time);
        let hazard = passed
            .checked_sub(1)
            .map_or(0.0, |last| self.cumulative[last]);
        (-hazard * risk.exp()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn risks_far_apart_neither_overflow_nor_vanish() {
        let loss = partial_likelihood(
            &[1.0, 2.0, 3.0],
            &[true, true, true],
            &[-900.0, 900.0, -900.0],
            None,
            Ties::Breslow,
        );
        // 1800 for the first, which dies before the one at huge risk; 0 for the others.
        assert!((loss.sum - 1800.0).abs() < 1e-9, "{}", loss.sum);
        assert!(loss.gradient.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn the_gradient_is_the_derivative() {
        let times = [2.0, 2.0, 2.0, 1.0, 3.0, 3.0, 5.0];
        let events = [true, true, false, true, false, true, true];
        let risks = [0.3, -0.2, 0.9, 0.1, -0.7, 0.4, 0.0];
        for ties in [Ties::Breslow, Ties::Efron] {
            let loss = |risks: &[f64]| partial_likelihood(&times, &events, risks, None, ties);
            let gradient = loss(&risks).gradient;
            for row in 0..risks.len() {
                let shifted = |by: f64| {
                    let mut moved = risks;
                    moved[row] += by;
                    loss(&moved).sum
                };
                let slope = (shifted(1e-6) - shifted(-1e-6)) / 2e-6;
                assert!((slope - gradient[row]).abs() < 1e-7, "row {row}, {ties:?}");
            }
        }
    }
}

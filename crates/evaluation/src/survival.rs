//! Predictions of the time to an event that some patients did not live to see, or not while watched.

use crate::problem::{InvalidPredictions, finite, same_length};

/// Follow-up times, whether they ended in the event, and predicted risks: larger means earlier.
/// One row per patient, checked once here.
#[derive(Clone, Debug, PartialEq)]
pub struct SurvivalPredictions {
    times: Vec<f64>,
    events: Vec<bool>,
    risks: Vec<f64>,
}

/// Pairs of patients, by whether the one with the earlier event had the higher risk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Concordance {
    /// Comparable pairs in the right order.
    pub concordant: u64,
    /// Comparable pairs in the wrong order.
    pub discordant: u64,
    /// Comparable pairs with equal risks; each counts one half.
    pub tied_risk: u64,
    /// Pairs left out because both events happened at the same time.
    pub tied_event_times: u64,
}

impl Concordance {
    /// Harrell's C; `None` where no pair is comparable.
    #[must_use]
    pub fn c_index(&self) -> Option<f64> {
        let comparable = self.concordant + self.discordant + self.tied_risk;
        let twice_won = 2 * self.concordant + self.tied_risk;
        (comparable > 0).then(|| twice_won as f64 / (2 * comparable) as f64)
    }
}

impl SurvivalPredictions {
    /// Takes one time (any unit), one event flag (`false` = censored) and one risk per row.
    ///
    /// # Errors
    /// [`InvalidPredictions`] for unequal lengths and values that are not finite.
    pub fn new(
        times: Vec<f64>,
        events: Vec<bool>,
        risks: Vec<f64>,
    ) -> Result<Self, InvalidPredictions> {
        same_length("event", events.len(), times.len())?;
        same_length("risk", risks.len(), times.len())?;
        for (row, (&time, &risk)) in times.iter().zip(&risks).enumerate() {
            finite("time", row, time)?;
            finite("risk", row, risk)?;
        }
        Ok(Self {
            times,
            events,
            risks,
        })
    }

    /// Follow-up times.
    #[must_use]
    pub fn times(&self) -> &[f64] {
        &self.times
    }

    /// Whether follow-up ended in the event.
    #[must_use]
    pub fn events(&self) -> &[bool] {
        &self.events
    }

    /// Predicted risks.
    #[must_use]
    pub fn risks(&self) -> &[f64] {
        &self.risks
    }

    /// The given rows, in that order; a row may occur several times.
    #[must_use]
    pub fn rows(&self, rows: &[usize]) -> Self {
        Self {
            times: rows.iter().map(|&row| self.times[row]).collect(),
            events: rows.iter().map(|&row| self.events[row]).collect(),
            risks: rows.iter().map(|&row| self.risks[row]).collect(),
        }
    }

    /// Counts pairs as Harrell et al. (1982): a pair is comparable where the smaller time ended in the
    /// event, or where the times are equal and exactly one of them did. Quadratic in the rows.
    #[must_use]
    pub fn concordance(&self) -> Concordance {
        let mut pairs = Concordance::default();
        for first in (0..self.times.len()).filter(|&row| self.events[row]) {
            for second in 0..self.times.len() {
                let (earlier, tied) = (
                    self.times[first] < self.times[second],
                    self.times[first] == self.times[second],
                );
                if tied && self.events[second] {
                    // Both events at one time: seen from both sides, counted from one.
                    pairs.tied_event_times += u64::from(second > first);
                } else if earlier || tied {
                    match self.risks[first].total_cmp(&self.risks[second]) {
                        _ if self.risks[first] == self.risks[second] => pairs.tied_risk += 1,
                        std::cmp::Ordering::Greater => pairs.concordant += 1,
                        _ => pairs.discordant += 1,
                    }
                }
            }
        }
        pairs
    }

    /// Harrell's C; `None` where no pair is comparable.
    #[must_use]
    pub fn c_index(&self) -> Option<f64> {
        self.concordance().c_index()
    }
}

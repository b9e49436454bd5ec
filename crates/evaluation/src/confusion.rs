//! Counts of true against predicted classes, and what is computed from them.
//!
//! A measure is `None` where its denominator is zero, except Matthews' coefficient, which by convention is
//! 0 there.

/// Counts with the true class in rows and the predicted class in columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    counts: Vec<Vec<u64>>,
}

impl Confusion {
    /// Counts pairs of (true, predicted) class; pairs outside `0..classes` are not counted, the callers
    /// have checked that there are none.
    #[must_use]
    pub fn count(classes: usize, pairs: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut counts = vec![vec![0; classes]; classes];
        for (truth, predicted) in pairs {
            if let Some(cell) = counts.get_mut(truth).and_then(|row| row.get_mut(predicted)) {
                *cell += 1;
            }
        }
        Self { counts }
    }

    /// Rows of true classes, columns of predicted ones.
    #[must_use]
    pub fn counts(&self) -> &[Vec<u64>] {
        &self.counts
    }

    /// Share of right predictions.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        ratio(self.right(), self.total())
    }

    /// Recall of one class: the share of its rows that were recognised.
    #[must_use]
    pub fn recall(&self, class: usize) -> Option<f64> {
        ratio(self.hits(class)?, self.truths(class))
    }

    /// Precision of one class: the share of its predictions that were right.
    #[must_use]
    pub fn precision(&self, class: usize) -> Option<f64> {
        ratio(self.hits(class)?, self.predictions(class))
    }

    /// F1 of one class: 2 TP / (2 TP + FP + FN).
    #[must_use]
    pub fn f1(&self, class: usize) -> Option<f64> {
        let hits = self.hits(class)?;
        ratio(2 * hits, self.truths(class) + self.predictions(class))
    }

    /// Mean F1 over the classes that occur or were predicted.
    #[must_use]
    pub fn macro_f1(&self) -> Option<f64> {
        mean((0..self.counts.len()).filter_map(|class| self.f1(class)))
    }

    /// Mean recall over the classes that occur.
    #[must_use]
    pub fn balanced_accuracy(&self) -> Option<f64> {
        mean((0..self.counts.len()).filter_map(|class| self.recall(class)))
    }

    /// Cohen's kappa: agreement beyond chance.
    #[must_use]
    pub fn cohen_kappa(&self) -> Option<f64> {
        self.weighted_kappa(|truth, predicted| f64::from(u8::from(truth != predicted)))
    }

    /// Kappa with squared distances between ordered classes as weights.
    #[must_use]
    pub fn quadratic_weighted_kappa(&self) -> Option<f64> {
        self.weighted_kappa(|truth, predicted| (truth as f64 - predicted as f64).powi(2))
    }

    /// Matthews' correlation coefficient for any number of classes (Gorodkin 2004); 0 where a margin is
    /// empty, `None` without rows.
    #[must_use]
    pub fn matthews(&self) -> Option<f64> {
        let total = self.total() as f64;
        if total == 0.0 {
            return None;
        }
        let margins = |f: &dyn Fn(usize) -> f64| (0..self.counts.len()).map(f).sum::<f64>();
        let (truths, predictions) = (
            |class| self.truths(class) as f64,
            |class| self.predictions(class) as f64,
        );
        let covariance =
            self.right() as f64 * total - margins(&|class| truths(class) * predictions(class));
        let spread_truth = total * total - margins(&|class| truths(class).powi(2));
        let spread_predicted = total * total - margins(&|class| predictions(class).powi(2));
        let spread = (spread_truth * spread_predicted).sqrt();
        Some(if spread == 0.0 {
            0.0
        } else {
            covariance / spread
        })
    }

    fn weighted_kappa(&self, distance: impl Fn(usize, usize) -> f64) -> Option<f64> {
        let total = self.total() as f64;
        let (mut observed, mut by_chance) = (0.0, 0.0);
        for truth in 0..self.counts.len() {
            for predicted in 0..self.counts.len() {
                let weight = distance(truth, predicted);
                observed += weight * self.counts[truth][predicted] as f64;
                by_chance += weight * (self.truths(truth) * self.predictions(predicted)) as f64;
            }
        }
        (by_chance > 0.0).then(|| 1.0 - observed * total / by_chance)
    }

    /// Right predictions of one class; `None` for a class that was not declared.
    fn hits(&self, class: usize) -> Option<u64> {
        self.counts.get(class)?.get(class).copied()
    }

    fn right(&self) -> u64 {
        (0..self.counts.len())
            .filter_map(|class| self.hits(class))
            .sum()
    }

    fn total(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    fn truths(&self, class: usize) -> u64 {
        self.counts[class].iter().sum()
    }

    fn predictions(&self, class: usize) -> u64 {
        self.counts.iter().map(|row| row[class]).sum()
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Mean of the defined values; `None` where there are none.
pub(crate) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut count, mut sum) = (0_usize, 0.0);
    for value in values {
        count += 1;
        sum += value;
    }
    (count > 0).then(|| sum / count as f64)
}

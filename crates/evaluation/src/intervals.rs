//! How far a figure can be trusted: over runs, and over patients.
//!
//! * [`CorrectedT`]: a paired difference over repeated splits, whose training sets overlap.
//! * [`Bootstrap`]: a metric, or a difference of two on the same patients, by drawing patients again.

use rand::{Rng, RngExt as _};
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// 97.5 % point of the standard normal distribution.
pub(crate) const Z_975: f64 = 1.959_963_984_540_054;

/// Up to this many patients a bootstrap interval is corrected for bias and skewness.
pub const BCA_PATIENTS: usize = 200;

/// With fewer patients there is no bootstrap interval: few patients allow few different draws (two patients
/// three), and the interval would be about those draws and not about patients.
pub const MINIMUM_PATIENTS: usize = 10;

/// More than this share of undefined draws makes an interval not estimable.
pub const UNDEFINED_SHARE: f64 = 0.05;

/// Limits between which a figure lies with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    /// Lower limit.
    pub lower: f64,
    /// Upper limit.
    pub upper: f64,
}

/// Mean of a paired difference over runs, with a variance corrected for the overlap of the training sets
/// (corrected resampled t test, Nadeau & Bengio 2003): `var * (1/J + n_test/n_train)`, J - 1 degrees of freedom.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct CorrectedT {
    /// Mean difference.
    pub mean: f64,
    /// Number of runs J.
    pub runs: usize,
    /// Mean over corrected standard error; `None` where all differences are equal.
    pub t: Option<f64>,
    /// Two-sided p value; `None` where all differences are equal.
    pub p_two_sided: Option<f64>,
    /// 95 % interval of the mean difference; a point where all differences are equal.
    pub interval: Interval,
}

impl CorrectedT {
    /// From one difference per run. `n_train` and `n_test` are the patients of the two parts of one run.
    /// `None` with fewer than two runs, without training patients or with a difference that is not finite.
    #[must_use]
    pub fn of(differences: &[f64], n_train: usize, n_test: usize) -> Option<Self> {
        let runs = differences.len();
        if runs < 2 || n_train == 0 || differences.iter().any(|d| !d.is_finite()) {
            return None;
        }
        let mean = differences.iter().sum::<f64>() / runs as f64;
        let squares = differences.iter().map(|d| (d - mean).powi(2));
        let variance = squares.sum::<f64>() / (runs - 1) as f64;
        let overlap = n_test as f64 / n_train as f64;
        let error = (variance * (1.0 / runs as f64 + overlap)).sqrt();
        // Cannot fail: scale 1 and at least one degree of freedom.
        let students_t = StudentsT::new(0.0, 1.0, (runs - 1) as f64).ok()?;
        let half_width = students_t.inverse_cdf(0.975) * error;
        let t = (error > 0.0).then(|| mean / error);
        Some(Self {
            mean,
            runs,
            t,
            p_two_sided: t.map(|t| (2.0 * students_t.sf(t.abs())).min(1.0)),
            interval: Interval {
                lower: mean - half_width,
                upper: mean + half_width,
            },
        })
    }
}

/// What a statistic was on drawn patients: one value per draw, undefined ones counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    /// The statistic on the patients as they are.
    pub estimate: f64,
    /// Its value in each draw in which it is defined, in the order of the draws.
    pub replicates: Vec<f64>,
    /// Draws in which it is undefined.
    pub undefined: usize,
    /// Number of patients.
    pub patients: usize,
    /// Jackknife: the statistic without each patient, where defined.
    jackknife: Vec<f64>,
}

impl Bootstrap {
    /// Draws patients with replacement, each with all of its rows, `draws` times. `patient_of_row` gives each
    /// row's patient in `0..patients` in any numbering; `statistic` takes row indices, repeated as drawn,
    /// and is `None` where undefined. For a difference of two models let it use the same rows for both.
    /// `None` where the statistic is undefined on the patients as they are.
    #[must_use]
    pub fn draw(
        patient_of_row: &[usize],
        draws: usize,
        rng: &mut impl Rng,
        statistic: impl Fn(&[usize]) -> Option<f64>,
    ) -> Option<Self> {
        let patients = rows_by_patient(patient_of_row);
        if patients.is_empty() {
            return None;
        }
        let chosen: Vec<Vec<usize>> = (0..draws)
            .map(|_| {
                (0..patients.len())
                    .map(|_| rng.random_range(0..patients.len()))
                    .collect()
            })
            .collect();
        Self::with_choices(patient_of_row, &chosen, statistic)
    }

    /// As [`Self::draw`], with the patients of each draw given, as positions in the ascending list of
    /// distinct patients.
    #[must_use]
    pub fn with_choices(
        patient_of_row: &[usize],
        choices: &[Vec<usize>],
        statistic: impl Fn(&[usize]) -> Option<f64>,
    ) -> Option<Self> {
        let patients = rows_by_patient(patient_of_row);
        let everyone: Vec<usize> = (0..patient_of_row.len()).collect();
        let estimate = statistic(&everyone)?;
        let of_patients = |chosen: &mut dyn Iterator<Item = usize>| {
            let rows: Vec<usize> = chosen
                .flat_map(|patient| &patients[patient])
                .copied()
                .collect();
            statistic(&rows)
        };
        let replicates: Vec<f64> = choices
            .iter()
            .filter_map(|chosen| of_patients(&mut chosen.iter().copied()))
            .collect();
        let jackknife = (0..patients.len())
            .filter_map(|left_out| {
                of_patients(&mut (0..patients.len()).filter(|&patient| patient != left_out))
            })
            .collect();
        Some(Self {
            estimate,
            undefined: choices.len() - replicates.len(),
            replicates,
            patients: patients.len(),
            jackknife,
        })
    }

    /// 95 % interval: bias-corrected and accelerated up to [`BCA_PATIENTS`] patients, percentile beyond.
    /// `None` ("not estimable") with fewer than [`MINIMUM_PATIENTS`] patients, and where more than
    /// [`UNDEFINED_SHARE`] of the draws are undefined.
    #[must_use]
    pub fn interval(&self) -> Option<Interval> {
        let draws = self.replicates.len() + self.undefined;
        let undefined_allowed = UNDEFINED_SHARE * draws as f64;
        if self.patients < MINIMUM_PATIENTS || self.undefined as f64 > undefined_allowed {
            return None;
        }
        if self.patients <= BCA_PATIENTS {
            self.bca().or_else(|| self.percentile())
        } else {
            self.percentile()
        }
    }

    /// 2.5 and 97.5 percentiles of the defined draws.
    #[must_use]
    pub fn percentile(&self) -> Option<Interval> {
        self.between(0.025, 0.975)
    }

    /// Bias-corrected and accelerated interval (Efron 1987). `None` where the draws or the jackknife show
    /// no spread on one side of the estimate.
    #[must_use]
    pub fn bca(&self) -> Option<Interval> {
        let (bias, acceleration) = (self.bias()?, self.acceleration()?);
        let limit = |z: f64| {
            let shifted = bias + z;
            Normal::standard().cdf(bias + shifted / (1.0 - acceleration * shifted))
        };
        self.between(limit(-Z_975), limit(Z_975))
    }

    /// z0: where the estimate lies among the draws, in standard normal units, ties one half.
    #[must_use]
    pub fn bias(&self) -> Option<f64> {
        let below = self
            .replicates
            .iter()
            .filter(|&&v| v < self.estimate)
            .count() as f64;
        let tied = self
            .replicates
            .iter()
            .filter(|&&v| v == self.estimate)
            .count() as f64;
        let share = (below + tied / 2.0) / self.replicates.len() as f64;
        (share > 0.0 && share < 1.0).then(|| Normal::standard().inverse_cdf(share))
    }

    /// a: skewness of the statistic, from the jackknife over patients.
    #[must_use]
    pub fn acceleration(&self) -> Option<f64> {
        let mean = self.jackknife.iter().sum::<f64>() / self.jackknife.len() as f64;
        let power = |exponent: i32| -> f64 {
            self.jackknife
                .iter()
                .map(|value| (mean - value).powi(exponent))
                .sum()
        };
        let spread = power(2);
        (spread > 0.0).then(|| power(3) / (6.0 * spread.powf(1.5)))
    }

    /// Standard deviation of the draws.
    #[must_use]
    pub fn standard_error(&self) -> Option<f64> {
        let count = self.replicates.len();
        let mean = self.replicates.iter().sum::<f64>() / count as f64;
        let squares = self.replicates.iter().map(|value| (value - mean).powi(2));
        (count > 1).then(|| (squares.sum::<f64>() / (count - 1) as f64).sqrt())
    }

    /// Two-sided p value that the statistic, a difference, is zero; never 0 itself.
    #[must_use]
    pub fn p_two_sided(&self) -> f64 {
        let count = |side: fn(f64) -> bool| {
            let beyond = self.replicates.iter().filter(|&&value| side(value)).count();
            (1 + beyond) as f64 / (self.replicates.len() + 1) as f64
        };
        (2.0 * count(|value| value <= 0.0).min(count(|value| value >= 0.0))).min(1.0)
    }

    fn between(&self, low: f64, high: f64) -> Option<Interval> {
        let mut sorted = self.replicates.clone();
        sorted.sort_by(f64::total_cmp);
        Some(Interval {
            lower: quantile(&sorted, low)?,
            upper: quantile(&sorted, high)?,
        })
    }
}

/// Quantile of ascending values, linear between order statistics at (n - 1) q. `None` without values.
#[must_use]
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let position = sorted.len().checked_sub(1)? as f64 * q.clamp(0.0, 1.0);
    let low = position.floor() as usize;
    let high = (low + 1).min(sorted.len() - 1);
    Some(sorted[low] + (position - low as f64) * (sorted[high] - sorted[low]))
}

/// Rows of each distinct patient, patients ascending.
fn rows_by_patient(patient_of_row: &[usize]) -> Vec<Vec<usize>> {
    let mut rows = std::collections::BTreeMap::<usize, Vec<usize>>::new();
    for (row, &patient) in patient_of_row.iter().enumerate() {
        rows.entry(patient).or_default().push(row);
    }
    rows.into_values().collect()
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng as _;

    use super::*;

    #[test]
    fn equal_differences_give_a_point_and_no_test() {
        let same = CorrectedT::of(&[0.25; 5], 80, 20).unwrap();
        assert_eq!((same.t, same.p_two_sided), (None, None));
        assert_eq!(
            same.interval,
            Interval {
                lower: 0.25,
                upper: 0.25
            }
        );
        assert_eq!(CorrectedT::of(&[0.25], 80, 20), None);
    }

    #[test]
    fn the_interval_of_a_mean_covers_it_about_as_often_as_it_says() {
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        let patients: Vec<usize> = (0..40).collect();
        let covered = (0..200)
            .filter(|_| {
                let values: Vec<f64> = patients.iter().map(|_| rng.random::<f64>()).collect();
                let mean = |rows: &[usize]| {
                    Some(rows.iter().map(|&row| values[row]).sum::<f64>() / rows.len() as f64)
                };
                let interval = Bootstrap::draw(&patients, 300, &mut rng, mean)
                    .and_then(|drawn| drawn.interval())
                    .unwrap();
                (interval.lower..=interval.upper).contains(&0.5)
            })
            .count();
        assert!((176..=199).contains(&covered), "covered {covered} of 200");
    }

    #[test]
    fn a_statistic_that_is_often_undefined_is_not_estimable() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        // One positive among twelve patients: about a third of the draws miss it.
        let patients: Vec<usize> = (0..12).collect();
        let area = |rows: &[usize]| {
            let drawn: Vec<bool> = rows.iter().map(|&row| row == 0).collect();
            let scores: Vec<f64> = rows.iter().map(|&row| row as f64).collect();
            crate::ranking::auroc(&drawn, &scores)
        };
        let drawn = Bootstrap::draw(&patients, 200, &mut rng, area).unwrap();
        assert!(drawn.undefined > 40);
        assert_eq!(drawn.interval(), None);
    }

    #[test]
    fn many_records_of_few_patients_give_no_interval() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let mean = |rows: &[usize]| Some(rows.iter().sum::<usize>() as f64 / rows.len() as f64);
        let mut interval_of = |patients: usize| {
            let patient_of_row: Vec<usize> = (0..500).map(|row| row % patients).collect();
            Bootstrap::draw(&patient_of_row, 200, &mut rng, mean)
                .unwrap()
                .interval()
        };
        assert_eq!(interval_of(MINIMUM_PATIENTS - 1), None);
        assert!(interval_of(MINIMUM_PATIENTS).is_some());
    }
}

//! Survival in intervals of time: where a follow-up ends, and the curve that hazards make.

use crate::Targets;

impl Targets {
    /// Follow-up times (in the unit of `cut_points`) and event flags in the form of [`Task::Hazards`].
    ///
    /// Interval k holds the times above the cut point before it (0 for the first) up to and including its
    /// own. Whoever was followed beyond the last cut point lived through every interval.
    ///
    /// [`Task::Hazards`]: crate::Task::Hazards
    #[must_use]
    pub fn in_intervals(cut_points: &[f32], time: &[f32], event: &[bool]) -> Self {
        let ends = time.iter().zip(event).map(|(&time, &event)| {
            let interval = cut_points.partition_point(|&cut| cut < time);
            match interval.checked_sub(cut_points.len()) {
                None => (interval, event),
                Some(_) => (cut_points.len().saturating_sub(1), false),
            }
        });
        let (bin, event) = ends.unzip();
        Self::Hazards { bin, event }
    }
}

/// Probability of being alive at each cut point, `prod_{l<=k} (1 - h_l)`, from the hazards of the intervals.
pub(crate) fn survival(hazards: impl Iterator<Item = f32>) -> Vec<f32> {
    let alive = hazards.scan(1.0, |alive, hazard| {
        *alive *= 1.0 - hazard;
        Some(*alive)
    });
    alive.collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData};

    use super::*;
    use crate::Task;
    use crate::loss::{activate, loss, risk};

    const CUTS: [f32; 3] = [1.0, 2.5, 6.0];

    fn task() -> Task {
        Task::Hazards {
            cut_points: CUTS.to_vec(),
        }
    }

    /// Sum of the loss over the records and its gradient with respect to the logits `[3, records]`.
    fn loss_and_gradient(logits: &[f32], time: &[f32], event: &[bool]) -> (f64, Vec<f32>) {
        let device = Device::default().autodiff();
        let data = TensorData::new(logits.to_vec(), [CUTS.len(), time.len()]);
        let logits = Tensor::<2>::from_data(data, &device).require_grad();
        let targets = Targets::in_intervals(&CUTS, time, event);
        let key = "survival.test.v1".parse().unwrap();
        let (sum, weight) = loss(&key, &task(), &logits, &targets, None).unwrap();
        assert_eq!(weight, time.len() as f64);
        let value = sum.clone().into_data().try_into_vec::<f32>().unwrap()[0];
        let gradient = logits.grad(&sum.backward()).unwrap();
        let gradient = gradient.into_data().try_into_vec::<f32>().unwrap();
        (f64::from(value), gradient)
    }

    #[test]
    fn a_time_on_a_cut_point_ends_in_the_interval_before_it_and_nobody_dies_after_the_last() {
        let time = [0.1, 1.0, 1.01, 2.5, 6.0, 6.1, 99.0];
        let targets = Targets::in_intervals(&CUTS, &time, &[true; 7]);
        let expected = Targets::Hazards {
            bin: vec![0, 0, 1, 1, 2, 2, 2],
            event: vec![true, true, true, true, true, false, false],
        };
        assert_eq!(targets, expected);
    }

    #[test]
    fn the_loss_is_minus_the_log_of_the_probability_of_what_happened() {
        // Dead in the second interval, watched to the end of the second, dead after the last cut point.
        let (time, event) = ([2.0_f32, 2.5, 7.0], [true, false, true]);
        let logits = [-0.3_f32, 1.2, 0.4, 0.7, -2.0, 0.1, 0.2, -0.6, -1.1];
        let h = |k: usize, record: usize| 1.0 / (1.0 + (-f64::from(logits[k * 3 + record])).exp());
        let probability = [
            (1.0 - h(0, 0)) * h(1, 0),
            (1.0 - h(0, 1)) * (1.0 - h(1, 1)),
            (1.0 - h(0, 2)) * (1.0 - h(1, 2)) * (1.0 - h(2, 2)),
        ];
        let expected: f64 = probability.iter().map(|p| -p.ln()).sum();
        let (value, _) = loss_and_gradient(&logits, &time, &event);
        assert!((value - expected).abs() < 1e-5, "{value} {expected}");
    }

    #[test]
    fn the_hazards_that_fit_best_give_the_kaplan_meier_curve() {
        // Every follow-up ends at a cut point, so that both count the same people at risk.
        let time = [1.0, 1.0, 1.0, 2.5, 2.5, 2.5, 6.0, 6.0, 6.0, 6.0];
        let event = [
            true, false, true, true, false, false, true, true, false, true,
        ];
        let mut logits = [0.0_f32; 3];
        for _ in 0..400 {
            // One hazard for everybody: the same three logits for each record.
            let all: Vec<f32> = logits.iter().flat_map(|&z| [z; 10]).collect();
            let (_, gradient) = loss_and_gradient(&all, &time, &event);
            for (z, part) in logits.iter_mut().zip(gradient.chunks(10)) {
                *z -= 0.3 * part.iter().sum::<f32>();
            }
        }
        let curve = activate(&task(), &logits, 1).remove(0);
        let mut alive = 1.0;
        for (cut, fitted) in CUTS.into_iter().zip(curve) {
            let at_risk = time.iter().filter(|&&t| t >= cut).count() as f32;
            let deaths = (time.iter().zip(event))
                .filter(|&(&t, e)| t == cut && e)
                .count() as f32;
            alive *= 1.0 - deaths / at_risk;
            assert!((fitted - alive).abs() < 1e-4, "{fitted} {alive} at {cut}");
        }
    }

    #[test]
    fn the_risk_is_minus_the_expected_number_of_intervals_survived() {
        // Logits 0 and ln 3: hazards 1/2 and 3/4.
        let curve = activate(&task(), &[0.0, 3.0_f32.ln(), 0.0], 1).remove(0);
        for (got, expected) in curve.iter().zip([0.5, 0.125, 0.0625]) {
            assert!((got - expected).abs() < 1e-6);
        }
        assert!((risk(&task(), &curve).unwrap() + 0.6875).abs() < 1e-6);
    }
}

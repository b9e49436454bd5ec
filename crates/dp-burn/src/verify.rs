//! Checks of a forward pass and its loss that only running them can tell.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Gradients, Tensor};
use dp_rs::gradients::UnitGradients;

use crate::{Layers, Parameters, Plain, Recorder, Refusal, Taps, Units};

/// A forward pass with a loss per row that runs with and without taps.
pub trait RowLosses<M> {
    /// One loss per row, `[rows]`.
    fn losses(&self, model: &M, layers: &mut impl Layers) -> Tensor<1>;
}

/// Runs a batch with and without taps and refuses what cannot be private, at about the cost of three steps. Once
/// before training, with a batch of at least two units, is enough.
///
/// - The gradient of the summed losses must agree with automatic differentiation, parameter by parameter, to
///   `tolerance` of its norm (1e-3 in f32 is ample). It does not when a parameter is also used outside tapped calls,
///   whose part in the norms would then be missing. Switch dropout off for this.
/// - The loss of one unit must not reach the tapped outputs of another's rows, as it does with batch statistics,
///   contrastive losses, or a batch axis that is not in front.
///
/// # Errors
/// [`Refusal::Differs`], [`Refusal::MixesUnits`], and whatever [`Recorder::gradients`] refuses.
pub fn verify<M: Module>(
    model: &M,
    units: &Units,
    batch: &impl RowLosses<M>,
    tolerance: f64,
) -> Result<(), Refusal> {
    let recorder = Recorder::new();
    let book = recorder.gradients(model, units, |model, taps| batch.losses(model, taps))?;
    let parameters = book.parameters().clone();
    let recorded = book.weighted_sum(&vec![1.0; units.len()]);
    let gradients = batch.losses(model, &mut Plain).sum().backward();
    let total = recorded.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
    let mut reference = Reference {
        parameters: &parameters,
        gradients: &gradients,
        differs: None,
        recorded: &recorded,
        seen: Vec::new(),
        tolerance,
        // A gradient that is 0 but for rounding agrees with 0.
        least: 1e-6 * total,
    };
    model.visit(&mut reference);
    if let Some(refusal) = reference.differs {
        return Err(refusal);
    }
    // The first and the last unit: whatever looks back or ahead in the batch meets one of them.
    let last = units.len() - 1;
    let probed = if last == 0 { vec![] } else { vec![0, last] };
    for unit in probed {
        let mut taps = Taps::new(&parameters, units.rows(), false);
        let frozen = model.clone().no_grad();
        let losses = batch.losses(&frozen, &mut taps);
        let rows: Vec<i64> = units.rows_of(unit).iter().map(|&row| row as i64).collect();
        let rows = burn::tensor::TensorData::new(rows, [units.rows_of(unit).len()]);
        let rows = Tensor::from_data(rows, &losses.device().inner());
        let mut gradients = losses.select(0, rows).sum().backward();
        for record in taps.finish()? {
            for row in record.touched_rows(&mut gradients) {
                let other = units.of_row(row);
                if other != unit {
                    return Err(Refusal::MixesUnits { unit, row, other });
                }
            }
        }
    }
    Ok(())
}

struct Reference<'a> {
    parameters: &'a Parameters,
    gradients: &'a Gradients,
    recorded: &'a [f32],
    seen: Vec<ParamId>,
    differs: Option<Refusal>,
    tolerance: f64,
    /// Smallest squared norm that a difference is measured by.
    least: f64,
}

impl ModuleVisitor for Reference<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(index) = self.parameters.position(param.id) else {
            return;
        };
        if self.differs.is_some() || self.seen.contains(&param.id) {
            return;
        }
        self.seen.push(param.id);
        let parameter = &self.parameters.as_slice()[index];
        let recorded = &self.recorded[parameter.offset..parameter.offset + parameter.len];
        let expected = match param.val().grad(self.gradients) {
            Some(gradient) => gradient.into_data().iter::<f64>().collect(),
            None => vec![0.0; parameter.len],
        };
        let (mut difference, mut norm) = (0.0, 0.0);
        for (&got, expected) in recorded.iter().zip(expected) {
            difference += (f64::from(got) - expected).powi(2);
            norm += expected.powi(2);
        }
        let difference = (difference / norm.max(self.least).max(f64::MIN_POSITIVE)).sqrt();
        if difference > self.tolerance {
            self.differs = Some(Refusal::Differs {
                path: parameter.path.clone(),
                difference,
            });
        }
    }
}

//! One private step up to the clipping: forward with frozen weights, one backward pass, Book-Keeping.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::faults::{Fault, injected};
use crate::{BookKeeping, Grouping, Parameters, Refusal, Taps, Units, validate};

/// How per-unit gradients are recorded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recorder {
    grouping: Grouping,
    generic: bool,
}

impl Recorder {
    /// Flat clipping, and the CPU's own path where the tensors are on the CPU.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How parameters form clipping groups.
    #[must_use]
    pub fn with_grouping(self, grouping: Grouping) -> Self {
        Self { grouping, ..self }
    }

    /// Burn's own operations also on the CPU, as on every other device: to compare the two.
    #[must_use]
    pub fn with_generic_operations(self) -> Self {
        Self {
            generic: true,
            ..self
        }
    }

    /// Runs `losses` on a frozen clone of `model` and one backward pass; returns the units' gradients.
    ///
    /// `losses` returns one loss per row of the batch (`[rows]`), each from that row alone. They are summed here,
    /// so that no average over the batch can enter; the gradient of a unit is the sum over its rows. For a mean
    /// over the `k` rows of a patient, divide its losses by `k`.
    ///
    /// # Errors
    /// A layer that mixes the batch, nothing trainable, a reparameterized parameter; and what the forward pass
    /// shows: a trainable parameter without a tap, a wrong first axis, losses of the wrong length.
    pub fn gradients<M: Module>(
        &self,
        model: &M,
        units: &Units,
        losses: impl FnOnce(&M, &mut Taps<'_>) -> Tensor<1>,
    ) -> Result<BookKeeping, Refusal> {
        if let Some(refusal) = validate::batch_coupling(model).into_iter().next() {
            return Err(refusal);
        }
        let parameters = Parameters::of(model, self.grouping)?;
        let units = match injected(Fault::RecordsAsUnits) {
            true => &Units::per_row(units.rows())?,
            false => units,
        };
        let frozen = model.clone().no_grad();
        let mut taps = Taps::new(&parameters, units.rows(), self.generic);
        let losses = losses(&frozen, &mut taps);
        let records = taps.finish()?;
        let [got] = losses.dims();
        let rows = units.rows();
        if got != rows {
            return Err(Refusal::Losses { got, rows });
        }
        if !losses.is_autodiff() || !losses.is_tracked() {
            return Err(Refusal::Constant);
        }
        let values = losses.clone().inner().into_data();
        let values = values.iter::<f64>().collect();
        let gradients = losses.sum().backward();
        Ok(BookKeeping::new(
            parameters,
            units.clone(),
            values,
            records,
            gradients,
            self.generic,
        ))
    }
}

/// [`Recorder::gradients`] with flat clipping.
///
/// # Errors
/// As there.
pub fn unit_gradients<M: Module>(
    model: &M,
    units: &Units,
    losses: impl FnOnce(&M, &mut Taps<'_>) -> Tensor<1>,
) -> Result<BookKeeping, Refusal> {
    Recorder::new().gradients(model, units, losses)
}

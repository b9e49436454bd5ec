//! From a flat private gradient back to the model.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::host::op;
use crate::{Grouping, Parameters, Refusal};

/// `parameter - learning_rate * gradient` for every trainable parameter, with `gradient` in the order of
/// [`Parameters`]: what a private step hands out. Frozen parameters stay; tied ones stay tied.
///
/// # Errors
/// [`Refusal::Length`], and what [`Parameters::of`] refuses.
pub fn gradient_descent<M: Module>(
    model: M,
    gradient: &[f32],
    learning_rate: f64,
) -> Result<M, Refusal> {
    let parameters = Parameters::of(&model, Grouping::Flat)?;
    fits(&parameters, gradient)?;
    Ok(model.map(&mut Descent {
        parameters: &parameters,
        gradient,
        learning_rate,
    }))
}

/// The flat gradient as Burn's optimisers take it: `optimizer.step(rate, model, gradients)`.
///
/// # Errors
/// As [`gradient_descent`].
#[cfg(feature = "optim")]
pub fn gradients_params<M: Module>(
    model: &M,
    gradient: &[f32],
) -> Result<burn::optim::GradientsParams, Refusal> {
    let parameters = Parameters::of(model, Grouping::Flat)?;
    fits(&parameters, gradient)?;
    let mut collect = Collect {
        parameters: &parameters,
        gradient,
        found: burn::optim::GradientsParams::new(),
    };
    model.visit(&mut collect);
    Ok(collect.found)
}

fn fits(parameters: &Parameters, gradient: &[f32]) -> Result<(), Refusal> {
    let (got, expected) = (gradient.len(), parameters.values());
    if got == expected {
        return Ok(());
    }
    Err(Refusal::Length {
        what: "gradient",
        got,
        expected,
    })
}

/// The part of a flat gradient that belongs to a parameter; nothing for a frozen one.
fn part<const D: usize>(
    parameters: &Parameters,
    gradient: &[f32],
    param: &Param<Tensor<D>>,
    device: &Device,
    dtype: DType,
) -> Option<Tensor<D>> {
    let parameter = &parameters.as_slice()[parameters.position(param.id)?];
    let values = &gradient[parameter.offset..parameter.offset + parameter.len];
    let data = TensorData::new(values.to_vec(), parameter.shape.clone());
    Some(Tensor::from_data(
        data.convert_dtype(dtype),
        (device, dtype),
    ))
}

struct Descent<'a> {
    parameters: &'a Parameters,
    gradient: &'a [f32],
    learning_rate: f64,
}

impl ModuleMapper for Descent<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let value = param.val();
        let (device, dtype) = (value.device().inner(), value.dtype());
        let in_place = dtype == DType::F32 && op::is_host(&value);
        // Let go of it, so that the new value can take its place in memory.
        drop(value);
        if in_place {
            let Some(index) = self.parameters.position(param.id) else {
                return param;
            };
            let parameter = &self.parameters.as_slice()[index];
            let gradient = &self.gradient[parameter.offset..parameter.offset + parameter.len];
            return param.map(|value| descend(value, gradient, self.learning_rate as f32, &device));
        }
        match part(self.parameters, self.gradient, &param, &device, dtype) {
            None => param,
            Some(gradient) => param.map(|value| {
                let value = value.inner() - gradient.mul_scalar(self.learning_rate);
                value.autodiff().require_grad()
            }),
        }
    }
}

/// On the host: no copy of the gradient, and none of the values when nobody else holds them.
fn descend<const D: usize>(
    value: Tensor<D>,
    gradient: &[f32],
    learning_rate: f32,
    device: &Device,
) -> Tensor<D> {
    let mut data = value.inner().into_data();
    let values = data.as_mut_slice::<f32>();
    // Cannot fail: the precision was checked.
    for (value, gradient) in values.expect("single precision").iter_mut().zip(gradient) {
        *value -= learning_rate * gradient;
    }
    Tensor::from_data(data, device).autodiff().require_grad()
}

#[cfg(feature = "optim")]
struct Collect<'a> {
    parameters: &'a Parameters,
    gradient: &'a [f32],
    found: burn::optim::GradientsParams,
}

#[cfg(feature = "optim")]
impl burn::module::ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let (device, dtype) = (value.device().inner(), value.dtype());
        if let Some(gradient) = part(self.parameters, self.gradient, param, &device, dtype) {
            self.found.register(param.id, gradient);
        }
    }
}

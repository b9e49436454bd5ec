//! A forward pass that records what per-unit gradients need.

mod layers;

use burn::module::Param;
use burn::tensor::{DType, Tensor};

use crate::convolution::try_convolve;
use crate::geometry::Windows;
use crate::host::op;
use crate::record::{Record, Rule};
use crate::{Parameters, Refusal};

/// Records the inputs of the layers and takes up the gradients of their outputs (a *tap* is a zero added to a
/// layer's output; its gradient is the output's).
///
/// Made by [`Recorder`](crate::Recorder). Weights are frozen meanwhile, so that the backward pass
/// does not compute their summed gradients. Calls whose parameters are all frozen in the model record nothing.
#[derive(Debug)]
pub struct Taps<'a> {
    parameters: &'a Parameters,
    rows: usize,
    generic: bool,
    records: Vec<Record>,
    covered: Vec<bool>,
    refusal: Option<Refusal>,
}

impl<'a> Taps<'a> {
    pub(crate) fn new(parameters: &'a Parameters, rows: usize, generic: bool) -> Self {
        Self {
            parameters,
            rows,
            generic,
            records: Vec::new(),
            covered: vec![false; parameters.as_slice().len()],
            refusal: None,
        }
    }

    /// What was recorded, once every trainable parameter has been seen.
    pub(crate) fn finish(self) -> Result<Vec<Record>, Refusal> {
        if let Some(refusal) = self.refusal {
            return Err(refusal);
        }
        let mut unseen = self.parameters.as_slice().iter().zip(&self.covered);
        match unseen.find(|(_, covered)| !**covered) {
            Some((parameter, _)) => Err(crate::validate::not_covered(parameter)),
            None => Ok(self.records),
        }
    }

    /// Rows of the batch.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Position of a parameter when it is trainable.
    fn trainable<const P: usize>(&self, parameter: &Param<Tensor<P>>) -> Option<usize> {
        self.parameters.position(parameter.id)
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refusal.get_or_insert(refusal);
    }

    /// Whether a tensor can be recorded; if not, the step is refused once the forward pass is over.
    fn check<const D: usize>(&mut self, layer: &'static str, tensor: &Tensor<D>) -> bool {
        let got = tensor.dims()[0];
        let dtype = tensor.dtype();
        let refusal = if got != self.rows {
            let rows = self.rows;
            Refusal::Rows { layer, got, rows }
        } else if !matches!(dtype, DType::F32 | DType::F64 | DType::Flex32) {
            let dtype = format!("{dtype:?}");
            Refusal::Precision { layer, dtype }
        } else {
            return true;
        };
        self.refuse(refusal);
        false
    }

    fn record(&mut self, leaf: Tensor<4>, shape: [usize; 4], parts: Vec<(usize, Rule)>) {
        for &(parameter, _) in &parts {
            self.covered[parameter] = true;
        }
        self.records.push(Record { leaf, shape, parts });
    }

    /// Adds a tap to `output`, whose gradient is recorded as `shape`.
    fn tap<const D: usize>(
        &mut self,
        layer: &'static str,
        output: Tensor<D>,
        shape: [usize; 4],
        parts: Vec<(usize, Rule)>,
    ) -> Tensor<D> {
        if parts.is_empty() || !self.check(layer, &output) {
            return output;
        }
        let (output, leaf) = match op::is_host(&output) && !self.generic {
            true => match op::tap(output.clone(), shape) {
                Some(tapped) => tapped,
                None => zero_tap(output, shape),
            },
            false => zero_tap(output, shape),
        };
        self.record(leaf, shape, parts);
        output
    }

    /// The rules of a weight and a bias, as far as they are trainable.
    fn parts<const P: usize>(
        &self,
        weight: &Param<Tensor<P>>,
        rule: impl FnOnce() -> Rule,
        bias: Option<&Param<Tensor<1>>>,
        sum: [usize; 4],
    ) -> Vec<(usize, Rule)> {
        let weight = self.trainable(weight).map(|weight| (weight, rule()));
        let bias = bias.and_then(|bias| self.trainable(bias));
        let bias = bias.map(|bias| (bias, Rule::Sum(None, sum)));
        weight.into_iter().chain(bias).collect()
    }

    /// Gamma and beta after a normalisation without them.
    fn affine<const D: usize>(
        &mut self,
        layer: &'static str,
        normal: Tensor<D>,
        gamma: Option<(&Param<Tensor<1>>, Tensor<D>)>,
        beta: Option<(&Param<Tensor<1>>, Tensor<D>)>,
        channels: usize,
    ) -> Tensor<D> {
        let dims = normal.dims();
        let shape = match channels {
            1 => [dims[0], 1, dims[1], dims[2..].iter().product()],
            _ => [dims[0], dims[1..D - 1].iter().product(), dims[D - 1], 1],
        };
        let mut parts = Vec::new();
        let mut output = normal.clone();
        if let Some((gamma, value)) = gamma {
            if let Some(gamma) = self.trainable(gamma) {
                parts.push((gamma, Rule::Sum(Some(normal.inner().reshape(shape)), shape)));
            }
            output = output * value;
        }
        if let Some((beta, value)) = beta {
            if let Some(beta) = self.trainable(beta) {
                parts.push((beta, Rule::Sum(None, shape)));
            }
            output = output + value;
        }
        self.tap(layer, output, shape, parts)
    }

    fn convolve(
        &mut self,
        layer: &'static str,
        x: &Tensor<4>,
        weight: Tensor<4>,
        bias: Option<Tensor<1>>,
        convolution: crate::host::conv::Convolution,
        parts: impl FnOnce(&Self, Windows) -> Vec<(usize, Rule)>,
    ) -> Option<Tensor<4>> {
        if self.generic {
            return None;
        }
        let parts = parts(self, convolution.windows);
        let tapped = !parts.is_empty() && self.check(layer, x);
        let (output, leaf) = try_convolve(x.clone(), weight, bias, convolution, tapped)?;
        if let Some(leaf) = leaf {
            let positions = convolution.windows.positions();
            let shape = [self.rows, convolution.outputs, positions, 1];
            self.record(leaf, shape, parts);
        }
        Some(output)
    }
}

/// Adds zeros with a gradient, on any device.
fn zero_tap<const D: usize>(output: Tensor<D>, shape: [usize; 4]) -> (Tensor<D>, Tensor<4>) {
    let zeros = output.clone().inner().zeros_like().reshape(shape);
    let leaf = zeros.autodiff().require_grad();
    let dims = output.dims();
    (output.autodiff() + leaf.clone().reshape(dims), leaf)
}

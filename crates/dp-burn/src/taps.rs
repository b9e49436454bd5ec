//! A forward pass that records what per-unit gradients need.

use burn::module::Param;
use burn::nn::conv::{Conv1d, Conv2d, ConvTranspose2d};
use burn::nn::{Embedding, GroupNorm, InstanceNorm, LayerNorm, Linear, RmsNorm};
use burn::tensor::{DType, Int, Tensor, module};

use crate::broadcast::Broadcast;
use crate::convolution::{of_conv_transpose2d, of_conv1d, of_conv2d, try_convolve, try_linear};
use crate::geometry::Windows;
use crate::host::op;
use crate::layers::aligned;
use crate::record::{Record, Rule};
use crate::{Layers, Parameters, Refusal};

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

/// `[rows, positions, size, 1]` of a tensor with the size last.
fn positions<const D: usize>(dims: [usize; D]) -> [usize; 4] {
    [dims[0], dims[1..D - 1].iter().product(), dims[D - 1], 1]
}

impl Layers for Taps<'_> {
    fn linear<const D: usize>(&mut self, layer: &Linear, x: Tensor<D>) -> Tensor<D> {
        let [_, outputs] = layer.weight.dims();
        let mut shape = positions(x.dims());
        let input = || Rule::Linear(x.clone().inner().reshape(shape));
        let sum = [shape[0], shape[1], outputs, 1];
        let parts = self.parts(&layer.weight, input, layer.bias.as_ref(), sum);
        shape = sum;
        if !self.generic {
            let tapped = !parts.is_empty() && self.check("linear", &x);
            let bias = layer.bias.as_ref().map(Param::val);
            let output = try_linear(x.clone(), layer.weight.val(), bias, tapped);
            if let Some((output, leaf)) = output {
                if let Some(leaf) = leaf {
                    self.record(leaf, shape, parts);
                }
                return output;
            }
        }
        self.tap("linear", layer.forward(x), shape, parts)
    }

    fn project<const D: usize>(&mut self, weight: &Param<Tensor<2>>, x: Tensor<D>) -> Tensor<D> {
        let output = module::linear(x.clone(), weight.val().transpose(), None);
        let shape = positions(output.dims());
        let input = || Rule::Projection(x.clone().inner().reshape(positions(x.dims())));
        let parts = self.parts(weight, input, None, shape);
        self.tap("project", output, shape, parts)
    }

    fn conv1d(&mut self, layer: &Conv1d, x: Tensor<3>) -> Tensor<3> {
        let [rows, channels, length] = x.dims();
        let map = x.clone().reshape([rows, channels, 1, length]);
        let convolution = of_conv1d(layer, x.dims());
        let [outputs, inputs, kernel] = layer.weight.dims();
        let weight = layer.weight.val().reshape([outputs, inputs, 1, kernel]);
        let bias = layer.bias.as_ref();
        let sum = |windows: Windows| [rows, 1, outputs, windows.positions()];
        let rule = |windows| Rule::Convolution(map.clone().inner(), windows);
        let parts =
            |taps: &Self, windows| taps.parts(&layer.weight, || rule(windows), bias, sum(windows));
        let values = bias.map(Param::val);
        match self.convolve("conv1d", &map, weight, values, convolution, parts) {
            Some(y) => {
                let [_, _, _, positions] = y.dims();
                y.reshape([rows, outputs, positions])
            }
            None => {
                let y = layer.forward(x);
                let parts = parts(self, convolution.windows);
                let [_, _, positions] = y.dims();
                self.tap("conv1d", y, [rows, outputs, positions, 1], parts)
            }
        }
    }

    fn conv2d(&mut self, layer: &Conv2d, x: Tensor<4>) -> Tensor<4> {
        let rows = x.dims()[0];
        let convolution = of_conv2d(layer, x.dims());
        let outputs = convolution.outputs;
        let bias = layer.bias.as_ref();
        let sum = |windows: Windows| [rows, 1, outputs, windows.positions()];
        let rule = |windows| Rule::Convolution(x.clone().inner(), windows);
        let parts =
            |taps: &Self, windows| taps.parts(&layer.weight, || rule(windows), bias, sum(windows));
        let (weight, values) = (layer.weight.val(), bias.map(Param::val));
        match self.convolve("conv2d", &x, weight, values, convolution, parts) {
            Some(y) => y,
            None => {
                let y = layer.forward(x.clone());
                let parts = parts(self, convolution.windows);
                let [_, _, height, width] = y.dims();
                self.tap("conv2d", y, [rows, outputs, height * width, 1], parts)
            }
        }
    }

    fn conv_transpose2d(&mut self, layer: &ConvTranspose2d, x: Tensor<4>) -> Tensor<4> {
        let [rows, channels, height, width] = x.dims();
        let y = layer.forward(x.clone());
        let [_, outputs, out_height, out_width] = y.dims();
        let windows = of_conv_transpose2d(layer, [height, width], [out_height, out_width]);
        let shape = [rows, outputs, out_height * out_width, 1];
        let sum = [rows, 1, outputs, out_height * out_width];
        let input = || {
            let x = x.inner().reshape([rows, channels, height * width, 1]);
            Rule::Transposed(x, windows)
        };
        let parts = self.parts(&layer.weight, input, layer.bias.as_ref(), sum);
        self.tap("conv_transpose2d", y, shape, parts)
    }

    fn group_norm<const D: usize>(&mut self, layer: &GroupNorm, x: Tensor<D>) -> Tensor<D> {
        let mut normal = layer.clone();
        (normal.gamma, normal.beta, normal.affine) = (None, None, false);
        let gamma = layer.gamma.as_ref().filter(|_| layer.affine);
        let beta = layer.beta.as_ref().filter(|_| layer.affine);
        self.affine(
            "group_norm",
            normal.forward(x),
            gamma.map(|gamma| (gamma, per_channel(gamma))),
            beta.map(|beta| (beta, per_channel(beta))),
            1,
        )
    }

    fn instance_norm<const D: usize>(&mut self, layer: &InstanceNorm, x: Tensor<D>) -> Tensor<D> {
        let mut normal = layer.clone();
        (normal.gamma, normal.beta, normal.affine) = (None, None, false);
        let gamma = layer.gamma.as_ref().filter(|_| layer.affine);
        let beta = layer.beta.as_ref().filter(|_| layer.affine);
        self.affine(
            "instance_norm",
            normal.forward(x),
            gamma.map(|gamma| (gamma, per_channel(gamma))),
            beta.map(|beta| (beta, per_channel(beta))),
            1,
        )
    }

    fn layer_norm<const D: usize>(&mut self, layer: &LayerNorm, x: Tensor<D>) -> Tensor<D> {
        let mut normal = layer.clone();
        let gamma = layer.gamma.val();
        normal.gamma = Param::from_tensor(gamma.ones_like()).set_require_grad(false);
        normal.beta = None;
        self.affine(
            "layer_norm",
            normal.forward(x),
            Some((&layer.gamma, aligned(&layer.gamma))),
            layer.beta.as_ref().map(|beta| (beta, aligned(beta))),
            D - 1,
        )
    }

    fn rms_norm<const D: usize>(&mut self, layer: &RmsNorm, x: Tensor<D>) -> Tensor<D> {
        let mut normal = layer.clone();
        let gamma = layer.gamma.val();
        normal.gamma = Param::from_tensor(gamma.ones_like()).set_require_grad(false);
        self.affine(
            "rms_norm",
            normal.forward(x),
            Some((&layer.gamma, aligned(&layer.gamma))),
            None,
            D - 1,
        )
    }

    fn embedding(&mut self, layer: &Embedding, ids: Tensor<2, Int>) -> Tensor<3> {
        let output = layer.forward(ids.clone());
        let [vectors, _] = layer.weight.dims();
        let rule = || Rule::Lookup(ids.inner(), vectors);
        let shape = positions(output.dims());
        let parts = self.parts(&layer.weight, rule, None, shape);
        self.tap("embedding", output, shape, parts)
    }

    fn scale<const P: usize, const D: usize>(
        &mut self,
        parameter: &Param<Tensor<P>>,
        x: Tensor<D>,
    ) -> Tensor<D> {
        let output = x.clone() * aligned(parameter);
        self.elementwise("scale", parameter, output, Some(x))
    }

    fn shift<const P: usize, const D: usize>(
        &mut self,
        parameter: &Param<Tensor<P>>,
        x: Tensor<D>,
    ) -> Tensor<D> {
        let output = x + aligned(parameter);
        self.elementwise("shift", parameter, output, None)
    }

    fn parameter<const P: usize, const Q: usize>(
        &mut self,
        parameter: &Param<Tensor<P>>,
    ) -> Tensor<Q> {
        assert_eq!(Q, P + 1, "a parameter of {P} axes gets one more in front");
        let one: Tensor<Q> = aligned(parameter);
        let Some(index) = self.trainable(parameter) else {
            return one;
        };
        let mut dims = one.dims();
        dims[0] = self.rows;
        let shape = [self.rows, 1, dims[1..].iter().product(), 1];
        let parts = vec![(index, Rule::Sum(None, shape))];
        self.tap("parameter", one.expand(dims), shape, parts)
    }
}

/// `[1, channels, 1, ...]`.
fn per_channel<const D: usize>(parameter: &Param<Tensor<1>>) -> Tensor<D> {
    let value = parameter.val();
    let mut shape = [1; D];
    shape[1] = value.dims()[0];
    value.reshape(shape)
}

impl Taps<'_> {
    fn elementwise<const P: usize, const D: usize>(
        &mut self,
        layer: &'static str,
        parameter: &Param<Tensor<P>>,
        output: Tensor<D>,
        factor: Option<Tensor<D>>,
    ) -> Tensor<D> {
        let Some(index) = self.trainable(parameter) else {
            return output;
        };
        let dims = output.dims();
        let Some(broadcast) = Broadcast::of(&parameter.dims(), dims) else {
            self.refuse(Refusal::Broadcast {
                layer,
                parameter: parameter.dims().to_vec(),
                shape: dims.to_vec(),
            });
            return output;
        };
        let shape = broadcast.shape;
        let value = factor.map(|x| broadcast.arrange(x.inner().expand(dims)));
        let parts = vec![(index, Rule::Sum(value, shape))];
        // The tap sits on the output with its axes in the order of the sums.
        let output = output.permute(broadcast.order);
        let output = self.tap(layer, output, shape, parts);
        output.permute(broadcast.back())
    }
}

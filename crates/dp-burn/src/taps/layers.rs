//! Which layer is recorded in which way.

use burn::module::Param;
use burn::nn::conv::{Conv1d, Conv2d, ConvTranspose2d};
use burn::nn::{Embedding, GroupNorm, InstanceNorm, LayerNorm, Linear, RmsNorm};
use burn::tensor::{Int, Tensor, module};

use super::Taps;
use crate::broadcast::Broadcast;
use crate::convolution::{of_conv_transpose2d, of_conv1d, of_conv2d, try_linear};
use crate::geometry::Windows;
use crate::layers::aligned;
use crate::record::Rule;
use crate::{Layers, Refusal};

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

/// `[rows, positions, size, 1]` of a tensor with the size last.
fn positions<const D: usize>(dims: [usize; D]) -> [usize; 4] {
    [dims[0], dims[1..D - 1].iter().product(), dims[D - 1], 1]
}

/// `[1, channels, 1, ...]`.
fn per_channel<const D: usize>(parameter: &Param<Tensor<1>>) -> Tensor<D> {
    let value = parameter.val();
    let mut shape = [1; D];
    shape[1] = value.dims()[0];
    value.reshape(shape)
}

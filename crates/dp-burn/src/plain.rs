//! A forward pass without privacy.

use burn::module::Param;
use burn::nn::conv::{Conv1d, Conv2d, ConvTranspose2d};
use burn::nn::{Embedding, GroupNorm, InstanceNorm, LayerNorm, Linear, RmsNorm};
use burn::tensor::{Int, Tensor, module};

use crate::Layers;
use crate::convolution::{of_conv1d, of_conv2d, try_convolve, try_linear};
use crate::layers::aligned;

/// Calls the layers as they are: for training without privacy, for validation and for inference.
///
/// On the CPU backend linear maps and convolutions take this crate's faster path, forward and backward.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Layers for Plain {
    fn linear<const D: usize>(&mut self, layer: &Linear, x: Tensor<D>) -> Tensor<D> {
        let bias = layer.bias.as_ref().map(Param::val);
        match try_linear(x.clone(), layer.weight.val(), bias, false) {
            Some((y, _)) => y,
            None => layer.forward(x),
        }
    }

    fn project<const D: usize>(&mut self, weight: &Param<Tensor<2>>, x: Tensor<D>) -> Tensor<D> {
        module::linear(x, weight.val().transpose(), None)
    }

    fn conv1d(&mut self, layer: &Conv1d, x: Tensor<3>) -> Tensor<3> {
        let [rows, channels, length] = x.dims();
        let map = x.clone().reshape([rows, channels, 1, length]);
        let [outputs, inputs, kernel] = layer.weight.dims();
        let weight = layer.weight.val().reshape([outputs, inputs, 1, kernel]);
        let bias = layer.bias.as_ref().map(Param::val);
        match try_convolve(
            map,
            weight,
            bias,
            of_conv1d(layer, [rows, channels, length]),
            false,
        ) {
            Some((y, _)) => {
                let [_, _, _, positions] = y.dims();
                y.reshape([rows, outputs, positions])
            }
            None => layer.forward(x),
        }
    }

    fn conv2d(&mut self, layer: &Conv2d, x: Tensor<4>) -> Tensor<4> {
        let convolution = of_conv2d(layer, x.dims());
        let bias = layer.bias.as_ref().map(Param::val);
        match try_convolve(x.clone(), layer.weight.val(), bias, convolution, false) {
            Some((y, _)) => y,
            None => layer.forward(x),
        }
    }

    fn conv_transpose2d(&mut self, layer: &ConvTranspose2d, x: Tensor<4>) -> Tensor<4> {
        layer.forward(x)
    }

    fn group_norm<const D: usize>(&mut self, layer: &GroupNorm, x: Tensor<D>) -> Tensor<D> {
        layer.forward(x)
    }

    fn instance_norm<const D: usize>(&mut self, layer: &InstanceNorm, x: Tensor<D>) -> Tensor<D> {
        layer.forward(x)
    }

    fn layer_norm<const D: usize>(&mut self, layer: &LayerNorm, x: Tensor<D>) -> Tensor<D> {
        layer.forward(x)
    }

    fn rms_norm<const D: usize>(&mut self, layer: &RmsNorm, x: Tensor<D>) -> Tensor<D> {
        layer.forward(x)
    }

    fn embedding(&mut self, layer: &Embedding, ids: Tensor<2, Int>) -> Tensor<3> {
        layer.forward(ids)
    }

    fn scale<const P: usize, const D: usize>(
        &mut self,
        parameter: &Param<Tensor<P>>,
        x: Tensor<D>,
    ) -> Tensor<D> {
        x * aligned(parameter)
    }

    fn shift<const P: usize, const D: usize>(
        &mut self,
        parameter: &Param<Tensor<P>>,
        x: Tensor<D>,
    ) -> Tensor<D> {
        x + aligned(parameter)
    }

    fn parameter<const P: usize, const Q: usize>(
        &mut self,
        parameter: &Param<Tensor<P>>,
    ) -> Tensor<Q> {
        assert_eq!(Q, P + 1, "a parameter of {P} axes gets one more in front");
        aligned(parameter)
    }
}

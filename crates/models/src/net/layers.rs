//! Single layers with parameters.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::init::{Init, Start};
use crate::op::{Flow, Map};

/// Grouped 1x1 convolution.
#[derive(Module, Debug)]
pub(crate) struct Pointwise {
    pub kernel: Param<Tensor<2>>,
    pub bias: Option<Param<Tensor<1>>>,
    groups: usize,
}

impl Pointwise {
    pub fn new(
        init: &mut Init<'_>,
        inputs: usize,
        outputs: usize,
        groups: usize,
        bias: bool,
    ) -> Self {
        let start = Start::Glorot {
            fan_in: inputs / groups,
            fan_out: outputs / groups,
        };
        Self {
            kernel: init.tensor("kernel", [outputs, inputs / groups], start),
            bias: bias.then(|| init.tensor("bias", [outputs], Start::Constant(0.0))),
            groups,
        }
    }

    pub fn forward(&self, flow: &mut Flow, x: &Map) -> Map {
        flow.pointwise(x, &self.kernel, self.bias.as_ref(), self.groups)
    }
}

/// Depthwise convolution.
#[derive(Module, Debug)]
pub(crate) struct Depthwise {
    pub kernel: Param<Tensor<3>>,
    pub bias: Option<Param<Tensor<1>>>,
    stride: usize,
    dilation: usize,
}

impl Depthwise {
    pub fn new(init: &mut Init<'_>, channels: usize, kernel: usize, bias: bool) -> Self {
        let window = kernel * kernel;
        let start = Start::Glorot {
            fan_in: window,
            fan_out: window,
        };
        Self {
            kernel: init.tensor("kernel", [channels, kernel, kernel], start),
            bias: bias.then(|| init.tensor("bias", [channels], Start::Constant(0.0))),
            stride: 1,
            dilation: 1,
        }
    }

    pub fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    pub fn with_dilation(self, dilation: usize) -> Self {
        Self { dilation, ..self }
    }

    pub fn forward(&self, flow: &mut Flow, x: &Map) -> Map {
        flow.depthwise(
            x,
            &self.kernel,
            self.bias.as_ref(),
            self.stride,
            self.dilation,
        )
    }
}

/// How a normalisation layer is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormRule {
    /// GroupNorm; 8 groups from 32 channels on, else one per 4 channels.
    Group,
    /// GroupNorm with a fixed number of groups.
    #[cfg(test)]
    Fixed(usize),
    /// BatchNorm with given moving statistics.
    Batch,
    /// BatchNorm with the statistics of the batch.
    #[cfg(test)]
    BatchStatistics,
}

impl NormRule {
    fn groups(self, channels: usize) -> usize {
        match self {
            #[cfg(test)]
            Self::Fixed(groups) => groups,
            _ if channels >= 32 => 8,
            _ => (channels / 4).max(1),
        }
    }

    fn keeps_moments(self) -> bool {
        !matches!(self, Self::Group) && !self.is_fixed()
    }

    fn is_fixed(self) -> bool {
        #[cfg(test)]
        {
            matches!(self, Self::Fixed(_))
        }
        #[cfg(not(test))]
        {
            false
        }
    }
}

/// A normalisation layer.
#[derive(Module, Debug)]
pub(crate) struct Norm {
    pub gamma: Param<Tensor<1>>,
    pub beta: Param<Tensor<1>>,
    pub moving_mean: Option<Param<Tensor<1>>>,
    pub moving_variance: Option<Param<Tensor<1>>>,
    #[module(skip)]
    rule: NormRule,
}

impl Norm {
    pub fn new(init: &mut Init<'_>, channels: usize, rule: NormRule) -> Self {
        let keeps = rule.keeps_moments();
        Self {
            gamma: init.norm_tensor("gamma", channels, 1.0),
            beta: init.norm_tensor("beta", channels, 0.0),
            moving_mean: keeps.then(|| {
                init.norm_tensor("moving_mean", channels, 0.0)
                    .set_require_grad(false)
            }),
            moving_variance: keeps.then(|| {
                init.norm_tensor("moving_variance", channels, 1.0)
                    .set_require_grad(false)
            }),
            rule,
        }
    }

    pub fn forward(&self, flow: &mut Flow, x: &Map) -> Map {
        self.apply(flow, x, false)
    }

    pub fn forward_relu(&self, flow: &mut Flow, x: &Map) -> Map {
        self.apply(flow, x, true)
    }

    fn apply(&self, flow: &mut Flow, x: &Map, relu: bool) -> Map {
        let (gamma, beta) = (&self.gamma, &self.beta);
        match self.rule {
            #[cfg(test)]
            NormRule::BatchStatistics => flow.batch_norm(x, gamma, beta, None, relu),
            NormRule::Batch => {
                let moments = self.moving_mean.as_ref().zip(self.moving_variance.as_ref());
                flow.batch_norm(x, gamma, beta, moments, relu)
            }
            rule => flow.group_norm(x, gamma, beta, rule.groups(x.dims()[0]), relu),
        }
    }
}

/// Ungrouped convolution of a stem.
#[derive(Module, Debug)]
pub(crate) struct DenseConv {
    pub kernel: Param<Tensor<4>>,
    pub bias: Param<Tensor<1>>,
    stride: [usize; 2],
}

impl DenseConv {
    pub fn new(
        init: &mut Init<'_>,
        inputs: usize,
        outputs: usize,
        window: [usize; 2],
        stride: [usize; 2],
    ) -> Self {
        let [kh, kw] = window;
        let start = Start::Glorot {
            fan_in: inputs * kh * kw,
            fan_out: outputs * kh * kw,
        };
        Self {
            kernel: init.tensor("kernel", [outputs, inputs, kh, kw], start),
            bias: init.tensor("bias", [outputs], Start::Constant(0.0)),
            stride,
        }
    }

    pub fn forward(&self, flow: &mut Flow, x: &Map) -> Map {
        flow.dense_conv(x, &self.kernel, &self.bias, self.stride)
    }
}

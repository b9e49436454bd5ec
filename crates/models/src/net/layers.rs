//! Single layers with parameters.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::init::{Init, Start};
use crate::op;

/// Grouped 1x1 convolution.
#[derive(Module, Debug)]
pub(crate) struct Pointwise {
    pub kernel: Param<Tensor<2>>,
    pub bias: Option<Param<Tensor<1>>>,
    groups: usize,
}

impl Pointwise {
    pub fn new(init: &mut Init<'_>, inputs: usize, outputs: usize, groups: usize, bias: bool) -> Self {
        let start = Start::Glorot { fan_in: inputs / groups, fan_out: outputs / groups };
        Self {
            kernel: init.tensor("kernel", [outputs, inputs / groups], start),
            bias: bias.then(|| init.tensor("bias", [outputs], Start::Constant(0.0))),
            groups,
        }
    }

    pub fn forward(&self, x: &Tensor<4>) -> Tensor<4> {
        let bias = self.bias.as_ref().map(Param::val);
        op::pointwise(x, &self.kernel.val(), bias.as_ref(), self.groups)
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
        let start = Start::Glorot { fan_in: window, fan_out: window };
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

    pub fn forward(&self, x: &Tensor<4>) -> Tensor<4> {
        let bias = self.bias.as_ref().map(Param::val);
        op::depthwise(x, &self.kernel.val(), bias.as_ref(), self.stride, self.dilation)
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
            moving_mean: keeps
                .then(|| init.norm_tensor("moving_mean", channels, 0.0).set_require_grad(false)),
            moving_variance: keeps
                .then(|| init.norm_tensor("moving_variance", channels, 1.0).set_require_grad(false)),
            rule,
        }
    }

    pub fn forward(&self, x: &Tensor<4>) -> Tensor<4> {
        self.apply(x, false)
    }

    pub fn forward_relu(&self, x: &Tensor<4>) -> Tensor<4> {
        self.apply(x, true)
    }

    fn apply(&self, x: &Tensor<4>, relu: bool) -> Tensor<4> {
        let (gamma, beta) = (self.gamma.val(), self.beta.val());
        let moments = match (&self.moving_mean, &self.moving_variance) {
            (Some(mean), Some(variance)) => Some((mean.val(), variance.val())),
            _ => None,
        };
        let y = match (self.rule, &moments) {
            #[cfg(test)]
            (NormRule::BatchStatistics, _) => op::batch_norm(x, &gamma, &beta, None),
            (_, Some((mean, variance))) => op::batch_norm(x, &gamma, &beta, Some((mean, variance))),
            (rule, None) => {
                let groups = rule.groups(x.dims()[0]);
                return op::group_norm(x, &gamma, &beta, groups, relu);
            }
        };
        if relu { burn::tensor::activation::relu(y) } else { y }
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
    pub fn new(init: &mut Init<'_>, inputs: usize, outputs: usize, window: [usize; 2], stride: [usize; 2]) -> Self {
        let [kh, kw] = window;
        let start = Start::Glorot { fan_in: inputs * kh * kw, fan_out: outputs * kh * kw };
        Self {
            kernel: init.tensor("kernel", [outputs, inputs, kh, kw], start),
            bias: init.tensor("bias", [outputs], Start::Constant(0.0)),
            stride,
        }
    }

    pub fn forward(&self, x: &Tensor<4>) -> Tensor<4> {
        op::dense_conv(x, &self.kernel.val(), &self.bias.val(), self.stride)
    }
}

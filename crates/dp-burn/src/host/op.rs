//! Operations of the CPU backend with hand-written gradients: layers with a weight and a bias, and a tap that costs
//! nothing.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Autodiff, Flex};
use burn::tensor::{DType, Shape, Tensor};

use super::conv::Convolution;
use super::linear::LinearMap;

type Tracked = burn::backend::tensor::FloatTensor<Autodiff<Flex>>;

/// Whether the host's operations can work on a tensor: on the CPU backend, in f32 or f64.
pub(crate) fn is_host<const D: usize>(tensor: &Tensor<D>) -> bool {
    tracked(tensor.clone()).is_some()
}

/// The values on the host, in order; nothing when they are elsewhere or of another precision.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Option<FlexTensor> {
    tracked(tensor).map(|tensor| tensor.primitive().to_contiguous())
}

fn tracked<const D: usize>(tensor: Tensor<D>) -> Option<Tracked> {
    let tensor = tensor.autodiff();
    let tracked = tensor.try_into_primitive::<Autodiff<Flex>>().ok()?;
    let dtype = tracked.primitive().dtype();
    matches!(dtype, DType::F32 | DType::F64).then_some(tracked)
}

/// A leaf that takes up the gradient of a tapped tensor. Its own shape does not matter.
fn leaf(like: &FlexTensor) -> Tensor<4> {
    let zero = FlexTensor::zeros(Shape::from([1, 1, 1, 1]), like.dtype());
    Tensor::<4>::from_primitive::<Flex>(zero)
        .autodiff()
        .require_grad()
}

/// The same tensor, and a leaf whose gradient will be the tensor's, with shape `canonical`.
pub(crate) fn tap<const D: usize>(
    tensor: Tensor<D>,
    canonical: [usize; 4],
) -> Option<(Tensor<D>, Tensor<4>)> {
    let tensor = tracked(tensor)?;
    let leaf = leaf(tensor.primitive());
    let leaf_node = tracked(leaf.clone())?.node();
    let node = tensor.node();
    let output = tensor.into_primitive();
    let step = Tap.prepare::<NoCheckpointing>([node, leaf_node]);
    let output = match step.compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(canonical, output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    };
    Some((Tensor::from_primitive::<Autodiff<Flex>>(output), leaf))
}

#[derive(Debug)]
struct Tap;

impl Backward<Flex, 2> for Tap {
    type State = [usize; 4];

    fn backward(self, ops: Ops<[usize; 4], 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node);
        let [tensor, leaf] = ops.parents;
        if let Some(leaf) = leaf {
            let dy = dy.to_contiguous().reshape(Shape::from(ops.state));
            grads.register::<Flex>(leaf.id, dy);
        }
        if let Some(tensor) = tensor {
            grads.register::<Flex>(tensor.id, dy);
        }
    }
}

/// A layer with a weight and a bias.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layer {
    Convolution(Convolution),
    Linear(LinearMap),
}

/// Runs `$method::<f64>` or `::<f32>` of either kind of layer.
macro_rules! call {
    ($layer:expr, $double:expr, $method:ident($($argument:expr),*)) => {
        match ($layer, $double) {
            (Layer::Convolution(layer), true) => layer.$method::<f64>($($argument),*),
            (Layer::Convolution(layer), false) => layer.$method::<f32>($($argument),*),
            (Layer::Linear(layer), true) => layer.$method::<f64>($($argument),*),
            (Layer::Linear(layer), false) => layer.$method::<f32>($($argument),*),
        }
    };
}

/// A layer's output of rank `D`, and with `canonical` a leaf for its gradient in that shape. Nothing when an
/// operand is not on the host, or when the operands differ in precision.
pub(crate) fn apply<const D: usize, const W: usize>(
    layer: Layer,
    x: Tensor<D>,
    weight: Tensor<W>,
    bias: Option<Tensor<1>>,
    canonical: Option<[usize; 4]>,
) -> Option<(Tensor<D>, Option<Tensor<4>>)> {
    let (x, weight) = (tracked(x)?, tracked(weight)?);
    let bias = match bias {
        Some(bias) => Some(tracked(bias)?),
        None => None,
    };
    let dtype = x.primitive().dtype();
    let mut others = std::iter::once(&weight).chain(&bias);
    if others.any(|other| other.primitive().dtype() != dtype) {
        return None;
    }
    let leaf = canonical.map(|_| leaf(x.primitive()));
    let filler = || Tracked::new(FlexTensor::zeros(Shape::from([1]), dtype));
    let leaf_node = match &leaf {
        Some(leaf) => tracked(leaf.clone())?.node(),
        None => filler().node(),
    };
    let bias_node = bias.as_ref().map_or_else(|| filler().node(), Tracked::node);
    let nodes = [x.node(), weight.node(), bias_node, leaf_node];
    let mut shape = x.primitive().layout().shape().clone();
    let [x, weight] = [x, weight].map(|operand| operand.primitive().to_contiguous());
    let bias = bias.map(|bias| bias.primitive().to_contiguous());
    let double = dtype == DType::F64;
    let output = call!(layer, double, forward(&x, &weight, bias.as_ref()));
    let output = match layer {
        Layer::Convolution(_) => output,
        Layer::Linear(layer) => {
            shape[D - 1] = layer.outputs;
            output.reshape(shape)
        }
    };
    let state = State {
        layer,
        x,
        weight,
        canonical: canonical.unwrap_or_default(),
    };
    let step = Apply.prepare::<NoCheckpointing>(nodes);
    let output = match step.compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(state, output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    };
    Some((Tensor::from_primitive::<Autodiff<Flex>>(output), leaf))
}

#[derive(Clone, Debug)]
struct State {
    layer: Layer,
    x: FlexTensor,
    weight: FlexTensor,
    canonical: [usize; 4],
}

#[derive(Debug)]
struct Apply;

impl Backward<Flex, 4> for Apply {
    type State = State;

    fn backward(self, ops: Ops<State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let State {
            layer,
            x,
            weight: values,
            canonical,
        } = ops.state;
        let double = dy.dtype() == DType::F64;
        let [input, weight, bias, leaf] = ops.parents;
        if let Some(input) = input {
            let dx = call!(layer, double, input_gradient(&dy, &values));
            let shape = x.layout().shape().clone();
            grads.register::<Flex>(input.id, dx.reshape(shape));
        }
        if let Some(weight) = weight {
            let dw = call!(layer, double, weight_gradient(&dy, &x));
            grads.register::<Flex>(weight.id, dw);
        }
        if let Some(bias) = bias {
            let db = call!(layer, double, bias_gradient(&dy));
            grads.register::<Flex>(bias.id, db);
        }
        if let Some(leaf) = leaf {
            grads.register::<Flex>(leaf.id, dy.reshape(Shape::from(canonical)));
        }
    }
}

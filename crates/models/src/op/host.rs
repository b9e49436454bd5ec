//! Bridge between Burn tensors on the CPU backend and the kernels: reads operands without a copy and
//! registers hand-written gradients with Burn's autodiff.

use std::fmt;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{Autodiff, BackendTensor, DispatchTensor, DispatchTensorKind, Flex};
use burn::tensor::{Bytes, DType, Shape, Tensor};

type Tracked = burn::backend::tensor::FloatTensor<Autodiff<Flex>>;

/// Identifies a tensor in Burn's graph.
pub(crate) type Node = u64;

/// An operand on the CPU backend in single precision.
#[derive(Clone)]
pub(crate) enum Operand {
    /// Not part of a graph.
    Plain(FlexTensor),
    /// On an autodiff device, with or without a gradient.
    Tracked(Tracked),
}

impl Operand {
    /// The tensor as an operand, or nothing when it lives on another device or has another precision.
    pub fn of<const D: usize>(tensor: &Tensor<D>) -> Option<Self> {
        let DispatchTensor { kind, .. } = tensor.clone().into_dispatch();
        let operand = match kind {
            DispatchTensorKind::Flex(BackendTensor::Float(tensor)) => Self::Plain(tensor),
            DispatchTensorKind::Autodiff(kind) => match *kind {
                DispatchTensorKind::Flex(BackendTensor::Autodiff(tensor)) => Self::Tracked(tensor),
                #[allow(unreachable_patterns)] // Reachable with a second backend compiled in.
                _ => return None,
            },
            #[allow(unreachable_patterns)]
            _ => return None,
        };
        (operand.inner().dtype() == DType::F32).then_some(operand)
    }

    /// Whether a gradient is wanted.
    pub fn is_tracked(&self) -> bool {
        matches!(self, Self::Tracked(tensor) if tensor.is_tracked())
    }

    fn inner(&self) -> &FlexTensor {
        match self {
            Self::Plain(tensor) => tensor,
            Self::Tracked(tensor) => tensor.primitive(),
        }
    }

    /// The values, without a copy where they are in order already.
    pub fn contiguous(&self) -> FlexTensor {
        self.inner().to_contiguous()
    }
}

/// The values of a contiguous tensor.
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    // Operands are made contiguous and single precision before they come here.
    tensor.as_slice::<f32>().unwrap_or(&[])
}

fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(
        Bytes::from_elems(values),
        Layout::contiguous(shape),
        DType::F32,
    )
}

/// Computes the gradient of each tracked operand from the output's gradient.
pub(crate) trait Pullback: Send + Sync + 'static {
    /// One gradient per operand, in their order; none for operands that need none.
    fn pull(&self, dy: &[f32]) -> Vec<Option<Vec<f32>>>;
}

#[derive(Clone)]
struct State {
    shapes: Vec<Shape>,
    pullback: Arc<dyn Pullback>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State(..)")
    }
}

#[derive(Debug)]
struct Step<const N: usize>;

impl<const N: usize> Backward<Flex, N> for Step<N> {
    type State = State;

    fn backward(self, ops: Ops<State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let State { shapes, pullback } = ops.state;
        let found = pullback.pull(values(&dy));
        for ((parent, grad), shape) in ops.parents.iter().zip(found).zip(shapes) {
            if let (Some(parent), Some(grad)) = (parent, grad) {
                grads.register::<Flex>(parent.id, tensor(grad, shape));
            }
        }
    }
}

/// Makes a tensor of values that were computed from `operands`; `pullback` is dropped when none of them is
/// on an autodiff device.
pub(crate) fn finish<const D: usize>(
    operands: Vec<Operand>,
    output: Vec<f32>,
    shape: [usize; D],
    pullback: impl Pullback,
) -> Tensor<D> {
    let output = tensor(output, Shape::from(shape));
    if operands
        .iter()
        .all(|operand| matches!(operand, Operand::Plain(_)))
    {
        return Tensor::from_primitive::<Flex>(output);
    }
    let shapes = operands
        .iter()
        .map(|operand| operand.inner().layout().shape().clone())
        .collect();
    let state = State {
        shapes,
        pullback: Arc::new(pullback),
    };
    // Burn's steps have a fixed number of parents: take the next size and fill up with untracked ones.
    let result = match operands.len() {
        0..=4 => register::<4>(operands, state, output),
        5..=32 => register::<32>(operands, state, output),
        33..=128 => register::<128>(operands, state, output),
        129..=1024 => register::<1024>(operands, state, output),
        _ => register::<MOST>(operands, state, output),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(result)
}

/// More operands than the largest operation has: the trunk with four stems, about 1,100 tensors.
const MOST: usize = 2048;

fn register<const N: usize>(operands: Vec<Operand>, state: State, output: FlexTensor) -> Tracked {
    assert!(
        operands.len() <= N,
        "an operation of {} operands",
        operands.len()
    );
    let filler = Tracked::new(tensor(vec![0.0], Shape::from([1])));
    let mut operands = operands.into_iter();
    let guards: [_; N] = std::array::from_fn(|_| match operands.next() {
        Some(Operand::Tracked(tensor)) => tensor.node(),
        _ => filler.node(),
    });
    match Step
        .prepare::<NoCheckpointing>(guards)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => prep.finish(state, output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    }
}

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

    fn inner(&self) -> &FlexTensor {
        match self {
            Self::Plain(tensor) => tensor,
            Self::Tracked(tensor) => tensor.primitive(),
        }
    }

    fn contiguous(&self) -> FlexTensor {
        self.inner().to_contiguous()
    }
}

/// The values of a contiguous tensor.
fn values(tensor: &FlexTensor) -> &[f32] {
    // Operands are made contiguous and single precision before they come here.
    tensor.as_slice::<f32>().unwrap_or(&[])
}

fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape), DType::F32)
}

/// Computes the gradient of each operand that needs one from the operands and the output's gradient.
type Pullback<const N: usize> =
    dyn Fn([&[f32]; N], &[f32], [bool; N]) -> [Option<Vec<f32>>; N] + Send + Sync;

#[derive(Clone)]
struct State<const N: usize> {
    operands: [FlexTensor; N],
    pullback: Arc<Pullback<N>>,
}

impl<const N: usize> fmt::Debug for State<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State(..)")
    }
}

#[derive(Debug)]
struct Step<const N: usize>;

impl<const N: usize> Backward<Flex, N> for Step<N> {
    type State = State<N>;

    fn backward(self, ops: Ops<State<N>, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let State { operands, pullback } = &ops.state;
        let needed = ops.parents.each_ref().map(Option::is_some);
        let found = pullback(operands.each_ref().map(values), values(&dy), needed);
        for ((parent, grad), operand) in ops.parents.iter().zip(found).zip(operands) {
            if let (Some(parent), Some(grad)) = (parent, grad) {
                grads.register::<Flex>(parent.id, tensor(grad, operand.layout().shape().clone()));
            }
        }
    }
}

/// Applies a kernel with a hand-written gradient.
///
/// `forward` returns the output's values and the pullback; the pullback is dropped when no operand is
/// tracked.
pub(crate) fn apply<const N: usize, const D: usize, P>(
    operands: [Operand; N],
    shape: [usize; D],
    forward: impl FnOnce([&[f32]; N]) -> (Vec<f32>, P),
) -> Tensor<D>
where
    P: Fn([&[f32]; N], &[f32], [bool; N]) -> [Option<Vec<f32>>; N] + Send + Sync + 'static,
{
    let inner: [FlexTensor; N] = operands.each_ref().map(Operand::contiguous);
    let (output, pullback) = forward(inner.each_ref().map(values));
    let output = tensor(output, Shape::from(shape));
    if operands.iter().all(|operand| matches!(operand, Operand::Plain(_))) {
        return Tensor::from_primitive::<Flex>(output);
    }
    let guards = operands.map(|operand| match operand {
        Operand::Plain(tensor) => Tracked::new(tensor).node(),
        Operand::Tracked(tensor) => tensor.node(),
    });
    let result = match Step.prepare::<NoCheckpointing>(guards).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            prep.finish(State { operands: inner, pullback: Arc::new(pullback) }, output)
        }
        OpsKind::UnTracked(prep) => prep.finish(output),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(result)
}

/// The operands of an operation, or nothing when one of them is not on the CPU in single precision.
macro_rules! operands {
    ($($tensor:expr),+ $(,)?) => {
        (|| Some([$($crate::op::host::Operand::of($tensor)?),+]))()
    };
}
pub(crate) use operands;

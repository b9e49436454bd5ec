//! Refusals that a look at the module's structure is enough for.

use burn::module::{Flag, Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

use crate::faults::{Fault, injected};
use crate::params::{Parameter, Path};
use crate::{Grouping, Parameters, Refusal};

const REPLACE: &str =
    "replace it by a GroupNorm (`group_norm_for`), or `freeze` it with public statistics";

/// Layers of Burn that `Layers` has a call for, as far as they hold parameters.
const COVERED: [&str; 9] = [
    "Linear",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "RmsNorm",
    "Embedding",
];

/// Layers of Burn whose inner calls cannot be tapped from outside.
const COMPOSITE: [&str; 14] = [
    "MultiHeadAttention",
    "CrossAttention",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "PositionWiseFeedForward",
    "Lstm",
    "BiLstm",
    "Gru",
    "BiGru",
    "Rnn",
    "BiRnn",
    "SwiGlu",
];

/// Layers of Burn without a rule.
const UNSUPPORTED: [&str; 5] = [
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose3d",
    "DeformConv2d",
    "LocalResponseNorm",
];

/// All reasons why a module cannot be trained privately as it is, with their paths; none when it can as far as
/// its structure tells.
///
/// Refused are batch normalisation that is trainable or uses the statistics of the batch, layers of Burn
/// without a rule, reparameterized parameters, and a module without trainable parameters. A trainable parameter
/// that the forward pass does not tap is found when it runs; what a forward pass or a loss does between taps,
/// [`verify`](crate::verify) finds.
pub fn refusals<M: Module>(module: &M) -> Vec<Refusal> {
    let mut found = Vec::new();
    match Parameters::of(module, Grouping::Flat) {
        Err(refusal) => found.push(refusal),
        Ok(parameters) => {
            let unsupported = parameters.as_slice().iter().filter(|p| {
                let holder = p.containers.last();
                holder.is_some_and(|holder| UNSUPPORTED.contains(&holder.as_str()))
            });
            found.extend(unsupported.map(not_covered));
        }
    }
    found.extend(batch_coupling(module));
    found
}

/// The layers that mix the records of a batch.
pub(crate) fn batch_coupling<M: Module>(module: &M) -> Vec<Refusal> {
    if injected(Fault::BatchCouplingUnchecked) {
        return Vec::new();
    }
    let mut visitor = Coupling::default();
    module.visit(&mut visitor);
    visitor.found
}

/// The refusal of a trainable parameter that no call covers.
pub(crate) fn not_covered(parameter: &Parameter) -> Refusal {
    let holder = parameter.containers.last().map_or("", String::as_str);
    let composite = |container: &&String| COMPOSITE.contains(&container.as_str());
    let composite = parameter.containers.iter().find(composite);
    let remedy = if composite.is_some() {
        "call the layers inside one by one through `Layers` (attention: `attention`), or freeze them"
    } else if COVERED.contains(&holder) {
        "call the layer through `Layers` in the forward pass, or freeze it"
    } else if UNSUPPORTED.contains(&holder) {
        "there is no rule for this layer: freeze it, or express it by layers that have one"
    } else {
        "use `scale`, `shift`, `project` or `parameter` for it, or freeze it"
    };
    Refusal::NotCovered {
        path: parameter.path.clone(),
        container: composite.map_or(holder, String::as_str).to_owned(),
        remedy,
    }
}

#[derive(Default)]
struct Coupling {
    path: Path,
    found: Vec<Refusal>,
}

impl Coupling {
    /// Refuses the module that holds the current field when it is a batch normalisation; once.
    fn check(&mut self) {
        let path = self.path.parent();
        let known = |refusal: &Refusal| matches!(refusal, Refusal::BatchCoupling { path: known, .. } if *known == path);
        if self.path.container() == "BatchNorm" && !self.found.iter().any(known) {
            self.found.push(Refusal::BatchCoupling {
                path,
                layer: "BatchNorm".into(),
                remedy: REPLACE,
            });
        }
    }
}

impl ModuleVisitor for Coupling {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.leave();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.val().is_require_grad() {
            self.check();
        }
    }

    fn visit_flag(&mut self, flag: &Param<Flag>) {
        if flag.val().is_enabled() {
            self.check();
        }
    }
}

//! The trainable parameters of a module, in the order of its fields.

use std::collections::HashMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

use crate::Refusal;

/// A trainable parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Burn's identity: tied uses share it.
    pub id: ParamId,
    /// Dotted path of its first appearance.
    pub path: String,
    /// Types around it, from the outside in; the last one holds it, such as `Linear`.
    pub containers: Vec<String>,
    /// Shape.
    pub shape: Vec<usize>,
    /// Where its values start in a flat gradient.
    pub offset: usize,
    /// Number of values.
    pub len: usize,
    /// Clipping group.
    pub group: usize,
}

/// How parameters form clipping groups.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub enum Grouping {
    /// One group: flat clipping (Abadi et al., arXiv 1607.00133).
    #[default]
    Flat,
    /// One group per layer, that is per path without its last part.
    PerLayer,
    /// One group per parameter.
    PerParameter,
}

/// All trainable parameters of a module. Each appears once, also when several fields share it.
#[derive(Clone, Debug)]
pub struct Parameters {
    list: Vec<Parameter>,
    index: HashMap<ParamId, usize>,
    groups: usize,
}

impl Parameters {
    /// Lists what requires a gradient in `module`.
    ///
    /// # Errors
    /// [`Refusal::NothingTrainable`] and [`Refusal::Reparameterized`].
    pub fn of<M: Module>(module: &M, grouping: Grouping) -> Result<Self, Refusal> {
        let mut visitor = Listing::default();
        module.visit(&mut visitor);
        if let Some(path) = visitor.reparameterized {
            return Err(Refusal::Reparameterized { path });
        }
        if visitor.list.is_empty() {
            return Err(Refusal::NothingTrainable);
        }
        let mut list = visitor.list;
        let mut names: Vec<String> = Vec::new();
        for (index, parameter) in list.iter_mut().enumerate() {
            parameter.group = match grouping {
                Grouping::Flat => 0,
                Grouping::PerParameter => index,
                Grouping::PerLayer => {
                    let layer = parameter
                        .path
                        .rsplit_once('.')
                        .map_or("", |(layer, _)| layer);
                    match names.iter().position(|name| name == layer) {
                        Some(group) => group,
                        None => {
                            names.push(layer.to_owned());
                            names.len() - 1
                        }
                    }
                }
            };
        }
        let groups = 1 + list.iter().map(|p| p.group).max().unwrap_or(0);
        let index = list.iter().enumerate().map(|(i, p)| (p.id, i)).collect();
        Ok(Self {
            list,
            index,
            groups,
        })
    }

    /// The parameters in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Parameter] {
        &self.list
    }

    /// Values in a flat gradient.
    #[must_use]
    pub fn values(&self) -> usize {
        self.list.last().map_or(0, |p| p.offset + p.len)
    }

    /// Clipping groups.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.groups
    }

    pub(crate) fn position(&self, id: ParamId) -> Option<usize> {
        self.index.get(&id).copied()
    }
}

/// Follows the path while a module is visited.
#[derive(Default)]
pub(crate) struct Path {
    /// Name of a field and the type that holds it.
    pub steps: Vec<(String, String)>,
}

impl Path {
    pub fn enter(&mut self, name: &str, container: &str) {
        let kind = container
            .split_once(':')
            .map_or(container, |(_, kind)| kind);
        self.steps.push((name.to_owned(), kind.to_owned()));
    }

    pub fn leave(&mut self) {
        self.steps.pop();
    }

    pub fn dotted(&self) -> String {
        join(&self.steps)
    }

    /// Path of the module that holds the current field.
    pub fn parent(&self) -> String {
        join(&self.steps[..self.steps.len().saturating_sub(1)])
    }

    /// Type that holds the current field.
    pub fn container(&self) -> &str {
        self.steps.last().map_or("", |(_, container)| container)
    }
}

fn join(steps: &[(String, String)]) -> String {
    let names: Vec<&str> = steps.iter().map(|(name, _)| name.as_str()).collect();
    names.join(".")
}

#[derive(Default)]
struct Listing {
    path: Path,
    list: Vec<Parameter>,
    reparameterized: Option<String>,
}

impl ModuleVisitor for Listing {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        if container_type == "Reparameterization" && self.reparameterized.is_none() {
            self.reparameterized = Some(self.path.dotted());
        }
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.leave();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if !value.is_require_grad() || self.list.iter().any(|known| known.id == param.id) {
            return;
        }
        let shape = value.dims().to_vec();
        let len = shape.iter().product();
        self.list.push(Parameter {
            id: param.id,
            path: self.path.dotted(),
            containers: self
                .path
                .steps
                .iter()
                .map(|(_, container)| container.clone())
                .collect(),
            shape,
            offset: self.list.last().map_or(0, |p| p.offset + p.len),
            len,
            group: 0,
        });
    }
}

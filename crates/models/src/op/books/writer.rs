//! Which book is kept of which use of a weight.

use super::{Entry, Input, Membership, Use};
use crate::kernel::gates::{Gradients, OuterProduct, TENSORS};
use crate::kernel::pointwise::Product;
use crate::kernel::units;
use crate::op::tape::{Id, Step, Tape};
use crate::patients::faults::{Fault, injected};

/// Writes the books during the backward pass.
pub(super) struct Writer<'a> {
    /// Which trained tensor a value of the tape is.
    owner: Vec<Option<usize>>,
    /// How often each tensor is used in the pass.
    uses: Vec<usize>,
    most_records: usize,
    members: &'a Membership,
    entries: Vec<Entry>,
    refused: Option<usize>,
}

impl<'a> Writer<'a> {
    pub fn new(owner: Vec<Option<usize>>, uses: Vec<usize>, members: &'a Membership) -> Self {
        Self {
            entries: uses.iter().map(|_| Entry::Untouched).collect(),
            owner,
            uses,
            most_records: members.most_records(),
            members,
            refused: None,
        }
    }

    /// The books, or the position of a tensor whose use has no rule.
    pub fn finish(self) -> Result<Vec<Entry>, usize> {
        match self.refused {
            Some(index) => Err(index),
            None => Ok(self.entries),
        }
    }

    /// Enters what `step` owes to the tensors it uses, given the gradient `dy` of its output and, for gates, what
    /// the backward pass found of their units.
    pub fn book(&mut self, tape: &Tape, step: &Step, dy: Vec<f32>, gates: Option<[Gradients; 2]>) {
        let members = self.members.as_units();
        match *step {
            Step::Pointwise { x, w, bias, shape } => {
                if let Some(bias) = bias.and_then(|id| self.owner[id]) {
                    self.gradients(bias, units::of_rows(&dy, shape.outputs, members));
                }
                if let Some(w) = self.owner[w] {
                    if self.by_products(w, shape) {
                        self.products(w, shape, Input::OnTape(x), dy);
                    } else {
                        let found = units::of_product(shape, &dy, tape.get(x), members);
                        self.gradients(w, found);
                    }
                }
            }
            Step::Depthwise { x, w, bias, shape } => {
                if let Some(bias) = bias.and_then(|id| self.owner[id]) {
                    self.gradients(bias, units::of_rows(&dy, shape.channels, members));
                }
                if let Some(w) = self.owner[w] {
                    self.gradients(w, units::of_depthwise(shape, &dy, tape.get(x), members));
                }
            }
            Step::Dense { x, w, bias, shape } => {
                if let Some(bias) = self.owner[bias] {
                    self.gradients(bias, units::of_rows(&dy, shape.outputs, members));
                }
                if let Some(w) = self.owner[w] {
                    self.gradients(w, units::of_dense(shape, &dy, tape.get(x), members));
                }
            }
            Step::GroupNorm {
                x,
                gamma,
                beta,
                shape,
                ref moments,
            } => {
                let owners = [self.owner[gamma], self.owner[beta]];
                if owners != [None, None] {
                    let (x, gamma, beta) = (tape.get(x), tape.get(gamma), tape.get(beta));
                    let found = units::of_group_norm(shape, x, gamma, beta, moments, &dy, members);
                    for (owner, found) in owners.into_iter().zip(found) {
                        if let Some(owner) = owner {
                            self.gradients(owner, found);
                        }
                    }
                }
            }
            Step::Scale { x, scale } => {
                if let Some(scale) = self.owner[scale] {
                    self.gradients(scale, units::of_scale(tape.get(x), &dy, members));
                }
            }
            Step::Broadcast { vector, columns }
            | Step::AddVector {
                vector, columns, ..
            } => {
                if let Some(vector) = self.owner[vector] {
                    self.gradients(vector, units::of_rows(&dy, dy.len() / columns, members));
                }
            }
            Step::Gates { ref units, .. } => {
                for (unit, found) in units.chunks_exact(TENSORS).zip(gates.into_iter().flatten()) {
                    self.gates(unit, found);
                }
            }
            Step::Concat { .. }
            | Step::Subsample { .. }
            | Step::MaxPool { .. }
            | Step::AddActivate { .. }
            | Step::PixelMean { .. }
            | Step::ApplyGate { .. }
            | Step::Relu { .. }
            | Step::Resample { .. }
            | Step::Upscale { .. } => {}
        }
    }

    /// Whether norms from products are cheaper than gradients per unit.
    fn by_products(&self, w: usize, shape: Product) -> bool {
        let pixels = shape.columns / self.members.of_record.len();
        let t = pixels * self.most_records * self.uses[w];
        let size = (shape.inputs / shape.groups) * (shape.outputs / shape.groups);
        2 * t * t < size
    }

    fn gradients(&mut self, index: usize, found: Vec<f32>) {
        match &mut self.entries[index] {
            empty @ Entry::Untouched => *empty = Entry::Gradients(found),
            Entry::Gradients(total) => {
                for (total, part) in total.iter_mut().zip(found) {
                    *total = if injected(Fault::CrossTermsDropped) {
                        total.hypot(part)
                    } else {
                        *total + part
                    };
                }
            }
            Entry::Products { .. } => self.refused = Some(index),
        }
    }

    fn products(&mut self, index: usize, shape: Product, x: Input, dy: Vec<f32>) {
        match &mut self.entries[index] {
            empty @ Entry::Untouched => {
                let uses = vec![Use { x, dy }];
                *empty = Entry::Products { shape, uses };
            }
            // The same weight on a map of the same size; another size has another sum of columns.
            Entry::Products { shape: first, uses } if first.columns == shape.columns => {
                uses.push(Use { x, dy });
            }
            _ => self.refused = Some(index),
        }
    }

    fn gates(&mut self, unit: &[Id], found: Gradients) {
        let batch = self.members.of_record.len();
        let (psi, rest) = unit.split_at(found.psi.len());
        for (&id, products) in psi.iter().zip(found.psi) {
            let Some(owner) = self.owner[id] else {
                continue;
            };
            for OuterProduct { left, right } in products {
                let f = left.len() / batch;
                let shape = Product {
                    inputs: f,
                    outputs: f,
                    groups: 1,
                    columns: batch,
                };
                self.products(owner, shape, Input::Own(right), left);
            }
        }
        for (&id, rows) in rest.iter().zip(found.rest) {
            if let Some(owner) = self.owner[id] {
                let found = units::of_rows(&rows, rows.len() / batch, self.members.as_units());
                self.gradients(owner, found);
            }
        }
    }
}

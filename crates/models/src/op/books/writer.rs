//! Which book is kept of which use of a weight.

use super::{Entry, GatesPass, Input, Membership, Use, gates_of};
use crate::kernel::pointwise::Product;
use crate::kernel::units;
use crate::op::tape::{Step, Tape};
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
    gates: Vec<GatesPass>,
    gate_squares: Vec<Vec<Vec<f64>>>,
    refused: Option<usize>,
}

/// What was written.
pub(super) struct Written {
    pub entries: Vec<Entry>,
    pub gates: Vec<GatesPass>,
    pub gate_squares: Vec<Vec<Vec<f64>>>,
}

impl<'a> Writer<'a> {
    pub fn new(owner: Vec<Option<usize>>, uses: Vec<usize>, members: &'a Membership) -> Self {
        Self {
            entries: uses.iter().map(|_| Entry::Untouched).collect(),
            owner,
            uses,
            most_records: members.most_records(),
            members,
            gates: Vec::new(),
            gate_squares: Vec::new(),
            refused: None,
        }
    }

    /// The books, or the position of a tensor whose use has no rule.
    pub fn finish(self) -> Result<Written, usize> {
        match self.refused {
            Some(index) => Err(index),
            None => Ok(Written {
                entries: self.entries,
                gates: self.gates,
                gate_squares: self.gate_squares,
            }),
        }
    }

    /// Enters what `step` owes to the tensors it uses, given the gradient `dy` of its output.
    pub fn book(&mut self, tape: &Tape, step: &Step, dy: Vec<f32>) {
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
            Step::Gates {
                pooled,
                ref units,
                formulas,
                batch,
                ..
            } => self.gates(
                tape,
                GatesPass {
                    pooled,
                    units: units.clone(),
                    formulas,
                    batch,
                    dy,
                },
            ),
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
            Entry::Products { .. } | Entry::Gates { .. } => self.refused = Some(index),
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

    fn gates(&mut self, tape: &Tape, pass: GatesPass) {
        let owners: Vec<Option<usize>> = pass.units.iter().map(|&id| self.owner[id]).collect();
        let mut squares = vec![vec![0.0; self.members.units]; owners.len()];
        for unit in 0..self.members.units {
            let found = gates_of(tape, &pass, &self.members.records_of(unit), None);
            for (squares, gradient) in squares.iter_mut().zip(found) {
                squares[unit] = gradient.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
            }
        }
        for (tensor, owner) in owners.into_iter().enumerate() {
            let Some(owner) = owner else { continue };
            if matches!(self.entries[owner], Entry::Untouched) {
                self.entries[owner] = Entry::Gates {
                    gates: self.gates.len(),
                    tensor,
                };
            } else {
                // Gates that share tensors would need the cross terms of their uses.
                self.refused = Some(owner);
            }
        }
        self.gates.push(pass);
        self.gate_squares.push(squares);
    }
}

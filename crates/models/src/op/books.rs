//! Book-Keeping on the tape (Bu et al., arXiv 2210.00038): one backward pass that computes no weight
//! gradient, and afterwards the norm of every unit's gradient and any weighted sum of those gradients.
//!
//! Per weight the cheaper of two books is kept (`differential-privacy.md` section 4.1). With T the pixels and
//! records of a unit over all uses of a weight `[p, d]`: if `2 T^2 < p d`, the layer's input and the gradient
//! of its output, from which the norm follows by two T x T Gram matrices ("ghost norm"); otherwise the
//! gradient of every unit, which then has fewer values than the unit's activations have. So memory grows with
//! the activations of the batch only.

mod writer;

use std::collections::BTreeMap;

use super::host::{Node, Operand};
use super::tape::{Grads, Id, Tape};
use crate::kernel::pointwise::Product;
use crate::kernel::units::{self, Units};
use crate::patients::faults::{Fault, injected};
use writer::Writer;

/// Which records of a batch belong to which unit.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    /// The unit of each record.
    pub of_record: Vec<usize>,
    /// Number of units.
    pub units: usize,
}

impl Membership {
    fn as_units(&self) -> Units<'_> {
        Units {
            of_record: &self.of_record,
            count: self.units,
        }
    }

    fn records_of(&self, unit: usize) -> Vec<usize> {
        let mine = |&record: &usize| self.of_record[record] == unit;
        (0..self.of_record.len()).filter(mine).collect()
    }

    fn most_records(&self) -> usize {
        let mut counts = vec![0; self.units];
        for &unit in &self.of_record {
            counts[unit] += 1;
        }
        counts.into_iter().max().unwrap_or(0)
    }
}

/// One trained tensor.
#[derive(Clone, Debug)]
pub(crate) struct Trained {
    /// What the autodiff graph knows it by.
    pub node: Node,
    /// Number of values.
    pub len: usize,
}

/// What is kept of one weight.
enum Entry {
    /// Nothing reached it: its gradient is zero.
    Untouched,
    /// The gradient of every unit, `[values][units]`.
    Gradients(Vec<f32>),
    /// Inputs and gradients of outputs, whose products summed over columns are the gradient.
    Products { shape: Product, uses: Vec<Use> },
}

struct Use {
    x: Input,
    dy: Vec<f32>,
}

enum Input {
    OnTape(Id),
    Own(Vec<f32>),
}

/// The books of one backward pass.
pub(crate) struct Books {
    tape: Tape,
    members: Membership,
    lengths: Vec<usize>,
    entries: Vec<Entry>,
}

impl Books {
    /// Runs backwards from the gradient `dy` of `output`.
    ///
    /// Returns the position in `trained` of a tensor whose use has no rule, if there is one.
    pub fn keep(
        mut tape: Tape,
        output: Id,
        dy: Vec<f32>,
        members: Membership,
        trained: &[Trained],
    ) -> Result<Self, usize> {
        let nodes: BTreeMap<Node, usize> = trained
            .iter()
            .enumerate()
            .map(|(index, tensor)| (tensor.node, index))
            .collect();
        let mut owner = vec![None; tape.values.len()];
        let mut uses = vec![0; trained.len()];
        for (operand, id) in &tape.operands {
            if let Some(&index) = operand.node().as_ref().and_then(|node| nodes.get(node)) {
                owner[*id] = Some(index);
                uses[index] += 1;
                // The backward pass is to compute gradients of maps only.
                tape.values[*id].tracked = false;
            }
        }
        let mut writer = Writer::new(owner, uses, &members);
        let mut grads = Grads::new(&tape.values);
        grads.add(output, || dy);
        for (step, output) in tape.steps.iter().rev() {
            if let Some(dy) = grads.take(*output) {
                let gates = tape.step_back(step, &dy, &mut grads);
                writer.book(&tape, step, dy, gates);
            }
        }
        drop(grads);
        let entries = writer.finish()?;
        Ok(Self {
            tape,
            lengths: trained.iter().map(|tensor| tensor.len).collect(),
            entries,
            members,
        })
    }

    /// Enters a dense layer outside the tape: `kernel[i, o] = sum_b pooled[i, b] dlogits[o, b]`.
    pub fn enter_head(
        &mut self,
        [kernel, bias]: [Option<usize>; 2],
        pooled: Vec<f32>,
        dlogits: Vec<f32>,
    ) {
        let batch = self.members.of_record.len();
        let (features, outputs) = (pooled.len() / batch, dlogits.len() / batch);
        if let Some(bias) = bias {
            let gradients = units::of_rows(&dlogits, outputs, self.members.as_units());
            self.entries[bias] = Entry::Gradients(gradients);
        }
        if let Some(kernel) = kernel {
            let shape = Product {
                inputs: outputs,
                outputs: features,
                groups: 1,
                columns: batch,
            };
            let uses = vec![Use {
                x: Input::Own(dlogits),
                dy: pooled,
            }];
            self.entries[kernel] = Entry::Products { shape, uses };
        }
    }

    /// Squared norms of every unit's gradient of tensor `index`.
    pub fn squares(&self, index: usize) -> Vec<f64> {
        match &self.entries[index] {
            Entry::Untouched => vec![0.0; self.members.units],
            Entry::Gradients(gradients) => {
                let mut squares = vec![0.0; self.members.units];
                for row in gradients.chunks_exact(self.members.units) {
                    for (square, &value) in squares.iter_mut().zip(row) {
                        *square += f64::from(value) * f64::from(value);
                    }
                }
                squares
            }
            Entry::Products { shape, uses } => (0..self.members.units)
                .map(|unit| self.ghost_square(*shape, uses, unit))
                .collect(),
        }
    }

    /// `|| sum_t dy_t x_t' ||^2 = sum_{s,t} <x_s, x_t> <dy_s, dy_t>` over the columns of one unit; in double
    /// precision, because the terms of views that cancel are large and their sum is not.
    fn ghost_square(&self, shape: Product, uses: &[Use], unit: usize) -> f64 {
        let records = self.members.records_of(unit);
        let (ci, co) = (shape.inputs / shape.groups, shape.outputs / shape.groups);
        let mut total = 0.0;
        for g in 0..shape.groups {
            let mut xs = Vec::new();
            let mut dys = Vec::new();
            for one in uses {
                let x = self.input(&one.x);
                self.columns(x, shape.columns, g * ci..(g + 1) * ci, &records, &mut xs);
                self.columns(
                    &one.dy,
                    shape.columns,
                    g * co..(g + 1) * co,
                    &records,
                    &mut dys,
                );
            }
            let columns = xs.len() / ci;
            for s in 0..columns {
                for t in 0..=s {
                    if s != t && injected(Fault::CrossTermsDropped) {
                        continue;
                    }
                    let twice = if s == t { 1.0 } else { 2.0 };
                    total += twice
                        * inner(&xs[s * ci..(s + 1) * ci], &xs[t * ci..(t + 1) * ci])
                        * inner(&dys[s * co..(s + 1) * co], &dys[t * co..(t + 1) * co]);
                }
            }
        }
        // A sum that should be zero may round below it; a NaN stays one.
        if total < 0.0 { 0.0 } else { total }
    }

    /// Appends, column by column, the rows `rows` of the pixels of `records`.
    fn columns(
        &self,
        map: &[f32],
        columns: usize,
        rows: std::ops::Range<usize>,
        records: &[usize],
        to: &mut Vec<f64>,
    ) {
        let batch = self.members.of_record.len();
        for &record in records {
            for column in (record..columns).step_by(batch) {
                to.extend(
                    rows.clone()
                        .map(|row| f64::from(map[row * columns + column])),
                );
            }
        }
    }

    fn input<'a>(&'a self, input: &'a Input) -> &'a [f32] {
        match input {
            Input::OnTape(id) => self.tape.get(*id),
            Input::Own(values) => values,
        }
    }

    /// `sum_u factors[u] gradient_u` of every tensor in turn; `factor(index)` gives the factors for one.
    ///
    /// A unit with factor 0 contributes exactly 0, also where its values are not finite.
    pub fn weighted_sum<'f>(&self, factors: impl Fn(usize) -> &'f [f32]) -> Vec<f32> {
        let mut sum = Vec::with_capacity(self.lengths.iter().sum());
        for (index, (entry, &len)) in self.entries.iter().zip(&self.lengths).enumerate() {
            let factors = factors(index);
            match entry {
                Entry::Untouched => sum.resize(sum.len() + len, 0.0),
                Entry::Gradients(gradients) => {
                    let kept: Vec<(usize, f32)> = factors
                        .iter()
                        .copied()
                        .enumerate()
                        .filter(|(_, factor)| *factor != 0.0)
                        .collect();
                    let row = |row: &[f32]| kept.iter().map(|&(u, f)| f * row[u]).sum::<f32>();
                    sum.extend(gradients.chunks_exact(self.members.units).map(row));
                }
                Entry::Products { shape, uses } => {
                    let mut total = vec![0.0; len];
                    for one in uses {
                        let dy = self.scaled(&one.dy, factors);
                        let x = self.input(&one.x);
                        let part = if factors.contains(&0.0) {
                            let ones: Vec<f32> = factors
                                .iter()
                                .map(|&f| if f == 0.0 { 0.0 } else { 1.0 })
                                .collect();
                            shape.weight_gradient(&dy, &self.scaled(x, &ones))
                        } else {
                            shape.weight_gradient(&dy, x)
                        };
                        for (total, part) in total.iter_mut().zip(part) {
                            *total += part;
                        }
                    }
                    sum.extend(total);
                }
            }
        }
        sum
    }

    /// A map with every record times the factor of its unit; exactly 0 for factor 0.
    fn scaled(&self, map: &[f32], factors: &[f32]) -> Vec<f32> {
        let of_record: Vec<f32> = self
            .members
            .of_record
            .iter()
            .map(|&unit| factors[unit])
            .collect();
        let mut out = Vec::with_capacity(map.len());
        for row in map.chunks_exact(of_record.len()) {
            out.extend(
                row.iter()
                    .zip(&of_record)
                    .map(|(v, &f)| if f == 0.0 { 0.0 } else { v * f }),
            );
        }
        out
    }
}

fn inner(a: &[f64], b: &[f64]) -> f64 {
    let mut acc = [0.0; 8];
    let (blocks_a, rest_a) = a.as_chunks::<8>();
    let (blocks_b, rest_b) = b.as_chunks::<8>();
    for (a, b) in blocks_a.iter().zip(blocks_b) {
        for l in 0..8 {
            acc[l] += a[l] * b[l];
        }
    }
    let rest: f64 = rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum();
    acc.iter().sum::<f64>() + rest
}

impl Operand {
    fn node(&self) -> Option<Node> {
        match self {
            Self::Plain(_) => None,
            Self::Tracked(tensor) => Some(tensor.node().id().value),
        }
    }
}

/// The identity of a parameter of a network on an autodiff device.
pub(crate) fn node_of<const D: usize>(tensor: &burn::tensor::Tensor<D>) -> Option<Node> {
    Operand::of(tensor)?.node()
}

#[cfg(test)]
mod tests;

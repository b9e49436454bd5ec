//! Linear maps over the last axis on the host.

use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;

use super::real::{Real, matrix};

/// A linear map with weight `[inputs, outputs]` over `rows` vectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinearMap {
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
}

impl LinearMap {
    /// `[rows, outputs]`.
    pub fn forward<E: Real>(
        &self,
        x: &FlexTensor,
        weight: &FlexTensor,
        bias: Option<&FlexTensor>,
    ) -> FlexTensor {
        let mut y = match bias.map(E::values) {
            Some(bias) => bias.repeat(self.rows),
            None => vec![E::zero(); self.rows * self.outputs],
        };
        let x = matrix(E::values(x), self.rows, self.inputs);
        let weight = matrix(E::values(weight), self.inputs, self.outputs);
        E::multiply(&x, &weight, true, &mut y);
        E::tensor(y, Shape::from([self.rows, self.outputs]))
    }

    /// `[rows, inputs]`.
    pub fn input_gradient<E: Real>(&self, dy: &FlexTensor, weight: &FlexTensor) -> FlexTensor {
        let mut dx = vec![E::zero(); self.rows * self.inputs];
        let dy = matrix(E::values(dy), self.rows, self.outputs);
        let weight = matrix(E::values(weight), self.inputs, self.outputs);
        E::multiply(&dy, &weight.t(), true, &mut dx);
        E::tensor(dx, Shape::from([self.rows, self.inputs]))
    }

    /// `[inputs, outputs]`: the sum over the rows.
    pub fn weight_gradient<E: Real>(&self, dy: &FlexTensor, x: &FlexTensor) -> FlexTensor {
        let mut dw = vec![E::zero(); self.inputs * self.outputs];
        let dy = matrix(E::values(dy), self.rows, self.outputs);
        let x = matrix(E::values(x), self.rows, self.inputs);
        E::multiply(&x.t(), &dy, true, &mut dw);
        E::tensor(dw, Shape::from([self.inputs, self.outputs]))
    }

    /// `[outputs]`: the sum over the rows.
    pub fn bias_gradient<E: Real>(&self, dy: &FlexTensor) -> FlexTensor {
        let mut db = vec![E::zero(); self.outputs];
        for dy in E::values(dy).chunks_exact(self.outputs.max(1)) {
            for (to, &from) in db.iter_mut().zip(dy) {
                *to += from;
            }
        }
        E::tensor(db, Shape::from([self.outputs]))
    }
}

//! What a tapped call leaves behind, and how it makes up the gradients of its parameters.

use burn::tensor::{Gradients, Int, Tensor};

use crate::geometry::Windows;

/// One tapped call.
#[derive(Debug)]
pub(crate) struct Record {
    /// Its gradient is that of the call's output.
    pub leaf: Tensor<4>,
    /// Shape of that gradient; the first axis is the batch.
    pub shape: [usize; 4],
    /// Trainable parameters, by position in the list, with their rule.
    pub parts: Vec<(usize, Rule)>,
}

/// How the gradient `b` of an output makes up a parameter's gradient.
#[derive(Debug)]
pub(crate) enum Rule {
    /// `sum_t a_t b_t^T`: a linear map with input `[rows, positions, inputs, 1]`.
    Linear(Tensor<4>),
    /// `sum_t b_t a_t^T`: a linear map whose weight is stored transposed.
    Projection(Tensor<4>),
    /// `sum_t b_t u_t^T` with the windows `u` of the input map.
    Convolution(Tensor<4>, Windows),
    /// `sum_t x_t v_t^T` with the windows `v` of the output's gradient.
    Transposed(Tensor<4>, Windows),
    /// `sum_t e_t b_t^T` with unit vectors `e` at the ids.
    Lookup(Tensor<2, Int>, usize),
    /// Sums of `b`, or of `b` times values, over the outer and inner axes of `[rows, outer, size, inner]`.
    Sum(Option<Tensor<4>>, [usize; 4]),
}

/// One side of a sum of outer products.
#[derive(Clone, Debug)]
pub(crate) enum Side {
    /// `[rows, positions, size, 1]`.
    Positions(Tensor<4>),
    /// `[rows, groups * size, positions, 1]` and the number of groups.
    Channels(Tensor<4>, usize),
    /// Maps to unfold.
    Windows(Tensor<4>, Windows),
    /// Ids `[rows, positions]` below the given number.
    OneHot(Tensor<2, Int>, usize),
}

/// One use of a parameter, with the gradient of the output filled in.
#[derive(Clone, Debug)]
pub(crate) enum Use {
    /// `sum_t left_t right_t^T`.
    Product(Side, Side),
    /// A sum over the outer and inner axes of `gradient * value`.
    Sum {
        gradient: Tensor<4>,
        value: Option<Tensor<4>>,
    },
}

impl Record {
    /// Rows whose outputs the differentiated losses depend on.
    pub fn touched_rows(self, gradients: &mut Gradients) -> Vec<usize> {
        let Some(gradient) = self.leaf.grad_remove(gradients) else {
            return Vec::new();
        };
        let rows = self.shape[0];
        let len = self.shape[1..].iter().product();
        let largest = gradient.reshape([rows, len]).abs().max_dim(1).into_data();
        let largest = largest.iter::<f64>().enumerate();
        // What is not a number depends as well.
        largest
            .filter(|&(_, value)| value != 0.0)
            .map(|(row, _)| row)
            .collect()
    }

    /// The uses of parameters in this call, none when the losses do not depend on it.
    pub fn uses(self, gradients: &mut Gradients) -> Vec<(usize, Use)> {
        let Some(gradient) = self.leaf.grad_remove(gradients) else {
            return Vec::new();
        };
        let shape = self.shape;
        let [rows, a, b, _] = shape;
        let with = |rule: Rule| match rule {
            Rule::Linear(input) => Use::Product(
                Side::Positions(input),
                Side::Positions(gradient.clone().reshape(shape)),
            ),
            Rule::Projection(input) => Use::Product(
                Side::Positions(gradient.clone().reshape(shape)),
                Side::Positions(input),
            ),
            Rule::Convolution(map, windows) => Use::Product(
                Side::Channels(gradient.clone().reshape([rows, a, b, 1]), windows.groups),
                Side::Windows(map, windows),
            ),
            Rule::Transposed(input, windows) => {
                let [height, width] = windows.input;
                let map = [rows, windows.channels, height, width];
                Use::Product(
                    Side::Channels(input, windows.groups),
                    Side::Windows(gradient.clone().reshape(map), windows),
                )
            }
            Rule::Lookup(ids, size) => Use::Product(
                Side::OneHot(ids, size),
                Side::Positions(gradient.clone().reshape(shape)),
            ),
            Rule::Sum(value, shape) => Use::Sum {
                gradient: gradient.clone().reshape(shape),
                value,
            },
        };
        self.parts
            .into_iter()
            .map(|(parameter, rule)| (parameter, with(rule)))
            .collect()
    }
}

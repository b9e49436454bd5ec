//! Convolution on the host: unfold one row, multiply, next row.

use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;
use ndarray::ArrayView2;

use super::product::{Product, Room};
use super::real::{Real, matrix};
use super::source::{Source, room};
use super::unfold::Unfolder;
use crate::geometry::Windows;

/// A convolution with weight `[outputs, channels / groups, kernel]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Convolution {
    pub windows: Windows,
    pub outputs: usize,
    pub rows: usize,
}

impl Convolution {
    fn outputs_of_group(&self) -> usize {
        self.outputs / self.windows.groups
    }

    /// `[rows, outputs, height, width]`.
    pub fn forward<E: Real>(
        &self,
        x: &FlexTensor,
        weight: &FlexTensor,
        bias: Option<&FlexTensor>,
    ) -> FlexTensor {
        let windows = self.windows;
        let (p, q, positions) = (
            self.outputs_of_group(),
            windows.window(),
            windows.positions(),
        );
        let weights = groups(E::values(weight), windows.groups, p, q);
        let lefts: Vec<_> = weights.iter().map(E::left).collect();
        let mut output = vec![E::zero(); self.rows * self.outputs * positions];
        if let Some(bias) = bias.map(E::values) {
            let channels = output.chunks_exact_mut(positions.max(1));
            for (channel, &value) in channels.zip(bias.iter().cycle()) {
                channel.fill(value);
            }
        }
        let mut columns = Vec::new();
        let mut unfolder = Unfolder::new(windows);
        let maps = E::values(x).chunks_exact(windows.map_of_group());
        let parts = output.chunks_exact_mut(p * positions);
        for (index, (map, to)) in maps.zip(parts).enumerate() {
            let group = index % windows.groups;
            let columns = if windows.is_pointwise() {
                map
            } else {
                let columns = room(&mut columns, q * positions);
                unfolder.unfold(map, columns, positions, 0);
                columns
            };
            E::times(&lefts[group], &matrix(columns, q, positions), true, to);
        }
        let [height, width] = windows.output;
        E::tensor(
            output,
            Shape::from([self.rows, self.outputs, height, width]),
        )
    }

    /// `[rows, channels, height, width]`.
    pub fn input_gradient<E: Real>(&self, dy: &FlexTensor, weight: &FlexTensor) -> FlexTensor {
        let windows = self.windows;
        let (p, q, positions) = (
            self.outputs_of_group(),
            windows.window(),
            windows.positions(),
        );
        let weights = groups(E::values(weight), windows.groups, p, q);
        let weights: Vec<_> = weights.iter().map(|weight| weight.t()).collect();
        let lefts: Vec<_> = weights.iter().map(E::left).collect();
        let mut dx = vec![E::zero(); self.rows * windows.map()];
        let mut columns = Vec::new();
        let mut unfolder = Unfolder::new(windows);
        let maps = dx.chunks_exact_mut(windows.map_of_group());
        let parts = E::values(dy).chunks_exact(p * positions);
        for (index, (map, dy)) in maps.zip(parts).enumerate() {
            let group = index % windows.groups;
            let dy = matrix(dy, p, positions);
            if windows.is_pointwise() {
                E::times(&lefts[group], &dy, false, map);
            } else {
                let columns = room(&mut columns, q * positions);
                E::times(&lefts[group], &dy, false, columns);
                unfolder.fold(columns, positions, 0, map);
            }
        }
        let [height, width] = windows.input;
        E::tensor(
            dx,
            Shape::from([self.rows, windows.channels, height, width]),
        )
    }

    /// `[outputs, channels / groups, kernel]`: the sum over the rows.
    pub fn weight_gradient<E: Real>(&self, dy: &FlexTensor, x: &FlexTensor) -> FlexTensor {
        let windows = self.windows;
        let (p, q) = (self.outputs_of_group(), windows.window());
        let product = Product {
            groups: windows.groups,
            p,
            q,
            uses: vec![(
                Source::Channels {
                    data: dy.clone(),
                    groups: windows.groups,
                    positions: windows.positions(),
                    size: p,
                },
                Source::Windows {
                    data: x.clone(),
                    windows,
                },
            )],
        };
        let rows: Vec<usize> = (0..self.rows).collect();
        let mut dw = vec![E::zero(); self.outputs * q];
        product.add(&rows, None, &mut dw, &mut Room::new());
        let [kh, kw] = windows.kernel;
        let channels = windows.channels / windows.groups;
        E::tensor(dw, Shape::from([self.outputs, channels, kh, kw]))
    }

    /// `[outputs]`: the sum over rows and positions.
    pub fn bias_gradient<E: Real>(&self, dy: &FlexTensor) -> FlexTensor {
        let mut db = vec![0.0; self.outputs];
        let channels = E::values(dy).chunks_exact(self.windows.positions());
        let ones = vec![E::one(); self.windows.positions()];
        for (index, channel) in channels.enumerate() {
            db[index % self.outputs] += super::real::dot(channel, &ones);
        }
        let db = db.into_iter().map(E::from_f64).collect();
        E::tensor(db, Shape::from([self.outputs]))
    }
}

/// The weights of each group, `[p, q]`.
fn groups<E>(weight: &[E], groups: usize, p: usize, q: usize) -> Vec<ArrayView2<'_, E>> {
    let parts = weight.chunks_exact(p * q).take(groups);
    parts.map(|part| matrix(part, p, q)).collect()
}

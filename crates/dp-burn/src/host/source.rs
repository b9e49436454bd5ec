//! One side of the products that make up a parameter's gradient, row by row, on the host.

use burn::backend::flex::FlexTensor;
use ndarray::ArrayView2;

use super::real::{Real, matrix};
use super::unfold::Unfolder;
use crate::geometry::Windows;

/// Values of every row of the batch, seen as a matrix `[size, positions]` per row and group.
#[derive(Debug)]
pub(crate) enum Source {
    /// `[rows, positions, size]`.
    Positions {
        data: FlexTensor,
        positions: usize,
        size: usize,
    },
    /// `[rows, groups * size, positions]`.
    Channels {
        data: FlexTensor,
        groups: usize,
        positions: usize,
        size: usize,
    },
    /// `[rows, channels, height, width]`, unfolded when needed.
    Windows { data: FlexTensor, windows: Windows },
    /// One of `size` unit vectors per position, `[rows, positions]`.
    OneHot {
        ids: Vec<usize>,
        positions: usize,
        size: usize,
    },
}

/// Rows of a source side by side: `[size, positions of all the rows]`.
#[derive(Debug)]
pub(crate) enum Block<'a, E> {
    /// A matrix.
    Dense(ArrayView2<'a, E>),
    /// The position of the 1 in each column.
    Ids(Vec<usize>),
}

/// Room that is reused from row to row.
#[derive(Debug)]
pub(crate) struct Buffer<E> {
    values: Vec<E>,
    unfolder: Option<(Windows, Unfolder<E>)>,
}

impl<E> Default for Buffer<E> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            unfolder: None,
        }
    }
}

impl Source {
    /// Positions of one row.
    pub fn positions(&self) -> usize {
        match self {
            Self::Positions { positions, .. }
            | Self::Channels { positions, .. }
            | Self::OneHot { positions, .. } => *positions,
            Self::Windows { windows, .. } => windows.positions(),
        }
    }

    /// Values per position and group.
    pub fn size(&self) -> usize {
        match self {
            Self::Positions { size, .. }
            | Self::Channels { size, .. }
            | Self::OneHot { size, .. } => *size,
            Self::Windows { windows, .. } => windows.window(),
        }
    }

    /// Groups.
    pub fn groups(&self) -> usize {
        match self {
            Self::Channels { groups, .. } => *groups,
            Self::Windows { windows, .. } => windows.groups,
            Self::Positions { .. } | Self::OneHot { .. } => 1,
        }
    }

    /// Values that one row keeps in memory.
    pub fn stored(&self) -> usize {
        match self {
            Self::Positions {
                positions, size, ..
            } => positions * size,
            Self::Channels {
                groups,
                positions,
                size,
                ..
            } => groups * positions * size,
            Self::Windows { windows, .. } => windows.map(),
            Self::OneHot { positions, .. } => *positions,
        }
    }

    /// Whether a factor per row is cheaper to apply here than on the other side.
    pub fn takes_factors(&self) -> bool {
        matches!(self, Self::Channels { .. })
    }

    /// The rows side by side, each times its factor where there are any.
    ///
    /// Borrows the stored values where no copy is needed.
    pub fn block<'a, E: Real>(
        &'a self,
        rows: &[usize],
        factors: Option<&[E]>,
        group: usize,
        buffer: &'a mut Buffer<E>,
    ) -> Block<'a, E> {
        let (size, positions) = (self.size(), self.positions());
        let width = rows.len() * positions;
        match self {
            Self::OneHot { ids, .. } => {
                let of = |row: usize| &ids[row * positions..(row + 1) * positions];
                Block::Ids(rows.iter().flat_map(|&row| of(row)).copied().collect())
            }
            Self::Positions { data, .. } => {
                let values = E::values(data);
                let len = positions * size;
                let consecutive = rows.windows(2).all(|pair| pair[1] == pair[0] + 1);
                if factors.is_none() && consecutive {
                    let first = rows.first().copied().unwrap_or(0);
                    let values = &values[first * len..first * len + width * size];
                    return Block::Dense(matrix(values, width, size).reversed_axes());
                }
                let to = &mut buffer.values;
                to.clear();
                for (index, &row) in rows.iter().enumerate() {
                    let from = &values[row * len..(row + 1) * len];
                    match factors {
                        None => to.extend_from_slice(from),
                        Some(factors) => to.extend(from.iter().map(|&v| v * factors[index])),
                    }
                }
                Block::Dense(matrix(to, width, size).reversed_axes())
            }
            Self::Channels { data, groups, .. } => {
                let values = E::values(data);
                let len = size * positions;
                let of = |row: usize| {
                    let start = (row * groups + group) * len;
                    &values[start..start + len]
                };
                if let (None, &[row]) = (factors, rows) {
                    return Block::Dense(matrix(of(row), size, positions));
                }
                let to = room(&mut buffer.values, size * width);
                for (index, &row) in rows.iter().enumerate() {
                    let factor = factors.map_or(E::one(), |factors| factors[index]);
                    for (channel, from) in of(row).chunks_exact(positions).enumerate() {
                        let start = channel * width + index * positions;
                        for (to, &from) in to[start..start + positions].iter_mut().zip(from) {
                            *to = from * factor;
                        }
                    }
                }
                Block::Dense(matrix(to, size, width))
            }
            Self::Windows { data, windows } => {
                let values = E::values(data);
                let len = windows.map_of_group();
                let of = |row: usize| {
                    let start = (row * windows.groups + group) * len;
                    &values[start..start + len]
                };
                if let (true, &[row]) = (windows.is_pointwise(), rows) {
                    return Block::Dense(matrix(of(row), size, positions));
                }
                let to = room(&mut buffer.values, size * width);
                let unfolder = unfolder(&mut buffer.unfolder, *windows);
                for (index, &row) in rows.iter().enumerate() {
                    unfolder.unfold(of(row), to, width, index * positions);
                }
                Block::Dense(matrix(to, size, width))
            }
        }
    }
}

/// The kept unfolder when it is for these windows, else a new one.
fn unfolder<E: Real>(
    kept: &mut Option<(Windows, Unfolder<E>)>,
    windows: Windows,
) -> &mut Unfolder<E> {
    if kept.as_ref().is_none_or(|(of, _)| *of != windows) {
        *kept = None;
    }
    &mut kept
        .get_or_insert_with(|| (windows, Unfolder::new(windows)))
        .1
}

/// The first `len` values; what they hold is left over from before.
pub(crate) fn room<E: Real>(values: &mut Vec<E>, len: usize) -> &mut [E] {
    if values.len() < len {
        values.resize(len, E::zero());
    }
    &mut values[..len]
}

//! Rows of a batch side by side, as matrices on the device.

use burn::tensor::{Bool, IndexingUpdateOp, Int, Slice, Tensor, TensorData};

use crate::geometry::Windows;
use crate::record::Side;

/// Rows to take from a batch: `entries` lists of `each` rows, some of them missing.
#[derive(Clone, Debug)]
pub(crate) struct Picks {
    pub entries: usize,
    pub each: usize,
    rows: Vec<usize>,
    missing: Vec<bool>,
}

impl Picks {
    /// Lists of rows, filled up to the length of the longest.
    pub fn new(lists: &[&[usize]]) -> Self {
        let each = lists.iter().map(|list| list.len()).max().unwrap_or(0);
        let (mut rows, mut missing) = (Vec::new(), Vec::new());
        for list in lists {
            for index in 0..each {
                rows.push(list.get(index).copied().unwrap_or(0));
                missing.push(index >= list.len());
            }
        }
        Self {
            entries: lists.len(),
            each,
            rows,
            missing,
        }
    }

    fn is_whole(&self, batch: usize) -> bool {
        self.rows.len() == batch
            && self
                .rows
                .iter()
                .enumerate()
                .all(|(index, &row)| index == row)
            && !self.missing.contains(&true)
    }

    /// The rows, with zeros for missing ones.
    fn of(&self, tensor: &Tensor<4>) -> Tensor<4> {
        if self.is_whole(tensor.dims()[0]) {
            return tensor.clone();
        }
        let device = tensor.device();
        let index: Vec<i64> = self.rows.iter().map(|&row| row as i64).collect();
        let index = Tensor::<1, Int>::from_data(TensorData::new(index, [self.rows.len()]), &device);
        let taken = tensor.clone().select(0, index);
        if !self.missing.contains(&true) {
            return taken;
        }
        // Filled, not multiplied: the row in the place of a missing one may hold something not finite.
        let missing = TensorData::new(self.missing.clone(), [self.missing.len(), 1, 1, 1]);
        let missing = Tensor::<4, Bool>::from_data(missing, &device).expand(taken.dims());
        taken.mask_fill(missing, 0.0)
    }

    fn ids(&self, ids: &Tensor<2, Int>) -> Tensor<2, Int> {
        let [_, positions] = ids.dims();
        let index: Vec<i64> = self.rows.iter().map(|&row| row as i64).collect();
        let index = TensorData::new(index, [self.rows.len()]);
        let taken = ids
            .clone()
            .select(0, Tensor::<1, Int>::from_data(index, &ids.device()));
        taken.reshape([self.entries, self.each * positions])
    }
}

/// The rows of each entry side by side.
#[derive(Clone, Debug)]
pub(crate) enum Block {
    /// `[entries, groups, size, positions]`.
    Dense(Tensor<4>),
    /// Unit vectors at `ids [entries, positions]`, of a size.
    Ids(Tensor<2, Int>, usize),
}

impl Side {
    /// Positions of one row.
    pub fn positions(&self) -> usize {
        match self {
            Self::Positions(tensor) => tensor.dims()[1],
            Self::Channels(tensor, _) => tensor.dims()[2],
            Self::Windows(_, windows) => windows.positions(),
            Self::OneHot(ids, _) => ids.dims()[1],
        }
    }

    /// Values per position and group.
    pub fn size(&self) -> usize {
        match self {
            Self::Positions(tensor) => tensor.dims()[2],
            Self::Channels(tensor, groups) => tensor.dims()[1] / groups,
            Self::Windows(_, windows) => windows.window(),
            Self::OneHot(_, size) => *size,
        }
    }

    /// Groups.
    pub fn groups(&self) -> usize {
        match self {
            Self::Channels(_, groups) => *groups,
            Self::Windows(_, windows) => windows.groups,
            Self::Positions(_) | Self::OneHot(..) => 1,
        }
    }

    /// Values that one row keeps in memory.
    pub fn stored(&self) -> usize {
        match self {
            Self::Positions(tensor) | Self::Channels(tensor, _) | Self::Windows(tensor, _) => {
                tensor.dims()[1..].iter().product()
            }
            Self::OneHot(ids, _) => ids.dims()[1],
        }
    }

    /// Values of a row once it is laid out as a matrix.
    pub fn laid_out(&self) -> usize {
        match self {
            Self::OneHot(ids, _) => ids.dims()[1],
            other => other.groups() * other.size() * other.positions(),
        }
    }

    pub fn block(&self, picks: &Picks) -> Block {
        let (entries, each) = (picks.entries, picks.each);
        let (groups, size, positions) = (self.groups(), self.size(), self.positions());
        let channels = |tensor: Tensor<4>| {
            let tensor = tensor.reshape([entries, each, groups, size, positions]);
            let tensor: Tensor<5> = tensor.permute([0, 2, 3, 1, 4]);
            Block::Dense(tensor.reshape([entries, groups, size, each * positions]))
        };
        match self {
            Self::Positions(tensor) => {
                let tensor = picks.of(tensor);
                let tensor = tensor.reshape([entries, 1, each * positions, size]);
                Block::Dense(tensor.swap_dims(2, 3))
            }
            Self::Channels(tensor, _) => channels(picks.of(tensor)),
            Self::Windows(tensor, windows) => channels(unfold(picks.of(tensor), windows)),
            Self::OneHot(ids, size) => Block::Ids(picks.ids(ids), *size),
        }
    }
}

/// Windows as columns, `[rows, groups, window, positions]`.
fn unfold(map: Tensor<4>, windows: &Windows) -> Tensor<4> {
    let [rows, channels, height, width] = map.dims();
    let Windows {
        groups,
        output,
        kernel,
        stride,
        dilation,
        before,
        ..
    } = *windows;
    let reach =
        |axis: usize| (output[axis] - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1;
    let size = [
        reach(0).max(before[0] + height),
        reach(1).max(before[1] + width),
    ];
    let map = if size == [height, width] {
        map
    } else {
        let padded = Tensor::zeros(
            [rows, channels, size[0], size[1]],
            (&map.device(), map.dtype()),
        );
        let inside = [
            0..rows,
            0..channels,
            before[0]..before[0] + height,
            before[1]..before[1] + width,
        ];
        padded.slice_assign(inside, map)
    };
    let positions = windows.positions();
    let along = |axis: usize, element: usize| {
        let start = element * dilation[axis];
        let end = start + (output[axis] - 1) * stride[axis] + 1;
        Slice::new(start as isize, Some(end as isize), stride[axis] as isize)
    };
    let mut elements = Vec::with_capacity(kernel[0] * kernel[1]);
    for i in 0..kernel[0] {
        for j in 0..kernel[1] {
            let all = Slice::new(0, None, 1);
            let seen = map.clone().slice([all, all, along(0, i), along(1, j)]);
            elements.push(seen.reshape([rows, channels, 1, positions]));
        }
    }
    Tensor::cat(elements, 2).reshape([rows, groups, windows.window(), positions])
}

impl Block {
    /// Times a factor per picked row.
    pub fn scaled(self, factors: &[f64], positions: usize) -> Self {
        match self {
            Self::Ids(..) => self,
            Self::Dense(tensor) => {
                let factors: Vec<f64> = factors
                    .iter()
                    .flat_map(|&factor| std::iter::repeat_n(factor, positions))
                    .collect();
                let data = TensorData::new(factors, [1, 1, 1, tensor.dims()[3]]);
                let dtype = tensor.dtype();
                let factors =
                    Tensor::<4>::from_data(data.convert_dtype(dtype), (&tensor.device(), dtype));
                Self::Dense(tensor * factors)
            }
        }
    }

    /// `left right^T` per entry and group, `[entries, groups, p, q]`; a right side is always dense.
    pub fn outer(&self, right: &Self) -> Option<Tensor<4>> {
        let Self::Dense(right) = right else {
            return None;
        };
        Some(match self {
            Self::Dense(left) => left.clone().matmul(right.clone().swap_dims(2, 3)),
            Self::Ids(ids, size) => {
                let [entries, _, q, positions] = right.dims();
                let sums = (0..entries).map(|entry| {
                    let ids = ids.clone().narrow(0, entry, 1);
                    let values = right.clone().narrow(0, entry, 1);
                    let values = values.reshape([q, positions]).swap_dims(0, 1);
                    let zeros = Tensor::<2>::zeros([*size, q], (&right.device(), right.dtype()));
                    let ids = ids.reshape([positions]);
                    let sum = zeros.select_assign(0, ids, values, IndexingUpdateOp::Add);
                    sum.reshape([1, 1, *size, q])
                });
                Tensor::cat(sums.collect(), 0)
            }
        })
    }

    /// Inner products of the columns of two blocks, `[entries, groups, positions, positions]`, in the precision of
    /// `like`.
    pub fn gram(&self, other: &Self, like: &Tensor<4>) -> Tensor<4> {
        match (self, other) {
            (Self::Dense(a), Self::Dense(b)) => a.clone().swap_dims(2, 3).matmul(b.clone()),
            (Self::Ids(a, _), Self::Ids(b, _)) => {
                let [entries, t] = a.dims();
                let [_, u] = b.dims();
                let a = a
                    .clone()
                    .reshape([entries, 1, t, 1])
                    .expand([entries, 1, t, u]);
                let b = b
                    .clone()
                    .reshape([entries, 1, 1, u])
                    .expand([entries, 1, t, u]);
                let a: Tensor<4, Int> = a;
                a.equal(b).float().cast(like.dtype())
            }
            (Self::Ids(ids, _), Self::Dense(dense)) => {
                let [entries, t] = ids.dims();
                let [_, _, _, u] = dense.dims();
                let ids: Tensor<4, Int> = ids.clone().reshape([entries, 1, t, 1]);
                dense.clone().gather(2, ids.expand([entries, 1, t, u]))
            }
            (Self::Dense(_), Self::Ids(..)) => other.gram(self, like).swap_dims(2, 3),
        }
    }
}

//! Gradients that are sums of outer products: weights of linear maps, convolutions and embeddings.
//!
//! The gradient of a unit is `sum_t left_t right_t^T` over the positions of all its rows and of all uses of
//! the parameter. Its norm follows from the two Gram matrices of the positions, without the gradient (ghost
//! norm: Goodfellow, arXiv 1510.01799; Li et al., arXiv 2110.05679, section 4; several uses and rows only
//! make the matrices larger, which is where their cross terms are), or from the gradient itself, whichever is
//! smaller by shapes (mixed ghost norm: Bu et al., arXiv 2205.10683).

use std::collections::HashMap;

use ndarray::{Array2, ArrayView2};

use super::real::{Real, add_scaled, dot, squares};
use super::source::{Block, Buffer, Source};
use crate::Units;

/// Below this share of the sum without signs, the signed sum of a Gram product has lost digits to
/// cancellation (views of a unit that pull apart) and the norm is taken from the gradient instead.
const CANCELLED: f64 = 0.05;

/// Values of an unfolded block that fit a core's second-level cache.
const BLOCK: usize = 1 << 17;

/// All uses of one parameter of shape `[groups, p, q]`.
#[derive(Debug)]
pub(crate) struct Product {
    pub groups: usize,
    pub p: usize,
    pub q: usize,
    pub uses: Vec<(Source, Source)>,
}

/// What is known of the gradient of one unit.
#[derive(Debug)]
pub(crate) struct Known<E> {
    /// Squared norm.
    pub square: f64,
    /// The gradient, where keeping it takes no more room than the unit's activations.
    pub gradient: Option<Vec<E>>,
}

/// Reusable room, one pair of buffers per use.
#[derive(Debug)]
pub(crate) struct Room<E> {
    left: Vec<Buffer<E>>,
    right: Vec<Buffer<E>>,
    gradient: Vec<E>,
}

impl<E: Real> Room<E> {
    pub fn new() -> Self {
        Self {
            left: Vec::new(),
            right: Vec::new(),
            gradient: Vec::new(),
        }
    }

    fn fit(&mut self, uses: usize) {
        self.left
            .resize_with(uses.max(self.left.len()), Buffer::default);
        self.right
            .resize_with(uses.max(self.right.len()), Buffer::default);
    }
}

impl Product {
    fn len(&self) -> usize {
        self.groups * self.p * self.q
    }

    /// Norms of all units, and the gradients that are kept.
    pub fn units<E: Real>(&self, units: &Units, room: &mut Room<E>) -> Vec<Known<E>> {
        room.fit(self.uses.len());
        (0..units.len())
            .map(|unit| self.unit(units.rows_of(unit), room))
            .collect()
    }

    fn unit<E: Real>(&self, rows: &[usize], room: &mut Room<E>) -> Known<E> {
        let of_uses = |value: fn(&Source) -> usize| -> usize {
            let pairs = self.uses.iter();
            pairs.map(|(left, right)| value(left) + value(right)).sum()
        };
        let positions = rows.len() * of_uses(Source::positions) / 2;
        let one_hot = |(left, _): &(Source, Source)| matches!(left, Source::OneHot { .. });
        if self.uses.iter().all(one_hot) {
            return Known {
                square: self.merged(rows, room),
                gradient: None,
            };
        }
        if positions == 1 || 2 * positions * positions < self.p * self.q {
            let (signed, unsigned) = self.grams(rows, room);
            // What is not a number has not cancelled: it stays what it is.
            let cancelled = positions > 1 && signed < CANCELLED * unsigned;
            if !cancelled {
                return Known {
                    square: signed,
                    gradient: None,
                };
            }
        }
        let mut gradient = std::mem::take(&mut room.gradient);
        gradient.clear();
        gradient.resize(self.len(), E::zero());
        self.add(rows, None, &mut gradient, room);
        let square = squares(&gradient);
        let keep = self.len() <= rows.len() * of_uses(Source::stored);
        if !keep {
            room.gradient = gradient;
            return Known {
                square,
                gradient: None,
            };
        }
        Known {
            square,
            gradient: Some(gradient),
        }
    }

    /// `sum_tt' <left_t, left_t'> <right_t, right_t'>`, and the same sum of absolute values.
    fn grams<E: Real>(&self, rows: &[usize], room: &mut Room<E>) -> (f64, f64) {
        let (mut signed, mut unsigned) = (0.0, 0.0);
        for group in 0..self.groups {
            let lefts = self.uses.iter().zip(&mut room.left);
            let lefts: Vec<_> = lefts
                .map(|((left, _), buffer)| left.block(rows, None, group, buffer))
                .collect();
            let rights = self.uses.iter().zip(&mut room.right);
            let rights: Vec<_> = rights
                .map(|((_, right), buffer)| right.block(rows, None, group, buffer))
                .collect();
            for i in 0..lefts.len() {
                for j in i..lefts.len() {
                    // Different uses meet twice.
                    let times = if i == j { 1.0 } else { 2.0 };
                    let (s, u) = inner(&lefts[i], &lefts[j], &rights[i], &rights[j]);
                    signed += times * s;
                    unsigned += times * u;
                }
            }
        }
        (signed, unsigned)
    }

    /// Squared norm of an embedding's gradient: equal ids are merged before they are squared.
    fn merged<E: Real>(&self, rows: &[usize], room: &mut Room<E>) -> f64 {
        let mut sums: HashMap<usize, Vec<E>> = HashMap::new();
        for ((left, right), buffer) in self.uses.iter().zip(&mut room.right) {
            let (Source::OneHot { ids, positions, .. }, right) = (left, right) else {
                continue;
            };
            let Block::Dense(right) = right.block(rows, None, 0, buffer) else {
                continue;
            };
            let of = |row: &usize| &ids[row * positions..(row + 1) * positions];
            for (&id, column) in rows.iter().flat_map(of).zip(right.columns()) {
                let sum = sums.entry(id).or_insert_with(|| vec![E::zero(); self.q]);
                for (to, &from) in sum.iter_mut().zip(column) {
                    *to += from;
                }
            }
        }
        // The order of a hash map varies: sort, so that the sum repeats bit for bit.
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by_key(|&(id, _)| id);
        sums.iter().map(|(_, sum)| squares(sum)).sum()
    }

    /// Adds the gradients of `rows`, each times its factor where there are any, to `to`.
    pub fn add<E: Real>(
        &self,
        rows: &[usize],
        factors: Option<&[E]>,
        to: &mut [E],
        room: &mut Room<E>,
    ) {
        room.fit(self.uses.len());
        let (Some(left_buffer), Some(right_buffer)) =
            (room.left.first_mut(), room.right.first_mut())
        else {
            return;
        };
        for (left, right) in &self.uses {
            // Stored values go into one product; unfolded ones in blocks, for the cache and for memory.
            let largest = [left, right]
                .iter()
                .filter(|source| !matches!(source, Source::Positions { .. }))
                .map(|source| source.positions() * source.size())
                .max();
            let at_once = match (left, largest) {
                (Source::OneHot { .. }, _) | (_, None) => rows.len(),
                (_, Some(values)) => (BLOCK / values.max(1)).max(1),
            };
            for start in (0..rows.len()).step_by(at_once.max(1)) {
                let range = start..(start + at_once).min(rows.len());
                let rows = &rows[range.clone()];
                let factors = factors.map(|factors| &factors[range]);
                let (on_left, on_right) = if left.takes_factors() {
                    (factors, None)
                } else {
                    (None, factors)
                };
                for (group, to) in to.chunks_exact_mut(self.p * self.q).enumerate() {
                    let left = left.block(rows, on_left, group, left_buffer);
                    let right = right.block(rows, on_right, group, right_buffer);
                    outer(&left, &right, to);
                }
            }
        }
    }

    /// `sum_u factor_u gradient_u`, added to `to`; units with factor 0 are not touched.
    pub fn weighted<E: Real>(
        &self,
        units: &Units,
        known: &[Known<E>],
        factors: &[f64],
        to: &mut [E],
        room: &mut Room<E>,
    ) {
        let mut rows = Vec::new();
        let mut of_rows = Vec::new();
        for row in 0..units.rows() {
            let unit = units.of_row(row);
            if factors[unit] != 0.0 && known[unit].gradient.is_none() {
                rows.push(row);
                of_rows.push(E::from_f64(factors[unit]));
            }
        }
        for (known, &factor) in known.iter().zip(factors) {
            if let Some(gradient) = known.gradient.as_ref().filter(|_| factor != 0.0) {
                add_scaled(to, E::from_f64(factor), gradient);
            }
        }
        self.add(&rows, Some(&of_rows), to, room);
    }
}

/// `to += left right^T`.
fn outer<E: Real>(left: &Block<'_, E>, right: &Block<'_, E>, to: &mut [E]) {
    let Block::Dense(right) = right else {
        return; // One-hot values only ever stand on the left.
    };
    match left {
        Block::Dense(left) => E::multiply(left, &right.t(), true, to),
        Block::Ids(ids) => {
            for (&id, column) in ids.iter().zip(right.columns()) {
                let to = &mut to[id * right.nrows()..(id + 1) * right.nrows()];
                for (to, &from) in to.iter_mut().zip(column) {
                    *to += from;
                }
            }
        }
    }
}

/// Inner product of the Gram matrices of two uses, signed and of absolute values.
fn inner<E: Real>(
    left: &Block<'_, E>,
    left_other: &Block<'_, E>,
    right: &Block<'_, E>,
    right_other: &Block<'_, E>,
) -> (f64, f64) {
    let (Block::Dense(right), Block::Dense(right_other)) = (right, right_other) else {
        return (0.0, 0.0);
    };
    let right = gram(right, right_other);
    let left = match (left, left_other) {
        (Block::Dense(left), Block::Dense(other)) => gram(left, other),
        (Block::Ids(ids), Block::Ids(others)) => {
            Array2::from_shape_fn((ids.len(), others.len()), |(t, u)| {
                if ids[t] == others[u] {
                    E::one()
                } else {
                    E::zero()
                }
            })
        }
        (Block::Ids(ids), Block::Dense(other)) => {
            Array2::from_shape_fn((ids.len(), other.ncols()), |(t, u)| other[[ids[t], u]])
        }
        (Block::Dense(left), Block::Ids(others)) => {
            Array2::from_shape_fn((left.ncols(), others.len()), |(t, u)| left[[others[u], t]])
        }
    };
    let (left, right) = (flat(&left), flat(&right));
    let unsigned = left.iter().zip(right);
    let unsigned = unsigned.map(|(&l, &r)| (l * r).to_f64().abs()).sum();
    (dot(left, right), unsigned)
}

fn gram<E: Real>(a: &ArrayView2<'_, E>, b: &ArrayView2<'_, E>) -> Array2<E> {
    let mut gram = vec![E::zero(); a.ncols() * b.ncols()];
    E::multiply(&a.t(), b, false, &mut gram);
    Array2::from_shape_vec((a.ncols(), b.ncols()), gram).expect("rows times columns values")
}

fn flat<E>(matrix: &Array2<E>) -> &[E] {
    matrix.as_slice().expect("made in standard order")
}

//! One parameter's gradients with Burn's own operations, on any device.

mod block;

use burn::tensor::{Bool, Tensor, TensorData};

use crate::Units;
use crate::book::Gradient;
use crate::params::Parameter;
use crate::record::{Side, Use};
use block::Picks;

/// As on the host: below this share of the sum without signs a Gram product has cancelled.
const CANCELLED: f64 = 0.05;

/// Unfolded values that are on the device at a time.
const AT_ONCE: usize = 1 << 24;

/// The uses of one parameter and what is known of its units' gradients.
#[derive(Debug)]
pub(crate) struct Book {
    squares: Vec<f64>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Outer products, none kept.
    Products(Vec<(Side, Side)>),
    /// The gradients of all units, `[units, size]`.
    Kept(Box<Tensor<2>>),
}

impl Book {
    pub fn new(uses: Vec<Use>, parameter: &Parameter, units: &Units) -> Self {
        let (mut products, mut kept) = (Vec::new(), None::<Tensor<2>>);
        for each in uses {
            match each {
                Use::Product(left, right) => products.push((left, right)),
                Use::Sum { gradient, value } => {
                    let sum = sum(gradient, value, parameter.len, units);
                    kept = Some(match kept {
                        Some(kept) => kept + sum,
                        None => sum,
                    });
                }
            }
        }
        let shape = |(left, right): &(Side, Side)| (left.groups(), left.size(), right.size());
        let same = products
            .windows(2)
            .all(|pair| shape(&pair[0]) == shape(&pair[1]));
        match kept {
            None if same => Self::products(products, parameter.len, units),
            // As on the host: mixed uses need the gradient itself.
            kept => {
                let gradients = products
                    .into_iter()
                    .map(|product| instantiate(&[product], parameter.len, units));
                let kept = kept.into_iter().chain(gradients).reduce(|a, b| a + b);
                // A parameter is only here because it was used.
                Self::kept(kept.expect("at least one use"))
            }
        }
    }

    fn kept(kept: Tensor<2>) -> Self {
        let squares = kept.clone().powf_scalar(2.0).sum_dim(1).into_data();
        Self {
            squares: squares.iter::<f64>().collect(),
            content: Content::Kept(Box::new(kept)),
        }
    }

    fn products(products: Vec<(Side, Side)>, len: usize, units: &Units) -> Self {
        let each = units.most_rows();
        let positions = each
            * products
                .iter()
                .map(|(left, _)| left.positions())
                .sum::<usize>();
        let stored: usize = products.iter().map(|(l, r)| l.stored() + r.stored()).sum();
        let one_hot = products
            .iter()
            .all(|(left, _)| matches!(left, Side::OneHot(..)));
        let groups = products.first().map_or(1, |(left, _)| left.groups());
        if positions > 1 && 2 * positions * positions >= len / groups && !one_hot {
            if len <= each * stored {
                return Self::kept(instantiate(&products, len, units));
            }
            let squares = chunks(&products, units).flat_map(|lists| {
                let gradient = of_lists(&products, &lists, len);
                let squares = gradient.powf_scalar(2.0).sum_dim(1).into_data();
                squares.iter::<f64>().collect::<Vec<_>>()
            });
            return Self {
                squares: squares.collect(),
                content: Content::Products(products),
            };
        }
        let mut squares = Vec::new();
        for lists in chunks(&products, units) {
            let (signed, unsigned) = grams(&products, &lists);
            for ((signed, unsigned), rows) in signed.into_iter().zip(unsigned).zip(lists) {
                squares.push(if positions > 1 && signed < CANCELLED * unsigned {
                    let gradient = of_lists(&products, &[rows], len);
                    let square = gradient.powf_scalar(2.0).sum().into_data();
                    square.iter::<f64>().next().unwrap_or(f64::NAN)
                } else {
                    signed
                });
            }
        }
        Self {
            squares,
            content: Content::Products(products),
        }
    }

    fn sum(self, units: &Units, factors: &[f64]) -> Vec<f64> {
        let sum = match self.content {
            Content::Kept(kept) => {
                let device = kept.device();
                let [count, size] = kept.dims();
                // Filled, not multiplied: what is not finite does not become 0 by a factor 0.
                let out: Vec<bool> = factors.iter().map(|&factor| factor == 0.0).collect();
                let out = Tensor::<2, Bool>::from_data(TensorData::new(out, [count, 1]), &device);
                let kept = (*kept).mask_fill(out.expand([count, size]), 0.0);
                let data = TensorData::new(factors.to_vec(), [count, 1]);
                let dtype = kept.dtype();
                let factors = Tensor::<2>::from_data(data.convert_dtype(dtype), (&device, dtype));
                Some((kept * factors).sum_dim(0).reshape([size]))
            }
            Content::Products(products) => weighted(&products, units, factors),
        };
        match sum {
            Some(sum) => sum.into_data().iter::<f64>().collect(),
            None => Vec::new(),
        }
    }
}

/// `sum_u factor_u gradient_u` of products that were not kept; nothing when every factor is 0.
fn weighted(products: &[(Side, Side)], units: &Units, factors: &[f64]) -> Option<Tensor<1>> {
    let rows: Vec<usize> = (0..units.rows())
        .filter(|&row| factors[units.of_row(row)] != 0.0)
        .collect();
    let mut total = None::<Tensor<4>>;
    for (left, right) in products {
        let at_once = (AT_ONCE / left.laid_out().max(right.laid_out()).max(1)).max(1);
        for rows in rows.chunks(at_once) {
            let of_rows: Vec<f64> = rows.iter().map(|&row| factors[units.of_row(row)]).collect();
            let picks = Picks::new(&[rows]);
            let positions = left.positions();
            let dense = !matches!(left, Side::OneHot(..));
            let (mut l, mut r) = (left.block(&picks), right.block(&picks));
            if dense {
                l = l.scaled(&of_rows, positions);
            } else {
                r = r.scaled(&of_rows, positions);
            }
            let Some(sum) = l.outer(&r) else { continue };
            total = Some(match total {
                Some(total) => total + sum,
                None => sum,
            });
        }
    }
    total.map(|total| {
        let len: usize = total.dims().iter().product();
        total.reshape([len])
    })
}

/// The rows of each unit, as many units at a time as fit.
fn chunks<'a>(
    products: &[(Side, Side)],
    units: &'a Units,
) -> impl Iterator<Item = Vec<&'a [usize]>> + use<'a> {
    let largest = products
        .iter()
        .map(|(left, right)| left.laid_out().max(right.laid_out()))
        .max()
        .unwrap_or(1);
    let at_once = (AT_ONCE / (largest * units.most_rows()).max(1)).max(1);
    (0..units.len()).step_by(at_once).map(move |start| {
        let end = (start + at_once).min(units.len());
        (start..end).map(|unit| units.rows_of(unit)).collect()
    })
}

/// The gradients of all units, `[units, len]`.
fn instantiate(products: &[(Side, Side)], len: usize, units: &Units) -> Tensor<2> {
    let parts = chunks(products, units).map(|lists| of_lists(products, &lists, len));
    Tensor::cat(parts.collect(), 0)
}

/// The gradients of lists of rows, `[lists, len]`.
fn of_lists(products: &[(Side, Side)], lists: &[&[usize]], len: usize) -> Tensor<2> {
    let picks = Picks::new(lists);
    let sums = products
        .iter()
        .filter_map(|(left, right)| left.block(&picks).outer(&right.block(&picks)));
    let sum = sums.reduce(|a, b| a + b);
    // Right sides are dense: every product has a sum.
    sum.expect("at least one product")
        .reshape([lists.len(), len])
}

/// Squared norms from Gram matrices, and the same sums of absolute values.
fn grams(products: &[(Side, Side)], lists: &[&[usize]]) -> (Vec<f64>, Vec<f64>) {
    let picks = Picks::new(lists);
    let blocks: Vec<_> = products
        .iter()
        .map(|(left, right)| (left.block(&picks), right.block(&picks)))
        .collect();
    let mut signed = vec![0.0; lists.len()];
    let mut unsigned = vec![0.0; lists.len()];
    for (i, (left, right)) in blocks.iter().enumerate() {
        for (j, (other_left, other_right)) in blocks.iter().enumerate().skip(i) {
            let times = if i == j { 1.0 } else { 2.0 };
            let right = match (right, other_right) {
                (block::Block::Dense(a), block::Block::Dense(b)) => {
                    a.clone().swap_dims(2, 3).matmul(b.clone())
                }
                _ => continue,
            };
            let product = left.gram(other_left, &right) * right;
            let [entries, groups, t, u] = product.dims();
            let product = product.reshape([entries, groups * t * u]);
            let sums = [
                (&mut signed, product.clone().sum_dim(1)),
                (&mut unsigned, product.abs().sum_dim(1)),
            ];
            for (to, sum) in sums {
                for (to, value) in to.iter_mut().zip(sum.into_data().iter::<f64>()) {
                    *to += times * value;
                }
            }
        }
    }
    (signed, unsigned)
}

/// Sums over the outer and inner axes, unit by unit.
fn sum(gradient: Tensor<4>, value: Option<Tensor<4>>, size: usize, units: &Units) -> Tensor<2> {
    let product = match value {
        Some(value) => gradient * value,
        None => gradient,
    };
    let rows = units.rows();
    let sums = product.sum_dim(3).sum_dim(1).reshape([rows, size, 1, 1]);
    let lists: Vec<&[usize]> = (0..units.len()).map(|unit| units.rows_of(unit)).collect();
    match Side::Channels(sums, 1).block(&Picks::new(&lists)) {
        block::Block::Dense(sums) => sums.sum_dim(3).reshape([units.len(), size]),
        block::Block::Ids(..) => unreachable!("channels are dense"),
    }
}

impl Gradient for Book {
    fn squares(&self) -> &[f64] {
        &self.squares
    }

    fn add_f32(self: Box<Self>, units: &Units, factors: &[f64], to: &mut [f32]) {
        for (to, value) in to.iter_mut().zip(self.sum(units, factors)) {
            *to += value as f32;
        }
    }

    fn add_f64(self: Box<Self>, units: &Units, factors: &[f64], to: &mut [f64]) {
        for (to, value) in to.iter_mut().zip(self.sum(units, factors)) {
            *to += value;
        }
    }
}

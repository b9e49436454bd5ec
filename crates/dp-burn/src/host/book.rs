//! One parameter's gradients on the host: norms when made, the weighted sum when asked.

use super::op;
use super::product::{Known, Product, Room};
use super::real::{Real, squares};
use super::source::Source;
use super::sums::{self, Sum};
use crate::Units;
use crate::book::Gradient;
use crate::params::Parameter;
use crate::record::{Side, Use};

/// The uses of one parameter and what is known of its units' gradients.
#[derive(Debug)]
pub(crate) struct Book<E> {
    squares: Vec<f64>,
    content: Content<E>,
}

#[derive(Debug)]
enum Content<E> {
    /// Outer products, with the gradients of some units kept.
    Product(Product, Vec<Known<E>>),
    /// The gradients of all units, `[units, size]`.
    Kept(Vec<E>),
}

/// The uses as the host holds them.
pub(crate) struct Uses {
    products: Vec<(Source, Source)>,
    sums: Vec<Sum>,
}

impl Uses {
    /// Nothing when a tensor is not on the host.
    pub fn of(uses: &[Use]) -> Option<Self> {
        let (mut products, mut sums) = (Vec::new(), Vec::new());
        for each in uses {
            match each {
                Use::Product(left, right) => products.push((source(left)?, source(right)?)),
                Use::Sum { gradient, value } => {
                    let [_, outer, _, inner] = gradient.dims();
                    sums.push(Sum {
                        gradient: op::values(gradient.clone())?,
                        value: match value {
                            Some(value) => Some(op::values(value.clone())?),
                            None => None,
                        },
                        outer,
                        inner,
                    });
                }
            }
        }
        Some(Self { products, sums })
    }
}

/// The uses that share a shape together: their Gram matrices have cross terms.
fn alike(uses: Vec<(Source, Source)>) -> Vec<Product> {
    let mut products: Vec<Product> = Vec::new();
    for (left, right) in uses {
        let (groups, p, q) = (left.groups(), left.size(), right.size());
        let same = |known: &&mut Product| (known.groups, known.p, known.q) == (groups, p, q);
        match products.iter_mut().find(same) {
            Some(product) => product.uses.push((left, right)),
            None => products.push(Product {
                groups,
                p,
                q,
                uses: vec![(left, right)],
            }),
        }
    }
    products
}

fn source(side: &Side) -> Option<Source> {
    Some(match side {
        Side::Positions(tensor) => {
            let [_, positions, size, _] = tensor.dims();
            let data = op::values(tensor.clone())?;
            Source::Positions {
                data,
                positions,
                size,
            }
        }
        Side::Channels(tensor, groups) => {
            let [_, channels, positions, _] = tensor.dims();
            Source::Channels {
                data: op::values(tensor.clone())?,
                groups: *groups,
                positions,
                size: channels / groups,
            }
        }
        Side::Windows(tensor, windows) => Source::Windows {
            data: op::values(tensor.clone())?,
            windows: *windows,
        },
        Side::OneHot(ids, size) => {
            let [_, positions] = ids.dims();
            let data = ids.clone().into_data();
            Source::OneHot {
                ids: data.iter::<i64>().map(|id| id as usize).collect(),
                positions,
                size: *size,
            }
        }
    })
}

impl<E: Real> Book<E> {
    pub fn new(uses: Uses, parameter: &Parameter, units: &Units, room: &mut Room<E>) -> Self {
        let Uses { products, sums } = uses;
        let mut products = alike(products);
        if sums.is_empty() && products.len() == 1 {
            let product = products.remove(0);
            let known = product.units(units, room);
            return Self {
                squares: known.iter().map(|known| known.square).collect(),
                content: Content::Product(product, known),
            };
        }
        // Elementwise uses. A weight that is also used elementwise, or in groups of another size, is rare and
        // only possible with the gradient itself.
        let mut kept = sums::of_units(&sums, parameter.len, units);
        for product in products {
            for (unit, to) in kept.chunks_exact_mut(parameter.len).enumerate() {
                product.add(units.rows_of(unit), None, to, room);
            }
        }
        Self::kept(kept, parameter.len)
    }

    fn kept(kept: Vec<E>, size: usize) -> Self {
        Self {
            squares: kept.chunks_exact(size).map(squares).collect(),
            content: Content::Kept(kept),
        }
    }

    fn add(self, units: &Units, factors: &[f64], to: &mut [E], room: &mut Room<E>) {
        match self.content {
            Content::Product(product, known) => product.weighted(units, &known, factors, to, room),
            Content::Kept(kept) => sums::weighted(&kept, factors, to),
        }
    }
}

macro_rules! gradient {
    ($own:ty, $other:ty, $add_own:ident, $add_other:ident) => {
        impl Gradient for Book<$own> {
            fn squares(&self) -> &[f64] {
                &self.squares
            }

            fn $add_own(self: Box<Self>, units: &Units, factors: &[f64], to: &mut [$own]) {
                (*self).add(units, factors, to, &mut Room::new());
            }

            fn $add_other(self: Box<Self>, units: &Units, factors: &[f64], to: &mut [$other]) {
                let mut own = vec![0.0; to.len()];
                (*self).add(units, factors, &mut own, &mut Room::new());
                for (to, own) in to.iter_mut().zip(own) {
                    *to += own as $other;
                }
            }
        }
    };
}

gradient!(f32, f64, add_f32, add_f64);
gradient!(f64, f32, add_f64, add_f32);

//! Book-Keeping: what one forward and one backward pass know of the units' gradients.

use std::collections::HashMap;

use burn::tensor::Gradients;
use dp_rs::gradients::UnitGradients;

use crate::host::book::{Book, Uses};
use crate::host::product::Room;
use crate::params::Parameter;
use crate::record::{Record, Use};
use crate::{Parameters, Units};

/// The gradients of one parameter.
pub(crate) trait Gradient: Send {
    /// Squared norm per unit.
    fn squares(&self) -> &[f64];

    /// Adds `sum_u factor_u gradient_u`; units with factor 0 contribute nothing.
    fn add_f32(self: Box<Self>, units: &Units, factors: &[f64], to: &mut [f32]);

    /// As [`add_f32`](Self::add_f32), in double precision.
    fn add_f64(self: Box<Self>, units: &Units, factors: &[f64], to: &mut [f64]);
}

/// The per-unit gradients of one batch (Book-Keeping: Bu et al., arXiv 2210.00038): norms are known, and any
/// weighted sum can be had, once, without a second backward pass and without one gradient per unit.
///
/// It holds the layers' inputs and output gradients, and of the units' gradients only those that are smaller
/// than that.
pub struct BookKeeping {
    parameters: Parameters,
    units: Units,
    losses: Vec<f64>,
    /// By position in the list of parameters; none where the losses do not depend on one.
    gradients: Vec<Option<Box<dyn Gradient>>>,
}

impl std::fmt::Debug for BookKeeping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BookKeeping")
            .field("units", &self.units.len())
            .field("values", &self.parameters.values())
            .finish_non_exhaustive()
    }
}

impl BookKeeping {
    pub(crate) fn new(
        parameters: Parameters,
        units: Units,
        losses: Vec<f64>,
        records: Vec<Record>,
        mut gradients: Gradients,
        generic: bool,
    ) -> Self {
        let mut uses: HashMap<usize, Vec<Use>> = HashMap::new();
        for record in records {
            for (parameter, each) in record.uses(&mut gradients) {
                uses.entry(parameter).or_default().push(each);
            }
        }
        drop(gradients);
        let mut rooms = (Room::new(), Room::new());
        let list = parameters.as_slice().iter().enumerate();
        let gradients = list
            .map(|(index, parameter)| {
                let uses = uses.remove(&index)?;
                Some(book(uses, parameter, &units, generic, &mut rooms))
            })
            .collect();
        Self {
            parameters,
            units,
            losses,
            gradients,
        }
    }

    /// The parameters, in the order of the sum.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The units of the batch.
    #[must_use]
    pub fn batch(&self) -> &Units {
        &self.units
    }

    /// The loss of each row. Not private: for the site's own eyes.
    #[must_use]
    pub fn losses(&self) -> &[f64] {
        &self.losses
    }

    /// Squared norms per unit of one parameter, by position in the list.
    ///
    /// # Panics
    /// When there is no such parameter.
    #[must_use]
    pub fn squared_norms_of(&self, parameter: usize) -> Vec<f64> {
        match &self.gradients[parameter] {
            Some(gradient) => gradient.squares().to_vec(),
            None => vec![0.0; self.units.len()],
        }
    }

    /// [`weighted_sum`](UnitGradients::weighted_sum) in double precision, for models in double precision.
    ///
    /// # Panics
    /// When `factors` is not `[units][groups]`.
    #[must_use]
    pub fn weighted_sum_f64(self, factors: &[f64]) -> Vec<f64> {
        self.sum(factors, |gradient, units, factors, to| {
            gradient.add_f64(units, factors, to);
        })
    }

    fn sum<E: Copy + Default>(
        self,
        factors: &[f64],
        add: impl Fn(Box<dyn Gradient>, &Units, &[f64], &mut [E]),
    ) -> Vec<E> {
        let groups = self.parameters.groups();
        assert_eq!(
            factors.len(),
            self.units.len() * groups,
            "one factor per unit and clipping group"
        );
        let mut sum = vec![E::default(); self.parameters.values()];
        for (parameter, gradient) in self.parameters.as_slice().iter().zip(self.gradients) {
            let Some(gradient) = gradient else { continue };
            let of_units = factors.iter().skip(parameter.group).step_by(groups);
            let of_units: Vec<f64> = of_units.copied().collect();
            let to = &mut sum[parameter.offset..parameter.offset + parameter.len];
            add(gradient, &self.units, &of_units, to);
        }
        sum
    }
}

fn book(
    uses: Vec<Use>,
    parameter: &Parameter,
    units: &Units,
    generic: bool,
    rooms: &mut (Room<f32>, Room<f64>),
) -> Box<dyn Gradient> {
    let host = if generic { None } else { Uses::of(&uses) };
    match host {
        Some(host) if is_double(&uses) => Box::new(Book::new(host, parameter, units, &mut rooms.1)),
        Some(host) => Box::new(Book::new(host, parameter, units, &mut rooms.0)),
        None => Box::new(crate::device::Book::new(uses, parameter, units)),
    }
}

fn is_double(uses: &[Use]) -> bool {
    use crate::record::Side;
    uses.iter().any(|each| match each {
        Use::Sum { gradient, .. } => gradient.dtype() == burn::tensor::DType::F64,
        Use::Product(
            _,
            Side::Positions(side) | Side::Channels(side, _) | Side::Windows(side, _),
        ) => side.dtype() == burn::tensor::DType::F64,
        Use::Product(_, Side::OneHot(..)) => false,
    })
}

impl UnitGradients for BookKeeping {
    fn units(&self) -> usize {
        self.units.len()
    }

    fn groups(&self) -> usize {
        self.parameters.groups()
    }

    fn squared_norms(&self) -> Vec<f64> {
        let groups = self.parameters.groups();
        let mut squares = vec![0.0; self.units.len() * groups];
        for (parameter, gradient) in self.parameters.as_slice().iter().zip(&self.gradients) {
            let Some(gradient) = gradient else { continue };
            let of_group = squares.iter_mut().skip(parameter.group).step_by(groups);
            for (to, square) in of_group.zip(gradient.squares()) {
                *to += square;
            }
        }
        squares
    }

    fn weighted_sum(self, factors: &[f64]) -> Vec<f32> {
        self.sum(factors, |gradient, units, factors, to| {
            gradient.add_f32(units, factors, to);
        })
    }
}

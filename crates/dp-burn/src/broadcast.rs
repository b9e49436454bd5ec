//! Which axes of an output an elementwise parameter extends over.

use burn::tensor::Tensor;

/// The axes of an output, brought into the order rows, outer, parameter, inner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broadcast<const D: usize> {
    /// Order of the output's axes in which the parameter's lie side by side.
    pub order: [isize; D],
    /// `[rows, outer, size, inner]`.
    pub shape: [usize; 4],
}

impl<const D: usize> Broadcast<D> {
    /// Aligns `parameter` with the last axes of `output`; nothing when it does not fit or extends over the
    /// batch.
    pub fn of(parameter: &[usize], output: [usize; D]) -> Option<Self> {
        let front = D.checked_sub(parameter.len())?;
        let extends = |axis: usize| axis >= front && parameter[axis - front] != 1;
        let fits = |axis: usize| !extends(axis) || parameter[axis - front] == output[axis];
        if D == 0 || extends(0) || !(0..D).all(fits) {
            return None;
        }
        let kept: Vec<usize> = (1..D).filter(|&axis| extends(axis)).collect();
        let dropped: Vec<usize> = (1..D).filter(|&axis| !extends(axis)).collect();
        let adjacent = kept.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let (first, end) = match kept.as_slice() {
            [] => (D, D),
            [first, .., last] => (*first, last + 1),
            [one] => (*one, one + 1),
        };
        let product = |axes: &[usize]| axes.iter().map(|&axis| output[axis]).product();
        let (axes, shape): (Vec<usize>, _) = if adjacent {
            let (outer, inner): (Vec<_>, Vec<_>) = dropped.iter().partition(|&&axis| axis < first);
            let shape = [output[0], product(&outer), product(&kept), product(&inner)];
            debug_assert!(inner.iter().all(|&axis| axis >= end));
            ((0..D).collect(), shape)
        } else {
            let axes = [&[0][..], &dropped, &kept].concat();
            (axes, [output[0], product(&dropped), product(&kept), 1])
        };
        let mut order = [0; D];
        for (to, axis) in order.iter_mut().zip(axes) {
            *to = axis as isize;
        }
        Some(Self { order, shape })
    }

    /// A tensor of the output's shape as `[rows, outer, size, inner]`.
    pub fn arrange(&self, tensor: Tensor<D>) -> Tensor<4> {
        tensor.permute(self.order).reshape(self.shape)
    }

    /// The order that undoes [`order`](Self::order).
    pub fn back(&self) -> [isize; D] {
        let mut back = [0; D];
        for (to, &from) in self.order.iter().enumerate() {
            back[from.unsigned_abs()] = to as isize;
        }
        back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_of_the_parameter_are_brought_together() {
        let shape = |parameter: &[usize]| Broadcast::of(parameter, [2, 3, 4, 5]).unwrap().shape;
        assert_eq!(shape(&[1]), [2, 60, 1, 1]);
        assert_eq!(shape(&[5]), [2, 12, 5, 1]);
        assert_eq!(shape(&[3, 1, 1]), [2, 1, 3, 20]);
        assert_eq!(shape(&[4, 1]), [2, 3, 4, 5]);
        assert_eq!(shape(&[3, 4, 5]), [2, 1, 60, 1]);
        let apart = Broadcast::of(&[3, 1, 5], [2, 3, 4, 5]).unwrap();
        assert_eq!((apart.order, apart.shape), ([0, 2, 1, 3], [2, 4, 15, 1]));
        assert_eq!(apart.back(), [0, 2, 1, 3]);
    }

    #[test]
    fn the_batch_axis_and_other_shapes_are_refused() {
        assert_eq!(Broadcast::of(&[2, 3], [2, 3]), None);
        assert_eq!(Broadcast::of(&[4], [2, 3]), None);
        assert_eq!(Broadcast::of(&[1, 1, 3], [2, 3]), None);
    }
}

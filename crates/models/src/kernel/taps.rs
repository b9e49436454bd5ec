//! Which input positions a convolution reads, with TensorFlow's "same" padding.

/// Geometry of a convolution or pooling window along one axis (`ehpal-net.md` section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// Input length.
    pub input: usize,
    /// Window length.
    pub kernel: usize,
    /// Step between windows.
    pub stride: usize,
    /// Distance between window elements.
    pub dilation: usize,
}

impl Axis {
    /// Output length, `ceil(input / stride)`.
    pub fn output(self) -> usize {
        self.input.div_ceil(self.stride)
    }

    /// Padding before and after; asymmetric when the total is odd.
    pub fn padding(self) -> (usize, usize) {
        let reach = (self.output() - 1) * self.stride + (self.kernel - 1) * self.dilation + 1;
        let total = reach.saturating_sub(self.input);
        (total / 2, total - total / 2)
    }

    /// For every output position the pairs (window element, input position) that exist.
    pub fn forward(self) -> Taps {
        let before = self.padding().0;
        Taps::collect(self.output(), |out| {
            (0..self.kernel).filter_map(move |k| {
                let padded = out * self.stride + k * self.dilation;
                let position = padded.checked_sub(before)?;
                (position < self.input).then_some((k, position))
            })
        })
    }

    /// For every input position the pairs (window element, output position) that read it.
    pub fn backward(self) -> Taps {
        let before = self.padding().0;
        Taps::collect(self.input, |input| {
            (0..self.kernel).filter_map(move |k| {
                let reach = (input + before).checked_sub(k * self.dilation)?;
                let position = reach / self.stride;
                (reach.is_multiple_of(self.stride) && position < self.output())
                    .then_some((k, position))
            })
        })
    }

    /// For every window element the output positions for which it lies inside the input, and the input
    /// position at the first of them.
    pub fn valid(self) -> Vec<(std::ops::Range<usize>, usize)> {
        let (before, output) = (self.padding().0, self.output());
        let element = |k: usize| {
            let shift = k * self.dilation;
            // Inside: before <= out * stride + shift < before + input.
            let start = before.saturating_sub(shift).div_ceil(self.stride);
            let end = (before + self.input)
                .saturating_sub(shift)
                .div_ceil(self.stride)
                .min(output);
            if start < end {
                (start..end, start * self.stride + shift - before)
            } else {
                (0..0, 0)
            }
        };
        (0..self.kernel).map(element).collect()
    }
}

/// Lists of (window element, position), one list per row or column.
pub(crate) struct Taps {
    starts: Vec<usize>,
    pairs: Vec<(usize, usize)>,
}

impl Taps {
    fn collect<I: Iterator<Item = (usize, usize)>>(len: usize, list: impl Fn(usize) -> I) -> Self {
        let mut starts = Vec::with_capacity(len + 1);
        let mut pairs = Vec::new();
        for index in 0..len {
            starts.push(pairs.len());
            pairs.extend(list(index));
        }
        starts.push(pairs.len());
        Self { starts, pairs }
    }

    /// The list at `index`.
    #[inline(always)]
    pub fn at(&self, index: usize) -> &[(usize, usize)] {
        &self.pairs[self.starts[index]..self.starts[index + 1]]
    }

    /// Number of lists.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_padding_is_asymmetric_for_even_sides_and_stride_two() {
        for (kernel, expected) in [(1, (0, 0)), (3, (0, 1)), (5, (1, 2)), (7, (2, 3))] {
            let axis = Axis {
                input: 16,
                kernel,
                stride: 2,
                dilation: 1,
            };
            assert_eq!(axis.padding(), expected, "kernel {kernel}");
        }
    }

    #[test]
    fn forward_backward_and_valid_name_the_same_pairs() {
        for (input, kernel, stride, dilation) in [
            (1, 5, 1, 1),
            (7, 5, 2, 1),
            (6, 3, 1, 2),
            (8, 7, 2, 1),
            (2, 5, 2, 1),
            (1, 3, 1, 2),
        ] {
            let axis = Axis {
                input,
                kernel,
                stride,
                dilation,
            };
            let mut forward = Vec::new();
            for out in 0..axis.output() {
                forward.extend(axis.forward().at(out).iter().map(|&(k, i)| (k, i, out)));
            }
            let mut backward = Vec::new();
            for i in 0..input {
                backward.extend(axis.backward().at(i).iter().map(|&(k, out)| (k, i, out)));
            }
            let mut valid = Vec::new();
            for (k, (outs, first)) in axis.valid().into_iter().enumerate() {
                let start = outs.start;
                valid.extend(outs.map(|out| (k, first + (out - start) * stride, out)));
            }
            forward.sort_unstable();
            backward.sort_unstable();
            valid.sort_unstable();
            assert_eq!(forward, backward);
            assert_eq!(forward, valid);
        }
    }
}

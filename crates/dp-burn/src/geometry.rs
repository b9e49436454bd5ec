//! Where the windows of a convolution lie.

/// The windows of a two-dimensional convolution over maps `[channels, height, width]`.
///
/// Window `(y, x)` and kernel element `(i, j)` meet at input position
/// `(y stride + i dilation - before, x stride + j dilation - before)`, which may lie in the padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    /// Channels of the map.
    pub channels: usize,
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Height and width of the map.
    pub input: [usize; 2],
    /// Windows down and across.
    pub output: [usize; 2],
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Distance between windows.
    pub stride: [usize; 2],
    /// Distance between kernel elements.
    pub dilation: [usize; 2],
    /// Padding above and to the left; below and right follow from `output`.
    pub before: [usize; 2],
}

impl Windows {
    /// Number of windows.
    pub fn positions(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Values of a window in one group: channels per group times kernel elements.
    pub fn window(&self) -> usize {
        self.channels / self.groups * self.kernel[0] * self.kernel[1]
    }

    /// Values of a map.
    pub fn map(&self) -> usize {
        self.channels * self.input[0] * self.input[1]
    }

    /// Values of a map that belong to one group.
    pub fn map_of_group(&self) -> usize {
        self.map() / self.groups
    }

    /// Whether windows and positions are the same thing: a 1x1 kernel without stride or padding.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1]
            && self.stride == [1, 1]
            && self.before == [0, 0]
            && self.input == self.output
    }
}

/// Windows along one axis of length `input`, with `padding` in total.
pub(crate) fn windows_along(
    input: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    padding: usize,
) -> usize {
    let reach = dilation * (kernel - 1) + 1;
    match (input + padding).checked_sub(reach) {
        Some(room) => room / stride + 1,
        None => 0,
    }
}

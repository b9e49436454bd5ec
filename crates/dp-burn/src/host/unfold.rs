//! Windows of a map as columns of a matrix, and the adjoint.
//!
//! A map is first split into `stride` x `stride` phases, so that what one kernel element sees of a row of
//! windows is contiguous: copies and additions of whole rows then replace element-wise gathers.

use super::real::Real;
use crate::geometry::Windows;

/// Reusable room for the phases of one channel.
#[derive(Debug)]
pub(crate) struct Unfolder<E> {
    windows: Windows,
    /// Height and width of a phase.
    phase: [usize; 2],
    phases: Vec<E>,
    /// Whether the padding in the phases is not 0.
    dirty: bool,
}

impl<E: Real> Unfolder<E> {
    pub fn new(windows: Windows) -> Self {
        let phase = [0, 1].map(|axis| {
            let reach = (windows.kernel[axis] - 1) * windows.dilation[axis];
            windows.output[axis] + reach / windows.stride[axis]
        });
        let [sy, sx] = windows.stride;
        Self {
            windows,
            phase,
            phases: vec![E::zero(); sy * sx * phase[0] * phase[1]],
            dirty: false,
        }
    }

    /// Writes the windows of one group's channels as columns: row `(channel, i, j)` of length
    /// [`Windows::positions`] goes to `columns[row * width + offset..]`.
    pub fn unfold(&mut self, map: &[E], columns: &mut [E], width: usize, offset: usize) {
        let Windows {
            input,
            output: [height, across],
            kernel: [kh, kw],
            ..
        } = self.windows;
        let plane = input[0] * input[1];
        let mut start = offset;
        for channel in map.chunks_exact(plane) {
            self.split(channel);
            for i in 0..kh {
                for j in 0..kw {
                    let from = self.origin(i, j);
                    let to = &mut columns[start..start + height * across];
                    let from = &self.phases[from..];
                    match across {
                        8 => copy_rows::<E, 8>(from, self.phase[1], to),
                        16 => copy_rows::<E, 16>(from, self.phase[1], to),
                        32 => copy_rows::<E, 32>(from, self.phase[1], to),
                        _ => {
                            let rows = to.chunks_exact_mut(across);
                            for (to, from) in rows.zip(from.chunks(self.phase[1])) {
                                to.copy_from_slice(&from[..across]);
                            }
                        }
                    }
                    start += width;
                }
            }
        }
    }

    /// Adds columns back onto the map they came from: the adjoint of [`unfold`](Self::unfold).
    ///
    /// `map` is overwritten.
    pub fn fold(&mut self, columns: &[E], width: usize, offset: usize, map: &mut [E]) {
        let Windows {
            input,
            output: [height, across],
            kernel: [kh, kw],
            ..
        } = self.windows;
        let plane = input[0] * input[1];
        let mut start = offset;
        for channel in map.chunks_exact_mut(plane) {
            self.phases.fill(E::zero());
            self.dirty = true;
            for i in 0..kh {
                for j in 0..kw {
                    let to = self.origin(i, j);
                    let from = &columns[start..start + height * across];
                    let to = &mut self.phases[to..];
                    match across {
                        8 => add_rows::<E, 8>(from, self.phase[1], to),
                        16 => add_rows::<E, 16>(from, self.phase[1], to),
                        32 => add_rows::<E, 32>(from, self.phase[1], to),
                        _ => {
                            let rows = from.chunks_exact(across);
                            for (from, to) in rows.zip(to.chunks_mut(self.phase[1])) {
                                for (to, &from) in to.iter_mut().zip(from) {
                                    *to += from;
                                }
                            }
                        }
                    }
                    start += width;
                }
            }
            self.join(channel);
        }
    }

    /// Where kernel element `(i, j)` of the first window lies in the phases.
    fn origin(&self, i: usize, j: usize) -> usize {
        let Windows {
            stride: [sy, sx],
            dilation: [dy, dx],
            ..
        } = self.windows;
        let (y, x) = (i * dy, j * dx);
        let index = (y % sy) * sx + x % sx;
        (index * self.phase[0] + y / sy) * self.phase[1] + x / sx
    }

    fn split(&mut self, channel: &[E]) {
        let Windows {
            input: [height, width],
            stride: [sy, sx],
            before: [top, left],
            ..
        } = self.windows;
        let [rows, cols] = self.phase;
        // Every channel writes the same places: the padding stays 0.
        if std::mem::take(&mut self.dirty) {
            self.phases.fill(E::zero());
        }
        for (index, phase) in self.phases.chunks_exact_mut(rows * cols).enumerate() {
            let (py, px) = (index / sx, index % sx);
            let (first, end) = inside(left, px, sx, width, cols);
            if first >= end {
                continue;
            }
            for (row, to) in phase.chunks_exact_mut(cols).enumerate() {
                let y = (row * sy + py).wrapping_sub(top);
                if y >= height {
                    continue;
                }
                let from = &channel[y * width + first * sx + px - left..(y + 1) * width];
                let to = &mut to[first..end];
                match sx {
                    1 => to.copy_from_slice(&from[..to.len()]),
                    2 => every_second(to, from),
                    step => every(to, from.iter().step_by(step)),
                }
            }
        }
    }

    fn join(&self, channel: &mut [E]) {
        let Windows {
            input: [height, width],
            stride: [sy, sx],
            before: [top, left],
            ..
        } = self.windows;
        let [rows, cols] = self.phase;
        channel.fill(E::zero());
        for (index, phase) in self.phases.chunks_exact(rows * cols).enumerate() {
            let (py, px) = (index / sx, index % sx);
            let (first, end) = inside(left, px, sx, width, cols);
            for (row, from) in phase.chunks_exact(cols).enumerate() {
                let y = (row * sy + py).wrapping_sub(top);
                if y >= height || first >= end {
                    continue;
                }
                let to = &mut channel[y * width + first * sx + px - left..(y + 1) * width];
                let from = &from[first..end];
                if sx == 2 {
                    let (pairs, rest) = to.as_chunks_mut::<2>();
                    for (to, &from) in pairs.iter_mut().zip(from) {
                        to[0] = from;
                    }
                    if let ([to], Some(&from)) = (rest, from.get(pairs.len())) {
                        *to = from;
                    }
                } else {
                    for (to, &from) in to.iter_mut().step_by(sx).zip(from) {
                        *to = from;
                    }
                }
            }
        }
    }
}

/// In pairs, which the compiler turns into shuffles of whole vectors.
fn every_second<E: Real>(to: &mut [E], from: &[E]) {
    let (pairs, rest) = from.as_chunks::<2>();
    for (to, pair) in to.iter_mut().zip(pairs) {
        *to = pair[0];
    }
    if let (Some(to), [last]) = (to.get_mut(pairs.len()), rest) {
        *to = *last;
    }
}

/// Rows of a length that is known to the compiler: no call per row.
fn copy_rows<E: Real, const N: usize>(from: &[E], stride: usize, to: &mut [E]) {
    let (to, _) = to.as_chunks_mut::<N>();
    for (to, from) in to.iter_mut().zip(from.chunks(stride)) {
        if let Some(from) = from.first_chunk::<N>() {
            *to = *from;
        }
    }
}

/// As [`copy_rows`], adding.
fn add_rows<E: Real, const N: usize>(from: &[E], stride: usize, to: &mut [E]) {
    let (from, _) = from.as_chunks::<N>();
    for (from, to) in from.iter().zip(to.chunks_mut(stride)) {
        if let Some(to) = to.first_chunk_mut::<N>() {
            for lane in 0..N {
                to[lane] += from[lane];
            }
        }
    }
}

fn every<'a, E: Real>(to: &mut [E], from: impl Iterator<Item = &'a E>) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// The columns of a phase that lie inside the map, not in its padding.
fn inside(left: usize, phase: usize, stride: usize, width: usize, cols: usize) -> (usize, usize) {
    let first = left.saturating_sub(phase).div_ceil(stride);
    let end = (width + left).saturating_sub(phase).div_ceil(stride);
    (first.min(cols), end.min(cols))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases() -> Vec<Windows> {
        let mut cases = Vec::new();
        for stride in [[1, 1], [2, 2], [3, 2]] {
            for dilation in [[1, 1], [2, 1], [2, 3]] {
                for before in [[0, 0], [1, 2]] {
                    cases.push(Windows {
                        channels: 2,
                        groups: 1,
                        input: [7, 8],
                        output: [0, 1].map(|axis| {
                            let input = [7, 8][axis];
                            crate::geometry::windows_along(
                                input,
                                [3, 2][axis],
                                stride[axis],
                                dilation[axis],
                                before[axis] + 1,
                            )
                        }),
                        kernel: [3, 2],
                        stride,
                        dilation,
                        before,
                    });
                }
            }
        }
        cases
    }

    #[test]
    fn columns_hold_what_each_window_sees() {
        for windows in cases() {
            let map: Vec<f64> = (1..=windows.map()).map(|i| i as f64).collect();
            let width = windows.positions() + 3;
            let mut columns = vec![0.0; windows.window() * width];
            Unfolder::new(windows).unfold(&map, &mut columns, width, 2);
            for channel in 0..2 {
                for (i, j) in [(0, 0), (1, 1), (2, 0), (2, 1)] {
                    for position in 0..windows.positions() {
                        let (row, col) =
                            (position / windows.output[1], position % windows.output[1]);
                        let y = (row * windows.stride[0] + i * windows.dilation[0])
                            .wrapping_sub(windows.before[0]);
                        let x = (col * windows.stride[1] + j * windows.dilation[1])
                            .wrapping_sub(windows.before[1]);
                        let expected = if y < 7 && x < 8 {
                            map[(channel * 7 + y) * 8 + x]
                        } else {
                            0.0
                        };
                        let got = columns[((channel * 3 + i) * 2 + j) * width + 2 + position];
                        assert_eq!(got, expected, "{windows:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn folding_is_the_adjoint_of_unfolding() {
        for windows in cases() {
            let map: Vec<f64> = (0..windows.map()).map(|i| ((i * 37) % 11) as f64).collect();
            let size = windows.window() * windows.positions();
            let other: Vec<f64> = (0..size).map(|i| ((i * 53) % 13) as f64).collect();
            let mut columns = vec![0.0; size];
            let mut back = vec![0.0; map.len()];
            let mut unfolder = Unfolder::new(windows);
            unfolder.unfold(&map, &mut columns, windows.positions(), 0);
            unfolder.fold(&other, windows.positions(), 0, &mut back);
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            assert_eq!(dot(&columns, &other), dot(&map, &back), "{windows:?}");
        }
    }
}

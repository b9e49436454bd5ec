//! Signals and tables as images of three channels (`ehpal-net.md` section 9; our own choice, the
//! reference does not show its conversion).

/// Gramian angular fields (Wang and Oates 2015) of every record `[channels, length]`, as
/// `[records, 3, side, side]`: summation field, difference field, raw row repeated.
///
/// The leads are averaged and resampled to `side` samples; the fields use the signal scaled to [-1, 1].
pub(crate) fn signals(values: &[f32], channels: usize, length: usize, side: usize) -> Vec<f32> {
    let mut images = Vec::with_capacity(values.len() / (channels * length) * 3 * side * side);
    for record in values.chunks_exact(channels * length) {
        let row: Vec<f32> = (0..side)
            .map(|t| {
                let start = t * length / side;
                let end = ((t + 1) * length).div_ceil(side);
                let sum: f32 = record
                    .chunks_exact(length)
                    .map(|lead| lead[start..end].iter().sum::<f32>())
                    .sum();
                sum / (channels * (end - start)) as f32
            })
            .collect();
        let low = row.iter().copied().fold(f32::INFINITY, f32::min);
        let high = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let range = high - low;
        let cosine: Vec<f32> = row
            .iter()
            .map(|v| {
                if range > 0.0 {
                    (2.0 * (v - low) / range - 1.0).clamp(-1.0, 1.0)
                } else {
                    0.0
                }
            })
            .collect();
        let sine: Vec<f32> = cosine.iter().map(|c| (1.0 - c * c).sqrt()).collect();
        for i in 0..side {
            images.extend((0..side).map(|j| cosine[i] * cosine[j] - sine[i] * sine[j]));
        }
        for i in 0..side {
            images.extend((0..side).map(|j| sine[i] * cosine[j] - cosine[i] * sine[j]));
        }
        for _ in 0..side {
            images.extend_from_slice(&row);
        }
    }
    images
}

/// Rows of a table `[features]` on a square grid in the order of the schema, nearest-neighbour upscaled to
/// `[records, 3, side, side]`: value, 1 where the value is exactly 0 (missing after scaling), squared value.
///
/// More columns than pixels share pixels by averaging.
pub(crate) fn tables(values: &[f32], features: usize, side: usize) -> Vec<f32> {
    let grid = (1..side)
        .find(|grid| grid * grid >= features)
        .unwrap_or(side);
    let cells = grid * grid;
    let mut images = Vec::with_capacity(values.len() / features * 3 * side * side);
    for record in values.chunks_exact(features) {
        let mut plane = vec![[0.0_f32; 3]; cells];
        let mut counts = vec![0.0_f32; cells];
        for (column, &value) in record.iter().enumerate() {
            let cell = if features <= cells {
                column
            } else {
                column * cells / features
            };
            let missing = if value == 0.0 { 1.0 } else { 0.0 };
            for (total, part) in plane[cell].iter_mut().zip([value, missing, value * value]) {
                *total += part;
            }
            counts[cell] += 1.0;
        }
        for channel in 0..3 {
            for y in 0..side {
                images.extend((0..side).map(|x| {
                    let cell = (y * grid / side) * grid + x * grid / side;
                    plane[cell][channel] / counts[cell].max(1.0)
                }));
            }
        }
    }
    images
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gramian_fields_have_the_right_symmetry() {
        let signal: Vec<f32> = (0..100).map(|t| (t as f32 * 0.2).sin()).collect();
        let image = signals(&signal, 1, 100, 32);
        let at = |c: usize, y: usize, x: usize| image[(c * 32 + y) * 32 + x];
        for (y, x) in [(0, 5), (7, 30), (12, 13)] {
            assert_eq!(at(0, y, x), at(0, x, y));
            assert_eq!(at(1, y, x), -at(1, x, y));
            assert_eq!(at(2, y, x), at(2, 0, x));
        }
    }

    #[test]
    fn every_column_of_a_table_is_visible() {
        for features in [3, 16, 1000, 1557] {
            let mut row = vec![0.0; features];
            row[features - 1] = 1.0;
            let image = tables(&row, features, 32);
            assert_eq!(image.len(), 3 * 32 * 32);
            assert!(
                image[..32 * 32].iter().any(|&v| v > 0.0),
                "{features} columns"
            );
        }
    }
}

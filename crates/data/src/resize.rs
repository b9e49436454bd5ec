//! Bilinear resizing of images to a square, with half-pixel centres and without antialiasing, as in
//! `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`.

/// Resizes each plane of `height * width` values to `side * side`.
pub(crate) fn resize(planes: &[f32], height: usize, width: usize, side: usize) -> Vec<f32> {
    let rows = neighbours(height, side);
    let columns = neighbours(width, side);
    let mut resized = Vec::with_capacity(planes.len() / (height * width) * side * side);
    for plane in planes.chunks_exact(height * width) {
        for &(top, bottom, down) in &rows {
            for &(left, right, across) in &columns {
                let blend = |row: usize| {
                    let row = &plane[row * width..(row + 1) * width];
                    row[left] + (row[right] - row[left]) * across
                };
                let (upper, lower) = (blend(top), blend(bottom));
                resized.push(upper + (lower - upper) * down);
            }
        }
    }
    resized
}

/// For each target position the two source positions and the weight of the second.
fn neighbours(from: usize, to: usize) -> Vec<(usize, usize, f32)> {
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|at| {
            let centre = ((at as f64 + 0.5) * scale - 0.5).max(0.0);
            let first = (centre as usize).min(from - 1);
            let weight = centre - first as f64;
            (first, (first + 1).min(from - 1), weight as f32)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubling_two_pixels_gives_the_known_weights() {
        // interpolate([[0, 1]], size=(4, 4)) in each row: 0, 0.25, 0.75, 1.
        let got = resize(&[0.0, 1.0], 1, 2, 4);
        assert_eq!(got[..4], [0.0, 0.25, 0.75, 1.0]);
        assert_eq!(got[12..], [0.0, 0.25, 0.75, 1.0]);
    }

    #[test]
    fn a_flat_image_stays_flat_at_any_size() {
        for side in [1, 7, 32, 64] {
            assert!(
                resize(&[3.0; 28 * 28], 28, 28, side)
                    .iter()
                    .all(|&v| v == 3.0)
            );
        }
    }
}

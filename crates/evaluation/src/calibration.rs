//! Do stated probabilities come true as often as they say?

/// Number of equal-width bins of the published expected calibration error.
pub const EQUAL_WIDTH_BINS: usize = 15;
/// Number of equal-mass bins.
pub const EQUAL_MASS_BINS: usize = 10;

/// Gaps between stated and realised frequency over bins (Guo et al. 2017).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CalibrationError {
    /// Mean gap, weighted by the rows in each bin (ECE).
    pub expected: f64,
    /// Largest gap of a bin that has rows (MCE).
    pub maximum: f64,
}

/// Over `bins` bins of equal width, each `(lo, hi]`; a probability of 0 goes to the first. `None` without rows.
#[must_use]
pub fn equal_width(probabilities: &[f64], hits: &[bool], bins: usize) -> Option<CalibrationError> {
    let mut rows = vec![Vec::new(); bins];
    for (&probability, &hit) in probabilities.iter().zip(hits) {
        let bin = (probability * bins as f64).ceil() as usize;
        rows[bin.saturating_sub(1).min(bins - 1)].push((probability, hit));
    }
    gaps(rows.iter().map(Vec::as_slice))
}

/// Over `bins` bins of equal mass: a stable ascending sort, the first (rows mod bins) bins take one row
/// more. Fewer rows than bins leave bins empty. `None` without rows.
#[must_use]
pub fn equal_mass(probabilities: &[f64], hits: &[bool], bins: usize) -> Option<CalibrationError> {
    let mut rows: Vec<_> = probabilities
        .iter()
        .copied()
        .zip(hits.iter().copied())
        .collect();
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (share, remainder) = (rows.len() / bins, rows.len() % bins);
    let mut rest = rows.as_slice();
    gaps((0..bins).map(|bin| {
        let (head, tail) = rest.split_at(share + usize::from(bin < remainder));
        rest = tail;
        head
    }))
}

fn gaps<'a>(bins: impl Iterator<Item = &'a [(f64, bool)]>) -> Option<CalibrationError> {
    let (mut rows, mut weighted, mut maximum) = (0, 0.0, 0.0_f64);
    for bin in bins.filter(|bin| !bin.is_empty()) {
        let stated: f64 = bin.iter().map(|row| row.0).sum();
        let realised = bin.iter().filter(|row| row.1).count() as f64;
        let gap = (realised - stated).abs();
        rows += bin.len();
        weighted += gap;
        maximum = maximum.max(gap / bin.len() as f64);
    }
    (rows > 0).then(|| CalibrationError {
        expected: weighted / rows as f64,
        maximum,
    })
}

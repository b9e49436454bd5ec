//! One random view of a record, drawn on the host.
//!
//! Values are standardised, so noise and dropout are in standard deviations and zero is the mean. The
//! number of draws depends on shape and settings only, never on the values.

use rand::{Rng, RngExt as _};
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use crate::manifest::ModalityKind;

/// What a view may differ in, for one kind of record.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Augmentation {
    /// Records `[C, H, W]`.
    Image(ImageAugmentation),
    /// Records `[C, L]`.
    Signal(SignalAugmentation),
    /// Records `[F]`.
    Table(TableAugmentation),
}

/// Views of an image.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageAugmentation {
    /// Most pixels of a shift in each direction; the border is repeated.
    pub shift: u32,
    /// Mirror left and right with probability one half. Off by default: the heart is on one side.
    pub flip: bool,
    /// Most that is added to all pixels, in standard deviations.
    pub brightness: f32,
    /// Most by which contrast grows or shrinks, as a fraction.
    pub contrast: f32,
    /// Standard deviation of noise on each pixel.
    pub noise: f32,
}

impl Default for ImageAugmentation {
    fn default() -> Self {
        Self {
            shift: 2,
            flip: false,
            brightness: 0.2,
            contrast: 0.2,
            noise: 0.05,
        }
    }
}

/// Views of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SignalAugmentation {
    /// Most by which each channel grows or shrinks, as a fraction.
    pub scale: f32,
    /// Standard deviation of noise on each sample.
    pub noise: f32,
    /// Most samples of a shift in time; the ends are repeated.
    pub shift: u32,
}

impl Default for SignalAugmentation {
    fn default() -> Self {
        Self {
            scale: 0.1,
            noise: 0.05,
            shift: 8,
        }
    }
}

/// Views of a row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TableAugmentation {
    /// Probability that a feature is set to zero, its mean.
    pub dropout: f32,
    /// Standard deviation of noise on each feature.
    pub noise: f32,
}

impl Default for TableAugmentation {
    fn default() -> Self {
        Self {
            dropout: 0.1,
            noise: 0.1,
        }
    }
}

impl Augmentation {
    /// Sensible settings for a kind of record.
    #[must_use]
    pub fn default_for(kind: ModalityKind) -> Self {
        match kind {
            ModalityKind::Image => Self::Image(ImageAugmentation::default()),
            ModalityKind::Signal => Self::Signal(SignalAugmentation::default()),
            ModalityKind::Table | ModalityKind::Omics | ModalityKind::Icu => {
                Self::Table(TableAugmentation::default())
            }
        }
    }

    /// What is wrong with the settings, if anything.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let (amounts, dropout) = match self {
            Self::Image(image) => (
                vec![
                    ("brightness", image.brightness),
                    ("contrast", image.contrast),
                    ("noise", image.noise),
                ],
                0.0,
            ),
            Self::Signal(signal) => (vec![("scale", signal.scale), ("noise", signal.noise)], 0.0),
            Self::Table(table) => (vec![("noise", table.noise)], table.dropout),
        };
        if let Some((name, amount)) =
            (amounts.into_iter()).find(|(_, amount)| !(amount.is_finite() && *amount >= 0.0))
        {
            return Some(format!("{name} must be 0 or above, not {amount}"));
        }
        if !(0.0..1.0).contains(&dropout) {
            return Some(format!("dropout must be from 0 to below 1, not {dropout}"));
        }
        None
    }
}

/// The settings are for another kind of record, or the values do not fill the shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} augmentation needs {needs}, got shape {shape:?} and {values} values")]
pub struct WrongShape {
    kind: &'static str,
    needs: &'static str,
    shape: Vec<usize>,
    values: usize,
}

impl WrongShape {
    /// Stable code for logs and replies.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "augmentation_shape"
    }
}

/// Turns one record into a random view of it, in place.
///
/// # Errors
/// [`WrongShape`] when `shape` is not of the kind of `settings` or `values` do not fill it.
pub fn augment(
    values: &mut [f32],
    shape: &[usize],
    settings: &Augmentation,
    stream: &mut impl Rng,
) -> Result<(), WrongShape> {
    let (kind, needs, dimensions) = match settings {
        Augmentation::Image(_) => ("image", "[C, H, W]", 3),
        Augmentation::Signal(_) => ("signal", "[C, L]", 2),
        Augmentation::Table(_) => ("table", "[F]", 1),
    };
    let filled = shape.iter().product::<usize>() == values.len() && !values.is_empty();
    if shape.len() != dimensions || !filled {
        return Err(WrongShape {
            kind,
            needs,
            shape: shape.to_vec(),
            values: values.len(),
        });
    }
    match settings {
        Augmentation::Image(s) => image(values, shape[1], shape[2], s, stream),
        Augmentation::Signal(s) => signal(values, shape[1], s, stream),
        Augmentation::Table(s) => table(values, s, stream),
    }
    Ok(())
}

fn image(
    values: &mut [f32],
    height: usize,
    width: usize,
    settings: &ImageAugmentation,
    stream: &mut impl Rng,
) {
    let down = offset(settings.shift, stream);
    let right = offset(settings.shift, stream);
    let flip = stream.random::<f32>() < 0.5 && settings.flip;
    let gain = 1.0 + symmetric(settings.contrast, stream);
    let add = symmetric(settings.brightness, stream);
    for plane in values.chunks_exact_mut(height * width) {
        let before = plane.to_vec();
        for (at, value) in plane.iter_mut().enumerate() {
            let (row, column) = (at / width, at % width);
            let column = if flip { width - 1 - column } else { column };
            let source = moved(row, down, height) * width + moved(column, right, width);
            *value = before[source] * gain + add;
        }
    }
    noise(values, settings.noise, stream);
}

fn signal(values: &mut [f32], length: usize, settings: &SignalAugmentation, stream: &mut impl Rng) {
    let later = offset(settings.shift, stream);
    for channel in values.chunks_exact_mut(length) {
        let gain = 1.0 + symmetric(settings.scale, stream);
        let before = channel.to_vec();
        for (at, value) in channel.iter_mut().enumerate() {
            *value = before[moved(at, later, length)] * gain;
        }
    }
    noise(values, settings.noise, stream);
}

fn table(values: &mut [f32], settings: &TableAugmentation, stream: &mut impl Rng) {
    noise(values, settings.noise, stream);
    for value in values {
        if stream.random::<f32>() < settings.dropout {
            *value = 0.0;
        }
    }
}

fn noise(values: &mut [f32], deviation: f32, stream: &mut impl Rng) {
    if deviation > 0.0 {
        for value in values {
            *value += deviation * stream.sample::<f32, _>(StandardNormal);
        }
    }
}

/// A whole number from `-most` to `most`.
fn offset(most: u32, stream: &mut impl Rng) -> i64 {
    stream.random_range(-i64::from(most)..=i64::from(most))
}

/// A number from `-most` to `most`.
fn symmetric(most: f32, stream: &mut impl Rng) -> f32 {
    most * (2.0 * stream.random::<f32>() - 1.0)
}

/// Position `by` away, held inside `0..length`.
fn moved(at: usize, by: i64, length: usize) -> usize {
    (at as i64 + by).clamp(0, length as i64 - 1) as usize
}

#[cfg(test)]
mod tests {
    use consilium_core::{Seed, StreamKey, seed};

    use super::*;

    fn stream() -> impl Rng {
        seed::stream(Seed(3), &StreamKey::default())
    }

    #[test]
    fn every_kind_changes_its_record_and_the_same_stream_gives_the_same_view() {
        for (kind, shape) in [
            (ModalityKind::Image, vec![1, 8, 8]),
            (ModalityKind::Signal, vec![3, 40]),
            (ModalityKind::Icu, vec![24]),
        ] {
            let settings = Augmentation::default_for(kind);
            let before: Vec<f32> = (0..shape.iter().product())
                .map(|i| i as f32 * 0.1)
                .collect();
            let view = || {
                let mut values = before.clone();
                augment(&mut values, &shape, &settings, &mut stream()).unwrap();
                values
            };
            assert_eq!(view(), view());
            assert_ne!(view(), before);
        }
    }

    #[test]
    fn settings_of_zero_change_nothing() {
        let none = Augmentation::Image(ImageAugmentation {
            shift: 0,
            flip: false,
            brightness: 0.0,
            contrast: 0.0,
            noise: 0.0,
        });
        let mut values: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let before = values.clone();
        augment(&mut values, &[1, 8, 8], &none, &mut stream()).unwrap();
        assert_eq!(values, before);
    }

    #[test]
    fn settings_of_another_kind_are_an_error() {
        let settings = Augmentation::default_for(ModalityKind::Signal);
        let error = augment(&mut [0.0; 4], &[4], &settings, &mut stream()).unwrap_err();
        assert_eq!(error.code(), "augmentation_shape");
    }
}

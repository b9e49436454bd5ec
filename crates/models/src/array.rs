//! Records as they come from a cohort, and their layout on the device.

use burn::tensor::{Device, Tensor, TensorData};
use consilium_core::ModalityKey;

use crate::{Conversion, EhpalNet, Modality, ModelError, convert};

/// Values with a shape, in C order; the first axis is the record.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Array {
    /// Joins a shape and its values.
    ///
    /// # Errors
    /// [`ModelError::ArrayLength`] when they do not match.
    pub fn new(shape: Vec<usize>, values: Vec<f32>) -> Result<Self, ModelError> {
        let expected = shape
            .iter()
            .try_fold(1_usize, |product, &side| product.checked_mul(side));
        if expected != Some(values.len()) {
            return Err(ModelError::ArrayLength {
                shape,
                got: values.len(),
            });
        }
        Ok(Self { shape, values })
    }

    /// The shape.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The values, to change in place.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// Some of the records, in the given order.
    pub(crate) fn select(&self, records: &[usize]) -> Self {
        let per = self.values.len() / self.records().max(1);
        let mut shape = self.shape.clone();
        shape[0] = records.len();
        let values = records
            .iter()
            .flat_map(|&record| &self.values[record * per..(record + 1) * per]);
        Self {
            shape,
            values: values.copied().collect(),
        }
    }

    /// Number of records.
    #[must_use]
    pub fn records(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }
}

/// Shape of one record of a modality, without the record axis.
#[must_use]
pub fn record_shape(spec: &EhpalNet, modality: &Modality) -> Vec<usize> {
    match *modality {
        Modality::Image { channels, .. } => vec![channels, spec.side, spec.side],
        Modality::Signal {
            channels, length, ..
        } => vec![channels, length],
        Modality::Table { features, .. } => vec![features],
    }
}

/// Checks an input and moves it to the device as `[channels, height, width, batch]`.
pub(crate) fn prepare(
    spec: &EhpalNet,
    key: &ModalityKey,
    input: &Array,
    device: &Device,
) -> Result<Tensor<4>, ModelError> {
    let modality = spec
        .modalities
        .get(key)
        .ok_or_else(|| ModelError::UnknownModality(key.clone()))?;
    let expected = record_shape(spec, modality);
    if input.shape.len() != expected.len() + 1
        || input.shape[1..] != expected[..]
        || input.records() == 0
    {
        let sides: Vec<String> = expected.iter().map(ToString::to_string).collect();
        return Err(ModelError::InputShape {
            modality: key.clone(),
            got: input.shape.clone(),
            expected: sides.join(", "),
        });
    }
    if !input.values.iter().all(|value| value.is_finite()) {
        return Err(ModelError::NotFinite {
            what: format!("an input value of modality {key}"),
        });
    }
    let records = input.records();
    let side = spec.side;
    Ok(match *modality {
        Modality::Image { channels, .. } => {
            batch_last(&input.values, records, [channels, side, side], device)
        }
        Modality::Signal {
            channels,
            length,
            conversion: Conversion::Encoder,
            ..
        } => batch_last(&input.values, records, [channels, 1, length], device),
        Modality::Table {
            features,
            conversion: Conversion::Encoder,
            ..
        } => batch_last(&input.values, records, [features, 1, 1], device),
        Modality::Signal {
            channels, length, ..
        } => {
            let images = convert::signals(&input.values, channels, length, side);
            batch_last(&images, records, [3, side, side], device)
        }
        Modality::Table { features, .. } => {
            let images = convert::tables(&input.values, features, side);
            batch_last(&images, records, [3, side, side], device)
        }
    })
}

/// `[records, ...shape]` to `[...shape, records]`.
pub(crate) fn batch_last(
    values: &[f32],
    records: usize,
    shape: [usize; 3],
    device: &Device,
) -> Tensor<4> {
    let per = values.len() / records;
    let mut out = vec![0.0; values.len()];
    // Blocks keep both sides of the transposition in the cache.
    for start in (0..per).step_by(64) {
        let end = per.min(start + 64);
        for (b, record) in values.chunks_exact(per).enumerate() {
            for (m, value) in record[start..end].iter().enumerate() {
                out[(start + m) * records + b] = *value;
            }
        }
    }
    let [c, h, w] = shape;
    Tensor::from_data(TensorData::new(out, [c, h, w, records]), device)
}

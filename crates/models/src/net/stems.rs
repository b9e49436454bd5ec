//! Stems: one encoder per modality, all ending in a map `[b, side/4, side/4, batch]`.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};

use super::init::{Init, Start};
use super::layers::{DenseConv, Norm, NormRule, Pointwise};
use super::stages::Watch;
use crate::op;
use crate::{Conversion, EhpalNet, Modality};

/// The encoder of one modality.
#[derive(Module, Debug)]
pub(crate) enum Stem {
    /// The reference's stem.
    Image(ImageStem),
    /// 1-D convolutions.
    Signal(SignalStem),
    /// Two dense layers.
    Table(TableStem),
}

impl Stem {
    pub fn new(init: &mut Init<'_>, spec: &EhpalNet, modality: &Modality, norm: NormRule) -> Self {
        let (width, side) = (spec.width, spec.stem_side());
        match *modality {
            Modality::Image { channels, .. } => Self::Image(ImageStem::new(init, channels, width, norm)),
            Modality::Signal { conversion: Conversion::Image, .. }
            | Modality::Table { conversion: Conversion::Image, .. } => {
                Self::Image(ImageStem::new(init, 3, width, norm))
            }
            Modality::Signal { channels, length, .. } => {
                Self::Signal(SignalStem::new(init, channels, length, width, side, norm))
            }
            Modality::Table { features, hidden, .. } => {
                Self::Table(TableStem::new(init, features, hidden, width, side, norm))
            }
        }
    }

    /// From the prepared input (`[channels, height, width, batch]`) to the map.
    pub fn forward(&self, x: &Tensor<4>, name: &str, watch: Watch<'_>) -> Tensor<4> {
        match self {
            Self::Image(stem) => stem.forward(x, name, watch),
            Self::Signal(stem) => stem.forward(x),
            Self::Table(stem) => stem.forward(x),
        }
    }
}

/// 7x7 convolution with stride 2, norm, ReLU, 3x3 max-pool with stride 2.
#[derive(Module, Debug)]
pub(crate) struct ImageStem {
    pub conv: DenseConv,
    pub norm: Norm,
    vector: ModalityVector,
}

impl ImageStem {
    pub fn new(init: &mut Init<'_>, channels: usize, width: usize, norm: NormRule) -> Self {
        Self {
            conv: init.at("conv", |init| DenseConv::new(init, channels, width, [7, 7], [2, 2])),
            norm: init.at("norm", |init| Norm::new(init, width, norm)),
            vector: ModalityVector::new(init, width),
        }
    }

    pub fn forward(&self, x: &Tensor<4>, name: &str, watch: Watch<'_>) -> Tensor<4> {
        let y = self.conv.forward(x);
        #[cfg(test)]
        watch(&format!("{name}.norm"), &self.norm.forward(&y));
        let y = op::max_pool(&self.norm.forward_relu(&y));
        watch(&format!("{name}.pool"), &y);
        self.vector.add(y)
    }
}

/// The learned vector that tells the trunk which modality a map came from (section 10.2 B); starts at 0.
#[derive(Module, Debug)]
pub(crate) struct ModalityVector {
    pub modality: Param<Tensor<1>>,
}

impl ModalityVector {
    fn new(init: &mut Init<'_>, width: usize) -> Self {
        Self { modality: init.tensor("modality", [width], Start::Constant(0.0)) }
    }

    fn add(&self, map: Tensor<4>) -> Tensor<4> {
        let channels = map.dims()[0];
        map + self.modality.val().reshape([channels, 1, 1, 1])
    }
}

/// Two 1-D convolutions with norm and ReLU, resampled in time to one value per pixel of the map.
///
/// Time runs along the rows of the map, so that neighbours in time are neighbours in a row.
#[derive(Module, Debug)]
pub(crate) struct SignalStem {
    conv1: DenseConv,
    norm1: Norm,
    conv2: DenseConv,
    norm2: Norm,
    vector: ModalityVector,
    side: usize,
}

impl SignalStem {
    fn new(
        init: &mut Init<'_>,
        channels: usize,
        length: usize,
        width: usize,
        side: usize,
        norm: NormRule,
    ) -> Self {
        // Halve the length while at least one sample per pixel remains.
        let stride = |length: usize| if length >= 2 * side * side { 2 } else { 1 };
        let first = stride(length);
        let second = stride(length.div_ceil(first));
        Self {
            conv1: init.at("conv1", |init| DenseConv::new(init, channels, width, [1, 7], [1, first])),
            norm1: init.at("norm1", |init| Norm::new(init, width, norm)),
            conv2: init.at("conv2", |init| DenseConv::new(init, width, width, [1, 7], [1, second])),
            norm2: init.at("norm2", |init| Norm::new(init, width, norm)),
            vector: ModalityVector::new(init, width),
            side,
        }
    }

    fn forward(&self, x: &Tensor<4>) -> Tensor<4> {
        let y = self.norm1.forward_relu(&self.conv1.forward(x));
        let y = self.norm2.forward_relu(&self.conv2.forward(&y));
        let [channels, _, length, batch] = y.dims();
        let pixels = self.side * self.side;
        let y = if length == pixels {
            y
        } else {
            let bins = TensorData::new(resampling(length, pixels), [1, pixels, length]);
            let bins = Tensor::<3>::from_data(bins, (&y.device(), y.dtype()));
            bins.expand([channels, pixels, length])
                .matmul(y.reshape([channels, length, batch]))
                .reshape([channels, 1, pixels, batch])
        };
        self.vector.add(y.reshape([channels, self.side, self.side, batch]))
    }
}

/// Adaptive averaging from `length` to `pixels` positions: row t holds the weights of the samples from
/// `floor(t length / pixels)` to `ceil((t + 1) length / pixels)`.
fn resampling(length: usize, pixels: usize) -> Vec<f32> {
    let mut weights = vec![0.0; pixels * length];
    for t in 0..pixels {
        let (start, end) = (t * length / pixels, ((t + 1) * length).div_ceil(pixels));
        for weight in &mut weights[t * length + start..t * length + end] {
            *weight = 1.0 / (end - start) as f32;
        }
    }
    weights
}

/// Dense layer, ReLU, dense layer to a map of at most 8x8, norm, ReLU, nearest-neighbour upscaling.
#[derive(Module, Debug)]
pub(crate) struct TableStem {
    dense1: Pointwise,
    dense2: Pointwise,
    norm: Norm,
    vector: ModalityVector,
    width: usize,
    side: usize,
}

impl TableStem {
    fn new(
        init: &mut Init<'_>,
        features: usize,
        hidden: usize,
        width: usize,
        side: usize,
        norm: NormRule,
    ) -> Self {
        let grid = side.min(8);
        Self {
            dense1: init.at("dense1", |init| Pointwise::new(init, features, hidden, 1, true)),
            dense2: init.at("dense2", |init| Pointwise::new(init, hidden, width * grid * grid, 1, true)),
            norm: init.at("norm", |init| Norm::new(init, width, norm)),
            vector: ModalityVector::new(init, width),
            width,
            side,
        }
    }

    fn forward(&self, x: &Tensor<4>) -> Tensor<4> {
        let batch = x.dims()[3];
        let hidden = burn::tensor::activation::relu(self.dense1.forward(x));
        let grid = self.side.min(8);
        let y = self.dense2.forward(&hidden).reshape([self.width, grid, grid, batch]);
        let y = self.norm.forward_relu(&y);
        let scale = self.side / grid;
        let y = if scale == 1 {
            y
        } else {
            y.reshape([self.width * grid, 1, grid, 1, batch].map(|n| n as i32))
                .expand([self.width * grid, scale, grid, scale, batch])
                .reshape([self.width, self.side, self.side, batch])
        };
        self.vector.add(y)
    }
}

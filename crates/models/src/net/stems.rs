//! Stems: one encoder per modality, all ending in a map `[b, side/4, side/4, batch]`.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::init::{Init, Start};
use super::layers::{DenseConv, Norm, NormRule, Pointwise};
use crate::op::{Flow, Map};
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
            Modality::Image { channels, .. } => {
                Self::Image(ImageStem::new(init, channels, width, norm))
            }
            Modality::Signal {
                conversion: Conversion::Image,
                ..
            }
            | Modality::Table {
                conversion: Conversion::Image,
                ..
            } => Self::Image(ImageStem::new(init, 3, width, norm)),
            Modality::Signal {
                channels, length, ..
            } => Self::Signal(SignalStem::new(init, channels, length, width, side, norm)),
            Modality::Table {
                features, hidden, ..
            } => Self::Table(TableStem::new(init, features, hidden, width, side, norm)),
        }
    }

    /// From the prepared input (`[channels, height, width, batch]`) to the map; `name` is for a test that
    /// watches.
    pub fn forward(&self, flow: &mut Flow, x: &Map, name: &str) -> Map {
        match self {
            Self::Image(stem) => stem.forward(flow, x, name),
            Self::Signal(stem) => stem.forward(flow, x),
            Self::Table(stem) => stem.forward(flow, x),
        }
    }
}

/// 7x7 convolution with stride 2, norm, ReLU, 3x3 max-pool with stride 2.
#[derive(Module, Debug)]
pub(crate) struct ImageStem {
    pub conv: DenseConv,
    pub norm: Norm,
    modality: Param<Tensor<1>>,
}

impl ImageStem {
    pub fn new(init: &mut Init<'_>, channels: usize, width: usize, norm: NormRule) -> Self {
        Self {
            conv: init.at("conv", |init| {
                DenseConv::new(init, channels, width, [7, 7], [2, 2])
            }),
            norm: init.at("norm", |init| Norm::new(init, width, norm)),
            modality: modality_vector(init, width),
        }
    }

    pub fn forward(&self, flow: &mut Flow, x: &Map, name: &str) -> Map {
        let y = self.conv.forward(flow, x);
        #[cfg(test)]
        if flow.seen.is_some() {
            let normed = self.norm.forward(flow, &y);
            flow.watch(|| format!("{name}.norm"), &normed);
        }
        let y = self.norm.forward_relu(flow, &y);
        let y = flow.max_pool(&y);
        flow.watch(|| format!("{name}.pool"), &y);
        flow.add_vector(&y, &self.modality)
    }
}

/// The learned vector that tells the trunk which modality a map came from (section 10.2 B); starts at 0.
fn modality_vector(init: &mut Init<'_>, width: usize) -> Param<Tensor<1>> {
    init.tensor("modality", [width], Start::Constant(0.0))
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
    modality: Param<Tensor<1>>,
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
            conv1: init.at("conv1", |init| {
                DenseConv::new(init, channels, width, [1, 7], [1, first])
            }),
            norm1: init.at("norm1", |init| Norm::new(init, width, norm)),
            conv2: init.at("conv2", |init| {
                DenseConv::new(init, width, width, [1, 7], [1, second])
            }),
            norm2: init.at("norm2", |init| Norm::new(init, width, norm)),
            modality: modality_vector(init, width),
            side,
        }
    }

    fn forward(&self, flow: &mut Flow, x: &Map) -> Map {
        let y = self.conv1.forward(flow, x);
        let y = self.norm1.forward_relu(flow, &y);
        let y = self.conv2.forward(flow, &y);
        let y = self.norm2.forward_relu(flow, &y);
        let y = flow.resample(&y, self.side);
        flow.add_vector(&y, &self.modality)
    }
}

/// Dense layer, ReLU, dense layer to a map of at most 8x8, norm, ReLU, nearest-neighbour upscaling.
#[derive(Module, Debug)]
pub(crate) struct TableStem {
    dense1: Pointwise,
    dense2: Pointwise,
    norm: Norm,
    modality: Param<Tensor<1>>,
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
            dense1: init.at("dense1", |init| {
                Pointwise::new(init, features, hidden, 1, true)
            }),
            dense2: init.at("dense2", |init| {
                Pointwise::new(init, hidden, width * grid * grid, 1, true)
            }),
            norm: init.at("norm", |init| Norm::new(init, width, norm)),
            modality: modality_vector(init, width),
            width,
            side,
        }
    }

    fn forward(&self, flow: &mut Flow, x: &Map) -> Map {
        let batch = x.dims()[3];
        let hidden = self.dense1.forward(flow, x);
        let hidden = flow.relu(&hidden);
        let grid = self.side.min(8);
        let y = self.dense2.forward(flow, &hidden);
        let y = flow.reshape(&y, [self.width, grid, grid, batch]);
        let y = self.norm.forward_relu(flow, &y);
        let y = flow.upscale(&y, self.side / grid);
        flow.add_vector(&y, &self.modality)
    }
}

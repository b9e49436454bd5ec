//! Stems, fusion trunks and heads on Burn.

// Kernels index several slices by one counter; iterators would hide which.
#![allow(clippy::needless_range_loop)]
// One value of each of these exists per network or pass; boxing would only add an indirection.
#![allow(clippy::large_enum_variant)]
// Parameters keep the letters of the reference, because their names are in every stored model.
#![allow(non_snake_case)]

mod array;
mod convert;
mod describe;
mod device;
mod error;
#[cfg(test)]
mod golden;
mod hazards;
mod kernel;
mod loss;
mod net;
mod network;
mod op;
mod optimiser;
mod patients;
mod predict;
mod spec;
mod train;

pub use array::{Array, record_shape};
pub use describe::{Description, ModuleSize, Version, describe, macs_per_record};
pub use device::DeviceChoice;
pub use error::ModelError;
pub use kernel::arrange::Activation;
pub use loss::Targets;
pub use network::{Features, SiteNetwork, View};
pub use optimiser::{OptimiserRule, OptimiserState};
pub use patients::{ClipGroups, PatientGradients};
pub use predict::Prediction;
pub use spec::{Conversion, EhpalNet, Modality, NormKind, SParam, ScoreScale, Task};
pub use train::{Batch, LossSum, Trainer};

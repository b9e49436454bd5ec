//! Private training on Burn with `dp_rs`: per-unit clipping from one backward pass.

mod book;
mod broadcast;
mod convolution;
mod device;
mod error;
mod geometry;
mod group_norm;
mod host;
mod layers;
mod params;
mod plain;
mod record;
mod step;
mod taps;
mod units;
mod validate;
mod verify;

pub use book::BookKeeping;
pub use error::Refusal;
pub use group_norm::group_norm_for;
pub use layers::Layers;
pub use params::{Grouping, Parameter, Parameters};
pub use plain::Plain;
pub use step::{Recorder, unit_gradients};
pub use taps::Taps;
pub use units::Units;
pub use validate::refusals;
pub use verify::{RowLosses, verify};

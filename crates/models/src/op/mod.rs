//! The network's operations on maps `[channels, height, width, batch]`.
//!
//! On the CPU in single precision each runs a kernel of [`crate::kernel`]; on every other device, and in
//! double precision, the same formula made of Burn's own operations. Tests compare the two.

pub(crate) mod host;

mod arrange;
mod convolution;
mod gates;
mod norm;

pub(crate) use arrange::*;
pub(crate) use convolution::*;
pub(crate) use gates::*;
pub(crate) use norm::*;

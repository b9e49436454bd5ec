//! The network's operations on maps `[channels, height, width, batch]`.
//!
//! A forward pass is written once, against [`Flow`]. On the CPU in single precision it runs the kernels of
//! [`crate::kernel`] on a tape that is one operation to Burn; on every other device, and in double precision,
//! the same formulas made of Burn's own operations. Tests compare the two.

pub(crate) mod books;
mod flow;
pub(crate) mod generic;
mod host;
mod tape;

pub(crate) use flow::{Flow, Map, pixel_mean};
pub(crate) use generic::UnitTensors;
pub(crate) use tape::Tape;

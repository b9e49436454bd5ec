//! Private training on Burn with `dp_rs`: per-unit clipping from one backward pass.
//!
//! A *unit* is what privacy protects: a patient, or a record. DP-SGD needs the norm of every unit's gradient and
//! the sum of the clipped gradients. [`unit_gradients`] gives both from one forward and one backward pass, without
//! one gradient per unit in memory (Book-Keeping: Bu et al., arXiv 2210.00038), for any Burn module whose forward
//! pass is written over [`Layers`]. The result, [`BookKeeping`], is a
//! [`UnitGradients`](dp_rs::gradients::UnitGradients): hand it to [`dp_rs::plan`], which samples, clips, adds noise
//! and accounts, and give what comes back to [`gradient_descent`] or to an optimiser (`gradients_params`, with
//! the feature `optim`).
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{Linear, LinearConfig};
//! use burn::tensor::{Device, Tensor, activation::relu};
//! use dp_burn::{Layers, Units, gradient_descent, unit_gradients};
//! use dp_rs::gradients::UnitGradients;
//!
//! #[derive(Module, Debug)]
//! struct Net {
//!     hidden: Linear,
//!     head: Linear,
//! }
//!
//! impl Net {
//!     fn forward(&self, layers: &mut impl Layers, x: Tensor<2>) -> Tensor<2> {
//!         let x = relu(layers.linear(&self.hidden, x));
//!         layers.linear(&self.head, x)
//!     }
//! }
//!
//! let device = Device::flex();
//! let training = device.clone().autodiff();
//! let net = Net {
//!     hidden: LinearConfig::new(3, 8).init(&training),
//!     head: LinearConfig::new(8, 1).init(&training),
//! };
//! let x = Tensor::<2>::ones([3, 3], &device);
//! // The first patient has two records.
//! let units = Units::from_rows(vec![0, 0, 1])?;
//! let gradients = unit_gradients(&net, &units, |net, taps| {
//!     let y = net.forward(taps, x.clone());
//!     (y - 1.0).powf_scalar(2.0).reshape([3]) // one loss per row
//! })?;
//! let norms = gradients.squared_norms();
//! let clip: Vec<f64> = norms.iter().map(|s| (1.0 / s.sqrt()).min(1.0)).collect();
//! let sum = gradients.weighted_sum(&clip);
//! // Noise belongs here: see `dp_rs::plan`.
//! let net = gradient_descent(net, &sum, 0.1)?;
//! # let _ = net;
//! # Ok::<(), dp_burn::Refusal>(())
//! ```
//!
//! # What is refused
//!
//! [`refusals`] names by path what the structure of a module shows: batch normalisation, layers without a rule. A
//! trainable parameter that the forward pass does not tap is an error of the step, never a silent gap. [`verify`]
//! runs a batch once and finds the rest: a parameter that is also used outside tapped calls, and a layer or loss
//! that mixes records.
//!
//! # How it works
//!
//! Weights are frozen in the taped forward pass, so the backward pass only carries gradients to the layers'
//! outputs. With the layers' inputs they give, layer by layer, the squared norm of every unit's gradient, by
//! Gram matrices or from the gradient itself, whichever is smaller by shapes, and once the clipping factors are
//! known, their weighted sum as one matrix product. On the CPU this runs on the host's own kernels; on other
//! devices on Burn's operations.

mod attention;
mod book;
mod broadcast;
mod convolution;
mod device;
mod error;
mod faults;
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
mod update;
mod validate;
mod verify;

pub use attention::{AttentionInput, attention};
pub use book::BookKeeping;
pub use error::Refusal;
pub use group_norm::group_norm_for;
pub use layers::Layers;
pub use params::{Grouping, Parameter, Parameters};
pub use plain::Plain;
pub use step::{Recorder, unit_gradients};
pub use taps::Taps;
pub use units::Units;
pub use update::gradient_descent;
#[cfg(feature = "optim")]
pub use update::gradients_params;
pub use validate::refusals;
pub use verify::{RowLosses, verify};

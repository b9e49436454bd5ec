//! The words that every part of Consilium shares, and nothing that needs input or output.
//!
//! * [`names`]: identifiers that cannot be swapped: sites, studies, modality keys, task keys, groups.
//! * [`manifest`]: which tensors a model has, and which group each belongs to.
//! * [`vector`]: the values of some groups, their digest and their safetensors form.
//! * [`study`]: what the consortium agreed to train, and the plan of one round.
//! * [`seed`]: one random stream per named use.
//! * [`clock`]: time, handed in from outside.
//!
//! It does not know about sockets, databases, files or Burn.

pub mod clock;
pub mod digest;
pub mod manifest;
pub mod names;
pub mod seed;
pub mod study;
pub mod vector;

pub use digest::Digest;
pub use manifest::{ModelManifest, TensorSpec};
pub use names::{GroupName, InvalidName, ModalityKey, SiteId, StudyId, TaskKey};
pub use seed::{Seed, StreamKey};
pub use study::{Participant, RoundPlan, Study};
pub use vector::ModelVector;

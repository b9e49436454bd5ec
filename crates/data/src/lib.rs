//! Readers, cohort checks, patient-wise splits, batching, generated cohorts.
//!
//! A site tells its cohort in one `cohort.toml` ([`manifest`]). [`Cohort::read`] reads the files behind it
//! and returns typed records with a patient-wise split, or a [`Refusal`] with everything that is wrong.
//! [`Cohort::prepare`] fits scaling on training records and gives [`Examples`]; a [`Sampler`] says which of
//! them a step uses and [`augment`] makes views of one. [`generated`] makes cohorts for trying things out.
//!
//! It does not know models, rounds, the network or Burn, and it sends nothing anywhere.
//!
//! ```no_run
//! use std::path::Path;
//! use consilium_data::{Cohort, Part};
//!
//! let cohort = Cohort::read(Path::new("cohort.toml"))?;
//! let training = cohort.records_in(Part::Train);
//! let prepared = cohort.prepare(&training)?;
//! let examples = prepared.examples().select(&training)?;
//! println!("{} records of shape {:?}", examples.len(), examples.shape);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod augment;
mod cohort;
mod describe;
mod examples;
pub mod generated;
pub mod manifest;
mod manifest_file;
mod prepare;
mod problem;
mod read;
mod refusal;
mod resize;
mod sample;
mod split;
mod toml_text;

pub use augment::{
    Augmentation, ImageAugmentation, SignalAugmentation, TableAugmentation, WrongShape, augment,
};
pub use cohort::{Cohort, Fold, Unit};
pub use describe::{Description, PartDescription, check, describe};
pub use examples::{Examples, NoSuchRecord, Targets};
pub use manifest::CohortManifest;
pub use prepare::{PrepareError, Prepared, Scaling};
pub use problem::{Problem, Severity};
pub use read::Feature;
pub use refusal::{Finding, LISTED_PER_CODE, Located, Place, Refusal};
pub use sample::{Sampler, SamplerError};
pub use split::{Part, fold, part_of, split_hash};

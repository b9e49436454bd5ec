//! Differential privacy for machine learning: mechanisms, samplers, clipping and accounting.

pub mod accounting;
pub mod adjacency;
pub mod agreement;
pub mod clipping;
pub mod correlated;
pub mod event;
mod faults;
pub mod gradients;
pub mod ledger;
pub mod noise;
pub mod plan;
pub mod release;
pub mod sampling;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

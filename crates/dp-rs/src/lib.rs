//! Differential privacy for machine learning: mechanisms, samplers, clipping and accounting.

pub mod accounting;
pub mod adjacency;
pub mod clipping;
pub mod correlated;
pub mod event;
pub mod gradients;
pub mod noise;
pub mod sampling;

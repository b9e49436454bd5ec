//! Metrics, intervals and simple baselines.

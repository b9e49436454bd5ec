//! Generated cohorts.

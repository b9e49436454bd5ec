//! Readers, cohort checks, patient-wise splits, batching, generated cohorts.

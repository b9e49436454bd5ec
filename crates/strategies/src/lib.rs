//! Aggregation rules: contribution weights and exact sums.

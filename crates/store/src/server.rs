//! What the aggregation server keeps.

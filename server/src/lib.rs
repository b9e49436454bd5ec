//! Aggregation server: gRPC, rounds, storage, certificates.

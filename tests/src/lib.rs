//! End-to-end tests: real processes, real TLS, layering.

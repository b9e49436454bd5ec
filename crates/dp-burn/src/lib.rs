//! Private training on Burn with `dp_rs`: per-unit clipping from one backward pass.

//! The CPU's own path: convolutions by unfolding and matrix products, and Book-Keeping on plain slices.

pub(crate) mod book;
pub(crate) mod conv;
pub(crate) mod gemm;
pub(crate) mod linear;
pub(crate) mod op;
pub(crate) mod product;
pub(crate) mod real;
pub(crate) mod source;
pub(crate) mod sums;
pub(crate) mod unfold;

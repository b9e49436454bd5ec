//! The life of a round and of a study on both sides, without input or output.

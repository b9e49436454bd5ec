//! The simple models that a network has to be compared with.

//! What a site agent keeps.

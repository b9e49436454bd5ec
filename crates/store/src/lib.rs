//! Durable state: the server's study and rounds, a site's participation, and blobs.
//!
//! Queries live here and nowhere else. [`server`] is what the aggregation server keeps, [`site`] what a site
//! agent keeps; neither knows the other's tables.

mod log;
pub mod server;
pub mod site;
mod sqlite;

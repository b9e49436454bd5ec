//! The aggregation server: one study, one port, mutual TLS. It adds vectors and never reads records.
//!
//! * [`config`]: the one configuration file.
//! * [`commands`]: what the program says of the study in its state folder.
//! * [`initial`]: the file of initial values.
//! * [`consortium`]: the dull shell around the study's state machine: load, handle, store, carry out.
//! * [`log`]: what has happened, as a Merkle log that sites counter-sign.
//! * [`audit`]: that log as a file, and the check of such a file without a server.
//! * [`aggregate`]: sums updates chunk by chunk from files.
//! * [`service`]: the gRPC calls, each checked against the caller's certificate.
//! * [`listen`]: TLS, time limits, start and stop.

pub mod aggregate;
pub mod audit;
pub mod commands;
pub mod config;
pub mod consortium;
pub mod initial;
pub mod listen;
pub mod log;
pub mod service;
pub mod statement;

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
//! * [`admission`]: who may make which call, decided at every call.
//! * [`credentials`]: certificates and revocations, read again while the server runs.
//! * [`enrolment`]: requests for certificates, which wait for the operator.
//! * [`listen`]: start and stop.

mod accept;
pub mod admission;
pub mod aggregate;
pub mod audit;
pub mod commands;
pub mod config;
pub mod consortium;
pub mod credentials;
pub mod enrolment;
pub mod initial;
pub mod listen;
pub mod log;
mod membership;
pub mod service;
pub mod statement;

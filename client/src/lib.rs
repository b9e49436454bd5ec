//! The site agent: reads its cohort, trains its part of the model, and uploads sealed updates.
//!
//! * [`config`]: the one configuration file.
//! * [`agent`]: the loop of a study, without network or learning: ask, train, seal, deliver, settle.
//! * [`peer`]: what the agent needs from the server; [`transport`]: that over mutual TLS.
//! * [`work`]: the seam between the protocol and the learning.
//! * [`training`]: the real work: this site's records, views and network.
//! * [`outcome`]: what a finished study leaves here.
//! * [`commands`]: what the program does with all that.

pub mod agent;
pub mod commands;
pub mod config;
pub mod outcome;
pub mod peer;
pub mod training;
pub mod transport;
pub mod work;

//! The site agent: reads its cohort, trains its part of the model, and uploads sealed updates.
//!
//! * [`config`]: the one configuration file.
//! * [`agent`]: the loop of a study, without network or learning: ask, train, seal, deliver, settle.
//! * [`acceptance`]: what a study would send and cost, and this site's written answer.
//! * [`peer`]: what the agent needs from the server; [`transport`]: that over mutual TLS.
//! * [`enrolment`]: this site's first certificate; [`renewal`]: the next ones.
//! * [`work`]: the seam between the protocol and the learning.
//! * [`preparation`]: how records became the network's input.
//! * [`training`]: the real work: this site's records, views and network.
//! * [`policy`]: what this site permits, whatever the consortium asks.
//! * [`privacy`]: what may be spent of the patients' privacy, and what was.
//! * [`outcome`]: what a finished study leaves here; [`joined`]: the model of a committed round;
//!   [`export`]: that model as files; [`predictions`]: what it says about each patient, as a table.
//! * [`commands`]: what the program does with all that.

pub mod acceptance;
pub mod agent;
pub mod commands;
pub mod config;
pub mod enrolment;
pub mod export;
pub mod joined;
pub mod outcome;
mod pause;
pub mod peer;
pub mod policy;
pub mod predictions;
pub mod preparation;
pub mod privacy;
mod private_file;
pub mod renewal;
pub mod training;
pub mod transport;
pub mod work;

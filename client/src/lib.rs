//! The site agent: reads its cohort, trains its part of the model, and uploads sealed updates.
//!
//! * [`work`]: the seam between the protocol and the learning.
//! * [`training`]: the real work: this site's records, views and network.

pub mod training;
pub mod work;

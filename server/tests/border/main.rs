//! The real server behind real TLS, and peers that do not do what they should: each is refused with its
//! code, nothing is half-written, and the server goes on.

#[path = "../consortium/mod.rs"]
mod consortium;

mod credentials;
mod downloads;
mod enrolment;
mod ledgers;
mod peers;
mod rounds;
mod statements;
mod storage;
mod uploads;
mod withdrawals;

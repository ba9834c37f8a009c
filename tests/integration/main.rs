//! The integration tests: RESP bytes to real servers, through a real sidecache process.
//!
//! One binary, so that the harness in `support` is compiled once. Each chapter is a module; `harness` holds
//! the tests of the harness itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on must say so loudly"
)]

mod support;

mod audits;
mod cli;
mod clients;
mod cluster;
mod coherence;
mod command_table;
mod dedicated;
mod denied;
mod differential;
mod faults;
mod fences;
mod fills;
mod framing;
mod harness;
mod lease;
mod limits;
mod linear;
mod matrix;
mod news;
mod orders;
mod own_writes;
mod push_matrix;
mod reconnects;
mod replicas;
mod samples;
mod secrets;
mod seeds;
mod sentinel;
mod sessions;
mod soak;
mod suite;
mod torture;
mod upstream;

//! What must hold whatever the bytes are. Each check takes any input and panics if a rule is broken; fuzzers call
//! them with what they make up, the tests with the corpora and with every input that was once found to break one.

pub mod config;
pub mod downgrade;
pub mod keys;
pub mod pieces;
pub mod reply;
pub mod request;
pub mod session;

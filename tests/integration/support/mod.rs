//! The harness: real servers, a real sidecache, and the three things that stand between them in tests.
//!
//! - [`redis`]: redis-server and valkey-server processes on free ports
//! - [`cluster`], [`sentinel`]: several of them, as a cluster and under Sentinels
//! - [`sidecar`]: a sidecache process in front of one of them; fails a test that logs an unannounced warning
//! - [`resp`]: a blocking client that shows the bytes
//! - [`link`]: a relay that delays, holds, swallows, cuts and resets
//! - [`scripted`]: an upstream that answers as its script says, for orders that no real server can be made to show
//! - [`freshness`]: clients that judge how old what they read was
//! - [`documents`]: documents that are made of the code
//! - [`wait`]: waiting for a condition, with patience
//!
//! Everything that is started here is ended on drop, by its own process id.
#![allow(dead_code, unused_imports, reason = "each chapter uses a part of it")]

pub mod cluster;
#[path = "../../../src/telemetry/test_docs.rs"]
pub mod documents;
pub mod freshness;
pub mod link;
pub mod port;
pub mod redis;
pub mod resp;
pub mod scripted;
pub mod sentinel;
pub mod sidecar;
pub mod wait;

pub use cluster::Cluster;
pub use freshness::Fresh;
pub use link::{Dir, Link};
pub use redis::{Kind, Server};
pub use resp::{Conn, V};
pub use scripted::Scripted;
pub use sentinel::Sentinels;
pub use sidecar::Sidecar;
pub use wait::eventually;

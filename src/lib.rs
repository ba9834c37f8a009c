//! sidecache: a coherent caching sidecar for Redis and Valkey.
//!
//! The modules stand in the order of a command's way; each uses only those before it.

pub mod switch;
pub mod telemetry;

pub mod limits;
pub mod net;
pub mod protocol;

pub mod command;

pub mod cache;
pub mod upstream;

pub mod coherence;

pub mod error;

pub mod dispatch;

pub mod client;

pub mod discovery;

pub mod admin;

pub mod config;

pub mod proxy;

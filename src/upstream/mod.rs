//! Our side towards upstream.
pub mod backoff;
pub mod cluster;
pub mod config;
pub mod connection;
pub mod control;
pub mod dedicated;
pub mod handshake;
pub mod identity;
pub mod lane;
pub mod replicas;
pub mod slots;
pub mod topology;
pub mod url;
pub use config::{Config, PoolConfig};

/// The name of our connections in upstream's CLIENT LIST.
pub const CLIENT_NAME: &str = "sidecache";

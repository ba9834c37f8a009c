//! The product's own files, with loom's atomics.

pub mod atomic;
#[path = "../../src/cache/entry.rs"]
pub mod entry;
#[path = "../../src/cache/flight.rs"]
pub mod flight;
#[path = "../../src/cache/generation.rs"]
pub mod generation;
#[path = "../../src/cache/lease.rs"]
pub mod lease;

pub use entry::{Basis, Entry, Lookup};
pub use flight::Flight;
pub use generation::{Epoch, Generations};
pub use sidecache::cache::{Config, Mode};

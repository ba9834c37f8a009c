//! The atomics that workers share, in one place: `tests/loom` has loom's stand in for them, and so runs the code of
//! `generation` and `coherence` through every order that memory allows.
//!
//! *Invariant:* nothing else of the cache uses atomics for what an entry's validity rests on.

pub use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How many key counters there are: so many that strangers' bumps seldom reach an entry within its `max_age`;
/// 16 MiB of zero pages that cost nothing until touched.
pub const SLOTS: usize = 1 << 21;

/// All counters at zero.
pub fn zeroed() -> Box<[AtomicU64]> {
    bytemuck::allocation::zeroed_slice_box(SLOTS)
}

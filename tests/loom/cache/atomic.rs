//! Loom's atomics in the place of `src/cache/atomic.rs`; on demand weaker than the code asks for, to see that it matters.

use std::sync::atomic::AtomicBool as Switch;

pub use loom::sync::atomic::Ordering;

/// One, since loom follows each of them, and a key's place among several would differ from run to run.
pub const SLOTS: usize = 1;

/// Whether every order is taken as `Relaxed`.
pub static RELAXED: Switch = Switch::new(false);

/// In the place of std's.
#[derive(Debug, Default)]
pub struct AtomicU64(loom::sync::atomic::AtomicU64);

/// In the place of std's.
#[derive(Debug, Default)]
pub struct AtomicBool(loom::sync::atomic::AtomicBool);

/// All counters at zero.
pub fn zeroed() -> Box<[AtomicU64]> {
    std::iter::repeat_with(AtomicU64::default).take(SLOTS).collect()
}

fn of(order: Ordering) -> Ordering {
    if RELAXED.load(Ordering::SeqCst) { Ordering::Relaxed } else { order }
}

impl AtomicU64 {
    pub fn load(&self, order: Ordering) -> u64 {
        self.0.load(of(order))
    }

    pub fn fetch_add(&self, by: u64, order: Ordering) -> u64 {
        self.0.fetch_add(by, of(order))
    }
}

impl AtomicBool {
    pub fn load(&self, order: Ordering) -> bool {
        self.0.load(of(order))
    }

    pub fn store(&self, value: bool, order: Ordering) {
        self.0.store(value, of(order));
    }
}

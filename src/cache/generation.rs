//! Generations: a change counter per key, and epochs: one per node.
//!
//! *Invariant:* a counter only grows; whoever saw it at `g` before a change sees it above `g` after.
//! Keys share counters by hash, so a collision costs a refetch and never a stale reply. Shared by all
//! workers, which is what makes a write through one of them seen by the reads of all.
//! Not here: who bumps when (`coherence`).

use std::hash::BuildHasher;

use foldhash::quality::RandomState;

use super::atomic::{AtomicU64, Ordering, SLOTS, zeroed};

/// Where a key's counter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(u32);

/// The change counters of all keys. No database in them, since pushes carry none.
pub struct Generations {
    /// One counter per slot.
    counters: Box<[AtomicU64]>,
    /// Keyed per process, so that nobody can aim at a slot.
    seed: RandomState,
}

/// What every entry of a node rests on besides its key: FLUSHALL, SWAPDB, changed rights.
#[derive(Debug, Default)]
pub struct Epoch(AtomicU64);

// === impl Generations ===

impl Generations {
    /// All counters at zero.
    pub fn new() -> Self {
        Generations { counters: zeroed(), seed: RandomState::default() }
    }

    /// The slot of a key.
    pub fn slot(&self, key: &[u8]) -> Slot {
        Slot((self.seed.hash_one(key) as usize & (SLOTS - 1)) as u32)
    }

    /// The counter's present value.
    pub fn current(&self, slot: Slot) -> u64 {
        self.counters.get(slot.0 as usize).map_or(0, |counter| counter.load(Ordering::SeqCst))
    }

    /// The key has changed, or is about to.
    pub fn bump(&self, slot: Slot) {
        if let Some(counter) = self.counters.get(slot.0 as usize) {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Default for Generations {
    fn default() -> Self {
        Generations::new()
    }
}

// === impl Epoch ===

impl Epoch {
    /// The present epoch.
    pub fn current(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Makes everything filled before unreachable and everything in the air unfillable.
    pub fn bump(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bump_is_seen_by_whoever_noted_the_generation_before() {
        let generations = Generations::new();
        let slot = generations.slot(b"k");
        let noted = generations.current(slot);
        generations.bump(slot);
        assert_ne!(noted, generations.current(slot));
    }

    #[test]
    fn keys_spread_over_the_slots() {
        let generations = Generations::new();
        let slots: std::collections::HashSet<_> =
            (0..1000).map(|i| generations.slot(format!("key:{i}").as_bytes())).collect();
        assert!(slots.len() > 990, "{} distinct slots for 1000 keys", slots.len());
    }
}

//! Finding an entry by its hash: chains through one array, none of which ever moves as a whole.
//!
//! A table that doubles, or sweeps its tombstones, would stall the worker for milliseconds. So the heads are as many as
//! they will ever be (memory that is not touched costs nothing), and a place that falls free is the next to be taken.
//! *Invariant:* at most one entry per key. Not here: who stays (`store`), whether it is still true (`coherence`).

use std::cell::Cell;
use std::sync::Arc;

use super::entry::{Entry, Lookup};

/// Bytes of the cache for which there is one chain: what a small entry weighs, so that chains stay short.
const BYTES_PER_CHAIN: u64 = 512;

/// The entries by hash.
pub(super) struct Index {
    /// The first place of each chain, counted from 1; 0: it is empty.
    heads: Box<[u32]>,
    places: Vec<Place>,
    /// The first free place, as in `heads`; they are chained too.
    free: u32,
}

struct Place {
    /// None if it is free.
    entry: Option<Arc<Entry>>,
    /// What of the hash does not tell the chain: spares most looks at other keys' entries.
    tag: u32,
    /// How often it has been found.
    finds: Cell<u32>,
    /// The next of its chain, as in `heads`.
    next: u32,
}

// === impl Index ===

impl Index {
    /// Fit for so many bytes of entries.
    pub fn new(bytes: u64) -> Self {
        let chains = (bytes / BYTES_PER_CHAIN).next_power_of_two().clamp(1, 1 << 30);
        Index { heads: vec![0; chains as usize].into(), places: Vec::new(), free: 0 }
    }

    /// The entry found by `lookup`, and how often it has been found, this time included.
    #[inline]
    pub fn find(&self, lookup: &Lookup<'_>) -> Option<(&Arc<Entry>, u32)> {
        let mut at = *self.heads.get(self.chain(lookup.hash))?;
        while let Some(place) = self.place(at) {
            if place.tag == tag(lookup.hash)
                && let Some(entry) = &place.entry
                && lookup.finds(&entry.key)
            {
                let finds = place.finds.get().wrapping_add(1);
                place.finds.set(finds);
                return Some((entry, finds));
            }
            at = place.next;
        }
        None
    }

    /// Puts an entry in, in place of its key's former one; whether there was none.
    pub fn put(&mut self, entry: Arc<Entry>) -> bool {
        let chain = self.chain(entry.key.hash);
        let lookup = entry.key.as_lookup();
        let mut at = self.heads.get(chain).copied().unwrap_or_default();
        while let Some(place) = self.place_mut(at) {
            if place.entry.as_ref().is_some_and(|old| lookup.finds(&old.key)) {
                place.entry = Some(entry);
                return false;
            }
            at = place.next;
        }
        let next = self.heads.get(chain).copied().unwrap_or_default();
        let place = Place { tag: tag(entry.key.hash), entry: Some(entry), finds: Cell::new(0), next };
        let at = self.free;
        let at = if let Some(free) = self.place_mut(at) {
            let after = std::mem::replace(free, place).next;
            self.free = after;
            at
        } else {
            self.places.push(place);
            self.places.len() as u32
        };
        if let Some(head) = self.heads.get_mut(chain) {
            *head = at;
        }
        true
    }

    /// Takes this very entry out; not one that has taken its place.
    pub fn take_out(&mut self, entry: &Arc<Entry>) {
        let chain = self.chain(entry.key.hash);
        let (mut before, mut at) = (0, self.heads.get(chain).copied().unwrap_or_default());
        while let Some(place) = self.place(at) {
            let next = place.next;
            if !place.entry.as_ref().is_some_and(|held| Arc::ptr_eq(held, entry)) {
                (before, at) = (at, next);
                continue;
            }
            match self.place_mut(before) {
                Some(before) => before.next = next,
                None => {
                    if let Some(head) = self.heads.get_mut(chain) {
                        *head = next;
                    }
                }
            }
            let free = self.free;
            if let Some(place) = self.place_mut(at) {
                (place.entry, place.next) = (None, free);
            }
            self.free = at;
            return;
        }
    }

    fn chain(&self, hash: u64) -> usize {
        hash as usize & (self.heads.len() - 1)
    }

    fn place(&self, at: u32) -> Option<&Place> {
        self.places.get((at as usize).wrapping_sub(1))
    }

    fn place_mut(&mut self, at: u32) -> Option<&mut Place> {
        self.places.get_mut((at as usize).wrapping_sub(1))
    }
}

fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::super::entry::{Namespace, entry_of};
    use super::*;

    /// One chain for all.
    fn index() -> Index {
        Index::new(1)
    }

    fn entry(name: &str) -> Arc<Entry> {
        entry_of(Namespace(0), name.as_bytes(), b"")
    }

    fn holds(index: &Index, entry: &Arc<Entry>) -> bool {
        index.find(&entry.key.as_lookup()).is_some_and(|(found, _)| Arc::ptr_eq(found, entry))
    }

    #[test]
    fn each_of_a_chain_is_found_whoever_leaves_it() {
        for leaving in 0..3 {
            let (mut index, entries) = (index(), ["a", "b", "c"].map(entry));
            entries.iter().for_each(|entry| assert!(index.put(Arc::clone(entry))));
            index.take_out(&entries[leaving]);
            for (i, entry) in entries.iter().enumerate() {
                assert_eq!(holds(&index, entry), i != leaving, "{i} when {leaving} has left");
            }
            let (d, e) = (entry("d"), entry("e"));
            assert!(index.put(Arc::clone(&d)) && index.put(Arc::clone(&e)));
            assert_eq!(index.places.len(), 4, "the place that fell free was taken first");
            assert!(holds(&index, &d) && holds(&index, &e));
        }
    }

    #[test]
    fn an_entry_takes_the_place_of_its_key_s_former_one_which_cannot_take_it_out() {
        let (mut index, old, new) = (index(), entry("a"), entry("a"));
        assert!(index.put(Arc::clone(&old)));
        assert!(!index.put(Arc::clone(&new)));
        index.take_out(&old);
        assert!(holds(&index, &new));
        index.take_out(&new);
        assert!(!holds(&index, &new));
    }

    #[test]
    fn finds_are_counted() {
        let (mut index, a) = (index(), entry("a"));
        index.put(Arc::clone(&a));
        let finds = || index.find(&a.key.as_lookup()).map(|(_, finds)| finds);
        assert_eq!([finds(), finds()], [Some(1), Some(2)]);
    }
}

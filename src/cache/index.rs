//! Finding an entry by its hash: chains through one array, none of which ever moves as a whole.
//!
//! A table that doubles, or sweeps its tombstones, would stall the worker for milliseconds. So the heads are as many as
//! they will ever be (memory that is not touched costs nothing), and a place that falls free is the next to be taken.
//! *Invariant:* at most one entry per hash, of whatever key. Not here: who stays (`store`), whether it is still true
//! (`coherence`).

use std::cell::Cell;

use super::entry::{Entry, Lookup, OVERHEAD};

/// Bytes of the cache for which there is one chain: what a small entry weighs, so that chains stay short.
const BYTES_PER_CHAIN: u64 = 512;

/// Places beyond what fits: entries that moka is still to judge.
const SPARE: usize = 1024;

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
    entry: Option<Entry>,
    /// By which it is found.
    hash: u64,
    /// The next of its chain, as in `heads`.
    next: u32,
    /// How often entries of this hash have been taken, from 0 again after 65,535.
    finds: Cell<u16>,
    /// How often this one has, since it was put in or since that was last asked; 65,535: so often or more.
    served: Cell<u16>,
}

// === impl Index ===

impl Index {
    /// Fit for so many bytes of entries.
    pub fn new(bytes: u64) -> Self {
        let chains = (bytes / BYTES_PER_CHAIN).next_power_of_two().clamp(1, 1 << 30);
        let most = usize::try_from(bytes / OVERHEAD as u64).unwrap_or_default() + SPARE;
        Index { heads: vec![0; chains as usize].into(), places: Vec::with_capacity(most), free: 0 }
    }

    /// Lets `judge` see the entry found by `lookup`; if it takes it, says with what, and how often entries of this hash
    /// have been taken, less a multiple of 65,536.
    #[inline]
    pub fn take<T>(&self, lookup: &Lookup<'_>, judge: impl FnOnce(&Entry) -> Option<T>) -> Option<(T, u16)> {
        let place = self.find(lookup.hash)?;
        let taken = place.entry.as_ref().filter(|entry| lookup.finds_entry(entry)).and_then(judge)?;
        let finds = place.finds.get().wrapping_add(1);
        place.finds.set(finds);
        place.served.set(place.served.get().saturating_add(1));
        Some((taken, finds))
    }

    /// The entry found by `lookup`.
    pub fn peek(&self, lookup: &Lookup<'_>) -> Option<&Entry> {
        self.find(lookup.hash)?.entry.as_ref().filter(|entry| lookup.finds_entry(entry))
    }

    /// How often the entry found by `lookup` has been taken since this was last asked.
    pub fn served(&self, lookup: &Lookup<'_>) -> Option<u16> {
        self.peek(lookup)?;
        self.find(lookup.hash).map(|place| place.served.take())
    }

    /// Puts an entry in, in place of what its hash found before, whose weight it returns.
    pub fn put(&mut self, hash: u64, entry: Entry) -> Option<u32> {
        if let Some(place) = self.at(hash).and_then(|(_, at)| self.place_mut(at)) {
            place.served.set(0);
            return place.entry.replace(entry).map(|old| old.weight());
        }
        let chain = self.chain(hash);
        let next = self.heads.get(chain).copied().unwrap_or_default();
        let place = Place { entry: Some(entry), hash, next, finds: Cell::new(0), served: Cell::new(0) };
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
        None
    }

    /// Takes out what this hash finds.
    pub fn remove(&mut self, hash: u64) {
        let Some((before, at)) = self.at(hash) else { return };
        let (chain, free) = (self.chain(hash), self.free);
        let Some(place) = self.place_mut(at) else { return };
        place.entry = None;
        let next = std::mem::replace(&mut place.next, free);
        match self.place_mut(before) {
            Some(before) => before.next = next,
            None => {
                if let Some(head) = self.heads.get_mut(chain) {
                    *head = next;
                }
            }
        }
        self.free = at;
    }

    #[inline]
    fn find(&self, hash: u64) -> Option<&Place> {
        self.at(hash).and_then(|(_, at)| self.place(at))
    }

    /// The place of a hash, and the one before it in its chain.
    #[inline]
    fn at(&self, hash: u64) -> Option<(u32, u32)> {
        let (mut before, mut at) = (0, *self.heads.get(self.chain(hash))?);
        while let Some(place) = self.place(at) {
            if place.hash == hash {
                return Some((before, at));
            }
            (before, at) = (at, place.next);
        }
        None
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

#[cfg(test)]
mod tests {
    use super::super::entry::{Namespace, entry_of, lookup_of};
    use super::*;

    /// One chain for all.
    fn index() -> Index {
        Index::new(1)
    }

    fn lookup(name: &str) -> Lookup<'_> {
        lookup_of(Namespace(0), name.as_bytes())
    }

    fn put(index: &mut Index, name: &str) -> Entry {
        let entry = entry_of(&lookup(name), b"");
        assert_eq!(index.put(lookup(name).hash, entry.clone()), None);
        entry
    }

    fn holds(index: &Index, entry: &Entry) -> bool {
        let lookup = lookup_of(Namespace(0), entry.found_by());
        index.take(&lookup, |found| found.is(entry).then_some(())).is_some()
    }

    #[test]
    fn each_of_a_chain_is_found_whoever_leaves_it() {
        for (leaving, name) in ["a", "b", "c"].into_iter().enumerate() {
            let mut index = index();
            let entries = ["a", "b", "c"].map(|name| put(&mut index, name));
            index.remove(lookup(name).hash);
            for (i, entry) in entries.iter().enumerate() {
                assert_eq!(holds(&index, entry), i != leaving, "{i} when {leaving} has left");
            }
            let (d, e) = (put(&mut index, "d"), put(&mut index, "e"));
            assert_eq!(index.places.len(), 4, "the place that fell free was taken first");
            assert!(holds(&index, &d) && holds(&index, &e));
        }
    }

    #[test]
    fn an_entry_takes_the_place_of_what_its_hash_found_before() {
        let mut index = index();
        let (old, hash) = (put(&mut index, "a"), lookup("a").hash);
        let new = entry_of(&lookup("a"), b"");
        assert_eq!(index.put(hash, new.clone()), Some(old.weight()));
        assert!(holds(&index, &new) && !holds(&index, &old));
        index.remove(hash);
        assert!(!holds(&index, &new));
        index.remove(hash);
    }

    #[test]
    fn another_request_of_the_same_hash_is_not_found() {
        let mut index = index();
        put(&mut index, "a");
        assert!(index.peek(&lookup("a")).is_some());
        assert!(index.peek(&Lookup { hash: lookup("a").hash, ..lookup("b") }).is_none());
    }

    #[test]
    fn what_is_taken_is_counted_for_the_hash_and_for_the_entry() {
        let (mut index, a) = (index(), lookup("a"));
        put(&mut index, "a");
        let take = |index: &Index, taken: bool| index.take(&a, |_| taken.then_some(())).map(|((), n)| n);
        assert_eq!([take(&index, true), take(&index, false), take(&index, true)], [Some(1), None, Some(2)]);
        assert_eq!([index.served(&a), index.served(&a)], [Some(2), Some(0)]);
        assert_eq!(take(&index, true), Some(3));
        index.put(a.hash, entry_of(&a, b""));
        assert_eq!(index.served(&a), Some(0), "the new one has not");
        for n in 4..=0x1_0010_u32 {
            assert_eq!(take(&index, true), Some(n as u16));
        }
        assert_eq!(index.served(&a), Some(u16::MAX));
    }

    #[test]
    fn no_place_takes_more_than_it_must() {
        assert_eq!(size_of::<Place>(), 24);
    }
}

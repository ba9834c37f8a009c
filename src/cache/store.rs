//! Where entries are kept: an index that finds them, and moka, which decides who stays.
//!
//! moka's TinyLFU keeps what is read often, weighed in bytes; but its look-up costs most of a microsecond, several when
//! memory is cold, records a miss like a hit, and does its housekeeping inside. So entries are held by an index of our own,
//! which finds them in tens of nanoseconds, and moka knows no more of them than hash and weight. It hears of a fill, of the
//! first reads of an entry and of every 32nd after that; what it lets go leaves the index.
//! moka's own TTL, `invalidate_all` and `get_with` are not used: they stall, or insert what was
//! invalidated while it was loaded. *Invariant:* whatever this returns must still be judged.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::entry::{Entry, Lookup};
use super::index::Index;

/// Of the reads of an entry that has been read often, moka hears of one in so many; of the first ones it hears as their
/// number doubles. Its counters end at 15, so more would tell it nothing.
const TOUCH_EVERY: u16 = 32;

/// One worker's entries.
pub struct Store {
    /// Who stays, by hash.
    moka: moka::sync::Cache<u64, (), HashAsGiven>,
    /// What the entry weighs that is put in: moka asks for it while it inserts, and keeps it. Said by a value, it would
    /// cost every entry 16 bytes more.
    weight: Arc<AtomicU32>,
    /// Where they are.
    index: RefCell<Index>,
    /// Hashes of what moka has let go for room, and the index not yet. Only this worker's thread is ever there.
    let_go: Arc<Mutex<Vec<u64>>>,
    /// How many entries moka has let go for room and nobody has asked for yet.
    evicted: Cell<u64>,
}

/// What is looked for is a hash.
#[derive(Clone, Copy, Debug, Default)]
pub struct HashAsGiven(u64);

// === impl Store ===

impl Store {
    /// Holds at most `bytes`, keys and bookkeeping included.
    pub fn new(bytes: u64) -> Self {
        let let_go: Arc<Mutex<Vec<u64>>> = Arc::default();
        let list = Arc::clone(&let_go);
        let weight: Arc<AtomicU32> = Arc::default();
        let weighed = Arc::clone(&weight);
        let moka = moka::sync::Cache::builder()
            .max_capacity(bytes)
            .weigher(move |_: &u64, ()| weighed.load(Ordering::Relaxed))
            // A listener also bounds moka's housekeeping to 100 ms a turn.
            .eviction_listener(move |hash, _, cause| {
                if cause.was_evicted() {
                    list.lock().unwrap_or_else(PoisonError::into_inner).push(*hash);
                }
            })
            .build_with_hasher(HashAsGiven::default());
        Store { moka, weight, index: RefCell::new(Index::new(bytes)), let_go, evicted: Cell::new(0) }
    }

    /// Lets `judge` see the entry found by `lookup`, if there is one: the way of a hit, which touches no reference count.
    /// `judge` must not come back here.
    #[inline]
    pub fn look<T>(&self, lookup: &Lookup<'_>, judge: impl FnOnce(&Entry) -> Option<T>) -> Option<T> {
        let (taken, finds) = self.index.borrow().take(lookup, judge)?;
        if finds.is_multiple_of(TOUCH_EVERY) || finds < TOUCH_EVERY && finds.is_power_of_two() {
            self.touch(lookup.hash);
        }
        Some(taken)
    }

    /// The entry found by `lookup`, without anybody hearing of it.
    pub fn peek(&self, lookup: &Lookup<'_>) -> Option<Entry> {
        self.index.borrow().peek(lookup).cloned()
    }

    /// How many hits the entry found by `lookup` has served since this was last asked, be it true or not; 65,535: so many
    /// or more.
    pub fn served(&self, lookup: &Lookup<'_>) -> Option<u16> {
        self.index.borrow().served(lookup)
    }

    /// Puts an entry in, which this hash of its key shall find, replacing what it found before.
    pub fn insert(&self, hash: u64, entry: Entry) {
        let weight = entry.weight();
        let before = self.index.borrow_mut().put(hash, entry);
        if before.is_none() {
            // The read that it was fetched for.
            self.touch(hash);
        }
        if before != Some(weight) {
            if before.is_some() {
                // Of one whose weight changes and that leaves before its housekeeping has heard, moka takes off the new
                // weight where it has put on the old: what it holds would drift away from what it thinks it holds.
                self.moka.invalidate(&hash);
            }
            self.weight.store(weight, Ordering::Relaxed);
            self.moka.insert(hash, ());
            self.forget();
        }
    }

    /// Drops what is found by `lookup`.
    pub fn remove(&self, lookup: &Lookup<'_>) {
        self.index.borrow_mut().remove(lookup.hash);
        self.moka.invalidate(&lookup.hash);
        self.forget();
    }

    /// Entries held.
    pub fn entries(&self) -> u64 {
        self.moka.entry_count()
    }

    /// Bytes held, by the entries' weights.
    pub fn bytes(&self) -> u64 {
        self.moka.weighted_size()
    }

    /// Entries let go for room since this was last asked.
    pub fn take_evictions(&self) -> u64 {
        self.evicted.take()
    }

    /// Has moka do its housekeeping, so that counts are true.
    pub fn tidy(&self) {
        self.moka.run_pending_tasks();
        self.forget();
    }

    /// For moka's frequency sketch, and the order in which it looks for who may go.
    #[cold]
    fn touch(&self, hash: u64) {
        let _ = self.moka.get(&hash);
        self.forget();
    }

    /// What moka has let go is not found any more.
    fn forget(&self) {
        let mut let_go = self.let_go.lock().unwrap_or_else(PoisonError::into_inner);
        if let_go.is_empty() {
            return;
        }
        self.evicted.set(self.evicted.get() + let_go.len() as u64);
        let mut index = self.index.borrow_mut();
        let_go.drain(..).for_each(|hash| index.remove(hash));
    }
}

// === impl HashAsGiven ===

impl BuildHasher for HashAsGiven {
    type Hasher = HashAsGiven;

    fn build_hasher(&self) -> HashAsGiven {
        HashAsGiven::default()
    }
}

impl Hasher for HashAsGiven {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::{Namespace, entry_of, lookup_of};
    use super::*;

    fn lookup(request: &str) -> Lookup<'_> {
        lookup_of(Namespace(0), request.as_bytes())
    }

    fn put(store: &Store, request: &str, reply: &[u8]) {
        let lookup = lookup(request);
        store.insert(lookup.hash, entry_of(&lookup, reply));
    }

    fn get(store: &Store, request: &str) -> Option<Entry> {
        store.look(&lookup(request), |entry| Some(entry.clone()))
    }

    #[test]
    fn what_was_put_in_is_found_until_another_takes_its_place() {
        let store = Store::new(1 << 20);
        put(&store, "a", b"1");
        put(&store, "big", &[0; 5000]);
        let a = get(&store, "a").expect("there");
        assert_eq!(get(&store, "big").expect("there").reply().len(), 5000);
        put(&store, "a", b"2");
        assert_eq!(get(&store, "a").expect("replaced").reply(), b"2");
        assert_eq!((a.found_by(), a.reply()), (&b"a"[..], &b"1"[..]), "who has it keeps it");
        assert!(get(&store, "b").is_none());
    }

    #[test]
    fn the_store_is_bounded_in_bytes_and_what_it_lets_go_is_gone() {
        let store = Store::new(1 << 20);
        (0..200).for_each(|i| put(&store, &format!("k{i}"), &[0; 50_000]));
        store.tidy();
        assert!(store.bytes() <= 1 << 20, "{} bytes", store.bytes());
        let found = (0..200).filter(|i| get(&store, &format!("k{i}")).is_some()).count() as u64;
        assert_eq!((found, store.take_evictions()), (store.entries(), 200 - found));
    }

    #[test]
    fn what_is_removed_or_grows_is_weighed_anew() {
        let store = Store::new(1 << 20);
        let weight = |replies: &[usize]| {
            replies.iter().for_each(|&len| put(&store, "a", &vec![0; len]));
            store.tidy();
            (store.entries(), store.bytes())
        };
        let small = weight(&[1, 1, 1]);
        assert_eq!(weight(&[1000]), (1, small.1 + 999));
        store.remove(&lookup("a"));
        assert_eq!(weight(&[]), (0, 0));
        assert!(get(&store, "a").is_none());
        assert_eq!(weight(&[1]), small);
    }

    #[test]
    fn what_changes_its_weight_and_leaves_at_once_is_weighed_rightly() {
        let store = Store::new(1 << 20);
        put(&store, "other", &[0; 200_000]);
        let other = u64::from(get(&store, "other").expect("there").weight());
        let put = |len: usize| put(&store, "a", &vec![0; len]);
        for (before, after) in [(1, 50_000), (50_000, 1)] {
            put(before);
            store.tidy();
            put(after);
            store.remove(&lookup("a"));
            store.tidy();
            assert_eq!(store.bytes(), other, "from {before} to {after}");
        }
    }

    #[test]
    fn the_index_holds_what_moka_holds_whatever_happens() {
        let store = Store::new(40 * 1024);
        let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = |below: u64| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            chance % below
        };
        let name = |i: u64| format!("k{i}");
        for _ in 0..50_000 {
            let key = name(draw(200).min(draw(200)));
            match draw(8) {
                0 => store.remove(&lookup(&key)),
                1..=3 => put(&store, &key, &vec![0; draw(3) as usize * 700]),
                _ => drop(get(&store, &key)),
            }
        }
        store.tidy();
        assert!(store.take_evictions() > 100, "there was no lack of room");
        let mut bytes = 0;
        for i in 0..200 {
            let name = name(i);
            let held = store.peek(&lookup(&name)).map(|entry| entry.weight());
            assert_eq!(held.is_some(), store.moka.contains_key(&lookup(&name).hash), "{name}");
            bytes += u64::from(held.unwrap_or_default());
        }
        assert_eq!(bytes, store.bytes(), "what moka thinks it holds");
    }

    #[test]
    fn who_is_read_often_stays_when_others_come_that_are_not() {
        let store = Store::new(64 * 1024);
        put(&store, "favourite", &[0; 1000]);
        for i in 0..1000 {
            for _ in 0..4 {
                assert!(get(&store, "favourite").is_some(), "gone after {i} others");
            }
            put(&store, &format!("k{i}"), &[0; 1000]);
        }
    }
}

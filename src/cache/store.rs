//! Where entries are kept: a small table of the hottest in front of moka.
//!
//! moka decides who stays (TinyLFU, weighed in bytes); its look-up costs some 900 ns at a million entries
//! and does its housekeeping inside `get`. The front table is direct-mapped, holds small entries only and
//! answers in tens of nanoseconds; every 32nd hit in it touches moka, so that its sketch stays true.
//! moka's own TTL, `invalidate_all` and `get_with` are not used: they stall, or insert what was
//! invalidated while it was loaded. *Invariant:* whatever this returns must still be judged.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::entry::{Entry, Key, Lookup};

/// Slots of the front table per worker: 128 KiB, enough for the keys that matter most.
const FRONT_SLOTS: usize = 8192;

/// Heavier entries are not kept in the front table; copying them costs more than moka's look-up.
const FRONT_WEIGHT_MAX: u32 = 4096;

/// The front table's share of the bytes: one in so many. It may hold what moka has let go.
const FRONT_SHARE: u64 = 8;

/// One hit in so many touches moka.
const TOUCH_EVERY: u32 = 32;

/// One worker's entries.
pub struct Store {
    /// Who stays.
    moka: moka::sync::Cache<Key, Arc<Entry>, HashAsGiven>,
    /// The hottest, by the low bits of their hash.
    front: RefCell<Box<[Option<Arc<Entry>>]>>,
    /// The weight of the entries in the front table, and the most it may be.
    front_weight: Cell<u64>,
    front_weight_max: u64,
    /// Front hits until moka is touched.
    until_touch: Cell<u32>,
    /// Entries that moka let go for room.
    evicted: Arc<AtomicU64>,
}

/// The keys bring their hash along.
#[derive(Clone, Copy, Debug, Default)]
pub struct HashAsGiven(u64);

// === impl Store ===

impl Store {
    /// Holds at most `bytes`, keys and bookkeeping included.
    pub fn new(bytes: u64) -> Self {
        let evicted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&evicted);
        let moka = moka::sync::Cache::builder()
            .max_capacity(bytes - bytes / FRONT_SHARE)
            .weigher(|_: &Key, entry: &Arc<Entry>| entry.weight())
            // Besides counting, a listener bounds moka's housekeeping to 100 ms a turn.
            .eviction_listener(move |_, _, cause| {
                if cause.was_evicted() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build_with_hasher(HashAsGiven::default());
        Store {
            moka,
            front: RefCell::new(std::iter::repeat_with(|| None).take(FRONT_SLOTS).collect()),
            front_weight: Cell::new(0),
            front_weight_max: bytes / FRONT_SHARE,
            until_touch: Cell::new(TOUCH_EVERY),
            evicted,
        }
    }

    /// Lets `judge` see the entry found by `lookup` in the front table, if one is there: the way of a hit, which
    /// touches no reference count. `judge` must not come back here. Every so often moka hears of what was taken.
    #[inline]
    pub fn front<T>(&self, lookup: &Lookup<'_>, judge: impl FnOnce(&Arc<Entry>) -> Option<T>) -> Option<T> {
        let front = self.front.borrow();
        let entry = front.get(front_index(lookup.hash))?.as_ref()?;
        if !lookup.finds(&entry.key) {
            return None;
        }
        let taken = judge(entry)?;
        drop(front);
        let left = self.until_touch.get() - 1;
        self.until_touch.set(left);
        if left == 0 {
            self.touch(lookup);
        }
        Some(taken)
    }

    /// The entry found by `lookup` anywhere; small ones move to the front table.
    pub fn get(&self, lookup: &Lookup<'_>) -> Option<Arc<Entry>> {
        self.front(lookup, |entry| Some(Arc::clone(entry))).or_else(|| self.behind(lookup))
    }

    /// The entry found by `lookup` behind the front table; a small one moves there.
    pub fn behind(&self, lookup: &Lookup<'_>) -> Option<Arc<Entry>> {
        let entry = self.moka.get(lookup)?;
        self.to_front(&entry);
        Some(entry)
    }

    /// Puts an entry in, replacing what its key found before.
    pub fn insert(&self, entry: Arc<Entry>) {
        self.to_front(&entry);
        self.moka.insert(entry.key.clone(), entry);
    }

    /// Forgets the entry found by `lookup`.
    pub fn remove(&self, lookup: &Lookup<'_>) {
        let mut front = self.front.borrow_mut();
        if let Some(place) = front.get_mut(front_index(lookup.hash))
            && place.as_ref().is_some_and(|entry| lookup.finds(&entry.key))
        {
            self.set_place(place, None);
        }
        drop(front);
        self.moka.invalidate(lookup);
    }

    /// Entries held, by moka's count.
    pub fn entries(&self) -> u64 {
        self.moka.entry_count()
    }

    /// Bytes held, by the entries' weights.
    pub fn bytes(&self) -> u64 {
        self.moka.weighted_size()
    }

    /// Entries let go for room since this was last asked.
    pub fn take_evictions(&self) -> u64 {
        self.evicted.swap(0, Ordering::Relaxed)
    }

    /// Has moka do its housekeeping, so that counts are true.
    pub fn tidy(&self) {
        self.moka.run_pending_tasks();
    }

    /// For moka's frequency sketch alone.
    #[cold]
    fn touch(&self, lookup: &Lookup<'_>) {
        self.until_touch.set(TOUCH_EVERY);
        let _ = self.moka.get(lookup);
    }

    fn to_front(&self, entry: &Arc<Entry>) {
        let mut front = self.front.borrow_mut();
        let Some(place) = front.get_mut(front_index(entry.key.hash)) else { return };
        let weight = u64::from(entry.weight());
        let left = place.as_ref().map_or(0, |old| u64::from(old.weight()));
        let room = self.front_weight.get() - left + weight <= self.front_weight_max;
        if room && entry.weight() <= FRONT_WEIGHT_MAX {
            self.set_place(place, Some(Arc::clone(entry)));
        } else if place.as_ref().is_some_and(|old| old.key == entry.key) {
            // It has outgrown the table; what it was must not stand before what it is.
            self.set_place(place, None);
        }
    }

    fn set_place(&self, place: &mut Option<Arc<Entry>>, entry: Option<Arc<Entry>>) {
        let weight = |entry: &Option<Arc<Entry>>| entry.as_ref().map_or(0, |entry| u64::from(entry.weight()));
        self.front_weight.set(self.front_weight.get() - weight(place) + weight(&entry));
        *place = entry;
    }
}

fn front_index(hash: u64) -> usize {
    hash as usize & (FRONT_SLOTS - 1)
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
    use super::super::entry::Namespace;
    use super::super::generation::Generations;
    use super::*;

    fn entry(seed: &foldhash::quality::RandomState, request: &[u8], reply: &[u8]) -> Arc<Entry> {
        let generations = Generations::new();
        Arc::new(Entry {
            key: Lookup::new(seed, Namespace(0), request).to_key(),
            reply: bytes::Bytes::copy_from_slice(reply),
            slot: generations.slot(request),
            generation: 0,
            lane_epoch: 0,
            node_epoch: 0,
            sent: 0,
            deadline: 0,
            tracked: true,
        })
    }

    #[test]
    fn what_was_put_in_is_found_until_it_is_removed() {
        let seed = foldhash::quality::RandomState::default();
        let store = Store::new(1 << 20);
        store.insert(entry(&seed, b"a", b"1"));
        store.insert(entry(&seed, b"big", &[0; 5000]));
        let a = Lookup::new(&seed, Namespace(0), b"a");
        let big = Lookup::new(&seed, Namespace(0), b"big");
        assert_eq!(&store.front(&a, |entry| Some(entry.reply.clone())).expect("front")[..], b"1");
        assert!(store.front(&big, |_| Some(())).is_none(), "large replies stay out of the front table");
        assert_eq!(store.get(&big).expect("moka").reply.len(), 5000);
        store.insert(entry(&seed, b"a", b"2"));
        assert_eq!(&store.get(&a).expect("replaced").reply[..], b"2");
        store.remove(&a);
        assert!(store.get(&a).is_none());
    }

    #[test]
    fn a_reply_that_has_outgrown_the_front_table_is_found_behind_it() {
        let seed = foldhash::quality::RandomState::default();
        let store = Store::new(1 << 20);
        store.insert(entry(&seed, b"a", b"small"));
        store.insert(entry(&seed, b"a", &[0; 5000]));
        assert_eq!(store.get(&Lookup::new(&seed, Namespace(0), b"a")).expect("the later one").reply.len(), 5000);
    }

    #[test]
    fn the_front_table_is_bounded_in_bytes_too() {
        let seed = foldhash::quality::RandomState::default();
        let store = Store::new(1 << 20);
        for i in 0..4000 {
            store.insert(entry(&seed, format!("k{i}").as_bytes(), &[0; 1000]));
        }
        let held: u64 = store.front.borrow().iter().flatten().map(|entry| u64::from(entry.weight())).sum();
        assert_eq!(held, store.front_weight.get());
        assert!((1..=(1 << 20) / FRONT_SHARE).contains(&held), "{held} bytes in the front table");
        let long = vec![b'k'; 20_000];
        store.insert(entry(&seed, &long, b"1"));
        assert!(
            store.front(&Lookup::new(&seed, Namespace(0), &long), |_| Some(())).is_none(),
            "a long request is heavy"
        );
    }

    #[test]
    fn the_store_is_bounded_in_bytes_not_in_entries() {
        let seed = foldhash::quality::RandomState::default();
        let store = Store::new(1 << 20);
        for i in 0..200 {
            store.insert(entry(&seed, format!("k{i}").as_bytes(), &[0; 50_000]));
        }
        store.tidy();
        assert!(store.bytes() <= 1 << 20, "{} bytes", store.bytes());
        assert!(store.take_evictions() > 0);
    }
}

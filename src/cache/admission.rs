//! Admission: whose reply is worth keeping, and which keys are known to be fat and go another way.
//!
//! To keep a reply costs upstream two commands more than to pass it on. So a key's first read is passed on; its second within
//! a while, if nothing is known to have changed it between, is kept. What came of that is remembered: a key whose entry served
//! a hit is kept at once the next time, and one whose entry was changed before it served any must be read ever more
//! often before it is kept again.
//!
//! A small sketch of fingerprints, in buckets of four. A collision forgets a key (one more plain read) or takes a stranger
//! for it (one tracked read): never a wrong reply. Which of a full bucket is forgotten is left to chance: were it the
//! oldest, keys read in turns would forget each other for ever, and never be admitted. Pure: `now` is an argument, in seconds.

use std::cell::{Cell, RefCell};

/// Bytes of the cache for which one key is remembered: keys that are not kept are more than those that are. Zero pages,
/// touched as keys are read.
const BYTES_PER_PLACE: u64 = 256;

/// Places in a bucket.
const WAYS: usize = 4;

/// Buckets at least.
const BUCKETS_MIN: u64 = 1 << 14;

/// Reads beyond which a key is always worth another try: a wasted one in so many costs little.
const NEED_MAX: u64 = 32;

/// What has been read lately.
pub struct Admission {
    places: RefCell<Box<[u64]>>,
    /// How long a read is remembered, in seconds.
    window: u64,
    /// Chooses whom a full bucket forgets.
    chance: Cell<u32>,
}

/// What is remembered of a key, packed into 64 bits; all zero: nothing. From the top: 25 bits of its hash, 17 of the
/// second it was last read in, 9 of its generation then, 6 of `run`, 6 of `need`, one of `fat`.
#[derive(Clone, Copy)]
struct Seen {
    tag: u64,
    second: u64,
    generation: u64,
    /// Its reads since it was last known to change.
    run: u64,
    /// How many reads are passed on before one is kept.
    need: u64,
    /// Its last reply was too large to keep.
    fat: bool,
}

/// One read of a key that is not in the cache, or not any more.
#[derive(Clone, Copy, Debug)]
pub struct Miss {
    /// The hash of its request.
    pub hash: u64,
    /// The time in seconds.
    pub now: u32,
    /// The key's change counter.
    pub generation: u64,
    /// How many hits its last entry served, if that is still there and nobody has asked before.
    pub served: Option<u32>,
}

// === impl Admission ===

impl Admission {
    /// Fit for a cache of so many bytes; remembers reads for `window` seconds.
    pub fn new(bytes: u64, window: u32) -> Self {
        let buckets = (bytes / BYTES_PER_PLACE / WAYS as u64).next_power_of_two().clamp(BUCKETS_MIN, 1 << 24);
        Admission {
            places: RefCell::new(vec![0; buckets as usize * WAYS].into()),
            // Half of the seconds that are told apart.
            window: u64::from(window).clamp(1, 1 << 16),
            chance: Cell::new(0x9e37_79b9),
        }
    }

    /// Notes a miss and says whether its reply is worth keeping.
    pub fn admits(&self, miss: &Miss) -> bool {
        self.note(miss.hash, miss.now, |seen| {
            let changed = seen.generation != cut(miss.generation, 9);
            seen.generation = cut(miss.generation, 9);
            seen.run = if changed { 1 } else { (seen.run + 1).min(63) };
            seen.need = match miss.served {
                None => seen.need,
                Some(0) => (2 * seen.need).clamp(2, NEED_MAX),
                Some(_) => 0,
            };
            seen.run > seen.need
        })
    }

    /// A reply was too large to keep.
    pub fn note_fat(&self, hash: u64, now: u32) {
        self.note(hash, now, |seen| seen.fat = true);
    }

    /// Whether the last reply within the window was too large to keep.
    pub fn is_fat(&self, hash: u64, now: u32) -> bool {
        let places = self.places.borrow();
        let bucket = places.get(self.bucket_of(hash, places.len())).unwrap_or_default();
        let mut known = bucket.iter().map(|&place| Seen::unpack(place));
        known.any(|seen| seen.tag == tag(hash) && seen.fat && self.is_fresh(&seen, now))
    }

    /// Puts the key's place right; `change` is given what is remembered of it.
    fn note<T>(&self, hash: u64, now: u32, change: impl FnOnce(&mut Seen) -> T) -> T {
        let mut places = self.places.borrow_mut();
        let len = places.len();
        let bucket = places.get_mut(self.bucket_of(hash, len)).unwrap_or_default();
        let known = bucket.iter().position(|&place| Seen::unpack(place).tag == tag(hash));
        let free = || bucket.iter().position(|&place| !self.is_fresh(&Seen::unpack(place), now));
        let index = known.or_else(free).unwrap_or_else(|| self.draw());
        let mut seen = known.and_then(|at| bucket.get(at)).map_or(Seen::new(hash), |&place| Seen::unpack(place));
        if !self.is_fresh(&seen, now) {
            seen = Seen::new(hash);
        }
        seen.second = cut(u64::from(now), 17);
        let result = change(&mut seen);
        if let Some(place) = bucket.get_mut(index) {
            *place = seen.pack();
        }
        result
    }

    fn is_fresh(&self, seen: &Seen, now: u32) -> bool {
        seen.run + u64::from(seen.fat) != 0 && cut(u64::from(now).wrapping_sub(seen.second), 17) <= self.window
    }

    fn bucket_of(&self, hash: u64, places: usize) -> std::ops::Range<usize> {
        let first = (hash as usize & (places / WAYS - 1)) * WAYS;
        first..first + WAYS
    }

    /// One of a bucket's places (xorshift; no more is needed).
    fn draw(&self) -> usize {
        let mut x = self.chance.get();
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.chance.set(x);
        x as usize % WAYS
    }
}

// === impl Seen ===

impl Seen {
    fn new(hash: u64) -> Seen {
        Seen { tag: tag(hash), second: 0, generation: 0, run: 0, need: 1, fat: false }
    }

    fn unpack(place: u64) -> Seen {
        Seen {
            tag: place >> 39,
            second: cut(place >> 22, 17),
            generation: cut(place >> 13, 9),
            run: cut(place >> 7, 6),
            need: cut(place >> 1, 6),
            fat: place & 1 == 1,
        }
    }

    fn pack(self) -> u64 {
        self.tag << 39
            | self.second << 22
            | self.generation << 13
            | self.run << 7
            | self.need << 1
            | u64::from(self.fat)
    }
}

fn tag(hash: u64) -> u64 {
    hash >> 39
}

fn cut(number: u64, bits: u32) -> u64 {
    number & ((1 << bits) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: u64 = 0xdead_beef_0000_0001;

    fn admission() -> Admission {
        Admission::new(0, 60)
    }

    /// A read of a key that nothing has changed.
    fn read(admission: &Admission, hash: u64, now: u32) -> bool {
        admission.admits(&Miss { hash, now, generation: 0, served: None })
    }

    #[test]
    fn the_second_read_within_the_window_is_admitted() {
        let admission = admission();
        assert!(!read(&admission, HASH, 100));
        assert!(read(&admission, HASH, 160));
        assert!(!read(&admission, HASH, 221), "forgotten after the window");
    }

    #[test]
    fn a_change_between_makes_it_a_first_read_again() {
        let admission = admission();
        for generation in 0..10 {
            let miss = Miss { hash: HASH, now: 100, generation, served: None };
            assert!(!admission.admits(&miss), "at generation {generation}");
        }
    }

    #[test]
    fn a_key_whose_entry_served_is_kept_at_once_and_one_whose_entry_did_not_waits_ever_longer() {
        let admission = admission();
        let mut miss = Miss { hash: HASH, now: 100, generation: 0, served: None };
        let mut reads_until_kept = |served| {
            miss = Miss { served: Some(served), generation: miss.generation + 1, ..miss };
            let mut reads = 1;
            while !admission.admits(&miss) {
                miss.served = None;
                reads += 1;
            }
            reads
        };
        assert_eq!([5, 0, 0, 0, 0, 0, 0, 1, 0].map(&mut reads_until_kept), [1, 3, 5, 9, 17, 33, 33, 1, 3]);
    }

    #[test]
    fn a_fat_key_is_remembered_until_the_window_ends() {
        let admission = admission();
        admission.note_fat(HASH, 100);
        assert!(admission.is_fat(HASH, 160));
        assert!(!admission.is_fat(HASH, 161));
        assert!(!admission.is_fat(HASH ^ (1 << 40), 100));
        read(&admission, HASH, 110);
        assert!(admission.is_fat(HASH, 110), "a read changes nothing of that");
    }

    #[test]
    fn a_place_holds_what_was_put_there() {
        let seen = Seen { tag: (1 << 25) - 1, second: 0, generation: 511, run: 0, need: 63, fat: false };
        let back = Seen::unpack(seen.pack());
        assert_eq!((back.tag, back.second, back.generation), (seen.tag, 0, 511));
        assert_eq!((back.run, back.need, back.fat), (0, 63, false));
        assert_eq!(Seen::unpack(u64::MAX).pack(), u64::MAX);
    }

    #[test]
    fn keys_that_share_a_bucket_do_not_keep_each_other_out_for_ever() {
        let admission = admission();
        let keys: Vec<u64> = (1..=8).map(|i| i << 40 | 5).collect();
        let mut waiting = keys.clone();
        for round in 0..64 {
            waiting.retain(|&key| !read(&admission, key, 100 + round / 4));
        }
        assert!(waiting.is_empty(), "{} of {} never admitted", waiting.len(), keys.len());
    }
}

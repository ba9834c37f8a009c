//! Admission: whose reply is worth keeping, and which keys are known to be fat and go another way.
//!
//! To keep a reply costs upstream two commands more than to pass it on. So a key's first read is passed on; its second within
//! a while is kept. What came of that is remembered: a key whose entries served hits before they were changed is kept at once
//! the next time, and the fewer they served, the more reads are passed on before another is kept.
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

/// In place of [`Seen::worth`]: it has never been kept.
const UNTRIED: u64 = 63;

/// What is thought of a key that has been kept once, before what came of it is reckoned in: since that was not at its first
/// read, once more is tried at the first.
const HOPE: u64 = 6;

/// What has been read lately.
pub struct Admission {
    places: RefCell<Box<[u64]>>,
    /// How long a read is remembered, in seconds.
    window: u64,
    /// Chooses whom a full bucket forgets.
    chance: Cell<u32>,
}

/// What is remembered of a key, packed into 64 bits; all zero: nothing. From the top: 25 bits of its hash, 17 of the
/// second it was last read in, 8 of nothing, one that is set, 6 of `passed_on`, 6 of `worth`, one of `fat`.
#[derive(Clone, Copy)]
struct Seen {
    tag: u64,
    second: u64,
    /// Its reads since its last entry was found changed.
    passed_on: u64,
    /// How many hits its entries have served, lately, on average: in eighths.
    worth: u64,
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
    /// How many hits its entry served, if that is still there, since this was last asked.
    pub served: Option<u16>,
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
            if let Some(served) = miss.served {
                let worth = if seen.worth == UNTRIED { HOPE } else { seen.worth };
                seen.worth = ((3 * worth + 8 * u64::from(served)) / 4).min(UNTRIED - 1);
                seen.passed_on = 0;
            }
            let admitted = seen.passed_on >= seen.need();
            seen.passed_on += u64::from(!admitted);
            admitted
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
        let mut known = bucket.iter().filter(|&&place| place != 0).map(|&place| Seen::unpack(place));
        known.any(|seen| seen.tag == tag(hash) && seen.fat && self.is_fresh(&seen, now))
    }

    /// Puts the key's place right; `change` is given what is remembered of it.
    fn note<T>(&self, hash: u64, now: u32, change: impl FnOnce(&mut Seen) -> T) -> T {
        let mut places = self.places.borrow_mut();
        let len = places.len();
        let bucket = places.get_mut(self.bucket_of(hash, len)).unwrap_or_default();
        let known = bucket.iter().position(|&place| place != 0 && Seen::unpack(place).tag == tag(hash));
        let free = || bucket.iter().position(|&place| place == 0 || !self.is_fresh(&Seen::unpack(place), now));
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
        cut(u64::from(now).wrapping_sub(seen.second), 17) <= self.window
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
        Seen { tag: tag(hash), second: 0, passed_on: 0, worth: UNTRIED, fat: false }
    }

    /// How many reads are passed on before one is kept: an entry pays its price with two hits, and hits are worth more than
    /// commands. One try in 32 is cheap enough for any key.
    fn need(&self) -> u64 {
        match self.worth {
            UNTRIED | 3 => 1,
            4.. => 0,
            1..=2 => 3,
            0 => 31,
        }
    }

    fn unpack(place: u64) -> Seen {
        Seen {
            tag: place >> 39,
            second: cut(place >> 22, 17),
            passed_on: cut(place >> 7, 6),
            worth: cut(place >> 1, 6),
            fat: place & 1 == 1,
        }
    }

    fn pack(self) -> u64 {
        let place = self.tag << 39 | self.second << 22 | 1 << 13;
        place | self.passed_on << 7 | self.worth << 1 | u64::from(self.fat)
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

    /// A read of a key that has never been kept.
    fn read(admission: &Admission, hash: u64, now: u32) -> bool {
        admission.admits(&Miss { hash, now, served: None })
    }

    #[test]
    fn the_second_read_within_the_window_is_admitted() {
        let admission = admission();
        assert!(!read(&admission, HASH, 100));
        assert!(read(&admission, HASH, 160));
        assert!(!read(&admission, HASH, 221), "forgotten after the window");
    }

    #[test]
    fn a_key_whose_entry_served_is_kept_at_once_and_one_whose_entry_did_not_waits_ever_longer() {
        let admission = admission();
        let mut miss = Miss { hash: HASH, now: 100, served: None };
        let mut reads_until_kept = |served| {
            miss = Miss { served: Some(served), ..miss };
            let mut reads = 1;
            while !admission.admits(&miss) {
                miss.served = None;
                reads += 1;
            }
            reads
        };
        let served = [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 9, 0, 0];
        assert_eq!(served.map(&mut reads_until_kept), [1, 2, 4, 4, 32, 32, 4, 1, 2, 4, 1, 1, 1]);
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
        let seen = Seen { tag: (1 << 25) - 1, second: 0, passed_on: 63, worth: 0, fat: true };
        let back = Seen::unpack(seen.pack());
        assert_eq!((back.tag, back.second, back.passed_on, back.worth, back.fat), (seen.tag, 0, 63, 0, true));
        let seen = Seen { tag: 0, second: (1 << 17) - 1, passed_on: 0, worth: 63, fat: false };
        let back = Seen::unpack(seen.pack());
        assert_eq!((back.tag, back.second, back.passed_on, back.worth, back.fat), (0, seen.second, 0, 63, false));
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

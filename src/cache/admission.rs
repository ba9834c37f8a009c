//! Admission: a key read again within a while is worth tracking, and keys known to be fat go another way.
//!
//! A small sketch of fingerprints with the time they were last seen, in buckets of four. A collision forgets a
//! key (one more plain read) or admits a stranger (one tracked read): never a wrong reply. Which of a full bucket is
//! forgotten is left to chance: were it the oldest, keys read in turns would forget each other for ever, and never be
//! admitted. Pure: `now` is an argument, in seconds.

use std::cell::{Cell, RefCell};

/// Buckets in the sketch: half a megabyte of zero pages per worker, touched as keys are read.
const BUCKETS: usize = 1 << 14;

/// Places in a bucket.
const WAYS: usize = 4;

/// What has been read lately.
pub struct Admission {
    /// The upper half of a key's hash; below it when it was last read, in seconds, and in the lowest bit whether its
    /// replies are fat. Zero: nothing.
    places: RefCell<Box<[u64]>>,
    /// How long a read is remembered, in seconds.
    window: u32,
    /// Chooses whom a full bucket forgets.
    chance: Cell<u32>,
}

impl Admission {
    /// Remembers reads for `window` seconds.
    pub fn new(window: u32) -> Self {
        Admission {
            places: RefCell::new(vec![0; BUCKETS * WAYS].into()),
            window: window.max(1),
            chance: Cell::new(0x9e37_79b9),
        }
    }

    /// Notes a read at `now` and says whether it is a further one within the window.
    pub fn read_again(&self, hash: u64, now: u32) -> bool {
        self.note(hash, now, |seen, again| if again { seen & 1 } else { 0 })
    }

    /// A reply was too large to keep.
    pub fn note_fat(&self, hash: u64, now: u32) {
        self.note(hash, now, |_, _| 1);
    }

    /// Whether the last reply within the window was too large to keep.
    pub fn is_fat(&self, hash: u64, now: u32) -> bool {
        let places = self.places.borrow();
        let bucket = places.get(bucket_of(hash)).unwrap_or_default();
        bucket.iter().any(|&seen| seen >> 32 == hash >> 32 && seen & 1 == 1 && self.is_fresh(seen, now))
    }

    /// Puts the key's place right; `fat` is given what stood there and whether it was this key, read within the window.
    fn note(&self, hash: u64, now: u32, fat: impl FnOnce(u64, bool) -> u64) -> bool {
        let mut places = self.places.borrow_mut();
        let Some(bucket) = places.get_mut(bucket_of(hash)) else { return false };
        let known = bucket.iter().position(|&seen| seen != 0 && seen >> 32 == hash >> 32);
        let free = || bucket.iter().position(|&seen| !self.is_fresh(seen, now));
        let index = known.or_else(free).unwrap_or_else(|| self.draw());
        let Some(place) = bucket.get_mut(index) else { return false };
        let again = known.is_some() && self.is_fresh(*place, now);
        *place = (hash & !u64::from(u32::MAX)) | u64::from(now << 1) | fat(*place, again);
        again
    }

    fn is_fresh(&self, seen: u64, now: u32) -> bool {
        let then = (seen as u32) >> 1;
        seen != 0 && (now & (u32::MAX >> 1)).wrapping_sub(then) <= self.window
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

fn bucket_of(hash: u64) -> std::ops::Range<usize> {
    let first = (hash as usize & (BUCKETS - 1)) * WAYS;
    first..first + WAYS
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: u64 = 0xdead_beef_0000_0001;

    #[test]
    fn the_second_read_within_the_window_is_admitted() {
        let admission = Admission::new(60);
        assert!(!admission.read_again(HASH, 100));
        assert!(admission.read_again(HASH, 160));
        assert!(!admission.read_again(HASH, 221), "forgotten after the window");
    }

    #[test]
    fn a_fat_key_is_remembered_until_the_window_ends() {
        let admission = Admission::new(60);
        admission.note_fat(HASH, 100);
        assert!(admission.is_fat(HASH, 160));
        assert!(!admission.is_fat(HASH, 161));
        assert!(!admission.is_fat(HASH ^ (1 << 40), 100));
        assert!(admission.read_again(HASH, 110) && admission.is_fat(HASH, 110), "a read changes nothing of that");
    }

    #[test]
    fn keys_that_share_a_bucket_do_not_keep_each_other_out_for_ever() {
        let admission = Admission::new(60);
        let keys: Vec<u64> = (1..=8).map(|i| i << 32 | 5).collect();
        let mut waiting = keys.clone();
        for round in 0..64 {
            waiting.retain(|&key| !admission.read_again(key, 100 + round / 4));
        }
        assert!(waiting.is_empty(), "{} of {} never admitted", waiting.len(), keys.len());
    }
}

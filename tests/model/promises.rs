//! The promises, as far as a model of replies and time can break them.
//!
//! A reply that shows a version of a key shows a stretch of the node's history: from the change that made it to the
//! one that overwrote it. P3 holds if every reply can be given a place in its stretch, none before the place of what
//! had been seen when its command was sent, nor of its client's replies before it. Taking the earliest place each time
//! finds such places if there are any.

use sidecache::cache::Entry;

use super::upstream::{KEYS, MILLISECOND, Upstream};

/// What had been seen, by a client or on a worker: no later reply may be older.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub struct Seen {
    /// The place in the history.
    pub place: u64,
    /// The last answered inside write of each key; P2 holds for all workers, P3 for each.
    pub written: [u64; KEYS],
}

/// A command whose reply is owed, and what it must not be older than.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Owed {
    pub key: usize,
    pub kind: Kind,
    /// When it was sent.
    pub at: u64,
    pub seen: Seen,
}

/// What a reply tells.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Kind {
    /// A version.
    Read,
    /// A version, read elsewhere: it is news to all workers.
    News,
    /// The change made by a write of the key; news if it also tells what others wrote.
    Write { news: bool },
    /// The change made by a write of all keys.
    Flush,
}

// === impl Seen ===

impl Seen {
    /// What whoever has seen both has seen.
    pub fn and(mut self, other: Seen) -> Seen {
        self.place = self.place.max(other.place);
        for (mine, theirs) in self.written.iter_mut().zip(other.written) {
            *mine = theirs.max(*mine);
        }
        self
    }
}

// === impl Owed ===

impl Owed {
    /// Judges the version of its key that a read shows to a client that has seen `before`; returns what it has seen
    /// then, or the promise that is broken. Without `one_timeline` P3 is not asked for.
    pub fn read(
        &self,
        upstream: &Upstream,
        version: u64,
        before: Seen,
        staleness: u64,
        one_timeline: bool,
    ) -> Result<Seen, String> {
        let floor = self.seen.and(before);
        let key = self.key;
        if version < floor.written[key] {
            return Err(format!("P2: key {key} read as {version} after write {} was answered", floor.written[key]));
        }
        if let Some((by, at)) = upstream.overwritten(key, version) {
            if one_timeline && by <= floor.place {
                let place = floor.place;
                return Err(format!("P3: key {key} read as {version}, overwritten by {by}, after {place} was seen"));
            }
            if at + staleness < self.at {
                return Err(format!("P4: key {key} read as {version}, overwritten {} before", self.at - at));
            }
        }
        Ok(Seen { place: floor.place.max(version), ..floor })
    }

    /// Judges the reply to a write that made the change `made`, or an error in its place (`failed`).
    pub fn write(&self, made: u64, before: Seen, failed: bool) -> Result<Seen, String> {
        let mut after = self.seen.and(before);
        if before.place >= made {
            return Err(format!("P1: a reply before that of write {made} has shown {}", before.place));
        }
        for (key, written) in after.written.iter_mut().enumerate() {
            if self.kind == Kind::Flush || key == self.key {
                *written = made.max(*written);
            }
        }
        // An error tells of nothing but that the write may have been done.
        after.place = if failed { after.place } else { after.place.max(made) };
        Ok(after)
    }
}

/// P4 to P6 of an entry that would be served at `now`.
pub fn judge_entry(upstream: &Upstream, key: usize, version: u64, now: u64, staleness: u64) -> Result<(), String> {
    if upstream.until(version).is_some_and(|until| now / MILLISECOND > until) {
        return Err(format!("P5: an entry of key {key}, version {version}, is valid after its expiry"));
    }
    match upstream.overwritten(key, version) {
        Some((_, at)) if at + staleness < now => {
            Err(format!("P6: an entry of key {key}, version {version}, is valid {} after it was overwritten", now - at))
        }
        _ => Ok(()),
    }
}

/// The version that an entry's reply shows.
pub fn version_in(entry: &Entry) -> u64 {
    let digits = entry.reply().iter().filter(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

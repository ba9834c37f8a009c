//! What the cache holds, and by what it is found.
//!
//! *Invariant:* an entry is immutable; it is replaced, never changed. Its key is the whole request with
//! lengths, so `HMGET a b c` and `HMGET a bc` differ, under the namespace of its lane and RESP version, so
//! nothing crosses users, databases or versions; an element of MGET's replies is found by its key, in a namespace
//! of its own. Requests that differ only in the case of the command's name are found apart: a missed hit, never a
//! wrong one.

use std::borrow::Cow;
use std::cell::Cell;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use triomphe::ThinArc;

use super::generation::Slot;
use crate::protocol::encode;
use crate::switch::{Rule, on};

/// Which lane (user and database) and RESP version a key belongs to and, in a cluster, under which owner of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Namespace(pub u64);

/// A key as the store keeps it.
#[derive(Clone, Debug)]
pub struct Key {
    /// The hash of namespace and request, computed once per command.
    pub hash: u64,
    /// The lane and the RESP version.
    pub namespace: Namespace,
    /// The whole request; of a part of MGET its key.
    pub request: Arc<[u8]>,
}

/// A key as a command brings it: borrowed, hashed once.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// As in [`Key`].
    pub hash: u64,
    /// As in [`Key`].
    pub namespace: Namespace,
    /// As in [`Key`].
    pub request: &'a [u8],
}

/// A cached reply and everything its validity rests on, in one allocation: who compares the request is about to read the
/// reply. Clones are the same entry.
#[derive(Clone, Debug)]
pub struct Entry(ThinArc<Head, u8>);

/// What an entry's validity rests on.
#[derive(Clone, Copy, Debug)]
pub struct Basis {
    /// The counter of the Redis key it was read from.
    pub slot: Slot,
    /// What that counter and the lane's and the node's epochs came to when the read was sent; see `coherence`.
    pub stamp: u64,
    /// When it was sent; nanoseconds of the lease's clock.
    pub sent: u64,
    /// Not served after this.
    pub deadline: u64,
    /// Whether pushes tell of changes to its key; if not, it is kept right by age alone.
    pub tracked: bool,
}

/// What stands before an entry's bytes (its request, then its reply as the client gets it): every byte is paid for by each
/// entry. Its hash is kept by the index.
#[derive(Debug)]
struct Head {
    namespace: Namespace,
    stamp: u64,
    sent: u64,
    deadline: u64,
    slot: Slot,
    /// Where the reply begins, and `TRACKED`.
    reply_at: u32,
}

/// Marks an entry that pushes tell of; requests are shorter.
const TRACKED: u32 = 1 << 31;

thread_local! {
    /// Where request and reply are put together before they are copied into an entry: memory that is warm, since to fault
    /// in that of large ones takes ten times as long as to copy them.
    static JOINED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What is kept of that, in bytes.
const JOINED_MAX: usize = 512 * 1024;

/// The reply of an entry that somebody else keeps alive as well.
struct Reply(Entry);

/// What an entry costs beyond request and reply: moka's bookkeeping and ours, as glibc's malloc rounds it (measured;
/// docs/performance.md has the parts).
pub(super) const OVERHEAD: usize = 400;

/// A bit between the lane's and the slot epoch's: no worker ever has 2^30 lanes.
const PARTS: u64 = 1 << 31;

// === impl Namespace ===

impl Namespace {
    /// The same, while its slot's owner has changed so often.
    pub fn under(self, epoch: u32) -> Namespace {
        Namespace(self.0 | u64::from(epoch) << 32)
    }

    /// The same, for the elements of MGET's replies, each of which is found by its key alone.
    pub fn of_parts(self) -> Namespace {
        Namespace(self.0 | PARTS)
    }

    /// Whether it is one of parts.
    fn is_of_parts(self) -> bool {
        self.0 & PARTS != 0
    }

    /// Whether its replies are RESP3.
    pub fn is_resp3(self) -> bool {
        self.0 & 1 == 1
    }
}

// === impl Key ===

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.namespace == other.namespace && self.request == other.request
    }
}

impl Eq for Key {}

// === impl Lookup ===

impl<'a> Lookup<'a> {
    /// Hashes a request under its namespace.
    pub fn new(seed: &foldhash::quality::RandomState, namespace: Namespace, request: &'a [u8]) -> Self {
        let mut hasher = seed.build_hasher();
        hasher.write(request);
        hasher.write_u64(namespace.0);
        Lookup { hash: hasher.finish(), namespace, request }
    }

    /// An owned copy.
    pub fn to_key(&self) -> Key {
        Key { hash: self.hash, namespace: self.namespace, request: self.request.into() }
    }

    /// Whether this is what `key` is found by.
    pub fn finds(&self, key: &Key) -> bool {
        self.is(&key.as_lookup())
    }

    /// Whether this is what `entry`, which was kept under the same hash, is found by.
    #[inline]
    pub fn finds_entry(&self, entry: &Entry) -> bool {
        self.is(&Lookup { hash: self.hash, namespace: entry.namespace(), request: entry.found_by() })
    }

    #[inline]
    fn is(&self, other: &Lookup<'_>) -> bool {
        self.hash == other.hash
            && self.namespace == other.namespace
            && (!on(Rule::RequestsAreCompared) || *self.request == *other.request)
    }
}

impl Key {
    /// The same key, borrowed.
    pub fn as_lookup(&self) -> Lookup<'_> {
        Lookup { hash: self.hash, namespace: self.namespace, request: &self.request }
    }
}

// === impl Entry ===

impl Entry {
    /// Copies both: a slice would pin a whole read buffer.
    pub fn new(found_by: &Lookup<'_>, reply: &[u8], basis: Basis) -> Entry {
        // A request so long that it cannot be told from the reply is left out, and so found by nobody.
        let is_short = found_by.request.len() < TRACKED as usize;
        let request = if is_short { found_by.request } else { &[] };
        let Basis { slot, stamp, sent, deadline, tracked } = basis;
        let reply_at = request.len() as u32 | if tracked { TRACKED } else { 0 };
        let head = Head { namespace: found_by.namespace, stamp, sent, deadline, slot, reply_at };
        let mut joined = JOINED.take();
        joined.extend_from_slice(request);
        joined.extend_from_slice(reply);
        let entry = Entry(ThinArc::from_header_and_slice(head, &joined));
        joined.clear();
        joined.shrink_to(JOINED_MAX);
        JOINED.set(joined);
        entry
    }

    /// Under what it is found.
    #[inline]
    pub fn namespace(&self) -> Namespace {
        self.head().namespace
    }

    /// As in [`Basis`].
    #[inline]
    pub fn slot(&self) -> Slot {
        self.head().slot
    }

    /// As in [`Basis`].
    #[inline]
    pub fn stamp(&self) -> u64 {
        self.head().stamp
    }

    /// As in [`Basis`].
    pub fn sent(&self) -> u64 {
        self.head().sent
    }

    /// As in [`Basis`].
    #[inline]
    pub fn deadline(&self) -> u64 {
        self.head().deadline
    }

    /// As in [`Basis`].
    pub fn is_tracked(&self) -> bool {
        self.head().reply_at & TRACKED != 0
    }

    /// The request that it answers.
    pub fn request(&self) -> Cow<'_, [u8]> {
        if !self.namespace().is_of_parts() {
            return self.found_by().into();
        }
        let mut request = Vec::new();
        encode::request(&mut request, &[b"MGET", self.found_by()]);
        request.into()
    }

    /// The request that it is found by; of a part, its key.
    #[inline]
    pub fn found_by(&self) -> &[u8] {
        self.0.slice.get(..self.reply_at()).unwrap_or_default()
    }

    /// The reply, as the client gets it.
    #[inline]
    pub fn reply(&self) -> &[u8] {
        self.0.slice.get(self.reply_at()..).unwrap_or_default()
    }

    /// The same, to be kept without a copy.
    pub fn shared_reply(&self) -> Bytes {
        Bytes::from_owner(Reply(self.clone()))
    }

    /// Whether both are one.
    pub fn is(&self, other: &Entry) -> bool {
        self.0.ptr() == other.0.ptr()
    }

    /// The bytes it costs: reply, request and bookkeeping.
    pub fn weight(&self) -> u32 {
        u32::try_from(self.0.slice.len() + OVERHEAD).unwrap_or(u32::MAX)
    }

    fn head(&self) -> &Head {
        &self.0.header.header
    }

    fn reply_at(&self) -> usize {
        (self.head().reply_at & !TRACKED) as usize
    }
}

// === impl Reply ===

impl AsRef<[u8]> for Reply {
    fn as_ref(&self) -> &[u8] {
        self.0.reply()
    }
}

/// What finds `request`, by the same seed always.
#[cfg(test)]
pub(super) fn lookup_of(namespace: Namespace, request: &[u8]) -> Lookup<'_> {
    static SEED: std::sync::LazyLock<foldhash::quality::RandomState> = std::sync::LazyLock::new(Default::default);
    Lookup::new(&SEED, namespace, request)
}

/// An entry that is nothing but found by `lookup`.
#[cfg(test)]
pub(super) fn entry_of(lookup: &Lookup<'_>, reply: &[u8]) -> Entry {
    let slot = super::generation::Generations::new().slot(lookup.request);
    Entry::new(lookup, reply, Basis { slot, stamp: 0, sent: 0, deadline: 0, tracked: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_run_together_alike_are_found_apart() {
        let seed = foldhash::quality::RandomState::default();
        let a = Lookup::new(&seed, Namespace(0), b"*4\r\n$5\r\nHMGET\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n").to_key();
        let b = Lookup::new(&seed, Namespace(0), b"*3\r\n$5\r\nHMGET\r\n$1\r\na\r\n$2\r\nbc\r\n");
        assert!(!b.finds(&a));
    }

    #[test]
    fn requests_of_the_same_hash_are_found_apart() {
        let lookup = |request| Lookup { hash: 1, namespace: Namespace(0), request };
        assert!(lookup(b"x").finds(&lookup(b"x").to_key()));
        assert!(!lookup(b"x").finds(&lookup(b"y").to_key()));
    }

    #[test]
    fn namespaces_keep_users_databases_and_versions_apart() {
        let seed = foldhash::quality::RandomState::default();
        let a = Lookup::new(&seed, Namespace(0), b"x").to_key();
        assert!(Lookup::new(&seed, Namespace(0), b"x").finds(&a));
        assert!(!Lookup::new(&seed, Namespace(1), b"x").finds(&a));
    }

    #[test]
    fn an_entry_says_what_it_was_made_of() {
        let slot = super::super::generation::Generations::new().slot(b"k");
        for tracked in [true, false] {
            let lookup = lookup_of(Namespace(7), b"request");
            let entry = Entry::new(&lookup, b"reply", Basis { slot, stamp: 1, sent: 2, deadline: 3, tracked });
            assert_eq!(
                (entry.found_by(), entry.reply(), entry.namespace()),
                (&b"request"[..], &b"reply"[..], Namespace(7))
            );
            assert_eq!((entry.slot(), entry.stamp(), entry.sent(), entry.deadline()), (slot, 1, 2, 3));
            assert_eq!(entry.is_tracked(), tracked);
            assert!(lookup.finds_entry(&entry) && !lookup_of(Namespace(8), b"request").finds_entry(&entry));
        }
    }

    #[test]
    fn a_shared_reply_is_the_entrys_own_and_outlives_it() {
        let entry = entry_of(&lookup_of(Namespace(0), b"request"), b"reply");
        let shared = entry.shared_reply();
        assert_eq!(shared.as_ptr(), entry.reply().as_ptr());
        assert!(entry.is(&entry.clone()));
        drop(entry);
        assert_eq!(shared, "reply");
    }

    #[test]
    fn no_entry_pays_for_more_than_it_must() {
        assert_eq!((size_of::<Entry>(), size_of::<Head>()), (8, 40));
    }
}

//! What the cache holds, and by what it is found.
//!
//! *Invariant:* an entry is immutable; it is replaced, never changed. Its key is the whole request with
//! lengths, so `HMGET a b c` and `HMGET a bc` differ, under the namespace of its lane and RESP version, so
//! nothing crosses users, databases or versions. Requests that differ only in the case of the command's
//! name are found apart: a missed hit, never a wrong one.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use bytes::Bytes;

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

/// A request and its reply, in one allocation: who compares the one is about to read the other.
#[derive(Clone, Debug)]
pub struct Content {
    /// As in [`Key`].
    pub hash: u64,
    /// As in [`Key`].
    pub namespace: Namespace,
    /// The request, then the reply as the client gets it.
    bytes: Bytes,
    /// Where the reply begins.
    reply_at: u32,
}

/// A cached reply and everything its validity rests on.
#[derive(Debug)]
pub struct Entry {
    /// By what it is found, and what it says.
    pub content: Content,
    /// The counter of the Redis key it was read from.
    pub slot: Slot,
    /// That counter when the read was sent.
    pub generation: u64,
    /// The lane's epoch when the read was sent.
    pub lane_epoch: u64,
    /// The node's epoch when the read was sent.
    pub node_epoch: u64,
    /// When it was sent; nanoseconds of the lease's clock.
    pub sent: u64,
    /// Not served after this.
    pub deadline: u64,
    /// Whether pushes tell of changes to its key; if not, it is kept right by age alone.
    pub tracked: bool,
}

/// moka's bookkeeping per entry beyond key and value (measured with glibc's malloc), our `Entry` included.
pub(super) const OVERHEAD: usize = 530;

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

    /// Whether this is what `entry` is found by.
    #[inline]
    pub fn finds_entry(&self, entry: &Entry) -> bool {
        self.is(&entry.as_lookup())
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

// === impl Content ===

impl Content {
    /// A copy of its own of both: a slice would pin a whole read buffer.
    pub fn new(found_by: &Lookup<'_>, reply: &[u8]) -> Content {
        let mut bytes = Vec::with_capacity(found_by.request.len() + reply.len());
        bytes.extend_from_slice(found_by.request);
        // Requests are below 4 GiB; what were not would be found by nobody.
        let reply_at = u32::try_from(bytes.len()).unwrap_or_default();
        bytes.extend_from_slice(reply);
        Content { hash: found_by.hash, namespace: found_by.namespace, bytes: bytes.into(), reply_at }
    }
}

// === impl Entry ===

impl Entry {
    /// The request that it answers.
    pub fn request(&self) -> Cow<'_, [u8]> {
        if !self.content.namespace.is_of_parts() {
            return self.found_by().into();
        }
        let mut request = Vec::new();
        encode::request(&mut request, &[b"MGET", self.found_by()]);
        request.into()
    }

    /// The request that it is found by; of a part, its key.
    #[inline]
    fn found_by(&self) -> &[u8] {
        self.content.bytes.get(..self.content.reply_at as usize).unwrap_or_default()
    }

    /// The reply, as the client gets it.
    #[inline]
    pub fn reply(&self) -> &[u8] {
        self.content.bytes.get(self.content.reply_at as usize..).unwrap_or_default()
    }

    /// The same, to be kept without a copy.
    pub fn shared_reply(&self) -> Bytes {
        self.content.bytes.slice(self.content.reply_at as usize..)
    }

    /// What it is found by.
    #[inline]
    pub fn as_lookup(&self) -> Lookup<'_> {
        Lookup { hash: self.content.hash, namespace: self.content.namespace, request: self.found_by() }
    }

    /// The bytes it costs: reply, request and bookkeeping.
    pub fn weight(&self) -> u32 {
        u32::try_from(self.content.bytes.len() + OVERHEAD).unwrap_or(u32::MAX)
    }
}

/// An entry that is nothing but found by `request`.
#[cfg(test)]
pub(super) fn entry_of(namespace: Namespace, request: &[u8], reply: &[u8]) -> Arc<Entry> {
    use super::generation::Generations;
    static SEED: std::sync::LazyLock<foldhash::quality::RandomState> = std::sync::LazyLock::new(Default::default);
    Arc::new(Entry {
        content: Content::new(&Lookup::new(&SEED, namespace, request), reply),
        slot: Generations::new().slot(request),
        generation: 0,
        lane_epoch: 0,
        node_epoch: 0,
        sent: 0,
        deadline: 0,
        tracked: true,
    })
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
}

//! What a push, a write, a lost lane do to the cache: the only module that knows both sides.
//!
//! *Invariant:* an entry is served only while its key's generation, its lane's and its node's epochs are what
//! they were when its read was *sent*, its lane's lease holds and its deadline has not passed; a reply is put
//! in only if none of them moved while it was in the air. Everything that may make a reply old bumps one
//! of them before whoever could tell of it is answered.
//! Not here: sockets, clients, the order of replies.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::cache::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::cache::entry::Namespace;
use crate::cache::generation::Slot;
use crate::cache::lease::Lease;
use crate::cache::{Basis, Config, Entry, Epoch, Flight, Generations, Mode};
use crate::net::boottime;
use crate::protocol::frame::{Invalidation, invalidation};
use crate::switch::{Rule, on};
use crate::telemetry::labels::FillRefused;

/// Nanoseconds in a millisecond.
const MILLISECOND: u64 = 1_000_000;

/// What all workers share about one node.
#[derive(Default)]
pub struct Shared {
    /// A change counter per key.
    pub generations: Generations,
    /// What every entry of the node rests on.
    pub node: Epoch,
    /// Whether the server holds hash fields with TTLs, whose expiry no push tells in time.
    pub hash_ttls: AtomicBool,
    /// Whether the audit has found a violation and the cache is bypassed.
    pub bypassed: AtomicBool,
    /// Whether the background polls rest, so that nobody would notice a SWAPDB: no hits until they have looked again.
    pub unwatched: AtomicBool,
    /// Entries filled or hits served since the background polls last looked.
    pub activity: AtomicU64,
    /// Background polls that upstream has answered, be it that it gives no INFO.
    pub looks: watch::Sender<u64>,
    /// Rings when `activity` leaves zero: an idle process polls nothing.
    pub active: Notify,
    /// Whether upstream could be reached when it was last tried.
    pub reachable: watch::Sender<Option<bool>>,
}

/// What a lane's entries rest on.
#[derive(Debug)]
pub struct Standing {
    /// The namespace of RESP2 replies; RESP3's is the next.
    namespace: u32,
    /// Changes whenever what was filled before must not be served any more.
    epoch: Cell<u64>,
    /// Until when its knowledge is proven fresh.
    pub lease: Lease,
    /// How its entries are kept right; `Off` until the handshake has said.
    mode: Cell<Mode>,
    /// Whether anything was filled in this epoch.
    entries: Cell<bool>,
    /// Flights in the air.
    flights: Cell<usize>,
}

/// The rules of one worker.
pub struct Coherence {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// P4's bound in nanoseconds.
    pub max_staleness: u64,
    ttl_mode_age: u64,
    /// Entries for missing keys live no longer than this: in a cluster no push tells when their slot moves.
    missing_age: Cell<u64>,
    max_entry_bytes: usize,
    jitter: Cell<u64>,
    /// Generations moved by inside writes and not yet counted.
    bumps: Cell<u64>,
    trail: RefCell<VecDeque<(u64, Slot, Event)>>,
}

/// What happened to a key, for the audit's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A reply was put in.
    Filled,
    /// A push named it.
    Pushed,
    /// An inside write was sent or answered.
    Written,
}

/// Events remembered per worker: some seconds' worth on a busy one.
const TRAIL: usize = 1024;

/// The counters that a command's keys have.
#[derive(Clone, Debug, Default)]
pub enum Keys {
    /// It has none.
    #[default]
    None,
    /// The usual case, without an allocation.
    One(Slot),
    /// Several.
    Many(Box<[Slot]>),
}

/// What an entry rests on besides lease and deadline, in one number: each of these only grows, so as long as their sum is
/// what it was, none of them has moved.
fn stamp(lane_epoch: u64, generation: u64, node_epoch: u64) -> u64 {
    let lane_epoch = if on(Rule::HitChecksLaneEpoch) { lane_epoch } else { 0 };
    let generation = if on(Rule::HitChecksGeneration) { generation } else { 0 };
    let node_epoch = if on(Rule::HitChecksNodeEpoch) { node_epoch } else { 0 };
    lane_epoch.wrapping_add(generation).wrapping_add(node_epoch)
}

// === impl Shared ===

impl Shared {
    /// The cache is in use: background polls are worth their price.
    pub fn note_activity(&self, count: u64) {
        // Mostly a read: workers must not pass a cache line around for every batch.
        if self.activity.load(Ordering::Relaxed) == 0 && self.activity.fetch_add(count, Ordering::Relaxed) == 0 {
            self.active.notify_one();
        }
    }
}

// === impl Standing ===

impl Standing {
    /// A lane's standing before its first connection.
    pub fn new(lane: u32) -> Self {
        Standing {
            namespace: lane << 1,
            epoch: Cell::new(1),
            lease: Lease::default(),
            mode: Cell::new(Mode::Off),
            entries: Cell::new(false),
            flights: Cell::new(0),
        }
    }

    /// The lane's number.
    pub fn number(&self) -> u32 {
        self.namespace >> 1
    }

    /// The namespace of a RESP version's replies.
    pub fn namespace(&self, resp3: bool) -> Namespace {
        let lane = if on(Rule::LanesAreApart) { self.namespace } else { 0 };
        Namespace(u64::from(lane | u32::from(resp3 && on(Rule::VersionsAreApart))))
    }

    /// How its entries are kept right at present.
    pub fn mode(&self) -> Mode {
        self.mode.get()
    }

    /// Its present epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// A new connection has handshaken: filling may start.
    pub fn begin(&self, mode: Mode) {
        if on(Rule::LossBumps) {
            self.bump();
        }
        self.mode.set(mode);
    }

    /// The connection is gone: nothing of it may be served or filled any more.
    pub fn end(&self) {
        if on(Rule::LossBumps) {
            self.bump();
        }
        if on(Rule::LeaseEndsWithLane) {
            self.lease.revoke();
        }
        self.mode.set(Mode::Off);
    }

    /// Makes what was filled before unreachable, and what is in the air unfillable.
    pub fn bump(&self) {
        self.epoch.set(self.epoch.get() + 1);
        self.entries.set(false);
    }

    /// A flight takes off.
    pub fn take_off(&self) {
        self.flights.set(self.flights.get() + 1);
    }

    /// A flight has landed.
    pub fn land(&self) {
        self.flights.set(self.flights.get().saturating_sub(1));
    }

    /// Whether news may not overtake this lane: it has entries or flights that pushes could touch.
    pub fn needs_fence(&self) -> bool {
        let flights = on(Rule::FencesForFlights) && self.flights.get() > 0;
        self.mode.get() == Mode::Tracking && (self.entries.get() || flights)
    }
}

// === impl Coherence ===

impl Coherence {
    /// The rules under a configuration.
    pub fn new(shared: Arc<Shared>, config: &Config, seed: u64) -> Self {
        let nanos = |age: std::time::Duration| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        Coherence {
            shared,
            max_staleness: nanos(config.max_staleness),
            ttl_mode_age: nanos(config.ttl_mode_age),
            missing_age: Cell::new(u64::MAX),
            max_entry_bytes: config.max_entry_bytes,
            jitter: Cell::new(seed | 1),
            bumps: Cell::new(0),
            trail: RefCell::default(),
        }
    }

    /// Upstream is a cluster: a missing key that is created at its slot's new owner is told of by nobody.
    pub fn cap_missing(&self) {
        if on(Rule::MissingAreCapped) {
            self.missing_age.set(self.max_staleness);
        }
    }

    /// Whether an entry may be served at `now`, which must have been read after the command was.
    pub fn valid(&self, entry: &Entry, standing: &Standing, now: u64) -> bool {
        // In this order: who watches again has bumped the node's epoch before, and that must be seen.
        self.may_hit(standing, now) && self.unchanged(entry, standing, now)
    }

    /// Whether a lane's entries may be served at `now` at all, [`unchanged`](Self::unchanged) as they must be when that is
    /// asked afterwards.
    pub fn may_hit(&self, standing: &Standing, now: u64) -> bool {
        standing.mode.get() == Mode::Ttl || self.is_watched() && self.is_fresh(standing, now)
    }

    /// Whether the background polls would tell of a SWAPDB.
    fn is_watched(&self) -> bool {
        !(on(Rule::HitsAreWatched) && self.shared.unwatched.load(Ordering::Acquire))
    }

    /// Whether nothing is known that speaks against an entry; it may be served once the lease holds again.
    pub fn unchanged(&self, entry: &Entry, standing: &Standing, now: u64) -> bool {
        let generation = self.shared.generations.current(entry.slot());
        (!on(Rule::HitChecksDeadline) || now <= entry.deadline())
            && entry.stamp() == stamp(standing.epoch.get(), generation, self.shared.node.current())
    }

    /// Whether a lane's knowledge is proven fresh.
    fn is_fresh(&self, standing: &Standing, now: u64) -> bool {
        !on(Rule::HitsNeedTheLease) || standing.lease.holds(now, self.max_staleness)
    }

    /// Applies a push that the lane has met; returns how many keys it named, `None` for all.
    pub fn push(&self, standing: &Standing, push: &[u8]) -> Option<usize> {
        match invalidation(push) {
            Some(Invalidation::Keys(keys)) => {
                let mut count = 0;
                for key in keys {
                    let slot = self.shared.generations.slot(key);
                    if on(Rule::PushBumps) {
                        self.shared.generations.bump(slot);
                    }
                    self.note(slot, Event::Pushed);
                    count += 1;
                }
                Some(count)
            }
            Some(Invalidation::All) => {
                if on(Rule::NullPushBumps) {
                    standing.bump();
                }
                None
            }
            None => Some(0),
        }
    }

    /// An inside write is about to be sent.
    pub fn sending(&self, keys: &Keys) {
        if on(Rule::BumpAtSend) {
            self.written(keys);
        }
    }

    /// An inside write's reply, error, time-out or loss is met.
    pub fn written(&self, keys: &Keys) {
        let slots = match keys {
            Keys::None => return,
            Keys::One(slot) => std::slice::from_ref(slot),
            Keys::Many(slots) => slots,
        };
        self.bumps.set(self.bumps.get() + slots.len() as u64);
        for &slot in slots {
            self.shared.generations.bump(slot);
            self.note(slot, Event::Written);
        }
    }

    /// Generations moved by inside writes since this was last asked.
    pub fn take_bumps(&self) -> u64 {
        self.bumps.take()
    }

    /// An entry for a flight's reply, if it may be kept. `reply` is what clients get, `upstream` what came.
    pub fn fill<W>(
        &self,
        flight: &Flight<W>,
        standing: &Standing,
        upstream: &[u8],
        reply: &[u8],
    ) -> Result<Entry, FillRefused> {
        if !flight.fill {
            return Err(FillRefused::Admission);
        }
        if on(Rule::ErrorsAreNotKept) && matches!(upstream.first(), Some(b'-' | b'!')) {
            return Err(FillRefused::Error);
        }
        if reply.len() > self.max_entry_bytes {
            return Err(FillRefused::Large);
        }
        if on(Rule::FillChecksCaching) && flight.tracked && !flight.caching.get() {
            return Err(FillRefused::Caching);
        }
        let (lane_epoch, node_epoch) = (standing.epoch.get(), self.shared.node.current());
        if on(Rule::FillChecksLaneEpoch) && flight.lane_epoch != lane_epoch {
            return Err(FillRefused::Epoch);
        }
        if on(Rule::FillChecksNodeEpoch) && flight.node_epoch != node_epoch {
            return Err(FillRefused::Epoch);
        }
        let generation = self.shared.generations.current(flight.slot);
        if on(Rule::FillChecksGeneration) && flight.generation != generation {
            return Err(FillRefused::Generation);
        }
        let from = if on(Rule::DeadlineFromSending) { flight.sent } else { boottime() };
        let is_missing = flight.pttl.get() == Some(-2);
        let max_age = if is_missing { flight.max_age.min(self.missing_age.get()) } else { flight.max_age };
        let deadline = self.deadline(from, flight.pttl.get(), max_age, flight.tracked)?;
        standing.entries.set(true);
        self.note(flight.slot, Event::Filled);
        let basis = Basis {
            slot: flight.slot,
            stamp: stamp(lane_epoch, generation, node_epoch),
            sent: flight.sent,
            deadline,
            tracked: flight.tracked,
        };
        Ok(Entry::new(&flight.key.as_lookup(), reply, basis))
    }

    /// Until when a reply may be served whose PTTL was sent at `sent`. PTTL rounds, so a millisecond is taken
    /// off; 1/1024 covers the drift between two machines' clocks over the TTL.
    pub fn deadline(&self, sent: u64, pttl: Option<i64>, max_age: u64, tracked: bool) -> Result<u64, FillRefused> {
        // The bound on staleness is a bound: what is capped by it is not jittered beyond it.
        let age = if on(Rule::JitterStaysWithinStaleness) && max_age <= self.max_staleness {
            max_age
        } else {
            self.jittered(max_age)
        };
        let age = if on(Rule::MaxAgeCaps) { age } else { u64::MAX };
        let age = age.min(if tracked || !on(Rule::TtlModeAgeCaps) { u64::MAX } else { self.ttl_mode_age });
        let capped = sent.saturating_add(age);
        match pttl {
            None | Some(i64::MIN..=-3) if on(Rule::FillChecksPttl) => Err(FillRefused::Pttl),
            None | Some(i64::MIN..=-1) => Ok(capped),
            Some(0 | 1) if on(Rule::ExpiringIsNotKept) => Err(FillRefused::Expiring),
            Some(pttl) => {
                let ttl = (pttl as u64).saturating_mul(MILLISECOND);
                let drift = if on(Rule::DeadlineAllowsForDrift) { ttl / 1024 } else { 0 };
                let rounding = if on(Rule::DeadlineRoundsDown) { MILLISECOND } else { 0 };
                Ok(capped.min(sent.saturating_add(ttl - drift).saturating_sub(rounding)))
            }
        }
    }

    /// ±10 %, so that keys read at once do not expire at once (xorshift; no more is needed).
    fn jittered(&self, age: u64) -> u64 {
        let mut x = self.jitter.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.jitter.set(x);
        let tenth = age / 10;
        if tenth == 0 { age } else { age - tenth + x % (2 * tenth) }
    }

    fn note(&self, slot: Slot, event: Event) {
        let mut trail = self.trail.borrow_mut();
        if trail.len() == TRAIL {
            trail.pop_front();
        }
        trail.push_back((self.shared.generations.current(slot), slot, event));
    }

    /// What has happened lately to a key, as `event@generation`, oldest first.
    pub fn trail(&self, slot: Slot) -> String {
        let trail = self.trail.borrow();
        let events = trail.iter().filter(|(_, of, _)| *of == slot);
        events.map(|(generation, _, event)| format!("{event:?}@{generation}")).collect::<Vec<_>>().join(" ")
    }

    /// Whether the cache is bypassed after a violation.
    pub fn bypassed(&self) -> bool {
        self.shared.bypassed.load(Ordering::Relaxed)
    }
}

// === impl Keys ===

impl Keys {
    /// The counters of a list of keys.
    pub fn of<'a>(generations: &Generations, keys: impl IntoIterator<Item = &'a [u8]>) -> Keys {
        Keys::of_slots(keys.into_iter().map(|key| generations.slot(key)).collect())
    }

    /// The counters at these slots.
    pub fn of_slots(slots: Vec<Slot>) -> Keys {
        match slots[..] {
            [] => Keys::None,
            [one] => Keys::One(one),
            _ => Keys::Many(slots.into()),
        }
    }
}

// Named in whole since the orders of memory are explored on this very file, from elsewhere.
#[path = "coherence/tests.rs"]
#[cfg(test)]
mod tests;

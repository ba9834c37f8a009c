//! The way of a cacheable read: a hit, parked, joined to a flight, or leading one.
//!
//! *Invariant:* rule 4 of a client's order: nobody joins a flight older than what they rest on.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::Flow;
use super::lane::{After, Rewrite, Ticket, TrackedLane, Waiter};
use super::session::Session;
use super::worker::Worker;
use crate::cache::admission::Miss;
use crate::cache::entry::{Key, Lookup};
use crate::cache::flight::Joining;
use crate::cache::rules::Ruling;
use crate::cache::{Entry, Flight, Mode};
use crate::command::Row;
use crate::error::Error;
use crate::protocol::downgrade::Shape;
use crate::protocol::{Args, encode};
use crate::switch::{Rule, on};
use crate::telemetry::labels::{Bypass, Class, Outcome};
use crate::telemetry::metrics::{Counter, Gauge};

/// What makes the next command tracked.
pub(super) const CACHING: &[u8] = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$3\r\nYES\r\n";

/// Most reads of one client that may be parked; beyond, they are fetched.
const PARKED_MAX: usize = 1024;

/// A read kept for later: parked, or behind a parked one.
pub struct Read {
    /// Its command.
    pub row: &'static Row,
    /// By what it is found, and what is sent.
    pub key: Key,
    /// Where the Redis key stands in the request.
    pub redis_key: (usize, usize),
    /// How its reply is rewritten.
    pub shape: Option<Shape>,
    /// The entry that it would have hit.
    pub entry: Option<Entry>,
    /// Whether it was forwarded whole without a flight.
    pub plain: bool,
}

/// A read as it comes.
pub struct Reading<'a> {
    /// Its command.
    pub row: &'static Row,
    /// By what it is found, and what is sent.
    pub lookup: Lookup<'a>,
    /// The Redis key it reads.
    pub key: &'a [u8],
    /// How its reply is rewritten.
    pub shape: Option<Shape>,
}

// === impl Read ===

impl Read {
    fn key_bytes(&self) -> &[u8] {
        self.key.request.get(self.redis_key.0..self.redis_key.1).unwrap_or_default()
    }
}

// === impl Reading ===

impl Reading<'_> {
    fn keep(&self, entry: Option<Entry>, plain: bool) -> Box<Read> {
        let start = (self.key.as_ptr() as usize).wrapping_sub(self.lookup.request.as_ptr() as usize);
        Box::new(Read {
            row: self.row,
            key: self.lookup.to_key(),
            redis_key: (start, start + self.key.len()),
            shape: self.shape,
            entry,
            plain,
        })
    }
}

// === impl Worker ===

impl Worker {
    /// A read of one key whose reply may be cached.
    pub fn read(&self, session: &Rc<Session>, row: &'static Row, args: &Args<'_>) -> Flow {
        let Some(key) = row.single_key(args) else {
            self.forward(session, row, args, Class::Plain, After::Nothing);
            return Flow::Next;
        };
        let Some(lane) = self.read_route(session, Some(key)) else {
            return self.refuse(session, Class::Read, &Error::NoReplica(self.upstream_name()));
        };
        let lookup = Lookup::new(&self.seed, self.namespace(&lane, session.resp3(), key), args.raw);
        let settled = !on(Rule::HitsWaitTheirTurn) || session.replies.borrow().is_settled();
        let mut entry = self
            .store
            .look(&lookup, |entry| self.coherence.unchanged(entry, &lane.standing, self.now()).then(|| entry.clone()));
        // If only the lease has lapsed, this read goes out and renews it; those behind it are parked, and hit.
        if settled
            && let Some(found) = entry.take()
            && self.coherence.valid(&found, &lane.standing, self.now())
        {
            self.hit(session, &lane, &found);
            return Flow::Next;
        }
        let reading = Reading { row, lookup, key, shape: self.shape(session, &lane, row, args) };
        if let Some(entry) = entry {
            self.park(session, &reading, entry);
            return Flow::Next;
        }
        if self.admission.is_fat(lookup.hash, (self.now() / 1_000_000_000) as u32) {
            // Its last reply was too large for the lane.
            self.cells.bypass(Bypass::Large);
            return Flow::Dedicated(Class::Read);
        }
        let number = session.replies.borrow_mut().expect(|| reading.keep(None, false), session.mute());
        let ticket = Ticket::new(session, number);
        self.board(ticket, &lane, &reading);
        Flow::Next
    }

    /// How the reply of a command becomes what the client gets.
    pub fn shape(&self, session: &Session, lane: &TrackedLane, row: &Row, args: &Args<'_>) -> Option<Shape> {
        if session.resp3() || lane.speaks_resp2() { None } else { Some(row.shape_of(args)) }
    }

    fn hit(&self, session: &Rc<Session>, lane: &Rc<TrackedLane>, entry: &Entry) {
        if !session.mute() {
            session.replies.borrow_mut().out.entry(entry);
        }
        self.served(lane, entry, Class::Read);
    }

    /// What every hit brings with it: counts, the heartbeat, now and then the audit.
    pub fn served(&self, lane: &Rc<TrackedLane>, entry: &Entry, class: Class) {
        self.cells.command(class, Outcome::Hit);
        self.hits.set(self.hits.get() + 1);
        self.heartbeat(lane, self.now(), Some(entry));
        if self.sampling.draw() {
            self.audit(lane, entry);
        }
    }

    /// Rule 1: a read that would hit while earlier commands are unanswered waits for its turn.
    fn park(&self, session: &Rc<Session>, reading: &Reading<'_>, entry: Entry) {
        if session.replies.borrow().parked() >= PARKED_MAX {
            self.fetch_parked(session);
        }
        self.cells.add(Counter::ParkedReads, 1);
        self.cells.shift(Gauge::ParkedReadsNow, 1);
        session.replies.borrow_mut().park(reading.keep(Some(entry), false), session.mute());
    }

    /// Rule 3: before anything that is not a plain read goes out, the parked reads before it are fetched, and the
    /// reads sent behind them anew, since those would now be the older.
    pub fn unpark(&self, session: &Rc<Session>) {
        if on(Rule::ParkedGoOutFirst) && session.replies.borrow().parked() > 0 {
            self.fetch_parked(session);
        }
    }

    /// Rules 1 and 2: judges the parked reads whose turn has come. One that has lost its entry is fetched anew
    /// with every later read of that client, or the later would show an older state.
    pub fn settle(&self, session: &Rc<Session>) {
        loop {
            let (entry, lane) = match session.replies.borrow().parked_front() {
                None => return,
                Some(read) => {
                    let lane = self.read_lane(session, read.key_bytes());
                    let namespace = self.namespace(&lane, session.resp3(), read.key_bytes());
                    let valid = |entry: &Entry| {
                        entry.namespace() == namespace && self.coherence.valid(entry, &lane.standing, self.now())
                    };
                    let entry = read.entry.clone().filter(|entry| !on(Rule::ParkedAreJudged) || valid(entry));
                    (entry, lane)
                }
            };
            let Some(entry) = entry else { return self.fetch_parked(session) };
            session.replies.borrow_mut().answer_parked(&entry);
            self.cells.shift(Gauge::ParkedReadsNow, -1);
            self.served(&lane, &entry, Class::Read);
        }
    }

    fn fetch_parked(&self, session: &Rc<Session>) {
        let parked = session.replies.borrow().parked();
        let reads = session.replies.borrow_mut().fetch_parked();
        self.cells.shift(Gauge::ParkedReadsNow, -(parked as i64));
        self.cells.add(Counter::ParkedReadsRefetched, reads.len() as u64);
        // What they rested on is swallowed; they rest on what comes next.
        session.rests_on(session.lane().queue.next_order());
        for (number, attempt, read) in reads {
            let lane = self.read_lane(session, read.key_bytes());
            let ticket = Ticket { attempt, ..Ticket::new(session, number) };
            if read.plain {
                let rewrite = read.shape.map_or(Rewrite::No, Rewrite::Resp2);
                self.send(&lane, &read.key.request, ticket, rewrite, After::Nothing);
                continue;
            }
            let namespace = self.namespace(&lane, session.resp3(), read.key_bytes());
            let lookup = Lookup::new(&self.seed, namespace, &read.key.request);
            let reading = Reading { row: read.row, lookup, key: read.key_bytes(), shape: read.shape };
            self.board(ticket, &lane, &reading);
        }
    }

    /// A plain read goes out whole without a flight; it may have to be sent anew if it stands behind a parked one.
    pub fn forward_read(&self, session: &Rc<Session>, row: &'static Row, args: &Args<'_>) {
        let lane = self.read_lane(session, args.get(1).unwrap_or_default());
        let namespace = self.namespace(&lane, session.resp3(), args.get(1).unwrap_or_default());
        let lookup = Lookup { hash: 0, namespace, request: args.raw };
        let shape = self.shape(session, &lane, row, args);
        let reading = Reading { row, lookup, key: args.get(1).unwrap_or_default(), shape };
        let number = session.replies.borrow_mut().expect(|| reading.keep(None, true), session.mute());
        let ticket = Ticket::new(session, number);
        self.send(&lane, args.raw, ticket, shape.map_or(Rewrite::No, Rewrite::Resp2), After::Nothing);
    }

    /// Joins a flight or leads one.
    pub(super) fn board(&self, ticket: Ticket, lane: &Rc<TrackedLane>, reading: &Reading<'_>) {
        let ruling = self.rules.of(reading.key);
        if let Some(reason) = self.bypass(lane, &ruling) {
            self.cells.bypass(reason);
            self.cells.command(Class::Read, Outcome::Forwarded);
            let rewrite = reading.shape.map_or(Rewrite::No, Rewrite::Resp2);
            return self.send(lane, reading.lookup.request, ticket, rewrite, After::Nothing);
        }
        let slot = self.coherence.shared.generations.slot(reading.key);
        let joining = Joining {
            after: ticket.session.newest.get(),
            generation: self.coherence.shared.generations.current(slot),
            lane_epoch: lane.standing.epoch(),
            node_epoch: self.coherence.shared.node.current(),
            now: self.now(),
            max_staleness: self.coherence.max_staleness,
        };
        if let Some(flight) = self.flights.get(&reading.lookup)
            && flight.may_join(&joining)
        {
            self.cells.command(Class::Read, Outcome::Coalesced);
            ticket.session.rests_on(flight.order);
            flight.waiters.borrow_mut().push(ticket);
            return;
        }
        self.lead(ticket, lane, reading, &ruling, joining, slot);
    }

    fn bypass(&self, lane: &TrackedLane, ruling: &Ruling) -> Option<Bypass> {
        if self.settings.cache.mode == Mode::Off {
            Some(Bypass::Off)
        } else if ruling.mode == Mode::Off {
            Some(Bypass::Rule)
        } else if self.coherence.bypassed() {
            Some(Bypass::Audit)
        } else if lane.standing.mode() == Mode::Off && lane.queue.is_up() {
            Some(Bypass::NoTracking)
        } else {
            None
        }
    }

    fn lead(
        &self,
        ticket: Ticket,
        lane: &Rc<TrackedLane>,
        reading: &Reading<'_>,
        ruling: &Ruling,
        noted: Joining,
        slot: crate::cache::Slot,
    ) {
        self.cells.command(Class::Read, Outcome::Miss);
        let mode = lane.standing.mode();
        // In this order: what cannot be filled anyway says nothing against its key.
        let fill = mode != Mode::Off && self.admits(&reading.lookup, noted.now);
        let tracked = fill && mode == Mode::Tracking && ruling.mode == Mode::Tracking;
        let mut pttl = std::mem::take(&mut *self.scratch.borrow_mut());
        pttl.clear();
        if fill {
            encode::request(&mut pttl, &[b"PTTL", reading.key]);
        }
        let bytes = reading.lookup.request.len() + pttl.len() + CACHING.len();
        let Ok(group) = lane.queue.group(3, bytes) else {
            *self.scratch.borrow_mut() = pttl;
            return self.fail_ticket(&ticket, &Error::LaneFull { upstream: self.upstream_name() });
        };
        let order = lane.queue.next_order() + u64::from(fill) + u64::from(tracked);
        ticket.session.rests_on(order);
        let flight = Rc::new(Flight {
            key: reading.lookup.to_key(),
            slot,
            generation: noted.generation,
            lane_epoch: noted.lane_epoch,
            node_epoch: noted.node_epoch,
            sent: noted.now,
            order,
            max_age: self.age_limit(reading.row, ruling, lane),
            fill,
            tracked,
            row: reading.row,
            shape: reading.shape,
            caching: Cell::new(false),
            pttl: Cell::new(None),
            landed: Cell::new(false),
            waiters: RefCell::new(vec![ticket]),
        });
        if tracked {
            lane.queue.add(group, noted.now, CACHING, Waiter::Caching(Rc::clone(&flight)));
        }
        if fill {
            lane.queue.add(group, noted.now, &pttl, Waiter::Pttl(Rc::clone(&flight)));
        }
        *self.scratch.borrow_mut() = pttl;
        lane.standing.take_off();
        self.note_busy();
        lane.queue.add(group, noted.now, reading.lookup.request, Waiter::Fetch(Rc::clone(&flight)));
        self.flights.lead(flight);
    }

    /// Whether the reply of a read that missed is worth keeping.
    pub(super) fn admits(&self, lookup: &Lookup<'_>, now: u64) -> bool {
        let served = self.store.served(lookup);
        let admitted = self.admission.admits(&Miss { hash: lookup.hash, now: (now / 1_000_000_000) as u32, served });
        if served.is_some() && !admitted {
            // Nothing comes in its place for now.
            self.store.remove(lookup);
        }
        admitted
    }

    /// How long an entry may live: while the server holds hash fields with TTLs, what such a field can change
    /// lives no longer than the bound on staleness.
    /// So does everything of a cluster whose servers say nothing when they lose a slot by force (below Redis 7.2).
    pub fn age_limit(&self, row: &Row, ruling: &Ruling, lane: &TrackedLane) -> u64 {
        if on(Rule::LostSlotsAreCapped) && self.is_cluster() && !lane.tells_of_lost_slots() {
            return ruling.max_age.min(self.coherence.max_staleness);
        }
        let hash_ttls = self.coherence.shared.hash_ttls.load(std::sync::atomic::Ordering::Relaxed);
        if on(Rule::HashTtlsCap) && hash_ttls && rests_on_fields(row) {
            return ruling.max_age.min(self.coherence.max_staleness);
        }
        ruling.max_age
    }
}

/// Whether a hash field's expiry can change the reply.
pub fn rests_on_fields(row: &Row) -> bool {
    row.name.starts_with('h') || matches!(row.name, "exists" | "type")
}

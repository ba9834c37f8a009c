//! MGET: from the cache when every part is valid at once, else forwarded, filling the parts that are admitted.
//!
//! Parts are kept by their key in a namespace of their own, never under GET: MGET answers nil for a key of another type,
//! GET an error, and a user may have the one and not the other. *Invariant:* with `mget = "snapshot"` a reply
//! is one snapshot: all parts valid at one position of one lane, or one MGET executed by the server.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::gather::{Gather, Join};
use super::lane::{Rewrite, Ticket, TrackedLane, Waiter};
use super::read::CACHING;
use super::session::Session;
use super::spread::{Cut, joined};
use super::worker::Worker;
use crate::cache::entry::{Lookup, Namespace};
use crate::cache::{Entry, Flight, Mget, Mode};
use crate::command::{Row, join};
use crate::error::Error;
use crate::limits::AUTHENTICATED;
use crate::protocol::downgrade::Shape;
use crate::protocol::reply::ReplyScanner;
use crate::protocol::{Args, RequestParser, encode};
use crate::switch::{Rule, on};
use crate::telemetry::labels::{Class, Outcome};
use crate::telemetry::metrics::Counter;

/// Keys beyond this are not looked up one by one: such an MGET is forwarded.
const PARTS_MAX: usize = 1024;

/// An MGET under way that fills its parts.
pub struct Snapshot {
    /// The parts to fill: which element of the reply, and what its validity will rest on.
    parts: Vec<(usize, Flight<Ticket>)>,
    /// With `mget = "split"`, what the cache had, by element; the reply has the rest.
    cached: Option<Vec<Option<Entry>>>,
    /// How the reply is rewritten.
    shape: Option<Shape>,
    /// It has taken a detour: nothing is filled.
    void: Cell<bool>,
    /// What it is a part of, if its keys are not all that were asked for.
    part: Option<(Rc<Gather>, usize)>,
}

// === impl Worker ===

impl Worker {
    /// An MGET.
    pub fn mget(&self, session: &Rc<Session>, row: &'static Row, args: &Args<'_>) {
        let settled = !on(Rule::MgetWaitsItsTurn) || session.replies.borrow().is_settled();
        if !settled || args.len() < 2 || args.len() > PARTS_MAX || self.settings.cache.mode == Mode::Off {
            self.cells.command(Class::Mget, Outcome::Forwarded);
            return self.forward_read(session, row, args);
        }
        let lane = self.read_lane(session, args.get(1).unwrap_or_default());
        // In a cluster all its keys lie in one slot.
        let namespace = self.namespace(&lane, session.resp3(), args.get(1).unwrap_or_default()).of_parts();
        let snapshot = on(Rule::MgetIsOneSnapshot) && self.settings.cache.mget == Mget::Snapshot;
        // Parts kept right by age alone may be of different moments.
        let tracked = on(Rule::MgetNeedsPushes) && snapshot && args.len() > 2;
        if self.hit_whole(session, &lane, namespace, args, tracked) {
            return;
        }
        let found = self.parts_of(namespace, &lane, args);
        self.cells.command(Class::Mget, Outcome::Miss);
        let shape = self.shape(session, &lane, row, args);
        let parts = self.parts_to_fill(namespace, &lane, args, &found, row);
        let split = !snapshot && found.iter().any(Option::is_some) && found.iter().any(Option::is_none);
        if parts.is_empty() && !split {
            return self.forward_read(session, row, args);
        }
        let cached = split.then_some(found);
        let snapshot = Snapshot { parts, cached, shape, void: Cell::new(false), part: None };
        let ticket = Ticket::new(session, session.replies.borrow_mut().expect_other(session.mute()));
        self.fetch_parts(ticket, &lane, args, snapshot);
    }

    /// Answers an MGET all of whose parts are valid. They are copied as they are found: a reference count for each would
    /// cost more than what is copied in vain where one is missing.
    fn hit_whole(
        &self,
        session: &Session,
        lane: &Rc<TrackedLane>,
        namespace: Namespace,
        args: &Args<'_>,
        tracked: bool,
    ) -> bool {
        let now = self.now();
        if !self.coherence.may_hit(&lane.standing, now) {
            return false;
        }
        let mut replies = session.replies.borrow_mut();
        let out = &mut replies.out;
        let before = out.mark();
        encode::array_header(out.tail(), args.len() - 1);
        let mut one = None;
        for i in 1..args.len() {
            let lookup = Lookup::new(&self.seed, namespace, args.get(i).unwrap_or_default());
            let copied = self.store.look(&lookup, |entry| {
                let valid = (entry.is_tracked() || !tracked) && self.coherence.unchanged(entry, &lane.standing, now);
                valid.then(|| {
                    out.entry(entry);
                    one.get_or_insert_with(|| entry.clone());
                })
            });
            if copied.is_none() {
                out.cut_back(before);
                return false;
            }
        }
        if session.mute() {
            out.cut_back(before);
        }
        drop(replies);
        if let Some(entry) = one {
            self.served(lane, &entry, Class::Mget);
        }
        true
    }

    fn parts_of(&self, namespace: Namespace, lane: &TrackedLane, args: &Args<'_>) -> Vec<Option<Entry>> {
        let valid = |key| {
            self.store.look(&Lookup::new(&self.seed, namespace, key), |entry| {
                self.coherence.valid(entry, &lane.standing, self.now()).then(|| entry.clone())
            })
        };
        (1..args.len()).map(|i| valid(args.get(i).unwrap_or_default())).collect()
    }

    /// The parts that are not in the cache and worth having there.
    fn parts_to_fill(
        &self,
        namespace: Namespace,
        lane: &TrackedLane,
        args: &Args<'_>,
        found: &[Option<Entry>],
        row: &'static Row,
    ) -> Vec<(usize, Flight<Ticket>)> {
        let now = self.now();
        let mode = lane.standing.mode();
        let mut parts = Vec::new();
        for (i, _) in found.iter().enumerate().filter(|(_, entry)| entry.is_none()) {
            let key = args.get(i + 1).unwrap_or_default();
            let ruling = self.rules.of(key);
            let lookup = Lookup::new(&self.seed, namespace, key);
            let slot = self.coherence.shared.generations.slot(key);
            if mode == Mode::Off || ruling.mode == Mode::Off || self.coherence.bypassed() || !self.admits(&lookup, now)
            {
                continue;
            }
            let part = Flight {
                key: lookup.to_key(),
                slot,
                generation: self.coherence.shared.generations.current(slot),
                lane_epoch: lane.standing.epoch(),
                node_epoch: self.coherence.shared.node.current(),
                sent: now,
                order: 0,
                max_age: self.age_limit(row, &ruling, lane),
                fill: true,
                tracked: mode == Mode::Tracking && ruling.mode == Mode::Tracking,
                row,
                shape: None,
                caching: Cell::new(false),
                pttl: Cell::new(None),
                landed: Cell::new(false),
                waiters: RefCell::new(Vec::new()),
            };
            parts.push((i, part));
        }
        parts
    }

    fn fetch_parts(&self, ticket: Ticket, lane: &Rc<TrackedLane>, args: &Args<'_>, snapshot: Snapshot) {
        let parts = snapshot.parts.len();
        let bytes = 2 * args.raw.len() + parts * (CACHING.len() + 32);
        let Ok(group) = lane.queue.group(2 * parts + 1, bytes) else {
            let error = Error::LaneFull { upstream: self.upstream_name() };
            self.cells.error(error.kind());
            return self.deliver_snapshot(&snapshot, &ticket, &Bytes::from(error.reply()));
        };
        let request = snapshot.request(args);
        let snapshot = Rc::new(snapshot);
        let mut pttl = BytesMut::new();
        for (i, (element, part)) in snapshot.parts.iter().enumerate() {
            if part.tracked {
                let waiter = Waiter::SnapshotCaching(Rc::clone(&snapshot), i as u32);
                lane.queue.add(group, self.now(), CACHING, waiter);
            }
            pttl.clear();
            encode::request(&mut pttl, &[b"PTTL", args.get(element + 1).unwrap_or_default()]);
            lane.queue.add(group, self.now(), &pttl, Waiter::SnapshotPttl(Rc::clone(&snapshot), i as u32));
        }
        lane.standing.take_off();
        self.note_busy();
        let request = request.as_deref().unwrap_or(args.raw);
        let session = Rc::clone(&ticket.session);
        let order = lane.queue.add(group, self.now(), request, Waiter::Snapshot(snapshot, ticket));
        session.rests_on(order);
    }

    /// An MGET over several slots: each slot's keys by themselves, from the cache or from the slot's owner.
    pub(super) fn mget_across(&self, session: &Rc<Session>, row: &'static Row, cut: Cut) {
        let cached = session.replies.borrow().is_settled() && self.settings.cache.mode != Mode::Off;
        self.unpark(session);
        let Cut { owners, requests } = cut;
        let join: Join = Box::new(move |parts, out| joined(join::elements(parts, &owners, out), parts, out));
        let gather = Gather::new(join, requests.len(), Vec::new(), false);
        let number = session.replies.borrow_mut().expect_other(session.mute());
        for (i, request) in requests.iter().enumerate() {
            let mut parser = RequestParser::default();
            if parser.parse(request, &AUTHENTICATED).is_err() {
                continue;
            }
            let args = Args { raw: request, ranges: parser.ranges() };
            let lane = self.read_lane(session, args.get(1).unwrap_or_default());
            let namespace = self.namespace(&lane, session.resp3(), args.get(1).unwrap_or_default()).of_parts();
            let looks = cached && args.len() <= PARTS_MAX;
            let found = if looks { self.parts_of(namespace, &lane, &args) } else { vec![None; args.len() - 1] };
            let ticket = Ticket::new(session, number);
            if let Some(Some(first)) = found.first()
                && found.iter().all(Option::is_some)
            {
                self.served(&lane, first, Class::Mget);
                let mut reply = BytesMut::new();
                encode::array_header(&mut reply, found.len());
                found.iter().flatten().for_each(|entry| reply.extend_from_slice(entry.reply()));
                self.part_taken(&gather, i, &ticket, &reply);
                continue;
            }
            self.cells.command(Class::Mget, if looks { Outcome::Miss } else { Outcome::Forwarded });
            let parts = if looks { self.parts_to_fill(namespace, &lane, &args, &found, row) } else { Vec::new() };
            let shape = self.shape(session, &lane, row, &args);
            let part = Some((Rc::clone(&gather), i));
            self.fetch_parts(
                ticket,
                &lane,
                &args,
                Snapshot { parts, cached: None, shape, void: Cell::new(false), part },
            );
        }
    }

    /// An MGET's reply, or an error in its place, goes to the client or to what it is a part of.
    pub(super) fn deliver_snapshot(&self, snapshot: &Snapshot, ticket: &Ticket, reply: &Bytes) {
        match &snapshot.part {
            Some((gather, part)) => self.part_taken(gather, *part, ticket, reply),
            None => self.deliver(ticket, reply, true),
        }
    }

    /// The reply of an MGET that fills: its parts are put in, then it is released.
    pub fn snapshot_taken(&self, lane: &Rc<TrackedLane>, snapshot: &Snapshot, ticket: &Ticket, reply: &[u8]) {
        lane.standing.land();
        let Some(elements) = elements(reply) else {
            return self.deliver_snapshot(snapshot, ticket, &Bytes::copy_from_slice(reply));
        };
        for (element, part) in &snapshot.parts {
            let Some(bytes) = elements.get(snapshot.place_in_reply(*element)).copied() else { continue };
            // A nil for a key that exists belongs to a key of another type.
            let nil = bytes.starts_with(b"$-1") || bytes.starts_with(b"_");
            if snapshot.void.get() || nil && part.pttl.get() != Some(-2) {
                continue;
            }
            match self.coherence.fill(part, &lane.standing, bytes, bytes) {
                Ok(entry) => {
                    self.cells.add(Counter::Fills, 1);
                    self.store.insert(part.key.hash, entry);
                }
                Err(reason) => self.cells.fill_refused(reason),
            }
        }
        let Some(cached) = &snapshot.cached else {
            return self.deliver_snapshot(snapshot, ticket, &Bytes::copy_from_slice(reply));
        };
        let mut joined = BytesMut::new();
        encode::array_header(&mut joined, cached.len());
        let mut fetched = elements.into_iter();
        for entry in cached {
            let bytes = entry.as_ref().map(|entry| entry.reply()).or_else(|| fetched.next());
            joined.extend_from_slice(bytes.unwrap_or_default());
        }
        self.deliver_snapshot(snapshot, ticket, &Bytes::from(joined));
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Nothing of it may be kept.
    pub fn void(&self) {
        self.void.set(true);
    }

    /// A part, by its number.
    pub fn part(&self, i: u32) -> Option<&Flight<Ticket>> {
        self.parts.get(i as usize).map(|(_, part)| part)
    }

    /// Whether the reply is only a part of what the client gets, and so cannot be passed on in pieces.
    pub fn is_part(&self) -> bool {
        self.cached.is_some() || self.part.is_some()
    }

    /// What it is a part of, and which.
    pub fn part_of(&self) -> Option<(Rc<Gather>, usize)> {
        self.part.clone()
    }

    /// Whether it is all that its client has asked for.
    pub fn is_whole(&self) -> bool {
        self.part.is_none()
    }

    /// How the reply becomes what the client gets.
    pub fn rewrite(&self) -> Rewrite {
        self.shape.map_or(Rewrite::No, Rewrite::Resp2)
    }

    /// With `mget = "split"`, the MGET of what is missing.
    fn request(&self, args: &Args<'_>) -> Option<BytesMut> {
        let cached = self.cached.as_ref()?;
        let missing = cached.iter().enumerate().filter(|(_, entry)| entry.is_none());
        let mut words: Vec<&[u8]> = vec![b"MGET"];
        words.extend(missing.filter_map(|(i, _)| args.get(i + 1)));
        let mut request = BytesMut::new();
        encode::request(&mut request, &words);
        Some(request)
    }

    /// Where an element of the whole stands in the reply.
    fn place_in_reply(&self, element: usize) -> usize {
        match &self.cached {
            None => element,
            Some(cached) => cached.iter().take(element).filter(|entry| entry.is_none()).count(),
        }
    }
}

/// The elements of an array reply; `None` if it is none.
pub fn elements(reply: &[u8]) -> Option<Vec<&[u8]>> {
    if !matches!(reply.first(), Some(b'*' | b'~' | b'%')) {
        return None;
    }
    let mut rest = reply.get(memchr::memchr(b'\n', reply)? + 1..)?;
    let mut scanner = ReplyScanner::default();
    let mut elements = Vec::new();
    while !rest.is_empty() {
        let frame = scanner.scan(rest).ok()??;
        let (element, after) = rest.split_at_checked(frame.len)?;
        elements.push(element);
        rest = after;
    }
    Some(elements)
}

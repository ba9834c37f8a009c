//! MGET: from the cache when every part is valid at once, else forwarded, filling the parts that are admitted.
//!
//! Parts are kept under the one-key MGET they answer, never under GET: MGET answers nil for a key of another type,
//! GET an error, and a user may have the one and not the other. *Invariant:* with `mget = "snapshot"` a reply
//! is one snapshot: all parts valid at one position of one lane, or one MGET executed by the server.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::lane::{Rewrite, Ticket, TrackedLane, Waiter};
use super::read::CACHING;
use super::session::Session;
use super::worker::Worker;
use crate::cache::entry::{Lookup, Namespace};
use crate::cache::{Entry, Flight, Mget, Mode};
use crate::command::Row;
use crate::error::Error;
use crate::protocol::downgrade::Shape;
use crate::protocol::reply::ReplyScanner;
use crate::protocol::{Args, encode};
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
    cached: Option<Vec<Option<Arc<Entry>>>>,
    /// How the reply is rewritten.
    shape: Option<Shape>,
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
        let lane = self.route(session, args.get(1));
        let namespace = lane.standing.namespace(session.resp3());
        let mut found = self.parts_of(namespace, &lane, args);
        let snapshot = on(Rule::MgetIsOneSnapshot) && self.settings.cache.mget == Mget::Snapshot;
        if on(Rule::MgetNeedsPushes)
            && snapshot
            && found.len() > 1
            && found.iter().flatten().any(|entry| !entry.tracked)
        {
            // Parts kept right by age alone may be of different moments.
            found.fill(None);
        }
        if found.iter().all(Option::is_some) {
            return self.hit_whole(session, &lane, &found);
        }
        self.cells.command(Class::Mget, Outcome::Miss);
        let shape = self.shape(session, &lane, row, args);
        let parts = self.parts_to_fill(namespace, &lane, args, &found, row);
        let split = !snapshot && found.iter().any(Option::is_some);
        if parts.is_empty() && !split {
            return self.forward_read(session, row, args);
        }
        self.fetch_parts(session, &lane, args, Snapshot { parts, cached: split.then_some(found), shape });
    }

    fn parts_of(&self, namespace: Namespace, lane: &TrackedLane, args: &Args<'_>) -> Vec<Option<Arc<Entry>>> {
        let mut scratch = self.scratch.borrow_mut();
        (1..args.len())
            .map(|i| {
                part_request(&mut scratch, args.get(i).unwrap_or_default());
                let lookup = Lookup::new(&self.seed, namespace, &scratch);
                self.store.get(&lookup).filter(|entry| self.coherence.valid(entry, &lane.standing, self.now()))
            })
            .collect()
    }

    fn hit_whole(&self, session: &Rc<Session>, lane: &Rc<TrackedLane>, found: &[Option<Arc<Entry>>]) {
        if !session.mute() {
            let mut replies = session.replies.borrow_mut();
            encode::array_header(replies.out.tail(), found.len());
            for entry in found.iter().flatten() {
                replies.out.share(&entry.reply);
            }
        }
        if let Some(Some(entry)) = found.first() {
            self.served(lane, entry, Class::Mget);
        }
    }

    /// The parts that are not in the cache and worth having there.
    fn parts_to_fill(
        &self,
        namespace: Namespace,
        lane: &TrackedLane,
        args: &Args<'_>,
        found: &[Option<Arc<Entry>>],
        row: &'static Row,
    ) -> Vec<(usize, Flight<Ticket>)> {
        let now = self.now();
        let mode = lane.standing.mode();
        let mut parts = Vec::new();
        let mut scratch = self.scratch.borrow_mut();
        for (i, _) in found.iter().enumerate().filter(|(_, entry)| entry.is_none()) {
            let key = args.get(i + 1).unwrap_or_default();
            let ruling = self.rules.of(key);
            part_request(&mut scratch, key);
            let lookup = Lookup::new(&self.seed, namespace, &scratch);
            let again = self.admission.read_again(lookup.hash, (now / 1_000_000_000) as u32);
            if !again || mode == Mode::Off || ruling.mode == Mode::Off || self.coherence.bypassed() {
                continue;
            }
            let slot = self.coherence.shared.generations.slot(key);
            let part = Flight {
                key: lookup.to_key(),
                slot,
                generation: self.coherence.shared.generations.current(slot),
                lane_epoch: lane.standing.epoch(),
                node_epoch: self.coherence.shared.node.current(),
                sent: now,
                order: 0,
                max_age: self.age_limit(row, &ruling),
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

    fn fetch_parts(&self, session: &Rc<Session>, lane: &Rc<TrackedLane>, args: &Args<'_>, snapshot: Snapshot) {
        let number = session.replies.borrow_mut().expect_other(session.mute());
        let ticket = Ticket { session: Rc::clone(session), number, attempt: 0 };
        let parts = snapshot.parts.len();
        let bytes = 2 * args.raw.len() + parts * (CACHING.len() + 32);
        let Ok(group) = lane.queue.group(2 * parts + 1, bytes) else {
            return self.fail_ticket(&ticket, &Error::LaneFull { upstream: self.upstream_name() });
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
        let order = lane.queue.add(group, self.now(), request, Waiter::Snapshot(snapshot, ticket));
        session.rests_on(order);
    }

    /// The reply of an MGET that fills: its parts are put in, then it is released.
    pub fn snapshot_taken(&self, lane: &Rc<TrackedLane>, snapshot: &Snapshot, ticket: &Ticket, reply: &[u8]) {
        lane.standing.land();
        let Some(elements) = elements(reply) else {
            return self.deliver_copy(ticket, reply);
        };
        for (element, part) in &snapshot.parts {
            let Some(bytes) = elements.get(snapshot.place_in_reply(*element)).copied() else { continue };
            // A nil for a key that exists belongs to a key of another type.
            let nil = bytes.starts_with(b"$-1") || bytes.starts_with(b"_");
            if nil && part.pttl.get() != Some(-2) {
                continue;
            }
            match self.coherence.fill(part, &lane.standing, bytes, bytes) {
                Ok(entry) => {
                    self.cells.add(Counter::Fills, 1);
                    self.store.insert(Arc::new(entry));
                }
                Err(reason) => self.cells.fill_refused(reason),
            }
        }
        let Some(cached) = &snapshot.cached else { return self.deliver_copy(ticket, reply) };
        let mut joined = BytesMut::new();
        encode::array_header(&mut joined, cached.len());
        let mut fetched = elements.into_iter();
        for entry in cached {
            let bytes = entry.as_ref().map(|entry| &entry.reply[..]).or_else(|| fetched.next());
            joined.extend_from_slice(bytes.unwrap_or_default());
        }
        self.deliver(ticket, &Bytes::from(joined), true);
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// A part, by its number.
    pub fn part(&self, i: u32) -> Option<&Flight<Ticket>> {
        self.parts.get(i as usize).map(|(_, part)| part)
    }

    /// Whether the reply is only a part of what the client gets, and so cannot be passed on in pieces.
    pub fn is_part(&self) -> bool {
        self.cached.is_some()
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

/// The one-key MGET that a part answers.
fn part_request(out: &mut BytesMut, key: &[u8]) {
    out.clear();
    encode::request(out, &[b"MGET", key]);
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

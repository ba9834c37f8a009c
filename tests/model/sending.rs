//! What a worker does with what clients send, as `dispatch` does it: `read` there, around the same types.
//!
//! A `Worker` of the product cannot be driven without sockets and its clock, so this file repeats the order in which it
//! calls the rules; what the rules say is never repeated here. Each rule can be turned off, so that the model shows
//! what it is for.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use sidecache::cache::entry::Namespace;
use sidecache::cache::flight::Joining;
use sidecache::cache::{Entry, Flight, Lookup, Mode};
use sidecache::coherence::Keys;
use sidecache::command::index::named;
use sidecache::dispatch::read::Read;

use super::cases::Op;
use super::parts::{Dedicated, Worker};
use super::promises::Kind;
use super::rules::Rule;
use super::upstream::{Command, Ticket, What};
use super::world::{MAX_STALENESS, World};

/// Longer than any case: such entries do not end by age.
const MAX_AGE: u64 = 1 << 50;

// === impl Worker ===

impl Worker {
    /// Whether the server could refuse the next command for being busy.
    pub fn is_next_register(&self) -> bool {
        self.wire.up && matches!(self.wire.out.front(), Some(Command { what: What::Register(_), .. }))
    }

    /// Queues a command and returns its place in the lane's order.
    pub fn queue(&mut self, now: u64, what: What) -> u64 {
        self.wire.out.push_back(Command { sent: now, what });
        self.next_order += 1;
        self.next_order - 1
    }
}

// === impl World ===

impl World {
    /// Whether an entry would be served now.
    pub fn may_hit(&self, worker: &Worker, entry: &Entry) -> bool {
        if self.rules.hold(Rule::Lease) {
            worker.coherence.valid(entry, &worker.standing, self.now)
        } else {
            worker.coherence.unchanged(entry, &worker.standing, self.now)
        }
    }

    /// A client's next command.
    pub fn send(&mut self, client: usize) {
        let Some(op) = self.clients[client].ops.pop_front() else { return };
        match op {
            Op::Read(key) => self.read(client, key, true),
            Op::Glance(key) => self.read(client, key, false),
            Op::Write(key) => self.write(client, key, false),
            Op::Pop(key) => self.write(client, key, true),
            Op::Flush => self.flush(client),
            Op::Learn(key) => {
                self.owe(client, key, Kind::News);
                self.clients[client].dedicated = Dedicated::Sent { key };
            }
        }
    }

    fn read(&mut self, client: usize, key: usize, admitted: bool) {
        self.owe(client, key, Kind::Read);
        let at = self.clients[client].worker;
        let worker = &self.workers[at];
        let unchanged = |entry: &Entry| worker.coherence.unchanged(entry, &worker.standing, self.now);
        let mut entry = worker.store[key].clone().filter(unchanged);
        let settled = self.clients[client].replies.is_settled();
        if settled
            && let Some(found) = entry.take()
            && self.may_hit(worker, &found)
        {
            self.clients[client].replies.out.entry(&found);
            return self.heartbeat(at);
        }
        if let Some(entry) = entry {
            if self.rules.hold(Rule::Park) || !self.may_hit(worker, &entry) {
                return self.park(client, key, entry);
            }
            self.clients[client].note(&("early", entry.reply()));
            return self.clients[client].replies.answer(entry.reply(), false);
        }
        let of = &mut self.clients[client];
        let number = of.replies.expect(|| kept(key, None), false);
        of.note(&("read", number, key, admitted));
        self.board(at, Ticket { client, number, attempt: 0 }, key, admitted);
    }

    fn park(&mut self, client: usize, key: usize, entry: Entry) {
        let of = &mut self.clients[client];
        of.replies.park(kept(key, Some(entry.clone())), false);
        of.note(&("park", key));
        of.parked.push_back(entry);
    }

    fn write(&mut self, client: usize, key: usize, pops: bool) {
        self.owe(client, key, Kind::Write { news: pops });
        let at = self.clients[client].worker;
        if self.rules.hold(Rule::BumpAtSend) {
            self.workers[at].coherence.written(&Keys::One(self.slots[key]));
        }
        let ticket = self.other(client);
        let order = self.workers[at].queue(self.now, What::Write { key, ticket, pops });
        self.clients[client].rests_on(order);
    }

    fn flush(&mut self, client: usize) {
        self.owe(client, 0, Kind::Flush);
        let at = self.clients[client].worker;
        if self.rules.hold(Rule::NodeEpochAtSend) {
            self.workers[at].coherence.shared.node.bump();
        }
        let ticket = self.other(client);
        let order = self.workers[at].queue(self.now, What::Flush(ticket));
        self.clients[client].rests_on(order);
    }

    /// A place for what is not a plain read.
    fn other(&mut self, client: usize) -> Ticket {
        if self.rules.hold(Rule::Unpark) && self.clients[client].replies.parked() > 0 {
            self.fetch_parked(client);
        }
        let of = &mut self.clients[client];
        let number = of.replies.expect_other(false);
        of.note(&("other", number));
        Ticket { client, number, attempt: 0 }
    }

    /// Judges the parked reads whose turn has come.
    pub fn settle(&mut self, client: usize) {
        let at = self.clients[client].worker;
        loop {
            let Some(read) = self.clients[client].replies.parked_front() else { return };
            let judge = |entry: &Entry| !self.rules.hold(Rule::JudgeAtTurn) || self.may_hit(&self.workers[at], entry);
            let Some(entry) = read.entry.clone().filter(judge) else { return self.fetch_parked(client) };
            let of = &mut self.clients[client];
            of.replies.answer_parked(&entry);
            of.note(&"answered");
            of.parked.pop_front();
            self.heartbeat(at);
        }
    }

    fn fetch_parked(&mut self, client: usize) {
        let of = &mut self.clients[client];
        let reads = of.replies.fetch_parked();
        of.note(&"fetched");
        of.parked.clear();
        let at = of.worker;
        of.newest = of.newest.max(self.workers[at].next_order);
        for (number, attempt, read) in reads {
            let key = usize::from(read.key.request.last().copied().unwrap_or_default());
            self.board(at, Ticket { client, number, attempt }, key, true);
        }
    }

    /// Joins a flight or leads one.
    pub fn board(&mut self, at: usize, ticket: Ticket, key: usize, admitted: bool) {
        let worker = &self.workers[at];
        let shared = &worker.coherence.shared;
        let request = [b'k', key as u8];
        let lookup = lookup(&request);
        let after = self.clients.get(ticket.client).map_or(0, |client| client.newest);
        let mut joining = Joining {
            after,
            generation: shared.generations.current(self.slots[key]),
            lane_epoch: worker.standing.epoch(),
            node_epoch: shared.node.current(),
            now: self.now,
            max_staleness: MAX_STALENESS,
        };
        let noted = joining;
        if let Some(flight) = worker.flights.get(&lookup) {
            self.let_join(&flight, &mut joining);
            if flight.may_join(&joining) {
                flight.waiters.borrow_mut().push(ticket);
                return self.clients[ticket.client].rests_on(flight.order);
            }
        }
        let tracked = admitted && self.mode() == Mode::Tracking;
        let worker = &mut self.workers[at];
        let flight = Rc::new(Flight {
            key: lookup.to_key(),
            slot: self.slots[key],
            generation: noted.generation,
            lane_epoch: noted.lane_epoch,
            node_epoch: noted.node_epoch,
            sent: noted.now,
            order: worker.next_order + u64::from(admitted) + u64::from(tracked),
            max_age: MAX_AGE,
            fill: admitted,
            tracked,
            row: named("get").expect("GET"),
            shape: None,
            caching: Cell::new(false),
            pttl: Cell::new(None),
            landed: Cell::new(false),
            waiters: RefCell::new(vec![ticket]),
        });
        worker.standing.take_off();
        worker.busy = true;
        if admitted {
            // With tracking it is two commands.
            worker.next_order += u64::from(tracked);
            worker.queue(noted.now, What::Register(Rc::clone(&flight)));
        }
        let order = worker.queue(noted.now, What::Get(Rc::clone(&flight)));
        worker.flights.lead(flight);
        if let Some(client) = self.clients.get_mut(ticket.client) {
            client.rests_on(order);
        }
        self.note_sent(at);
    }

    fn let_join(&self, flight: &Flight<Ticket>, joining: &mut Joining) {
        match self.rules.off {
            Some(Rule::JoinAge) => joining.max_staleness = u64::MAX,
            Some(Rule::JoinOrder) => joining.after = 0,
            Some(Rule::JoinGeneration) => joining.generation = flight.generation,
            Some(Rule::JoinEpoch) => {
                (joining.lane_epoch, joining.node_epoch) = (flight.lane_epoch, flight.node_epoch);
            }
            _ => {}
        }
    }

    fn note_sent(&mut self, at: usize) {
        if !self.rules.hold(Rule::LeaseByReplies) {
            self.workers[at].standing.lease.renew(self.now);
        }
    }

    fn heartbeat(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        if worker.standing.mode() == Mode::Tracking && worker.standing.lease.heartbeat_due(self.now, MAX_STALENESS) {
            worker.heartbeat = self.now;
            worker.queue(self.now, What::Heartbeat);
            self.note_sent(at);
        }
    }
}

fn lookup(request: &[u8; 2]) -> Lookup<'_> {
    Lookup { hash: u64::from(request[1]), namespace: Namespace(0), request }
}

/// A read as it is kept while others are parked.
fn kept(key: usize, entry: Option<Entry>) -> Box<Read> {
    let key = lookup(&[b'k', key as u8]).to_key();
    Box::new(Read { row: named("get").expect("GET"), key, redis_key: (1, 2), shape: None, entry, plain: false })
}

//! The key of a state: what the rest of a case can depend on, and nothing else, or the search would not end.
//!
//! Counters only grow, so of what noted one only this matters: whether it is still the present one. Of a time only how
//! long ago it was, up to more than any rule asks for.

use std::hash::{Hash, Hasher};
use std::rc::Rc;

use sidecache::cache::{Entry, Flight};

use super::parts::{Client, Worker};
use super::promises::version_in;
use super::upstream::{Arrival, MILLISECOND, Ticket, What, key_of};
use super::world::World;

/// Longer ago, or further ahead, than any rule asks for.
const LONG: u64 = 6 * MILLISECOND;

// === impl Client ===

impl Client {
    /// Something has happened to its replies, whose state cannot be looked into: its past stands for it.
    pub fn note(&mut self, event: &impl Hash) {
        let mut hasher = hasher();
        (self.past, event).hash(&mut hasher);
        self.past = hasher.finish();
        if self.replies.is_settled() {
            self.past = 0;
        }
    }

    /// It rests on a place in the lane's order.
    pub fn rests_on(&mut self, order: u64) {
        self.newest = self.newest.max(order);
    }
}

// === impl World ===

impl World {
    /// Two states of the same key go on alike.
    pub fn hashed(&self) -> u64 {
        let to = &mut hasher();
        (self.left.outside, self.left.flushes, self.left.ticks, self.left.losses).hash(to);
        (self.left.busy, self.left.failed_fences, self.news).hash(to);
        for change in &self.upstream.history {
            let until = change.until.map(|until| until.saturating_sub(self.now / MILLISECOND));
            (change.key, self.ago(change.at), until).hash(to);
        }
        self.upstream.first_until.map(|until| until.saturating_sub(self.now / MILLISECOND)).hash(to);
        self.workers.iter().for_each(|worker| self.hash_worker(worker, to));
        for client in &self.clients {
            let orders = self.in_the_air(&self.workers[client.worker]);
            let joinable = orders.iter().filter(|&&order| order >= client.newest).count();
            (client.ops.len(), joinable, client.dedicated, client.seen, client.past).hash(to);
            for owed in &client.owed {
                (owed.key, owed.kind, owed.seen, self.ago(owed.at)).hash(to);
            }
            for entry in &client.parked {
                self.hash_entry(&self.workers[client.worker], Some(entry), to);
            }
        }
        for hold in self.holds.iter().filter(|hold| hold.pending > 0) {
            hold.hash(to);
        }
        to.finish()
    }

    fn ago(&self, at: u64) -> u64 {
        (self.now - at).min(LONG)
    }

    fn in_the_air(&self, worker: &Worker) -> Vec<u64> {
        let back = worker.wire.back.iter().filter_map(|arrival| match arrival {
            Arrival::Reply(command, _) => Some(&command.what),
            Arrival::Push(_) => None,
        });
        let all = back.chain(worker.wire.out.iter().map(|command| &command.what));
        all.filter_map(|what| if let What::Get(flight) = what { Some(flight.order) } else { None }).collect()
    }

    fn hash_worker(&self, worker: &Worker, to: &mut impl Hasher) {
        let (standing, wire) = (&worker.standing, &worker.wire);
        (standing.mode() as u8, standing.needs_fence(), standing.lease.age(self.now).min(LONG)).hash(to);
        (worker.busy, worker.fencing, self.ago(worker.heartbeat), &worker.next_fence, worker.seen).hash(to);
        (&worker.inbox, wire.up, wire.tracked, &wire.ghosts).hash(to);
        worker.store.iter().for_each(|entry| self.hash_entry(worker, entry.as_ref(), to));
        for arrival in &wire.back {
            match arrival {
                Arrival::Push(key) => key.hash(to),
                Arrival::Reply(command, told) => {
                    (self.ago(command.sent), told).hash(to);
                    self.hash_what(worker, &command.what, to);
                }
            }
        }
        "out".hash(to);
        for command in &wire.out {
            self.ago(command.sent).hash(to);
            self.hash_what(worker, &command.what, to);
        }
    }

    fn hash_what(&self, worker: &Worker, what: &What, to: &mut impl Hasher) {
        match what {
            What::Register(flight) => (1, key_of(flight)).hash(to),
            What::Get(flight) => self.hash_flight(worker, flight, to),
            What::Write { key, ticket, pops } => (3, key, ticket, pops).hash(to),
            What::Flush(ticket) => (4, ticket).hash(to),
            What::Fence(holds) => (5, holds).hash(to),
            What::Heartbeat => 6.hash(to),
        }
    }

    fn hash_flight(&self, worker: &Worker, flight: &Rc<Flight<Ticket>>, to: &mut impl Hasher) {
        let shared = &worker.coherence.shared;
        let found = worker.flights.get(&flight.key.as_lookup());
        let present = (
            found.is_some_and(|found| Rc::ptr_eq(&found, flight)),
            flight.generation == shared.generations.current(flight.slot),
            flight.lane_epoch == worker.standing.epoch(),
            flight.node_epoch == shared.node.current(),
        );
        (2, key_of(flight), present, flight.fill, flight.caching.get(), flight.pttl.get()).hash(to);
        (self.ago(flight.sent), &*flight.waiters.borrow()).hash(to);
    }

    /// An entry that has become unreachable stays so.
    fn hash_entry(&self, worker: &Worker, entry: Option<&Entry>, to: &mut impl Hasher) {
        let lives = |entry: &&Entry| worker.coherence.unchanged(entry, &worker.standing, self.now);
        let entry = entry.filter(lives);
        entry.map(|entry| (version_in(entry), entry.deadline().saturating_sub(self.now).min(LONG))).hash(to);
    }
}

fn hasher() -> impl Hasher {
    use std::hash::BuildHasher;
    foldhash::quality::FixedState::default().build_hasher()
}

//! What a worker does with what arrives, as `dispatch` does it: `turn`, `loss` and `retry` there, around the same types.

use std::cell::RefCell;
use std::rc::Rc;

use sidecache::cache::Flight;
use sidecache::coherence::Keys;
use sidecache::telemetry::labels::FillRefused;

use super::parts::Worker;
use super::rules::Rule;
use super::upstream::{Arrival, Command, Ticket, Told, What, key_of};
use super::world::World;

// === impl World ===

impl World {
    /// A worker meets the next of what its lane has read.
    pub fn arrive(&mut self, at: usize) {
        match self.workers[at].wire.back.pop_front() {
            Some(Arrival::Push(key)) => {
                let worker = &self.workers[at];
                let push = match key {
                    Some(_) if !self.rules.hold(Rule::KeyPush) => return,
                    None if !self.rules.hold(Rule::NullPush) => return,
                    Some(key) => [&b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\n"[..], &[key as u8], b"\r\n"].concat(),
                    None => b">2\r\n$10\r\ninvalidate\r\n_\r\n".to_vec(),
                };
                assert_ne!(worker.coherence.push(&worker.standing, &push), Some(0), "a push is understood");
            }
            Some(Arrival::Reply(command, told)) => self.replied(at, command, told),
            None => {}
        }
    }

    fn replied(&mut self, at: usize, command: Command, told: Told) {
        self.workers[at].standing.lease.renew(command.sent);
        match (command.what, told) {
            (What::Register(flight), Told::Registered { caching, pttl }) => {
                flight.caching.set(caching || !self.rules.hold(Rule::Caching));
                flight.pttl.set(Some(if self.rules.hold(Rule::Deadline) { pttl } else { -1 }));
            }
            (What::Get(flight), Told::Version(version)) => self.landed(at, &flight, version),
            (What::Write { key, ticket, pops }, Told::Version(made)) => {
                if self.rules.hold(Rule::BumpAtReply) {
                    self.workers[at].coherence.written(&Keys::One(self.slots[key]));
                }
                if pops { self.lane_news(at, ticket, made) } else { self.deliver(ticket, &written(made)) }
            }
            (What::Flush(ticket), Told::Version(made)) => {
                if self.rules.hold(Rule::NodeEpochAtReply) {
                    self.workers[at].coherence.shared.node.bump();
                }
                self.deliver(ticket, &written(made));
            }
            (What::Fence(holds), _) => self.fence_returned(at, holds),
            _ => {}
        }
    }

    /// A flight's reply: put in if it may be, then handed to everybody who waits.
    fn landed(&mut self, at: usize, flight: &Rc<Flight<Ticket>>, version: u64) {
        let worker = &mut self.workers[at];
        worker.flights.land(flight);
        worker.standing.land();
        let waiters = std::mem::take(&mut *flight.waiters.borrow_mut());
        let reply = format!(":{version}\r\n");
        let filled = match self.rules.hold(Rule::NotedAtSend) {
            true => worker.coherence.fill(flight, &worker.standing, reply.as_bytes(), reply.as_bytes()),
            false => {
                worker.coherence.fill(&noted_now(flight, worker), &worker.standing, reply.as_bytes(), reply.as_bytes())
            }
        };
        match filled {
            Ok(entry) => worker.store[key_of(flight)] = Some(entry),
            Err(FillRefused::Error | FillRefused::Large) => unreachable!("a small version"),
            Err(_) => {}
        }
        waiters.into_iter().for_each(|ticket| self.deliver(ticket, reply.as_bytes()));
    }

    /// A reply takes its place.
    pub fn deliver(&mut self, ticket: Ticket, reply: &[u8]) {
        let Some(of) = self.clients.get_mut(ticket.client) else { return };
        if of.replies.put_copy(ticket.number, ticket.attempt, reply) {
            of.note(&(ticket, reply));
            self.settle(ticket.client);
        }
    }

    /// The lane's connection is lost: whoever is owed gets an error, or its read is sent again.
    pub fn lose(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        if self.rules.hold(Rule::LaneEpoch) {
            worker.standing.end();
        } else {
            worker.standing.lease.revoke();
        }
        worker.fencing = false;
        let holds = std::mem::take(&mut worker.next_fence);
        for (command, told) in worker.wire.lose() {
            // What only the model knows: whether it had been executed when its client was told.
            let made = if let Some(Told::Version(made)) = told { made } else { 0 };
            let error = format!("-{made}\r\n");
            match command.what {
                What::Get(flight) => self.send_again(at, &flight),
                What::Write { key, ticket, .. } => {
                    if self.rules.hold(Rule::BumpAtLoss) {
                        self.workers[at].coherence.written(&Keys::One(self.slots[key]));
                    }
                    self.deliver(ticket, error.as_bytes());
                }
                What::Flush(ticket) => {
                    self.workers[at].coherence.shared.node.bump();
                    self.deliver(ticket, error.as_bytes());
                }
                What::Fence(holds) if !holds.is_empty() => self.fence_failed(at, holds),
                What::Register(_) | What::Fence(_) | What::Heartbeat => {}
            }
        }
        holds.into_iter().for_each(|hold| self.release(hold));
    }

    fn send_again(&mut self, at: usize, flight: &Rc<Flight<Ticket>>) {
        let worker = &mut self.workers[at];
        worker.flights.land(flight);
        worker.standing.land();
        let next = worker.next_order;
        for ticket in std::mem::take(&mut *flight.waiters.borrow_mut()) {
            let Some(of) = self.clients.get_mut(ticket.client) else { continue };
            match of.replies.try_again(ticket.number, ticket.attempt) {
                Some(attempt) => {
                    of.note(&("again", ticket));
                    of.rests_on(next);
                    self.board(at, Ticket { attempt, ..ticket }, key_of(flight), flight.fill);
                }
                None => self.deliver(ticket, b"-0\r\n"),
            }
        }
    }
}

fn written(made: u64) -> Vec<u8> {
    format!("+{made}\r\n").into_bytes()
}

/// The flight as it would be if it were sent only now.
fn noted_now(flight: &Flight<Ticket>, worker: &Worker) -> Flight<Ticket> {
    let shared = &worker.coherence.shared;
    Flight {
        key: flight.key.clone(),
        generation: shared.generations.current(flight.slot),
        lane_epoch: worker.standing.epoch(),
        node_epoch: shared.node.current(),
        slot: flight.slot,
        sent: flight.sent,
        order: flight.order,
        max_age: flight.max_age,
        fill: flight.fill,
        tracked: flight.tracked,
        row: flight.row,
        shape: flight.shape,
        caching: flight.caching.clone(),
        pttl: flight.pttl.clone(),
        landed: flight.landed.clone(),
        waiters: RefCell::default(),
    }
}

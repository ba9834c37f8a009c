//! What is modelled of the world outside: one server, its history, and the connections to it.
//!
//! The server executes the commands of one connection in order, and any connection's next at any time. Replies and
//! pushes of one connection travel in one queue; those of different connections independently. A write's own push
//! follows its reply (verified of Redis from 6.2.8 and 7.0.5 on). Tracking forgets a key when it has told of it.

use std::collections::VecDeque;
use std::rc::Rc;

use sidecache::cache::Flight;

/// Most keys of a case.
pub const KEYS: usize = 2;

/// Nanoseconds in a millisecond: the clock's step.
pub const MILLISECOND: u64 = 1_000_000;

/// A place among a client's replies.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Ticket {
    pub client: usize,
    pub number: u64,
    pub attempt: u32,
}

/// A command on a lane, with what its waiter needs.
#[derive(Clone)]
pub struct Command {
    pub sent: u64,
    pub what: What,
}

/// What it is, and who waits for it.
#[derive(Clone)]
pub enum What {
    /// CLIENT CACHING YES and PTTL: from here on pushes tell of the key.
    Register(Rc<Flight<Ticket>>),
    /// The read of a flight.
    Get(Rc<Flight<Ticket>>),
    /// A write; with `pops` its reply tells what others wrote.
    Write { key: usize, ticket: Ticket, pops: bool },
    /// FLUSHALL.
    Flush(Ticket),
    /// A PING, for these holds.
    Fence(Vec<usize>),
    /// A PING to renew the lease.
    Heartbeat,
}

/// What comes back on a lane.
pub enum Arrival {
    /// A push that names a key, or all.
    Push(Option<usize>),
    /// A command's reply: a place in the history where it tells one.
    Reply(Command, Told),
}

/// What a reply tells.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Told {
    /// What CACHING and PTTL say.
    Registered { caching: bool, pttl: i64 },
    /// The version of a key's value, or the change that a write has made.
    Version(u64),
    /// PONG.
    Pong,
}

/// A connection's two directions, and what the server knows of it.
#[derive(Default)]
pub struct Wire {
    pub up: bool,
    pub out: VecDeque<Command>,
    pub back: VecDeque<Arrival>,
    pub tracked: [bool; KEYS],
    /// Writes of a lost connection that may still be executed.
    pub ghosts: VecDeque<usize>,
}

/// A change in the node's history: of one key, or of all.
#[derive(Clone, Copy)]
pub struct Change {
    pub key: Option<usize>,
    pub at: u64,
    /// The last millisecond in which the new value exists.
    pub until: Option<u64>,
}

/// The server. A value is the number of the change that made it; 0: it was there from the beginning.
#[derive(Default)]
pub struct Upstream {
    pub history: Vec<Change>,
    /// Values that live so many milliseconds from the start, or from a write.
    pub ttl: Option<u64>,
    /// Until when the values of the beginning exist.
    pub first_until: Option<u64>,
}

// === impl Upstream ===

impl Upstream {
    /// The number of the last change of a key up to now.
    pub fn version(&self, key: usize) -> u64 {
        let last = self.history.iter().rposition(|change| change.key.is_none_or(|changed| changed == key));
        last.map_or(0, |at| at as u64 + 1)
    }

    /// The change that overwrote a version of a key: its number and its time.
    pub fn overwritten(&self, key: usize, version: u64) -> Option<(u64, u64)> {
        let later = self.history.iter().enumerate().skip(version as usize);
        let mut of_key = later.filter(|(_, change)| change.key.is_none_or(|changed| changed == key));
        of_key.next().map(|(at, change)| (at as u64 + 1, change.at))
    }

    /// The last millisecond in which a version exists.
    pub fn until(&self, version: u64) -> Option<u64> {
        match version.checked_sub(1) {
            None => self.first_until,
            Some(at) => self.history[at as usize].until,
        }
    }

    /// Changes a key, or all, and tells who tracks it; returns the change's number.
    pub fn change(&mut self, wires: &mut [&mut Wire], key: Option<usize>, now: u64) -> u64 {
        let until = self.ttl.filter(|_| key.is_some()).map(|ttl| now / MILLISECOND + ttl);
        self.change_to(wires, key, now, until)
    }

    fn change_to(&mut self, wires: &mut [&mut Wire], key: Option<usize>, now: u64, until: Option<u64>) -> u64 {
        self.history.push(Change { key, at: now, until });
        for wire in wires.iter_mut().filter(|wire| wire.up) {
            match key {
                Some(key) if !wire.tracked[key] => continue,
                Some(key) => wire.tracked[key] = false,
                None => wire.tracked = [false; KEYS],
            }
            wire.back.push_back(Arrival::Push(key));
        }
        self.history.len() as u64
    }

    /// What is past its time is deleted by whoever comes upon it.
    fn touch(&mut self, wires: &mut [&mut Wire], key: usize, now: u64) {
        if self.until(self.version(key)).is_some_and(|until| now / MILLISECOND > until) {
            self.change_to(wires, Some(key), now, None);
        }
    }

    /// Reads a key on a connection that is not a lane.
    pub fn look(&mut self, wires: &mut [&mut Wire], key: usize, now: u64) -> u64 {
        self.touch(wires, key, now);
        self.version(key)
    }

    /// Executes the next command of a lane; a `busy` server refuses CLIENT CACHING.
    pub fn execute(&mut self, wires: &mut [&mut Wire], lane: usize, now: u64, busy: bool) {
        let Some(command) = wires[lane].out.pop_front() else { return };
        let before: Vec<usize> = wires.iter().map(|wire| wire.back.len()).collect();
        let told = match &command.what {
            What::Register(flight) => {
                let key = key_of(flight);
                self.touch(wires, key, now);
                wires[lane].tracked[key] |= flight.tracked && !busy;
                let until = self.until(self.version(key));
                let pttl = until.map_or(-1, |until| (until - now / MILLISECOND) as i64);
                Told::Registered { caching: !busy, pttl }
            }
            What::Get(flight) => Told::Version(self.look(wires, key_of(flight), now)),
            What::Write { key, .. } => Told::Version(self.change(wires, Some(*key), now)),
            What::Flush(_) => Told::Version(self.change(wires, None, now)),
            What::Fence(_) | What::Heartbeat => Told::Pong,
        };
        // Its own pushes follow its reply.
        wires[lane].back.insert(before[lane], Arrival::Reply(command, told));
    }
}

// === impl Wire ===

impl Wire {
    /// The connection is lost; returns what was owed, with what had been told already. Writes that the server had not
    /// executed yet may still be.
    pub fn lose(&mut self) -> Vec<(Command, Option<Told>)> {
        self.up = false;
        self.tracked = [false; KEYS];
        let answered = std::mem::take(&mut self.back).into_iter().filter_map(|arrival| match arrival {
            Arrival::Reply(command, told) => Some((command, Some(told))),
            Arrival::Push(_) => None,
        });
        let mut owed: Vec<_> = answered.collect();
        for command in std::mem::take(&mut self.out) {
            if let What::Write { key, .. } = command.what {
                self.ghosts.push_back(key);
            }
            owed.push((command, None));
        }
        owed
    }
}

/// The key that a flight reads: the last byte of its request.
pub fn key_of(flight: &Flight<Ticket>) -> usize {
    usize::from(flight.key.request.last().copied().unwrap_or_default())
}

//! What a case consists of: workers, clients, and what stands between them.

use std::collections::VecDeque;

use sidecache::cache::{Entry, Flights};
use sidecache::coherence::{Coherence, Standing};
use sidecache::dispatch::replies::Replies;

use super::cases::Op;
use super::promises::{Owed, Seen};
use super::upstream::{KEYS, Ticket, Wire};

/// One worker: its lane, its entries, its part of the fences.
pub struct Worker {
    pub coherence: Coherence,
    pub standing: Standing,
    pub flights: Flights<Ticket>,
    pub store: [Option<Entry>; KEYS],
    pub wire: Wire,
    pub next_order: u64,
    pub heartbeat: u64,
    /// Whether other workers know that it has entries or flights.
    pub busy: bool,
    pub fencing: bool,
    pub next_fence: Vec<usize>,
    pub inbox: VecDeque<Message>,
    pub seen: Seen,
}

/// What workers tell each other, of a hold.
#[derive(Clone, Copy, Debug, Hash)]
pub enum Message {
    /// Asks for fences.
    Fence { from: usize, hold: usize },
    /// They have returned.
    Fenced { hold: usize },
}

/// Something that waits for fences.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Hold {
    pub pending: u32,
    pub then: Then,
}

/// What happens when they have returned.
#[derive(Clone, Copy, Debug, Hash)]
pub enum Then {
    Nothing,
    /// A dedicated connection's news is released.
    Release {
        client: usize,
        version: u64,
    },
    /// So is a lane's.
    Deliver {
        ticket: Ticket,
        made: u64,
    },
    /// Another worker is told.
    Tell {
        peer: usize,
        hold: usize,
    },
}

/// A client's command on a dedicated connection.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Dedicated {
    None,
    Sent { key: usize },
    Executed { version: u64 },
    Held,
}

/// One client.
pub struct Client {
    pub worker: usize,
    pub ops: VecDeque<Op>,
    pub replies: Replies,
    pub newest: u64,
    pub owed: VecDeque<Owed>,
    pub dedicated: Dedicated,
    pub seen: Seen,
    /// The entries of parked reads, and all that has happened to `replies` since nothing was owed: for the key.
    pub parked: VecDeque<Entry>,
    pub past: u64,
}

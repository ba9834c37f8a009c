//! A lane with what its entries rest on, who waits on it, and its fences.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::Notify;

use super::block::{TurnedAway, Whole};
use super::fence::Hold;
use super::gather::Gather;
use super::mget::Snapshot;
use super::pubsub::news::Topic;
use super::session::Session;
use crate::cache::Flight;
use crate::coherence::{Keys, Standing};
use crate::net::Address;
use crate::protocol::downgrade::Shape;
use crate::upstream::handshake::Ready;
use crate::upstream::lane::Lane;
use crate::upstream::topology::NodeId;

/// Whose reply it is: a place among a client's replies.
#[derive(Clone)]
pub struct Ticket {
    /// The client.
    pub session: Rc<Session>,
    /// The place.
    pub number: u64,
    /// Which attempt to fill it.
    pub attempt: u32,
    /// How often it has been turned away by a node.
    pub hops: u8,
}

/// Who waits for a lane's reply, and what else the reply means.
pub enum Waiter {
    /// A client's forwarded command.
    Reply(Ticket, Rewrite, After),
    /// The answer to a flight's CLIENT CACHING YES.
    Caching(Rc<Flight<Ticket>>),
    /// The answer to a flight's PTTL.
    Pttl(Rc<Flight<Ticket>>),
    /// The reply that a flight is for.
    Fetch(Rc<Flight<Ticket>>),
    /// The answers to CLIENT CACHING YES, to PTTL of a part, and the reply of an MGET that fills.
    SnapshotCaching(Rc<Snapshot>, u32),
    /// See `SnapshotCaching`.
    SnapshotPttl(Rc<Snapshot>, u32),
    /// See `SnapshotCaching`.
    Snapshot(Rc<Snapshot>, Ticket),
    /// A fence: when its PONG is met, all invalidations of what was executed before have been.
    Fence(Vec<Rc<Hold>>),
    /// The PING behind a script: the fence of this lane for its reply.
    OwnFence(Rc<Hold>),
    /// Proof that upstream is alive.
    Heartbeat,
    /// The answer to ASKING, READONLY or READWRITE, which means nothing.
    Asking,
    /// Its patience is over and it has been told so; the late reply is swallowed, its keys bumped.
    Tombstone(After),
}

/// How a RESP3 reply becomes what the client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// As it is: a RESP3 client, or a lane that speaks RESP2.
    No,
    /// To RESP2, by the command's shape.
    Resp2(Shape),
    /// An EXEC's elements to RESP2, each by its own.
    Exec(Box<[Shape]>),
}

/// What else a reply means, before it is released.
pub enum After {
    /// Nothing.
    Nothing,
    /// It is upstream's INFO: our section is added.
    Info,
    /// A message has been published to this: shared subscriptions are counted in.
    Published(Topic, Bytes),
    /// Subscribers have been counted: shared subscriptions are counted in.
    Counted(Topic),
    /// An inside write has taken effect.
    Written(Keys),
    /// So has one that every entry of the node rests on.
    Swept,
    /// It may tell what others wrote: news must not overtake the other lanes.
    News(Keys),
    /// It may have written keys that it does not name: held for fences.
    Held(Rc<Hold>, Keys),
    /// One part of a command whose keys, or whose work, several nodes share.
    Part(Rc<Gather>, usize, Keys),
    /// A command of a MULTI block on the lane, where a node may turn it away.
    Queued(Rc<BlockEnd>),
    /// The end of a MULTI block on the lane.
    Exec(Rc<BlockEnd>),
}

/// What the reply to a block's EXEC means; it must be an array, null or error, or the lane is in MULTI for everybody.
pub struct BlockEnd {
    /// Holds the reply where it must be held.
    pub hold: Rc<Hold>,
    /// The keys of its writes.
    pub keys: Keys,
    /// Whether it may have written keys that it does not name: a PING stands right behind it.
    pub own_fence: bool,
    /// Whether every entry of the node rests on what it changes.
    pub sweeps: bool,
    /// The block itself, where it may have to be sent again.
    pub block: Option<Rc<Whole>>,
    /// A node has turned one of its commands away.
    pub turned_away: RefCell<Option<TurnedAway>>,
    /// When it was first sent.
    pub since: Cell<u64>,
}

/// A lane of this worker.
pub struct TrackedLane {
    /// Commands in.
    pub queue: Rc<Lane<Waiter>>,
    /// What its entries rest on.
    pub standing: Standing,
    /// Where it goes.
    pub node: NodeId,
    /// The upstream user, by its number in this worker.
    pub identity: u32,
    /// The database.
    pub db: u32,
    /// Whether a fence is under way.
    pub fencing: Cell<bool>,
    /// Whom the next fence is for.
    pub next_fence: RefCell<Vec<Rc<Hold>>>,
    /// Whether its connection reads from the node even if that is a replica.
    pub readonly: Rc<Cell<bool>>,
    /// When its replica was found fit to be read from, as far as this lane has been told.
    pub fit_since: Cell<u64>,
    /// Where its connection goes, or went.
    pub address: Rc<RefCell<Option<Address>>>,
    /// What the handshake told.
    pub ready: RefCell<Option<Ready>>,
    /// Why there is no connection.
    pub trouble: RefCell<Option<Trouble>>,
    /// The server's id of the present connection.
    pub connection_id: Cell<u64>,
    /// One that we gave up, if its successor there must kill it.
    pub kill: Rc<RefCell<Option<GivenUp>>>,
    /// Rings when `ready` or `trouble` changes.
    pub changed: Notify,
}

/// A connection that we gave up. Its id is its server's own: at another it may be a stranger's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The server's id of it.
    pub id: u64,
    /// Where the server is.
    pub at: Address,
}

/// Why a lane has no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It cannot be reached, or was lost.
    Unreachable(String),
    /// Upstream's own refusal, a whole error line with CRLF.
    Refused(Vec<u8>),
}

// === impl Ticket ===

impl Ticket {
    /// The first attempt at a place.
    pub fn new(session: &Rc<Session>, number: u64) -> Ticket {
        Ticket { session: Rc::clone(session), number, attempt: 0, hops: 0 }
    }
}

// === impl Waiter ===

impl Waiter {
    /// Calls `each` with every client that waits.
    pub fn each_session(&self, mut each: impl FnMut(&Rc<Session>)) {
        match self {
            Waiter::Reply(ticket, ..) | Waiter::Snapshot(_, ticket) => each(&ticket.session),
            Waiter::Fetch(flight) => flight.waiters.borrow().iter().for_each(|ticket| each(&ticket.session)),
            _ => {}
        }
    }

    /// Whether a reply proves that the node still serves the keys it is asked about: a master that is cut off from its
    /// cluster goes on answering what has none.
    pub fn names_keys(&self) -> bool {
        match self {
            Waiter::Reply(_, _, after) => !matches!(after.keys(), None | Some(Keys::None)),
            Waiter::Pttl(_) | Waiter::Fetch(_) | Waiter::SnapshotPttl(..) | Waiter::Snapshot(..) => true,
            Waiter::Heartbeat => true,
            _ => false,
        }
    }

    /// The clients that wait.
    pub fn sessions(&self) -> Vec<Rc<Session>> {
        let mut sessions = Vec::new();
        self.each_session(|session| sessions.push(Rc::clone(session)));
        sessions
    }

    /// Whether the reply is that of an EXEC.
    pub fn ends_block(&self) -> bool {
        matches!(self, Waiter::Reply(_, _, After::Exec(_)) | Waiter::Tombstone(After::Exec(_)))
    }
}

// === impl GivenUp ===

impl GivenUp {
    /// Whom a connection to this address kills.
    pub fn id_at(&self, address: Option<&Address>) -> Option<u64> {
        (Some(&self.at) == address).then_some(self.id)
    }
}

// === impl TrackedLane ===

impl TrackedLane {
    /// Whether its server, when it loses a slot by force, tells of the keys that it drops (COHERENCE: Redis 7.2, any Valkey).
    pub fn tells_of_lost_slots(&self) -> bool {
        let ready = self.ready.borrow();
        ready
            .as_ref()
            .is_some_and(|Ready { server, .. }| server.name == "valkey" || (server.major, server.minor) >= (7, 2))
    }

    /// Whether its connection speaks RESP2 only.
    pub fn speaks_resp2(&self) -> bool {
        self.ready.borrow().as_ref().is_some_and(|ready| ready.proto == 2)
    }
}

// === impl After ===

impl After {
    /// What is left to do when the reply comes after its patience is over: nobody gets it, but what it was about
    /// has changed only now.
    pub fn late(&self) -> After {
        match self {
            After::Swept => After::Swept,
            After::Part(gather, ..) if gather.sweeps() => After::Swept,
            After::Queued(_) => After::Nothing,
            After::Exec(end) => After::Exec(Rc::clone(end)),
            After::Held(hold, keys) => After::Held(Rc::clone(hold), keys.clone()),
            other => other.keys().cloned().map_or(After::Nothing, After::Written),
        }
    }

    /// The keys that it is about.
    pub fn keys(&self) -> Option<&Keys> {
        match self {
            After::Written(keys) | After::News(keys) | After::Held(_, keys) | After::Part(_, _, keys) => Some(keys),
            After::Exec(end) => Some(&end.keys),
            After::Queued(_)
            | After::Nothing
            | After::Info
            | After::Swept
            | After::Published(..)
            | After::Counted(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A master is left and another tried, more than once, before that one is left for the first again.
    #[test]
    fn who_was_given_up_is_killed_where_it_was_and_nowhere_else() {
        let at = |port| Address::Tcp { host: "h".into(), port };
        let given_up = GivenUp { id: 7, at: at(1) };
        let tried = [Some(at(2)), Some(at(2)), None, Some(at(1))];
        assert_eq!(tried.map(|address| given_up.id_at(address.as_ref())), [None, None, None, Some(7)]);
    }

    #[test]
    fn a_node_s_part_of_a_sweep_sweeps_however_late_it_is_answered() {
        let part = |sweeps| After::Part(Gather::new(Box::new(|_, _| ()), 1, Vec::new(), sweeps), 0, Keys::None);
        assert!(matches!(part(true).late(), After::Swept));
        assert!(matches!(part(false).late(), After::Written(Keys::None)));
    }
}

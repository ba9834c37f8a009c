//! One worker: its clients, its lanes, its cache, on one thread.
//!
//! *Invariant:* nothing here is touched by another thread but what stands in `Shared`, `Peers` and the cells;
//! no lock, channel or wake-up crosses threads on the way of a hit or a forwarded command.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::fence::Hold;
use super::lane::{After, Rewrite, Ticket, TrackedLane, Waiter};
use super::pause::Pause;
use super::pubsub::audience::Audience;
use super::pubsub::hub::Hub;
use super::routes::Routes;
use super::scripts::Scripts;
use super::session::{Flushed, Session};
use crate::cache::audit::Sampling;
use crate::cache::{Admission, Flights, Rules, Store};
use crate::coherence::{Coherence, Shared};
use crate::command::Learned;
use crate::command::policy::Policy;
use crate::error::Error;
use crate::net::{Address, boottime};
use crate::switch::{Rule, on};
use crate::telemetry::labels::{ErrorKind, Outcome};
use crate::telemetry::metrics::{Counter, Histogram};
use crate::telemetry::{Cells, Registry};
use crate::upstream::dedicated::Dedicated;
use crate::upstream::identity::{Credentials, Identity};
use crate::upstream::replicas::{Replica, Replicas};
use crate::upstream::slots::AddressMap;
use crate::upstream::topology::{NodeId, Topology};

/// Reading buffers kept for the next client that has something to say.
const BUFFERS: usize = 4;

/// A larger buffer is not kept.
const BUFFER_MAX: usize = 64 * 1024;

/// What a worker is told by its peers, and by the process.
pub enum Message {
    /// Another worker asks for fences on this one's lanes.
    Fence {
        /// Which worker.
        from: usize,
        /// What it calls it.
        id: u64,
        /// On all that have anything under way, rather than on those that pushes could touch.
        all: bool,
    },
    /// They have returned.
    Fenced {
        /// What this worker called it.
        id: u64,
    },
    /// The topology has changed.
    Topology,
    /// Slots have changed owners.
    Slots,
    /// The process ends: clients are let go as their replies are in.
    Drain,
}

/// How workers reach each other.
pub struct Peers {
    /// By index.
    pub senders: Vec<UnboundedSender<Message>>,
    /// Whether a worker has lanes that pushes could touch.
    pub busy: Vec<AtomicBool>,
    /// Who is subscribed to what.
    pub audience: Audience,
    /// Until when upstream holds writes.
    pub pause: Pause,
    /// Scripts that have come by.
    pub scripts: Scripts,
}

/// What a worker needs of the configuration.
pub struct Settings {
    /// The client side's.
    pub client: crate::dispatch::ClientLimits,
    /// The cache's.
    pub cache: crate::cache::Config,
    /// The upstream side's.
    pub upstream: crate::upstream::Config,
    /// Which nodes upstream consists of.
    pub topology: Topology,
    /// The replicas that may be read from.
    pub replicas: Replicas,
    /// Where nodes are, as seen from here.
    pub address_map: AddressMap,
    /// The configured upstream user.
    pub credentials: Credentials,
    /// The database that clients start in.
    pub db: u32,
    /// Most bytes of replies held for fences, per worker.
    pub held_max_bytes: usize,
}

/// An upstream user that clients of this worker act as.
pub struct Account {
    /// Its user and password; `None`: the configured one.
    pub identity: Option<Identity>,
    /// Its dedicated connections, by node, from the first need on: bb8 starts tasks for a pool that outlive it for a
    /// while, and who is refused needs none.
    pub pools: RefCell<Vec<(NodeId, Rc<Dedicated>)>>,
    /// Where its clients share their subscriptions, while they have any.
    pub hubs: RefCell<Vec<Rc<Hub>>>,
}

/// Lanes by node, user and database.
type ByPlace = HashMap<(NodeId, u32, u32), Rc<TrackedLane>, foldhash::fast::RandomState>;

/// One worker.
pub struct Worker {
    /// Itself, for the tasks it starts.
    me: Weak<Worker>,
    /// Its number.
    pub index: usize,
    /// Its settings.
    pub settings: Arc<Settings>,
    /// What it counts.
    pub cells: Arc<Cells>,
    /// The rules of coherence.
    pub coherence: Coherence,
    /// Its entries.
    pub store: Store,
    /// Its flights.
    pub flights: Flights<Ticket>,
    /// What was read lately.
    pub admission: Admission,
    /// Rules per key pattern.
    pub rules: Rules,
    /// Which hits are audited.
    pub sampling: Sampling,
    /// Which commands are refused.
    pub policy: Policy,
    /// What upstream has told of names the table lacks; `None`: it lacks them too.
    pub learned: RefCell<HashMap<Vec<u8>, Option<Rc<Learned>>>>,
    /// The hash of requests, keyed per process.
    pub seed: foldhash::quality::RandomState,
    /// Which node a key's commands go to; `None`: there is only one.
    pub(super) routes: Option<Routes>,
    /// The replicas that may be read from.
    pub(super) replicas: RefCell<Arc<[Replica]>>,
    /// Changes when the topology does.
    pub(super) moves: watch::Sender<()>,
    /// The next place in the order of all its lanes.
    pub(super) next_order: Rc<Cell<u64>>,
    /// Its lanes.
    pub lanes: RefCell<Vec<Rc<TrackedLane>>>,
    /// The same by node, user and database.
    pub(super) by_place: RefCell<ByPlace>,
    /// Its upstream users; 0 is the configured one. A place is free again when the last lane of its user has gone.
    pub accounts: RefCell<Vec<Option<Rc<Account>>>>,
    /// Dedicated connections opened, as far as they have been published, by pool.
    pub(super) pools_created: [Cell<u64>; 3],
    /// The other workers.
    pub peers: Arc<Peers>,
    /// Holds that wait for other workers.
    pub remote: RefCell<HashMap<u64, Rc<Hold>>>,
    /// The next number in `remote`.
    pub next_remote: Cell<u64>,
    /// Bytes held for fences, or until a reply is whole.
    pub held: Rc<Cell<usize>>,
    /// A buffer for requests of our own.
    pub scratch: RefCell<BytesMut>,
    /// Empty buffers for reading, lent to clients while they have something to say.
    buffers: RefCell<Vec<BytesMut>>,
    /// Hits since the batch began.
    pub hits: Cell<u64>,
    /// Whether the process is draining.
    pub draining: Cell<bool>,
    /// The next lane's number.
    pub next_lane: Cell<u32>,
    /// The tasks that drive lanes, by the lane's number.
    pub drivers: RefCell<Vec<(u32, tokio::task::AbortHandle)>>,
    /// Audits under way.
    pub audits: Cell<usize>,
    /// All workers' counts, for INFO.
    pub registry: Arc<Registry>,
    /// Clients with new output.
    touched: RefCell<Vec<Rc<Session>>>,
    /// The time of the batch: read after the read(2) that brought it.
    now: Cell<u64>,
}

/// What a worker is made of.
pub struct Parts {
    /// Its number.
    pub index: usize,
    /// Its settings.
    pub settings: Arc<Settings>,
    /// What it counts.
    pub cells: Arc<Cells>,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// The other workers.
    pub peers: Arc<Peers>,
    /// Which commands are refused.
    pub policy: Policy,
    /// All workers' counts.
    pub registry: Arc<Registry>,
}

// === impl Settings ===

impl Settings {
    /// Where a node listens at present; `None`: it is unknown, or has left.
    pub fn address_of(&self, node: NodeId) -> Option<Address> {
        let is_the_only = self.topology.cluster().is_none() && node != Topology::ONLY;
        if is_the_only { self.replicas.address(node) } else { self.topology.address(node) }
    }

    /// Whether a node is a replica that is read from.
    pub fn is_replica(&self, node: NodeId) -> bool {
        self.replicas.list().iter().any(|replica| replica.node == node)
    }
}

// === impl Account ===

impl Account {
    /// A user that has no connections yet.
    pub fn new(identity: Option<Identity>) -> Account {
        Account { identity, pools: RefCell::default(), hubs: RefCell::default() }
    }
}

// === impl Worker ===

impl Worker {
    /// A worker without clients. Must be called on its own runtime.
    pub fn new(parts: Parts) -> Rc<Self> {
        let Parts { index, settings, cells, shared, peers, policy, registry } = parts;
        let workers = peers.senders.len().max(1) as u64;
        let cache = settings.cache.clone();
        let window = u32::try_from(cache.admission_window.as_secs()).unwrap_or(u32::MAX);
        let coherence = Coherence::new(shared, &cache, boottime() ^ (index as u64) << 48);
        if settings.topology.cluster().is_some() {
            coherence.cap_missing();
        }
        Rc::new_cyclic(|me| Worker {
            me: Weak::clone(me),
            index,
            coherence,
            store: Store::new(cache.bytes / workers),
            flights: Flights::new(),
            admission: Admission::new(cache.bytes / workers, window),
            rules: Rules::new(&cache),
            sampling: Sampling::new(cache.audit_every),
            policy,
            learned: RefCell::default(),
            routes: Routes::of(&settings.topology),
            replicas: RefCell::new(settings.replicas.list()),
            moves: watch::Sender::new(()),
            next_order: Rc::new(Cell::new(1)),
            seed: foldhash::quality::RandomState::default(),
            lanes: RefCell::default(),
            by_place: RefCell::default(),
            accounts: RefCell::new(vec![Some(Rc::new(Account::new(None)))]),
            pools_created: Default::default(),
            peers,
            remote: RefCell::default(),
            next_remote: Cell::new(0),
            held: Rc::default(),
            scratch: RefCell::default(),
            buffers: RefCell::default(),
            hits: Cell::new(0),
            draining: Cell::new(false),
            next_lane: Cell::new(0),
            drivers: RefCell::default(),
            audits: Cell::new(0),
            registry,
            touched: RefCell::default(),
            now: Cell::new(boottime()),
            settings,
            cells,
        })
    }

    /// Itself, for a task; `None` while it ends.
    pub(super) fn me(&self) -> Option<Rc<Worker>> {
        self.me.upgrade()
    }

    /// The time of the batch under way.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// A batch begins: reads the clock, which must be after the read(2) that brought it.
    pub fn begin_batch(&self) {
        self.now.set(boottime());
    }

    /// A batch of a client on `lane`, or that lane's own turn, is over: measures its hits.
    pub fn end_batch(&self, lane: &TrackedLane) {
        let hits = self.hits.replace(0);
        if hits > 0 {
            self.coherence.shared.note_activity(hits);
            self.cells.observe(Histogram::HitLatency, boottime().saturating_sub(self.now()), hits);
            self.cells.observe(Histogram::Staleness, lane.standing.lease.age(self.now()), hits);
        }
    }

    /// Upstream's name in errors and logs.
    pub fn upstream_name(&self) -> String {
        self.settings.topology.to_string()
    }

    /// This worker has entries or flights from here on: news elsewhere must ask for its fences.
    pub fn note_busy(&self) {
        if let Some(busy) = self.peers.busy.get(self.index)
            && !busy.load(Ordering::Relaxed)
        {
            busy.store(true, Ordering::SeqCst);
        }
        self.coherence.shared.note_activity(1);
    }

    /// Where a node listens at present; `None`: it is unknown, or has left.
    pub fn address_of(&self, node: NodeId) -> Option<Address> {
        self.settings.address_of(node)
    }

    /// Queues a command on a lane, with a place for its reply.
    pub fn send(&self, lane: &Rc<TrackedLane>, request: &[u8], ticket: Ticket, rewrite: Rewrite, after: After) {
        let session = Rc::clone(&ticket.session);
        match lane.queue.send(self.now(), request, Waiter::Reply(ticket, rewrite, after)) {
            Ok(order) => session.rests_on(order),
            Err((_, waiter)) => {
                let error = Error::LaneFull { upstream: self.upstream_name() };
                self.fail(lane, waiter, &error.reply());
                self.cells.error(error.kind());
            }
        }
    }

    /// A reply, or the `last` part of it, takes its place.
    pub fn deliver(&self, ticket: &Ticket, reply: &Bytes, last: bool) {
        let taken = ticket.session.replies.borrow_mut().put(ticket.number, ticket.attempt, reply, last);
        self.delivered(&ticket.session, taken);
    }

    /// As `deliver`, for bytes that must be copied anyway.
    pub fn deliver_copy(&self, ticket: &Ticket, reply: &[u8]) {
        let taken = ticket.session.replies.borrow_mut().put_copy(ticket.number, ticket.attempt, reply);
        self.delivered(&ticket.session, taken);
    }

    /// An error of our own takes a reply's place.
    pub fn fail_ticket(&self, ticket: &Ticket, error: &Error) {
        self.cells.error(error.kind());
        self.deliver_copy(ticket, &error.reply());
    }

    /// A message, which stands between any two replies.
    pub fn interject(&self, session: &Rc<Session>, message: &Bytes) {
        session.replies.borrow_mut().interject(message);
        self.touch(session);
        self.limit_output(session);
    }

    fn delivered(&self, session: &Rc<Session>, taken: bool) {
        if !taken {
            self.cells.add(Counter::LateReplies, 1);
            return;
        }
        self.touch(session);
        self.settle(session);
        self.note_settled(session);
        self.limit_output(session);
    }

    fn limit_output(&self, session: &Session) {
        let bounded = on(Rule::OutputIsBounded) && !session.is_closed();
        if bounded && session.replies.borrow().bytes() > self.settings.client.output_limit_bytes {
            self.cells.add(Counter::ClientsClosedOutputLimit, 1);
            self.cells.error(ErrorKind::OutputLimit);
            tracing::warn!(client = session.card.id, "closed: it does not read its replies (output_limit_bytes)");
            session.close();
        }
    }

    /// A client has new output: it is written at the end of the turn.
    pub fn touch(&self, session: &Rc<Session>) {
        if !session.touched.replace(true) {
            self.touched.borrow_mut().push(Rc::clone(session));
        }
    }

    /// Writes what the turn has brought to clients, one write(2) each.
    pub fn flush(&self) {
        loop {
            let Some(session) = self.touched.borrow_mut().pop() else { return };
            session.touched.set(false);
            self.flush_one(&session);
        }
    }

    /// Writes what waits for one client.
    pub fn flush_one(&self, session: &Session) {
        if let Flushed::All(bytes) | Flushed::Stuck(bytes) = session.flush() {
            self.cells.add(Counter::ClientBytesOut, bytes as u64);
        }
        if session.waiting.get() {
            session.wake();
        }
    }

    /// An empty buffer to read into.
    pub fn borrow_buffer(&self) -> BytesMut {
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes an empty buffer back; one that has grown is let go.
    pub fn lend_buffer(&self, buffer: BytesMut) {
        let mut buffers = self.buffers.borrow_mut();
        if buffer.is_empty() && buffers.len() < BUFFERS && (1..=BUFFER_MAX).contains(&buffer.capacity()) {
            buffers.push(buffer);
        }
    }

    /// Counts a command that was answered without upstream.
    pub fn count_local(&self, class: crate::telemetry::labels::Class) {
        self.cells.command(class, Outcome::Local);
    }
}

//! A worker's lanes: opened when first needed, one per database and upstream user.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

use super::lane::{GivenUp, TrackedLane};
use super::session::Session;
use super::turn::drive;
use super::worker::{Settings, Worker};
use crate::cache::Mode;
use crate::coherence::Standing;
use crate::command::Learned;
use crate::net::{Address, ConnectOptions, Stream, boottime};
use crate::telemetry::metrics::Counter;
use crate::upstream::CLIENT_NAME;
use crate::upstream::backoff::Backoff;
use crate::upstream::handshake::{HandshakeError, Hello, Purpose, handshake};
use crate::upstream::identity::Credentials;
use crate::upstream::lane::{Connect, LARGE_REPLY, Lane, Limits};
use crate::upstream::topology::{NodeId, Topology};

/// Names learned from upstream are forgotten beyond so many: a client that makes them up fills no memory.
const LEARNED_MAX: usize = 4096;

/// Lanes kept although nobody rides them, beside the main one.
const SPARE_LANES: usize = 16;

// === impl Worker ===

impl Worker {
    /// The lane that a client begins on.
    pub fn main_lane(&self) -> Rc<TrackedLane> {
        self.lane(self.home(), 0, self.settings.db)
    }

    /// The lane to a node, of a user and database.
    pub fn lane(&self, node: NodeId, identity: u32, db: u32) -> Rc<TrackedLane> {
        let found = self.by_place.borrow().get(&(node, identity, db)).cloned();
        found.unwrap_or_else(|| self.open_lane(node, identity, db))
    }

    /// Whether a client without SELECT and AUTH rides this lane; readiness goes by it.
    pub fn is_main(&self, lane: &TrackedLane) -> bool {
        lane.identity == 0 && lane.db == self.settings.db
    }

    fn open_lane(&self, node: NodeId, identity: u32, db: u32) -> Rc<TrackedLane> {
        let settings = &self.settings;
        let upstream = &settings.upstream;
        let limits = Limits {
            commands: upstream.lane_max_commands,
            bytes: upstream.lane_max_bytes,
            command_timeout: upstream.command_timeout,
            connect_timeout: if settings.topology.has_alternatives() {
                // Whoever was certainly not sent waits for a failover to end.
                upstream.connect_timeout.max(upstream.failover_wait.min(upstream.command_timeout))
            } else {
                upstream.connect_timeout
            },
            idle_timeout: upstream.lane_idle_timeout,
            // What may still be kept is not passed on in pieces.
            piece: LARGE_REPLY.max(settings.cache.max_entry_bytes + 1),
            keeps: settings.topology.has_alternatives(),
        };
        let given = self.account_at(identity).and_then(|account| account.identity.clone());
        let credentials = given.map_or_else(|| settings.credentials.clone(), Credentials::from);
        let (kill, address) = (Rc::<RefCell<Option<GivenUp>>>::default(), Rc::<RefCell<Option<Address>>>::default());
        let readonly = Rc::<Cell<bool>>::default();
        let told = Told { kill: Rc::clone(&kill), goes: Rc::clone(&address), readonly: Rc::clone(&readonly) };
        let connect = connecting(Arc::clone(settings), node, credentials, db, told);
        let number = self.next_lane.get();
        self.next_lane.set(number + 1);
        let backoff = Backoff::new(upstream.backoff_min, upstream.backoff_max, boottime() ^ u64::from(number) << 32);
        let (queue, driver) = Lane::new(limits, connect, backoff, Rc::clone(&self.next_order));
        let lane = Rc::new(TrackedLane {
            queue,
            standing: Standing::new(number),
            node,
            identity,
            db,
            fencing: Cell::new(false),
            next_fence: RefCell::default(),
            readonly,
            fit_since: Cell::new(0),
            address,
            ready: RefCell::default(),
            trouble: RefCell::default(),
            connection_id: Cell::new(0),
            kill,
            changed: Notify::new(),
        });
        self.lanes.borrow_mut().push(Rc::clone(&lane));
        self.by_place.borrow_mut().insert((node, identity, db), Rc::clone(&lane));
        if let Some(worker) = self.me() {
            let task = tokio::task::spawn_local(drive(worker, Rc::clone(&lane), driver));
            self.drivers.borrow_mut().push((number, task.abort_handle()));
        }
        lane
    }

    /// A client rides another lane from here on; only when nothing is owed to it (rule 5).
    pub fn ride(&self, session: &Session, lane: Rc<TrackedLane>) {
        let old = session.change_lane(lane);
        self.left(old);
    }

    /// A client has gone.
    pub fn gone(&self, session: &Session) {
        // Late replies still belong to the lane it rode.
        if session.replies.borrow().is_settled() {
            self.ride(session, self.main_lane());
        }
    }

    /// A client rides this lane no longer. Of the lanes that clients have asked for and nobody rides, a few are kept for
    /// who comes next; beyond, the oldest go: who changes passwords, or tries many, fills no memory.
    fn left(&self, lane: Rc<TrackedLane>) {
        if self.is_main(&lane) {
            return;
        }
        drop(lane);
        // The two lists' and the driver's.
        let unused =
            |lane: &&Rc<TrackedLane>| !self.is_main(lane) && Rc::strong_count(lane) == 3 && lane.queue.depth() == 0;
        let mut spare: Vec<_> = self.lanes.borrow().iter().filter(unused).map(|lane| lane.standing.number()).collect();
        spare.truncate(spare.len().saturating_sub(SPARE_LANES));
        for number in spare {
            self.close_lane(number);
        }
    }

    pub(super) fn close_lane(&self, number: u32) {
        let mut lanes = self.lanes.borrow_mut();
        let Some(index) = lanes.iter().position(|lane| lane.standing.number() == number) else { return };
        let lane = lanes.remove(index);
        drop(lanes);
        self.cells.add(Counter::UpstreamBytesOut, lane.queue.take_sent());
        self.by_place.borrow_mut().remove(&(lane.node, lane.identity, lane.db));
        self.drivers.borrow_mut().retain(|(driven, task)| {
            if *driven == number {
                task.abort();
            }
            *driven != number
        });
        self.forget_account(lane.identity);
    }

    /// Lets go of a lane that upstream has refused, unless somebody rides it.
    pub fn forget(&self, lane: &Rc<TrackedLane>) {
        if lane.queue.is_up() || lane.queue.depth() > 0 {
            return;
        }
        // Ours, the two lists' and the driver's.
        if Rc::strong_count(lane) <= 4 {
            self.close_lane(lane.standing.number());
        }
    }

    /// Remembers what upstream says of a name that the table lacks.
    pub fn learn(&self, name: Vec<u8>, learned: Option<Learned>) {
        let mut known = self.learned.borrow_mut();
        if known.len() >= LEARNED_MAX {
            known.clear();
        }
        known.insert(name, learned.map(Rc::new));
    }
}

/// What a lane and its connector tell each other.
struct Told {
    /// The connection that the next one ends.
    kill: Rc<RefCell<Option<GivenUp>>>,
    /// Where the connection goes.
    goes: Rc<RefCell<Option<Address>>>,
    /// Whether it is opened to read from a replica.
    readonly: Rc<Cell<bool>>,
}

/// How a lane gets its connections: the name is resolved and the password read anew each time.
fn connecting(settings: Arc<Settings>, node: NodeId, credentials: Credentials, db: u32, told: Told) -> Connect {
    Box::new(move || {
        let (settings, credentials) = (Arc::clone(&settings), credentials.clone());
        let address = settings.address_of(node);
        told.goes.replace(address.clone());
        let owns = settings.topology.cluster().is_some_and(|cluster| cluster.masters().contains(&node));
        let readonly = settings.is_replica(node) && !owns;
        told.readonly.set(readonly);
        let kill = told.kill.borrow().as_ref().and_then(|given_up| given_up.id_at(address.as_ref()));
        Box::pin(async move {
            let upstream = &settings.upstream;
            let address = address.ok_or(HandshakeError::Nowhere)?;
            let identity = credentials.identity()?;
            let options = ConnectOptions { timeout: upstream.connect_timeout, user_timeout: upstream.command_timeout };
            let mut stream = Stream::connect(&address, options).await?;
            let hello = Hello {
                identity: &identity,
                db,
                resp3: true,
                name: CLIENT_NAME,
                purpose: Purpose::Lane { tracking: settings.cache.mode == Mode::Tracking },
                readonly,
                kill,
            };
            let (ready, leftover) = handshake(&mut stream, &hello, upstream.connect_timeout).await?;
            if matches!(settings.topology, Topology::Sentinel(_))
                && node == Topology::ONLY
                && matches!(&*ready.role, "replica" | "slave")
            {
                settings.topology.doubt();
                return Err(HandshakeError::NotMaster);
            }
            Ok((stream, ready, leftover))
        })
    })
}

//! Which lane a command rides: in front of a cluster, by a copy of the slot map that is this worker's own.
//!
//! *Invariant:* while a client has commands on their way by an older map, no more of its commands are taken: a later one
//! must not reach a slot's new owner before an earlier one has been sent on from the old (rule 1). What was filled under
//! a slot's former owner is not found any more: the slot's epoch is part of what entries are found by.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::lane::TrackedLane;
use super::session::Session;
use super::worker::{Message, Worker};
use crate::cache::entry::Namespace;
use crate::command::Row;
use crate::net::Address;
use crate::protocol::Args;
use crate::switch::{Rule, on};
use crate::upstream::cluster::Cluster;
use crate::upstream::lane::State;
use crate::upstream::slots::key_slot;
use crate::upstream::topology::{NodeId, Topology};

/// What a worker goes by in front of a cluster.
pub struct Routes {
    cluster: Arc<Cluster>,
    /// Who owns each slot.
    owners: RefCell<Arc<[Option<NodeId>]>>,
    /// Who gets what has no key, and what nobody is known to own: its answer tells.
    home: Cell<NodeId>,
}

// === impl Routes ===

impl Routes {
    /// The routes of a topology; `None` if there is only one.
    pub fn of(topology: &Topology) -> Option<Routes> {
        let cluster = topology.cluster()?;
        let routes = Routes {
            cluster: Arc::clone(cluster),
            owners: RefCell::new(cluster.owners()),
            home: Cell::new(Topology::ONLY),
        };
        routes.find_home();
        Some(routes)
    }

    /// The node that owns a slot, as far as is known.
    fn owner(&self, slot: u16) -> NodeId {
        let owner = self.owners.borrow().get(usize::from(slot)).copied().flatten();
        owner.unwrap_or(self.home.get())
    }

    /// Who gets what has no key: who had it before, if it still is a master.
    fn find_home(&self) {
        let masters = self.cluster.masters();
        if !masters.contains(&self.home.get())
            && let Some(&first) = masters.first()
        {
            self.home.set(first);
        }
    }

    /// The next master takes what has no key.
    fn leave_home(&self) {
        let masters = self.cluster.masters();
        let next = masters.iter().find(|&&node| node > self.home.get()).or(masters.first());
        self.home.set(next.copied().unwrap_or(self.home.get()));
    }
}

// === impl Worker ===

impl Worker {
    /// Whether several nodes share the keys.
    pub fn is_cluster(&self) -> bool {
        self.routes.is_some()
    }

    /// The node that what has no key goes to.
    pub fn home(&self) -> NodeId {
        self.routes.as_ref().map_or(Topology::ONLY, |routes| routes.home.get())
    }

    /// The nodes that share the keys: all masters of a cluster, or the only node.
    pub fn masters(&self) -> Vec<NodeId> {
        self.settings.topology.nodes()
    }

    /// The masters, each with the number that its shard has in SCAN's cursors, ascending: its lowest slot, which stays the
    /// same when another becomes its master.
    pub fn shards(&self) -> Vec<(u16, NodeId)> {
        let Some(routes) = &self.routes else { return vec![(0, Topology::ONLY)] };
        let mut shards: Vec<(u16, NodeId)> = Vec::new();
        for (slot, owner) in routes.owners.borrow().iter().enumerate() {
            if let Some(owner) = *owner
                && !shards.iter().any(|(_, node)| *node == owner)
            {
                shards.push((slot as u16, owner));
            }
        }
        shards
    }

    /// The node that a command with this first key goes to.
    pub fn node_of(&self, key: Option<&[u8]>) -> NodeId {
        match (&self.routes, key) {
            (None, _) => Topology::ONLY,
            (Some(routes), Some(key)) => routes.owner(key_slot(key)),
            (Some(routes), None) => routes.home.get(),
        }
    }

    /// The node that a command goes to, by the first key it names, or by the slot.
    pub fn node_of_args(&self, row: Option<&Row>, args: &Args<'_>) -> NodeId {
        let (Some(routes), Some(row)) = (&self.routes, row) else { return self.node_of(None) };
        if let Some(slot) = row.slot(args) {
            return routes.owner(slot);
        }
        let mut first = None;
        row.keys.each_of_slot(args, |key| first = first.or(Some(key)));
        self.node_of(first)
    }

    /// The lane that a command of a client rides, by the first key it names.
    #[inline]
    pub fn route(&self, session: &Session, key: Option<&[u8]>) -> Rc<TrackedLane> {
        let lane = session.lane();
        if self.routes.is_none() {
            return lane;
        }
        let node = self.node_of(key);
        if lane.node == node { lane } else { self.lane(node, lane.identity, lane.db) }
    }

    /// As `route`, by a command as it came.
    #[inline]
    pub fn route_args(&self, session: &Session, row: &Row, args: &Args<'_>) -> Rc<TrackedLane> {
        if self.routes.is_none() {
            return session.lane();
        }
        let mine = session.lane();
        let node = self.node_of_args(Some(row), args);
        if mine.node == node { mine } else { self.lane(node, mine.identity, mine.db) }
    }

    /// Under what a reply about a key is found.
    #[inline]
    pub fn namespace(&self, lane: &TrackedLane, resp3: bool, key: &[u8]) -> Namespace {
        let namespace = lane.standing.namespace(resp3);
        match &self.routes {
            None => namespace,
            Some(_) if !on(Rule::SlotEpochsAreApart) => namespace,
            Some(routes) => namespace.under(routes.cluster.epoch(key_slot(key))),
        }
    }

    /// A node says that a slot is another's: everybody goes by it from here on. Returns that node.
    pub(super) fn slot_moved(&self, slot: u16, to: &Address) -> NodeId {
        let Some(routes) = &self.routes else { return Topology::ONLY };
        let (node, is_news) = routes.cluster.moved(slot, to);
        if is_news {
            self.topology_changed();
            self.tell_peers();
        } else if routes.owners.borrow().get(usize::from(slot)) != Some(&Some(node)) {
            self.topology_changed();
        }
        routes.cluster.wanted.notify_one();
        node
    }

    /// A node at an address that a redirect has named.
    pub(super) fn node_at(&self, address: &Address) -> NodeId {
        self.routes.as_ref().map_or(Topology::ONLY, |routes| routes.cluster.node_at(address))
    }

    /// Each other worker looks at the topology again.
    fn tell_peers(&self) {
        for (_, peer) in self.peers.senders.iter().enumerate().filter(|(index, _)| *index != self.index) {
            // One that has ended has no lanes.
            let _ = peer.send(Message::Topology);
        }
    }

    /// The topology has changed: goes by the new one from here on.
    pub fn topology_changed(&self) {
        self.replicas_changed();
        if let Some(routes) = &self.routes {
            let owners = routes.cluster.owners();
            let is_same = Arc::ptr_eq(&routes.owners.borrow(), &owners);
            if !is_same {
                self.settle_all();
                *routes.owners.borrow_mut() = owners;
            }
            routes.find_home();
        }
        let lanes: Vec<_> = self.lanes.borrow().iter().map(Rc::clone).collect();
        for lane in lanes {
            let address = self.address_of(lane.node);
            let tried = !matches!(lane.queue.state(), State::Idle);
            let elsewhere = tried && *lane.address.borrow() != address;
            // A node of a cluster that is not known any more may still answer what is on its way: closed after that.
            let has_left = self.is_cluster() && address.is_none();
            if elsewhere && !has_left && on(Rule::MovedLanesAreLeft) {
                // Nothing it knows counts any more, and nobody waits for it to break by itself.
                lane.queue.leave();
            } else if !lane.queue.is_up() {
                lane.queue.reroute();
            }
        }
        self.leave_pools();
        self.close_gone();
        self.moves.send_replace(());
    }

    /// Closes the lanes to nodes that have left, once nothing is owed there.
    pub(super) fn close_gone(&self) {
        let is_gone = |lane: &&Rc<TrackedLane>| lane.queue.depth() == 0 && !self.is_there(lane.node);
        let gone: Vec<u32> = self.lanes.borrow().iter().filter(is_gone).map(|lane| lane.standing.number()).collect();
        for number in gone {
            self.close_lane(number);
        }
    }

    /// Whether a node is still one to talk to.
    fn is_there(&self, node: NodeId) -> bool {
        match &self.routes {
            Some(routes) => routes.cluster.has(node),
            None => node == Topology::ONLY || self.replicas.borrow().iter().any(|replica| replica.node == node),
        }
    }

    /// No client with anything under way sends more before that is answered.
    fn settle_all(&self) {
        if !on(Rule::MapChangeSettles) {
            return;
        }
        for lane in self.lanes.borrow().iter() {
            lane.queue.each_waiter(|waiter| waiter.each_session(|session| session.settle_first()));
        }
    }

    /// A lane cannot be had: what has no key goes elsewhere, and the map may be out of date.
    pub(super) fn avoid(&self, lane: &TrackedLane) {
        self.settings.topology.doubt();
        // Until it has been looked at again.
        self.replicas
            .borrow()
            .iter()
            .filter(|replica| replica.node == lane.node)
            .for_each(|r| r.health.set_caught_up(0));
        if let Some(routes) = &self.routes
            && routes.home.get() == lane.node
        {
            routes.leave_home();
        }
    }
}

//! Which lane a command rides: in front of a cluster, by a copy of the slot map that is this worker's own.
//!
//! *Invariant:* while a client has commands on their way by an older map, no more of its commands are taken: a later one
//! must not reach a slot's new owner before an earlier one has been sent on from the old (rule 1). What was filled under
//! a slot's former owner is not found any more: the slot's epoch is part of what entries are found by. While slots move
//! under load every other reply may tell of another: that costs a slot, and what has to be looked at, or told, is at the
//! end of the turn.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::gather::Shard;
use super::lane::TrackedLane;
use super::session::Session;
use super::worker::{Message, Worker};
use crate::cache::entry::Namespace;
use crate::command::Row;
use crate::net::Address;
use crate::protocol::Args;
use crate::switch::{Rule, on};
use crate::upstream::cluster::{Cluster, Owners};
use crate::upstream::lane::State;
use crate::upstream::slots::key_slot;
use crate::upstream::topology::{NodeId, Topology};

/// What a worker goes by in front of a cluster.
pub struct Routes {
    cluster: Arc<Cluster>,
    /// Who owns each slot.
    owners: RefCell<Owners>,
    /// How often that has changed.
    changes: Cell<u64>,
    /// The nodes that share the keys.
    masters: RefCell<Vec<NodeId>>,
    /// What `Worker::shards` tells, until slots move.
    shards: RefCell<Vec<(u16, NodeId)>>,
    /// Who gets what has no key, and what nobody is known to own: its answer tells.
    home: Cell<NodeId>,
    /// The nodes that have lost slots since lanes were last looked at.
    losers: RefCell<Vec<NodeId>>,
    /// Whether that is news to the other workers.
    untold: Cell<bool>,
}

// === impl Routes ===

impl Routes {
    /// The routes of a topology; `None` if there is only one.
    pub fn of(topology: &Topology) -> Option<Routes> {
        let routes = Routes {
            cluster: Arc::clone(topology.cluster()?),
            owners: RefCell::default(),
            changes: Cell::new(0),
            masters: RefCell::default(),
            shards: RefCell::default(),
            home: Cell::new(Topology::ONLY),
            losers: RefCell::default(),
            untold: Cell::new(false),
        };
        routes.catch_up();
        Some(routes)
    }

    /// The node that owns a slot, as far as is known.
    fn owner(&self, slot: u16) -> NodeId {
        self.owners.borrow().of(slot).unwrap_or(self.home.get())
    }

    /// A slot is this node's.
    fn set_owner(&self, slot: u16, node: NodeId) {
        if let Some(before) = self.owners.borrow_mut().set(slot, node) {
            before.into_iter().for_each(|before| self.note_loser(before));
            self.changed();
        }
    }

    /// Goes by what all know.
    fn catch_up(&self) {
        let mut owners = self.owners.borrow_mut();
        if !self.cluster.is_known(&owners) {
            self.cluster.catch_up(&mut owners, |loser| self.note_loser(loser));
            self.changed();
        }
        drop(owners);
        *self.masters.borrow_mut() = self.cluster.masters();
        self.find_home();
    }

    fn changed(&self) {
        self.changes.set(self.changes.get() + 1);
        self.shards.borrow_mut().clear();
    }

    fn note_loser(&self, node: NodeId) {
        let mut losers = self.losers.borrow_mut();
        if !losers.contains(&node) {
            losers.push(node);
        }
    }

    /// Who gets what has no key: who had it before, if it still is a master.
    fn find_home(&self) {
        let masters = self.masters.borrow();
        if !masters.contains(&self.home.get())
            && let Some(&first) = masters.first()
        {
            self.home.set(first);
        }
    }

    /// The next master takes what has no key.
    fn leave_home(&self) {
        let masters = self.masters.borrow();
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
        match &self.routes {
            Some(routes) => routes.masters.borrow().clone(),
            None => vec![Topology::ONLY],
        }
    }

    /// Whether a node is one of them.
    pub fn is_master(&self, node: NodeId) -> bool {
        match &self.routes {
            Some(routes) => routes.masters.borrow().contains(&node),
            None => node == Topology::ONLY,
        }
    }

    /// The masters, each with the number that its shard has in SCAN's cursors, ascending: its lowest slot, which stays the
    /// same when another becomes its master.
    pub fn shards(&self) -> Vec<(u16, NodeId)> {
        let Some(routes) = &self.routes else { return vec![(0, Topology::ONLY)] };
        let mut shards = routes.shards.borrow_mut();
        if shards.is_empty() {
            for (slot, owner) in routes.owners.borrow().iter().enumerate() {
                if let Some(owner) = owner
                    && !shards.iter().any(|(_, node)| *node == owner)
                {
                    shards.push((slot as u16, owner));
                }
            }
        }
        shards.clone()
    }

    /// All masters, each with what its shard is known by.
    pub fn shards_of_masters(&self) -> Vec<Shard> {
        let shards = self.shards();
        let slot = |node| shards.iter().find(|(_, owner)| *owner == node).map(|(slot, _)| *slot);
        self.masters().into_iter().map(|node| Shard { node, slot: slot(node) }).collect()
    }

    /// Who owns a slot, if that is known.
    pub(super) fn owner_of_slot(&self, slot: u16) -> Option<NodeId> {
        self.routes.as_ref().and_then(|routes| routes.owners.borrow().of(slot))
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
        self.as_master(if lane.node == node { lane } else { self.lane(node, lane.identity, lane.db) })
    }

    /// As `route`, by a command as it came.
    #[inline]
    pub fn route_args(&self, session: &Session, row: &Row, args: &Args<'_>) -> Rc<TrackedLane> {
        if self.routes.is_none() {
            return session.lane();
        }
        let mine = session.lane();
        let node = self.node_of_args(Some(row), args);
        self.as_master(if mine.node == node { mine } else { self.lane(node, mine.identity, mine.db) })
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

    /// A node says that a slot is another's: goes by it from here on. Returns that node. `tell_of_moves` must follow.
    pub(super) fn slot_moved(&self, slot: u16, to: &Address) -> NodeId {
        let Some(routes) = &self.routes else { return Topology::ONLY };
        let (node, is_news) = routes.cluster.moved(slot, to);
        routes.set_owner(slot, node);
        routes.untold.set(routes.untold.get() || is_news);
        routes.cluster.wanted.notify_one();
        node
    }

    /// Slots have moved, as redirects have told: the other workers are told too, once for all of them.
    pub(super) fn tell_of_moves(&self) {
        let Some(routes) = &self.routes else { return };
        if !routes.untold.take() {
            return;
        }
        for (_, peer) in self.peers.senders.iter().enumerate().filter(|(index, _)| *index != self.index) {
            // One that has ended has no lanes.
            let _ = peer.send(Message::Slots);
        }
        self.slots_changed();
    }

    /// Slots have changed owners: goes by that from here on. What waits for a connection to who has lost one may belong
    /// elsewhere by now.
    pub fn slots_changed(&self) {
        let Some(routes) = &self.routes else { return };
        routes.catch_up();
        let losers = std::mem::take(&mut *routes.losers.borrow_mut());
        for lane in self.lanes.borrow().iter() {
            if losers.contains(&lane.node) && !lane.queue.is_up() {
                lane.queue.reroute();
            }
        }
        self.moves.send_replace(());
    }

    /// A client is about to send: no more than that while anything of it is under way by an older map.
    #[inline]
    pub(super) fn note_map(&self, session: &Session) {
        let Some(routes) = &self.routes else { return };
        if session.map.get() == routes.changes.get() {
            return;
        }
        if session.replies.borrow().is_settled() || !on(Rule::MapChangeSettles) {
            session.map.set(routes.changes.get());
        } else {
            session.settle_first();
        }
    }

    /// A node at an address that a redirect has named.
    pub(super) fn node_at(&self, address: &Address) -> NodeId {
        self.routes.as_ref().map_or(Topology::ONLY, |routes| routes.cluster.node_at(address))
    }

    /// The topology has changed: goes by the new one from here on.
    pub fn topology_changed(&self) {
        self.replicas_changed();
        if let Some(routes) = &self.routes {
            routes.catch_up();
            routes.losers.borrow_mut().clear();
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

    /// Closes the lanes to nodes that have left, once nothing is owed there; not before nothing goes there any more.
    pub(super) fn close_gone(&self) {
        if self.routes.as_ref().is_some_and(|routes| !routes.cluster.is_known(&routes.owners.borrow())) {
            return;
        }
        let is_gone = |lane: &&Rc<TrackedLane>| lane.queue.depth() == 0 && !self.is_there(lane.node);
        let gone: Vec<u32> = self.lanes.borrow().iter().filter(is_gone).map(|lane| lane.standing.number()).collect();
        for number in gone {
            tracing::debug!(upstream = %self.settings.topology, lane = number, "lane closed: its node has left");
            self.close_lane(number);
        }
    }

    /// Whether a node is still one to talk to.
    pub(super) fn is_there(&self, node: NodeId) -> bool {
        match &self.routes {
            Some(routes) => routes.cluster.has(node),
            None => node == Topology::ONLY || self.replicas.borrow().iter().any(|replica| replica.node == node),
        }
    }

    /// A node cannot be had: what has no key goes elsewhere, and the map may be out of date.
    pub(super) fn avoid(&self, node: NodeId) {
        self.settings.topology.doubt();
        // Until it has been looked at again.
        self.replicas.borrow().iter().filter(|replica| replica.node == node).for_each(|r| r.health.set_unfit());
        if let Some(routes) = &self.routes
            && routes.home.get() == node
        {
            routes.leave_home();
        }
    }
}

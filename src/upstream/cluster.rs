//! A Redis Cluster as all threads share it: its nodes, who owns which slot, and how often that has changed.
//!
//! *Invariant:* a slot's epoch moves before anybody is told of its new owner, so that what was filled under the old one
//! is not found any more. A node's number is never used again for another. Each worker routes by a copy of its own and
//! is told of changes by a message. A slot at a time costs a slot: while slots move under load, thousands a second do.
//! Not here: asking nodes for the map (`discovery`), reading it (`slots`).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock};

use tokio::sync::Notify;

use super::slots::{SLOTS, SlotMap};
use super::topology::NodeId;
use crate::net::Address;

/// A node that so many maps in a row do not name has left.
const MISSING_MAX: u8 = 4;

/// So many slots that have moved by themselves are remembered; who is further behind copies the whole map (128 KiB).
const MOVED_MAX: usize = 1024;

/// A cluster.
pub struct Cluster {
    state: RwLock<State>,
    /// How often each slot's owner has changed.
    epochs: Box<[AtomicU32]>,
    /// Rings when the map should be asked for again.
    pub wanted: Notify,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it listens, as seen from here.
    pub address: Address,
    /// The cluster's own name for it; empty for a seed that no map has named yet.
    pub id: String,
    /// The master that it replicates; `None`: it is a master, or not known.
    pub replica_of: Option<NodeId>,
    /// How many slots it owns.
    pub slots: u16,
    /// Maps in a row that have not named it. One that steps down may be missing from a few (CLUSTER SHARDS, Redis 7.0).
    missing: u8,
}

struct State {
    nodes: BTreeMap<NodeId, Node>,
    /// By slot.
    owners: Box<[Option<NodeId>]>,
    /// How often they have changed.
    version: u64,
    /// Of the last of these changes, the slot that each was about.
    moved: VecDeque<u16>,
    /// The next node's number.
    next: u32,
    /// Of the map last applied, unless hints have changed it since.
    digest: Option<u64>,
    /// Where the cluster was entered.
    seeds: Vec<Address>,
    /// Who was named by the last redirect, and so knows of what the others may not yet.
    hint: Option<Address>,
}

/// Who owns each slot: a copy of one's own.
pub struct Owners {
    by_slot: Box<[Option<NodeId>]>,
    /// It has everything of the cluster's up to this.
    version: u64,
}

/// What a new map has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Slots with another owner.
    pub moved: usize,
    /// Nodes that have come.
    pub come: Vec<Address>,
    /// Nodes that have left.
    pub gone: Vec<Address>,
}

// === impl Change ===

impl Change {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.moved == 0 && self.come.is_empty() && self.gone.is_empty()
    }
}

// === impl Owners ===

impl Owners {
    /// The owner of a slot, as far as is known.
    pub fn of(&self, slot: u16) -> Option<NodeId> {
        self.by_slot.get(usize::from(slot)).copied().flatten()
    }

    /// A slot's owner is this one; returns who it was, if another.
    pub fn set(&mut self, slot: u16, node: NodeId) -> Option<Option<NodeId>> {
        let owner = self.by_slot.get_mut(usize::from(slot)).filter(|owner| **owner != Some(node))?;
        Some(owner.replace(node))
    }

    /// All of them, by slot.
    pub fn iter(&self) -> impl Iterator<Item = Option<NodeId>> + '_ {
        self.by_slot.iter().copied()
    }
}

impl Default for Owners {
    fn default() -> Self {
        Owners { by_slot: vec![None; usize::from(SLOTS)].into(), version: 0 }
    }
}

// === impl Cluster ===

impl Cluster {
    /// A cluster that nothing is known of but where to enter it.
    pub fn new(seeds: Vec<Address>) -> Cluster {
        let named = |(i, address): (usize, &Address)| (NodeId(i as u32), Node::at(address));
        let state = State {
            nodes: seeds.iter().enumerate().map(named).collect(),
            owners: vec![None; usize::from(SLOTS)].into(),
            version: 0,
            moved: VecDeque::new(),
            next: seeds.len() as u32,
            digest: None,
            seeds,
            hint: None,
        };
        let epochs = (0..SLOTS).map(|_| AtomicU32::new(0)).collect();
        Cluster { state: RwLock::new(state), epochs, wanted: Notify::new() }
    }

    /// Where a node listens; `None`: it has left.
    pub fn address(&self, node: NodeId) -> Option<Address> {
        self.read(|state| state.nodes.get(&node).map(|node| node.address.clone()))
    }

    /// All nodes that are known.
    pub fn nodes(&self) -> Vec<(NodeId, Node)> {
        self.read(|state| state.nodes.iter().map(|(&id, node)| (id, node.clone())).collect())
    }

    /// Whether a node is still part of it.
    pub fn has(&self, node: NodeId) -> bool {
        self.read(|state| state.nodes.contains_key(&node))
    }

    /// Brings a copy of who owns each slot up to date, and calls `lost` with who owns one no more.
    pub fn catch_up(&self, copy: &mut Owners, mut lost: impl FnMut(NodeId)) {
        self.read(|state| {
            let behind = usize::try_from(state.version.saturating_sub(copy.version)).unwrap_or(usize::MAX);
            let mut take = |slot: usize| {
                if let (Some(mine), Some(owner)) = (copy.by_slot.get_mut(slot), state.owners.get(slot))
                    && mine != owner
                {
                    std::mem::replace(mine, *owner).into_iter().for_each(&mut lost);
                }
            };
            if behind > state.moved.len() {
                (0..state.owners.len()).for_each(take);
            } else {
                state.moved.iter().rev().take(behind).for_each(|slot| take(usize::from(*slot)));
            }
            copy.version = state.version;
        });
    }

    /// Whether a copy of who owns each slot has everything.
    pub fn is_known(&self, copy: &Owners) -> bool {
        self.read(|state| state.version == copy.version)
    }

    /// Slots that nobody is known to own.
    pub fn unowned(&self) -> usize {
        let owned = self.read(|state| state.nodes.values().map(|node| usize::from(node.slots)).sum());
        usize::from(SLOTS).saturating_sub(owned)
    }

    /// The nodes that own slots, ascending; before any map is known, the seeds.
    pub fn masters(&self) -> Vec<NodeId> {
        self.read(|state| {
            let own = state.nodes.iter().filter(|(_, node)| node.slots > 0);
            let masters: Vec<NodeId> = own.map(|(&id, _)| id).collect();
            if masters.is_empty() { state.nodes.keys().copied().collect() } else { masters }
        })
    }

    /// Where to ask for the map: the nodes that are known, masters first, then the seeds.
    pub fn places(&self) -> Vec<Address> {
        let masters = self.masters();
        self.read(|state| {
            let first = masters.iter().filter_map(|id| state.nodes.get(id));
            let others = state.nodes.iter().filter(|(id, _)| !masters.contains(id)).map(|(_, node)| node);
            let mut places: Vec<Address> = Vec::new();
            for address in first.chain(others).map(|node| &node.address).chain(&state.seeds) {
                if !places.contains(address) {
                    places.push(address.clone());
                }
            }
            places
        })
    }

    /// How often a slot's owner has changed.
    #[inline]
    pub fn epoch(&self, slot: u16) -> u32 {
        self.epochs.get(usize::from(slot)).map_or(0, |epoch| epoch.load(Ordering::Acquire))
    }

    /// A node says that a slot is another's (MOVED). Returns that node, and whether this is news.
    pub fn moved(&self, slot: u16, to: &Address) -> (NodeId, bool) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let node = state.node_at(to);
        let is_news = state.own(slot, node);
        if is_news {
            self.bump(slot);
            // Whatever the next map says is news too.
            state.digest = None;
            state.hint = Some(to.clone());
        }
        (node, is_news)
    }

    /// Whom to ask first for a map: who was named by a redirect since the last time.
    pub fn take_hint(&self) -> Option<Address> {
        self.state.write().unwrap_or_else(PoisonError::into_inner).hint.take()
    }

    /// The node at an address, which may be new (ASK).
    pub fn node_at(&self, address: &Address) -> NodeId {
        self.state.write().unwrap_or_else(PoisonError::into_inner).node_at(address)
    }

    /// Takes over a map that a node has told; slots that it lacks stay with who had them,
    /// if that node is still there. `place` says where a member of it is; `None`: it has no known place.
    pub fn apply(&self, map: &SlotMap, place: impl Fn(&super::slots::Member) -> Option<Address>) -> Change {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let digest = map.digest();
        let is_settled = |node: &Node| !node.id.is_empty() && node.missing == 0;
        if state.digest == Some(digest) && state.nodes.values().all(is_settled) {
            return Change::default();
        }
        let before: Vec<NodeId> = state.nodes.keys().copied().collect();
        let mut named = Vec::new();
        let mut owners: Vec<Option<NodeId>> = vec![None; usize::from(SLOTS)];
        for shard in &map.shards {
            let Some(address) = place(&shard.master) else { continue };
            let master = state.node_at(&address);
            state.name(master, &shard.master.id, None);
            named.push(master);
            for &(first, last) in &shard.ranges {
                for slot in first..=last.min(SLOTS - 1) {
                    if let Some(owner) = owners.get_mut(usize::from(slot)) {
                        *owner = Some(master);
                    }
                }
            }
            for replica in &shard.replicas {
                let Some(address) = place(replica) else { continue };
                let id = state.node_at(&address);
                state.name(id, &replica.id, Some(master));
                named.push(id);
            }
        }
        state.digest = Some(digest);
        let mut change = Change::default();
        for (&id, node) in state.nodes.iter().filter(|(id, _)| !before.contains(id)) {
            debug_assert!(named.contains(&id));
            change.come.push(node.address.clone());
        }
        for (id, node) in &mut state.nodes {
            node.missing = if named.contains(id) { 0 } else { node.missing + 1 };
        }
        // Whom nobody but a redirect has named so far goes with the first map that does not either.
        let has_gone = |node: &Node| node.missing >= MISSING_MAX || node.missing > 0 && node.id.is_empty();
        let gone: Vec<NodeId> = state.nodes.iter().filter(|(_, node)| has_gone(node)).map(|(&id, _)| id).collect();
        for id in gone {
            if let Some(node) = state.nodes.remove(&id)
                && !node.id.is_empty()
            {
                change.gone.push(node.address);
            }
        }
        for (owner, old) in owners.iter_mut().zip(state.owners.iter()) {
            *owner = owner.or(old.filter(|old| state.nodes.contains_key(old)));
        }
        for (slot, (old, new)) in state.owners.iter().zip(&owners).enumerate() {
            if old != new {
                change.moved += 1;
                self.bump(slot as u16);
            }
        }
        if change.moved > 0 {
            state.own_all(owners);
        }
        change
    }

    fn bump(&self, slot: u16) {
        if let Some(epoch) = self.epochs.get(usize::from(slot)) {
            epoch.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn read<R>(&self, f: impl FnOnce(&State) -> R) -> R {
        f(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("nodes", &self.nodes()).finish_non_exhaustive()
    }
}

/// As operators know it: by where it was entered.
impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cluster ")?;
        let seeds = self.read(|state| state.seeds.clone());
        for (i, seed) in seeds.iter().enumerate() {
            write!(f, "{}{seed}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

// === impl Node ===

impl Node {
    fn at(address: &Address) -> Node {
        Node { address: address.clone(), id: String::new(), replica_of: None, slots: 0, missing: 0 }
    }
}

// === impl State ===

impl State {
    /// A slot is this node's; whether it was not before.
    fn own(&mut self, slot: u16, node: NodeId) -> bool {
        let Some(owner) = self.owners.get_mut(usize::from(slot)).filter(|owner| **owner != Some(node)) else {
            return false;
        };
        if let Some(old) = owner.replace(node).and_then(|old| self.nodes.get_mut(&old)) {
            old.slots = old.slots.saturating_sub(1);
        }
        if let Some(new) = self.nodes.get_mut(&node) {
            new.slots += 1;
        }
        self.version += 1;
        self.moved.push_back(slot);
        if self.moved.len() > MOVED_MAX {
            self.moved.pop_front();
        }
        true
    }

    /// These are the owners from here on.
    fn own_all(&mut self, owners: Vec<Option<NodeId>>) {
        self.nodes.values_mut().for_each(|node| node.slots = 0);
        for owner in owners.iter().flatten() {
            if let Some(node) = self.nodes.get_mut(owner) {
                node.slots += 1;
            }
        }
        self.owners = owners.into();
        self.version += 1;
        self.moved.clear();
    }

    fn node_at(&mut self, address: &Address) -> NodeId {
        if let Some((&id, _)) = self.nodes.iter().find(|(_, node)| node.address == *address) {
            return id;
        }
        let id = NodeId(self.next);
        self.next += 1;
        self.nodes.insert(id, Node::at(address));
        id
    }

    fn name(&mut self, node: NodeId, id: &str, replica_of: Option<NodeId>) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.id = id.into();
            node.replica_of = replica_of;
        }
    }
}

#[cfg(test)]
mod tests;

//! A command whose keys, or whose work, several nodes share: its parts' replies are joined into one.
//!
//! *Invariant:* one reply leaves, when every part is answered or has failed; if any has failed, it is an error.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::lane::Ticket;
use super::worker::Worker;
use crate::upstream::topology::NodeId;

/// Makes one reply of all parts'.
pub type Join = Box<dyn Fn(&[&[u8]], &mut BytesMut)>;

/// A part of a cluster, as it was when it was addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its master.
    pub node: NodeId,
    /// Its lowest slot, whose owner tells who has become its master; `None`: no map was known.
    pub slot: Option<u16>,
}

/// The parts of one command.
pub struct Gather {
    join: Join,
    parts: RefCell<Vec<Option<Bytes>>>,
    left: Cell<usize>,
    /// For those that go to a shard's master rather than a key's owner: which.
    shards: RefCell<Vec<Shard>>,
    sweeps: bool,
}

/// A shard's master is none any more, and no single other has taken its place: what was asked of all masters would be asked
/// of one twice, or of one not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cluster's masters have changed")]
pub struct Reshaped;

// === impl Gather ===

impl Gather {
    /// Of so many parts.
    pub fn new(join: Join, parts: usize, shards: Vec<Shard>, sweeps: bool) -> Rc<Gather> {
        let places = RefCell::new(vec![None; parts]);
        Rc::new(Gather { join, parts: places, left: Cell::new(parts), shards: RefCell::new(shards), sweeps })
    }

    /// Whether every entry rests on what it changes.
    pub fn sweeps(&self) -> bool {
        self.sweeps
    }

    /// Where a part goes that names no key.
    pub fn node(&self, part: usize) -> Option<NodeId> {
        self.shards.borrow().get(part).map(|shard| shard.node)
    }

    /// Whether a part is neither answered nor has failed.
    pub(super) fn awaits(&self, part: usize) -> bool {
        self.parts.borrow().get(part).is_some_and(Option::is_none)
    }

    /// Takes one part's reply; the whole once all are here.
    fn take(&self, part: usize, reply: &[u8]) -> Option<BytesMut> {
        {
            let mut parts = self.parts.borrow_mut();
            let place = parts.get_mut(part).filter(|place| place.is_none())?;
            *place = Some(Bytes::copy_from_slice(reply));
        }
        self.left.set(self.left.get().saturating_sub(1));
        if self.left.get() > 0 {
            return None;
        }
        let parts = std::mem::take(&mut *self.parts.borrow_mut());
        let replies: Vec<&[u8]> = parts.iter().map(|part| part.as_deref().unwrap_or_default()).collect();
        let mut out = BytesMut::new();
        (self.join)(&replies, &mut out);
        Some(out)
    }
}

// === impl Worker ===

impl Worker {
    /// Where a part goes by now: to a shard's master, or to who has become that; `None`: it goes by its key.
    ///
    /// # Errors
    /// [`Reshaped`], see there.
    pub(super) fn node_of_part(&self, gather: &Gather, part: usize) -> Result<Option<NodeId>, Reshaped> {
        let mut shards = gather.shards.borrow_mut();
        let Some(shard) = shards.get(part).copied() else { return Ok(None) };
        let node = self.successor(shard, &shards)?;
        shards.iter_mut().skip(part).take(1).for_each(|shard| shard.node = node);
        Ok(Some(node))
    }

    /// Who is a shard's master by now, where these shards have been asked: the one or all.
    ///
    /// # Errors
    /// [`Reshaped`], see there.
    pub fn successor(&self, shard: Shard, asked: &[Shard]) -> Result<NodeId, Reshaped> {
        let owner = shard.slot.and_then(|slot| self.owner_of_slot(slot));
        let Some(owner) = owner.filter(|owner| *owner != shard.node && !self.is_master(shard.node)) else {
            return Ok(shard.node);
        };
        let is_asked = asked.iter().any(|other| other.node == owner);
        let as_many = asked.len() == 1 || asked.len() == self.masters().len();
        if is_asked || !as_many { Err(Reshaped) } else { Ok(owner) }
    }

    /// A part is answered, or has failed.
    pub(super) fn part_taken(&self, gather: &Gather, part: usize, ticket: &Ticket, reply: &[u8]) {
        match gather.take(part, reply) {
            Some(whole) => self.deliver(ticket, &whole.freeze(), true),
            // Another part may be waiting for this one's end.
            None => self.note_settled(&ticket.session),
        }
    }
}

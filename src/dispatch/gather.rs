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

/// The parts of one command.
pub struct Gather {
    join: Join,
    parts: RefCell<Vec<Option<Bytes>>>,
    left: Cell<usize>,
    /// For those that go to a node rather than a key's owner: which.
    nodes: Vec<NodeId>,
    sweeps: bool,
}

// === impl Gather ===

impl Gather {
    /// Of so many parts.
    pub fn new(join: Join, parts: usize, nodes: Vec<NodeId>, sweeps: bool) -> Rc<Gather> {
        let places = RefCell::new(vec![None; parts]);
        Rc::new(Gather { join, parts: places, left: Cell::new(parts), nodes, sweeps })
    }

    /// Whether every entry rests on what it changes.
    pub fn sweeps(&self) -> bool {
        self.sweeps
    }

    /// Where a part goes that names no key.
    pub fn node(&self, part: usize) -> Option<NodeId> {
        self.nodes.get(part).copied()
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
    /// A part is answered, or has failed.
    pub(super) fn part_taken(&self, gather: &Gather, part: usize, ticket: &Ticket, reply: &[u8]) {
        match gather.take(part, reply) {
            Some(whole) => self.deliver(ticket, &whole.freeze(), true),
            // Another part may be waiting for this one's end.
            None => self.note_settled(&ticket.session),
        }
    }
}

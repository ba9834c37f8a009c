//! Flights: one fetch in progress, its leader's command sent once however many ask.
//!
//! *Invariant:* the table holds at most one flight per cache key, the newest; an older one still in the air
//! answers those who joined it and nobody else. A flight notes generation and epochs when it is *sent*;
//! what they are at its reply decides whether it may fill. Waiters outlive their clients harmlessly.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hashbrown::HashTable;

use super::entry::{Key, Lookup};
use super::generation::Slot;
use crate::command::Row;
use crate::protocol::downgrade::Shape;
use crate::switch::{Rule, on};

/// One fetch in progress; `W` is whoever waits for it.
pub struct Flight<W> {
    /// By what it is found, and what is sent.
    pub key: Key,
    /// The counter of the Redis key it reads.
    pub slot: Slot,
    /// That counter when it was sent.
    pub generation: u64,
    /// The lane's epoch when it was sent.
    pub lane_epoch: u64,
    /// The node's epoch when it was sent.
    pub node_epoch: u64,
    /// When it was sent.
    pub sent: u64,
    /// Its place in the lane's order.
    pub order: u64,
    /// Entries from it live no longer than this, by the rules.
    pub max_age: u64,
    /// Whether its reply is meant to be kept.
    pub fill: bool,
    /// Whether pushes will tell of changes to its key.
    pub tracked: bool,
    /// The command.
    pub row: &'static Row,
    /// How its reply is rewritten for a RESP2 client; `None`: not at all.
    pub shape: Option<Shape>,
    /// Whether CLIENT CACHING YES was answered +OK.
    pub caching: Cell<bool>,
    /// What PTTL answered.
    pub pttl: Cell<Option<i64>>,
    /// Whether it has been answered, or has failed.
    pub landed: Cell<bool>,
    /// Who waits, in the order they came.
    pub waiters: RefCell<Vec<W>>,
}

/// The flights that may be joined.
pub struct Flights<W> {
    table: RefCell<HashTable<Rc<Flight<W>>>>,
    in_the_air: Cell<usize>,
}

/// What a reader must know to join a flight (rule 4 of a client's order).
#[derive(Clone, Copy, Debug)]
pub struct Joining {
    /// The place in the lane's order of the newest command that the reader has sent or joined.
    pub after: u64,
    /// The key's present generation.
    pub generation: u64,
    /// The lane's present epoch.
    pub lane_epoch: u64,
    /// The node's present epoch.
    pub node_epoch: u64,
    /// The present time.
    pub now: u64,
    /// The bound on staleness.
    pub max_staleness: u64,
}

// === impl Flight ===

impl<W> Flight<W> {
    /// Whether a reader may join: the flight is no older than what the reader already rests on, nothing has
    /// changed since it was sent, and it was sent less than `max_staleness` ago.
    pub fn may_join(&self, joining: &Joining) -> bool {
        (!on(Rule::JoinChecksOrder) || self.order >= joining.after)
            && (!on(Rule::JoinChecksGeneration) || self.generation == joining.generation)
            && (!on(Rule::JoinChecksLaneEpoch) || self.lane_epoch == joining.lane_epoch)
            && (!on(Rule::JoinChecksNodeEpoch) || self.node_epoch == joining.node_epoch)
            && (!on(Rule::JoinChecksAge) || joining.now.saturating_sub(self.sent) < joining.max_staleness)
    }
}

// === impl Flights ===

impl<W> Flights<W> {
    /// No flights.
    pub fn new() -> Self {
        Flights { table: RefCell::new(HashTable::new()), in_the_air: Cell::new(0) }
    }

    /// The newest flight for a key.
    pub fn get(&self, lookup: &Lookup<'_>) -> Option<Rc<Flight<W>>> {
        self.table.borrow().find(lookup.hash, |flight| lookup.finds(&flight.key)).cloned()
    }

    /// A new flight takes the old one's place.
    pub fn lead(&self, flight: Rc<Flight<W>>) {
        self.in_the_air.set(self.in_the_air.get() + 1);
        let mut table = self.table.borrow_mut();
        match table.find_mut(flight.key.hash, |old| old.key == flight.key) {
            Some(place) => *place = flight,
            None => {
                table.insert_unique(flight.key.hash, flight, |flight| flight.key.hash);
            }
        }
    }

    /// A flight has been answered, or has failed.
    pub fn land(&self, flight: &Rc<Flight<W>>) {
        if flight.landed.replace(true) {
            return;
        }
        self.in_the_air.set(self.in_the_air.get().saturating_sub(1));
        let mut table = self.table.borrow_mut();
        if let Ok(found) = table.find_entry(flight.key.hash, |other| Rc::ptr_eq(other, flight)) {
            found.remove();
        }
    }

    /// Flights in the air, replaced ones included.
    pub fn len(&self) -> usize {
        self.in_the_air.get()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.in_the_air.get() == 0
    }
}

impl<W> Default for Flights<W> {
    fn default() -> Self {
        Flights::new()
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::Namespace;
    use super::super::generation::Generations;
    use super::*;

    fn flight(order: u64, sent: u64) -> Rc<Flight<()>> {
        Rc::new(Flight {
            key: Lookup { hash: 42, namespace: Namespace(0), request: b"k" }.to_key(),
            slot: Generations::new().slot(b"k"),
            generation: 3,
            lane_epoch: 1,
            node_epoch: 1,
            sent,
            order,
            max_age: u64::MAX,
            fill: true,
            tracked: true,
            row: crate::command::index::named("get").expect("GET"),
            shape: None,
            caching: Cell::new(false),
            pttl: Cell::new(None),
            landed: Cell::new(false),
            waiters: RefCell::new(Vec::new()),
        })
    }

    fn joining() -> Joining {
        Joining { after: 5, generation: 3, lane_epoch: 1, node_epoch: 1, now: 1099, max_staleness: 100 }
    }

    #[test]
    fn a_reader_joins_only_what_is_no_older_than_what_it_rests_on() {
        assert!(flight(5, 1000).may_join(&joining()));
        assert!(!flight(4, 1000).may_join(&joining()), "older than its own last command");
        assert!(!flight(5, 999).may_join(&joining()), "sent max_staleness ago");
        assert!(!flight(5, 1000).may_join(&Joining { generation: 4, ..joining() }));
        assert!(!flight(5, 1000).may_join(&Joining { lane_epoch: 2, ..joining() }));
        assert!(!flight(5, 1000).may_join(&Joining { node_epoch: 2, ..joining() }));
    }

    #[test]
    fn an_older_flight_landing_leaves_the_newer_in_place() {
        let flights = Flights::new();
        let (old, new) = (flight(1, 1), flight(2, 2));
        flights.lead(Rc::clone(&old));
        flights.lead(Rc::clone(&new));
        flights.land(&old);
        let found = flights.get(&new.key.as_lookup()).expect("the newer flight");
        assert!(Rc::ptr_eq(&found, &new));
        flights.land(&new);
        assert!(flights.is_empty() && flights.get(&new.key.as_lookup()).is_none());
    }
}

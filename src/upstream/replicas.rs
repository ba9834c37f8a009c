//! Which replicas may be read from, and how far each is known to have come.
//!
//! *Invariant:* `caught_up` is a moment such that everything its master had executed by then, the replica has too. Whoever
//! sees it sees `fit_since` and `learnt` too. Not here: asking them (`discovery`), who may read from which (`dispatch::replicas`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::topology::NodeId;
use crate::net::Address;

/// The replicas of all masters.
#[derive(Debug, Default)]
pub struct Replicas {
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    list: Arc<[Replica]>,
    /// How long masters take to answer.
    masters: Vec<(NodeId, Arc<Health>)>,
    /// Numbers given to replicas that no cluster names.
    given: u32,
}

/// One replica.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Its number.
    pub node: NodeId,
    /// Its master's.
    pub master: NodeId,
    /// Where it listens.
    pub address: Address,
    /// What the last poll has told.
    pub health: Arc<Health>,
    /// And of its master.
    pub master_health: Arc<Health>,
}

/// How a node was found by the last poll.
#[derive(Debug, Default)]
pub struct Health {
    /// In boottime nanoseconds; 0: it is not fit to be read from.
    caught_up: AtomicU64,
    /// When it was last found fit after a time in which it was not; no two such moments are the same.
    fit_since: AtomicU64,
    /// When `caught_up` was learnt.
    learnt: AtomicU64,
    /// How long it took to answer, in nanoseconds; 0: not known.
    round_trip: AtomicU64,
}

// === impl Health ===

impl Health {
    /// Everything its master had executed by then it has too; 0: it is not fit.
    pub fn caught_up(&self) -> u64 {
        self.caught_up.load(Ordering::Acquire)
    }

    /// When it was found fit after a time in which it was not; asked behind `caught_up`.
    pub fn fit_since(&self) -> u64 {
        self.fit_since.load(Ordering::Relaxed)
    }

    /// When it had come so far at the latest; asked behind `caught_up`.
    pub fn learnt(&self) -> u64 {
        self.learnt.load(Ordering::Relaxed)
    }

    /// It has come so far, as it says at `now`; never back. Who is further behind than `max_lag` is not fit meanwhile.
    pub fn set_caught_up(&self, moment: u64, now: u64, max_lag: u64) {
        let before = self.caught_up();
        if moment <= before {
            return;
        }
        if before == 0 || now.saturating_sub(before) > max_lag {
            self.fit_since.store(now, Ordering::Relaxed);
        }
        self.learnt.store(now, Ordering::Relaxed);
        self.caught_up.store(moment, Ordering::Release);
    }

    /// It is not fit until it is found so again.
    pub fn set_unfit(&self) {
        self.caught_up.store(0, Ordering::Release);
    }

    /// How long it takes to answer, in nanoseconds; `u64::MAX` while that is not known.
    pub fn round_trip(&self) -> u64 {
        match self.round_trip.load(Ordering::Relaxed) {
            0 => u64::MAX,
            time => time,
        }
    }

    /// It has answered after so long; the average of some answers is kept.
    pub fn answered_after(&self, nanoseconds: u64) {
        let before = self.round_trip.load(Ordering::Relaxed);
        let now = if before == 0 { nanoseconds } else { before - before / 8 + nanoseconds / 8 };
        self.round_trip.store(now.max(1), Ordering::Relaxed);
    }
}

// === impl Replicas ===

impl Replicas {
    /// All of them at this moment.
    pub fn list(&self) -> Arc<[Replica]> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner).list)
    }

    /// A master has answered after so long; of those that are masters no more nothing is kept.
    pub fn master_answered(&self, master: NodeId, after: u64, masters: &[NodeId]) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.masters.retain(|(node, _)| masters.contains(node));
        if !known.masters.iter().any(|(node, _)| *node == master) {
            known.masters.push((master, Arc::default()));
        }
        known.masters.iter().filter(|(node, _)| *node == master).for_each(|(_, health)| health.answered_after(after));
    }

    /// Where a replica listens.
    pub fn address(&self, node: NodeId) -> Option<Address> {
        self.list().iter().find(|replica| replica.node == node).map(|replica| replica.address.clone())
    }

    /// These are the replicas, each with its master and, in a cluster, its number there. Returns whether that is news.
    pub fn set(&self, found: Vec<(NodeId, Address, Option<NodeId>)>) -> bool {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let before = Arc::clone(&known.list);
        let mut list = Vec::new();
        for (master, address, node) in found {
            let same = before.iter().find(|old| old.address == address && old.master == master);
            let node = node.or(same.map(|old| old.node)).unwrap_or_else(|| {
                known.given += 1;
                NodeId(known.given)
            });
            let health = same.map(|old| Arc::clone(&old.health)).unwrap_or_default();
            let of_master = known.masters.iter().find(|(node, _)| *node == master);
            let master_health = of_master.map(|(_, health)| Arc::clone(health)).unwrap_or_default();
            list.push(Replica { node, master, address, health, master_health });
        }
        // Who keeps a copy of the list sees what becomes of the health of those in it.
        let key = |replica: &Replica| (replica.node, replica.master, Arc::as_ptr(&replica.master_health));
        let is_news = before.iter().map(key).ne(list.iter().map(key));
        known.list = list.into();
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Address {
        Address::Tcp { host: "h".into(), port }
    }

    #[test]
    fn a_replica_is_fit_anew_after_each_time_in_which_it_was_not() {
        let health = Health::default();
        let found = |moment, now| {
            health.set_caught_up(moment, now, 10);
            (health.caught_up(), health.fit_since())
        };
        assert_eq!(found(100, 101), (100, 101));
        assert_eq!(found(105, 110), (105, 101), "its lag was allowed all the while");
        assert_eq!(found(105, 130), (105, 101), "it has not caught up with anything");
        assert_eq!(found(125, 131), (125, 131));
        health.set_unfit();
        assert_eq!(health.caught_up(), 0);
        health.set_caught_up(120, 133, 10);
        assert_eq!((health.caught_up(), health.fit_since()), (120, 133), "who was unfit may have gone back");
    }

    #[test]
    fn a_replica_keeps_its_number_and_what_is_known_of_it() {
        let replicas = Replicas::default();
        let master = NodeId(0);
        replicas.master_answered(master, 700, &[master]);
        assert!(replicas.set(vec![(master, at(1), None), (master, at(2), None)]));
        let [one, two] = [0, 1].map(|i| replicas.list()[i].clone());
        assert_ne!((one.node, two.node), (master, master));
        one.health.set_caught_up(7, 8, 5);
        two.health.set_caught_up(9, 9, 5);
        two.health.set_caught_up(8, 9, 5);
        assert!(!replicas.set(vec![(master, at(1), None), (master, at(2), None)]));
        assert_eq!(one.master_health.round_trip(), 700);
        replicas.master_answered(master, 0, &[master]);
        assert_eq!(one.master_health.round_trip(), 700 - 700 / 8);
        assert!(replicas.set(vec![(master, at(2), None), (master, at(3), None)]));
        let list = replicas.list();
        assert_eq!((list[0].node, list[0].health.caught_up()), (two.node, 9));
        assert!(list[1].node != one.node && list[1].node != two.node, "no number is used again");
        assert_eq!((replicas.address(two.node), replicas.address(one.node)), (Some(at(2)), None));
        // A master that was none for a while begins anew: whoever has a copy of the list is told.
        replicas.master_answered(NodeId(9), 1, &[NodeId(9)]);
        replicas.master_answered(master, 40, &[master]);
        assert!(replicas.set(vec![(master, at(2), None), (master, at(3), None)]));
        assert_eq!(replicas.list()[0].master_health.round_trip(), 40);
    }
}

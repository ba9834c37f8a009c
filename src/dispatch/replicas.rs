//! Which node a read goes to where replicas may be read from.
//!
//! What a replica shows is older than what its master does. *Invariant:* whoever has written to a shard reads from its
//! master until a replica is known to have caught up with a moment after the write's answer; no client is shown what is
//! older than its own writes. Otherwise two nodes may show two moments, at most `replica_max_lag` apart: that is the price
//! of reading from replicas (P3 holds per node). Who is taken for a master is asked as one: replicas and masters are told
//! by different sources, which need not agree at every moment.
//!
//! A replica that gets nothing from its master tells of no writes, and yet its answers renew the lease of its lane. That it
//! has caught up is learnt on another connection, maybe before its pushes are: what its lane has kept is dropped when it is
//! fit again; and who has written goes on reading from the master until an answer on that lane proves that the pushes of
//! these writes have been read. *Invariant:* what is shown of a replica's lane is at most `max_staleness` older than what the
//! replica may show.

use std::rc::Rc;

use bytes::BytesMut;

use super::lane::{TrackedLane, Waiter};
use super::session::Session;
use super::worker::Worker;
use crate::protocol::encode;
use crate::switch::{Rule, on};
use crate::telemetry::metrics::Counter;
use crate::upstream::config::ReadFrom;
use crate::upstream::replicas::Replica;
use crate::upstream::topology::NodeId;

/// What makes a replica of a cluster serve reads on a connection …
const READONLY: &[u8] = b"*1\r\n$8\r\nREADONLY\r\n";
/// … and not any more.
const READWRITE: &[u8] = b"*1\r\n$9\r\nREADWRITE\r\n";

/// Whom a read goes to.
enum Choice {
    /// The owner of its key.
    Master,
    /// A replica of that one, which has been fit since then; and since when it is known to have what the client has
    /// written, if that has written lately.
    Replica(NodeId, u64, Option<u64>),
}

/// What a client has written to one shard.
#[derive(Clone, Copy, Debug)]
pub struct Wrote {
    master: NodeId,
    /// Whether a write is unanswered.
    open: bool,
    /// No answer to a write came later than this.
    until: u64,
    /// Who was found to have all of it, and when that was learnt.
    seen: Option<(NodeId, u64)>,
}

// === impl Wrote ===

impl Wrote {
    /// When it was first learnt that a replica has all of it, which it has.
    fn seen_at(&mut self, replica: NodeId, learnt: u64) -> u64 {
        self.seen = self.seen.filter(|(node, _)| *node == replica).or(Some((replica, learnt)));
        self.seen.map_or(learnt, |(_, at)| at)
    }
}

// === impl Worker ===

impl Worker {
    /// The lane that a read rides; `None`: replicas alone are wanted, and none is fit.
    pub(super) fn read_route(&self, session: &Session, key: Option<&[u8]>) -> Option<Rc<TrackedLane>> {
        if self.settings.upstream.read_from == ReadFrom::Master {
            return Some(self.route(session, key));
        }
        let master = self.node_of(key);
        let mine = session.lane();
        let to = |node| if mine.node == node { Rc::clone(&mine) } else { self.lane(node, mine.identity, mine.db) };
        Some(match self.choose(session, master)? {
            Choice::Master => self.as_master(to(master)),
            Choice::Replica(node, fit_since, seen) => {
                let lane = self.as_replica(to(node), fit_since);
                let has_told = seen.is_none_or(|since| self.has_told(&lane, since, key.unwrap_or_default()));
                if has_told { lane } else { self.as_master(to(master)) }
            }
        })
    }

    /// Whether a lane shows nothing from before its replica had what it is known to have since then: it has kept nothing, or
    /// all pushes until then have been read. If not, that is asked for.
    fn has_told(&self, lane: &TrackedLane, since: u64, key: &[u8]) -> bool {
        let standing = &lane.standing;
        if !standing.needs_fence() || standing.lease.proves(since) || !on(Rule::OwnWritesAreTold) {
            return true;
        }
        if standing.lease.proof_due(self.now(), since) {
            let mut exists = BytesMut::new();
            encode::request(&mut exists, &[b"EXISTS", key]);
            self.send_heartbeat(lane, self.now(), || Some(exists));
        }
        false
    }

    /// A lane that is about to be used as that of a replica, which has been fit since then.
    fn as_replica(&self, lane: Rc<TrackedLane>, fit_since: u64) -> Rc<TrackedLane> {
        if lane.fit_since.replace(fit_since) != fit_since && on(Rule::FitAgainBumps) {
            self.cells.add(Counter::EpochBumpsReplicaFit, 1);
            lane.standing.bump();
        }
        lane
    }

    /// A lane that is about to be used as that of a slot's owner. Its connection may have been opened to read from a replica:
    /// should the node be one, again or still, it must not answer from what it has but say who the owner is.
    #[inline]
    pub(super) fn as_master(&self, lane: Rc<TrackedLane>) -> Rc<TrackedLane> {
        if lane.readonly.get() && self.is_cluster() {
            let told = lane.queue.send(self.now(), READWRITE, Waiter::Asking).is_ok();
            // What is still being opened will begin with READONLY.
            lane.readonly.set(!told || !lane.queue.is_up());
        }
        lane
    }

    /// As `read_route`, for a read that has its place already.
    pub(super) fn read_lane(&self, session: &Session, key: &[u8]) -> Rc<TrackedLane> {
        self.read_route(session, Some(key)).unwrap_or_else(|| self.route(session, Some(key)))
    }

    /// A client has sent what may be a write to a master.
    pub fn note_write(&self, session: &Session, node: NodeId) {
        if self.settings.upstream.read_from == ReadFrom::Master {
            return;
        }
        let mut wrote = session.wrote.borrow_mut();
        match wrote.iter_mut().find(|shard| shard.master == node) {
            Some(shard) => shard.open = true,
            None => wrote.push(Wrote { master: node, open: true, until: 0, seen: None }),
        }
    }

    /// Looks at the list of replicas again.
    pub(super) fn replicas_changed(&self) {
        *self.replicas.borrow_mut() = self.settings.replicas.list();
        let lanes: Vec<_> = self.lanes.borrow().iter().map(Rc::clone).collect();
        lanes.iter().for_each(|lane| self.change_sides(lane));
    }

    /// Has a connection that was opened to a master read from the replica that this has become, and one that was opened to
    /// a replica be told when its node is no master any more. Outside of a cluster replicas serve reads anyway.
    pub(super) fn change_sides(&self, lane: &TrackedLane) {
        let readonly = self.settings.is_replica(lane.node) && !self.is_master(lane.node);
        if !self.is_cluster() || !lane.queue.is_up() || lane.readonly.get() == readonly {
            return;
        }
        let command = if readonly { READONLY } else { READWRITE };
        // A full lane is tried again when the topology changes again.
        if lane.queue.send(self.now(), command, Waiter::Asking).is_ok() {
            lane.readonly.set(readonly);
        }
    }

    /// `None`: replicas alone are wanted, and none is fit.
    fn choose(&self, session: &Session, master: NodeId) -> Option<Choice> {
        let (now, upstream) = (self.now(), &self.settings.upstream);
        let max_lag = u64::try_from(upstream.replica_max_lag.as_nanos()).unwrap_or(u64::MAX);
        let replicas = self.replicas.borrow();
        let is_fit = |replica: &&Replica| {
            let caught_up = replica.health.caught_up();
            replica.master == master && caught_up != 0 && now.saturating_sub(caught_up) <= max_lag
        };
        let fit = || replicas.iter().filter(is_fit);
        // What it has written to the shard's former masters counts too.
        let mut wrote = session.wrote.borrow_mut();
        if session.replies.borrow().is_settled() {
            wrote
                .iter_mut()
                .filter(|shard| shard.open)
                .for_each(|shard| (shard.open, shard.until, shard.seen) = (false, now, None));
            // Whoever is fit has caught up with what is older, and had when its lane was last proven fresh.
            let old = max_lag.saturating_add(self.coherence.max_staleness);
            wrote.retain(|shard| now.saturating_sub(shard.until) <= old);
        }
        let is_other = |shard: &&Wrote| shard.master != master && self.is_master(shard.master);
        let of_shard = || wrote.iter().filter(|shard| !is_other(shard));
        let may_go =
            |replica: &&Replica| of_shard().all(|shard| !shard.open && replica.health.caught_up() > shard.until);
        let chosen = match upstream.read_from {
            ReadFrom::Nearest => {
                let nearest = fit().min_by_key(|replica| replica.health.round_trip());
                nearest.filter(|replica| replica.health.round_trip() <= replica.master_health.round_trip())
            }
            // Each worker stays with one: its cache is that one's.
            _ => fit().nth(self.index % fit().count().max(1)),
        };
        if let Some(replica) = chosen.filter(may_go) {
            let (node, health) = (replica.node, &replica.health);
            let learnt = health.learnt();
            let written = wrote.iter_mut().filter(|shard| shard.master == master || !self.is_master(shard.master));
            let seen = written.map(|shard| shard.seen_at(node, learnt)).max();
            return Some(Choice::Replica(node, health.fit_since(), seen));
        }
        let none_is_fit = upstream.read_from == ReadFrom::Replica && fit().next().is_none();
        (!none_is_fit).then_some(Choice::Master)
    }
}

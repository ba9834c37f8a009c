//! What is cheaper to look up now and then than to count on the way: the gauges, and counters kept elsewhere.
//!
//! *Invariant:* a counter here only grows, although what it is taken from (a pool, a lane) may go.

use std::rc::Rc;

use super::lane::TrackedLane;
use super::worker::{Account, Worker};
use crate::cache::Mode;
use crate::net::boottime;
use crate::telemetry::labels::Pool;
use crate::telemetry::metrics::{Counter, Gauge};
use crate::upstream::dedicated::{PoolKind, PoolStats};
use crate::upstream::lane::State;

/// Each pool with its label.
const POOLS: [(PoolKind, Pool); 3] = [
    (PoolKind::Transactions, Pool::Transaction),
    (PoolKind::Waiting, Pool::Waiting),
    (PoolKind::Control, Pool::Control),
];

// === impl Worker ===

impl Worker {
    /// Publishes all of it.
    pub fn publish(&self) {
        self.forget_remote(2 * self.settings.upstream.command_timeout.as_nanos() as u64);
        self.store.tidy();
        self.close_gone();
        self.leave_pools();
        let cells = &self.cells;
        cells.add(Counter::Evictions, self.store.take_evictions());
        cells.add(Counter::GenerationBumps, self.coherence.take_bumps());
        cells.set(Gauge::Entries, self.store.entries() as i64);
        cells.set(Gauge::CacheBytes, self.store.bytes() as i64);
        cells.set(Gauge::Flights, self.flights.len() as i64);
        cells.set(Gauge::NodeEpoch, self.coherence.shared.node.current() as i64);
        cells.set(Gauge::Masters, self.masters().len() as i64);
        if let Some(cluster) = self.settings.topology.cluster() {
            let replicas = cluster.nodes().iter().filter(|(_, node)| node.replica_of.is_some()).count();
            cells.set(Gauge::Replicas, replicas as i64);
            cells.set(Gauge::SlotsUnowned, cluster.unowned() as i64);
        }
        let (clients, upstream) = self.peers.audience.totals();
        cells.set(Gauge::Subscriptions, clients);
        cells.set(Gauge::SubscriptionsUpstream, upstream);
        self.publish_lanes();
        self.publish_pools();
    }

    /// How many lanes are in which state, and what they carry.
    pub(super) fn publish_lanes(&self) {
        let (cells, lanes) = (&self.cells, self.lanes.borrow());
        cells.set(Gauge::LaneFifoDepth, lanes.iter().map(|lane| lane.queue.depth() as i64).sum());
        cells.set(Gauge::LaneOutputBytes, lanes.iter().map(|lane| lane.queue.backlog() as i64).sum());
        cells.add(Counter::UpstreamBytesOut, lanes.iter().map(|lane| lane.queue.take_sent()).sum());
        let count = |is: &dyn Fn(&TrackedLane) -> bool| lanes.iter().filter(|lane| is(lane)).count() as i64;
        let (now, max_staleness) = (boottime(), self.coherence.max_staleness);
        cells.set(Gauge::LanesLeased, count(&|lane| lane.standing.lease.holds(now, max_staleness)));
        let up = |mode: Mode| count(&|lane| lane.queue.is_up() && lane.standing.mode() == mode);
        let (tracking, ttl, off) = (up(Mode::Tracking), up(Mode::Ttl), up(Mode::Off));
        cells.set(Gauge::LanesTracking, tracking);
        cells.set(Gauge::LanesUntracked, ttl + off);
        cells.set(Gauge::LanesConnecting, count(&|lane| lane.queue.state() == State::Connecting));
        cells.set(Gauge::LanesBackoff, count(&|lane| lane.queue.state() == State::Pausing));
        cells.set(Gauge::ModeTracking, i64::from(tracking > 0));
        cells.set(Gauge::ModeTtl, i64::from(ttl > 0));
        cells.set(Gauge::ModeOff, i64::from(self.settings.cache.mode == Mode::Off));
    }

    fn publish_pools(&self) {
        let accounts: Vec<_> = self.accounts.borrow().iter().flatten().map(Rc::clone).collect();
        for ((kind, label), published) in POOLS.into_iter().zip(&self.pools_created) {
            let of = |account: &Rc<Account>| {
                account.pools.borrow().iter().map(|(_, pools)| pools.stats(kind)).collect::<Vec<_>>()
            };
            let stats: Vec<PoolStats> = accounts.iter().flat_map(of).collect();
            let sum = |of: fn(&PoolStats) -> u32| stats.iter().map(|stats| i64::from(of(stats))).sum();
            self.cells.set(Gauge::pool_in_use(label), sum(|stats| stats.in_use));
            self.cells.set(Gauge::pool_idle(label), sum(|stats| stats.idle));
            self.cells.set(Gauge::pool_waiting(label), sum(|stats| stats.waiting));
            let created: u64 = stats.iter().map(|stats| stats.created).sum();
            self.cells.add(Counter::pool_created(label), created.saturating_sub(published.replace(created)));
        }
    }
}

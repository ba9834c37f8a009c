//! A cluster's slot map: asked for twice per `max_staleness`, and at once when something speaks against the one in force.
//!
//! Epochs of the cluster's own do not tell when a slot has moved (the second slot moved to the same node changes none), so
//! whole maps are compared, by digest. *Invariant:* a map that is empty, contradicts itself or has no healthy master is
//! never taken over; of one that lacks slots, only what it has.

use std::sync::Arc;
use std::time::Duration;

use bb8_redis::redis;
use tokio::time::{Instant, sleep, timeout};

use super::Parts;
use crate::net::Address;
use crate::protocol::Value;
use crate::telemetry::metrics::Counter;
use crate::upstream::cluster::{Change, Cluster};
use crate::upstream::control::{Pool, Unanswered};
use crate::upstream::slots::{MapFault, Member, SlotMap};

/// Longest and shortest time between two questions without a doubt.
const PERIOD_MAX: Duration = Duration::from_millis(500);
/// See `PERIOD_MAX`.
const PERIOD_MIN: Duration = Duration::from_millis(25);

/// Between two questions whatever the doubts.
const PAUSE: Duration = Duration::from_millis(20);

/// Time for an answer.
const LIMIT: Duration = Duration::from_secs(1);

/// Between two rounds of questions when nobody answers, at most.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Why a node's map is not used.
#[derive(Debug, thiserror::Error)]
enum NoMap {
    #[error("{0}")]
    Unanswered(#[from] Unanswered),
    #[error("{0}")]
    Fault(#[from] MapFault),
    #[error("no answer in time")]
    Late,
}

/// Whom to ask, with connections to those asked before.
struct Asking<'a> {
    parts: &'a Parts,
    cluster: &'a Cluster,
    pools: Vec<(Address, Pool)>,
    /// Who is asked next among those that have answered.
    turn: usize,
}

/// Keeps the map right for as long as the task lives.
pub async fn watch(parts: Parts, cluster: Arc<Cluster>, max_staleness: Duration) {
    let period = (max_staleness / 2).clamp(PERIOD_MIN, PERIOD_MAX);
    let mut asking = Asking { parts: &parts, cluster: &cluster, pools: Vec::new(), turn: 0 };
    let mut failures = 0u32;
    let mut warned = false;
    loop {
        let begun = Instant::now();
        match asking.ask().await {
            Ok((map, from)) => {
                failures = 0;
                if std::mem::take(&mut warned) {
                    tracing::info!(upstream = %cluster, "the cluster answers again");
                }
                take_over(&parts, &cluster, &map, &from);
            }
            Err(problem) => {
                failures += 1;
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!(upstream = %cluster, cause = %problem, "no node of the cluster tells the slot map");
                }
            }
        }
        let rest = if failures > 0 { (PAUSE * 2u32.pow(failures.min(8))).min(BACKOFF_MAX) } else { period };
        tokio::select! {
            () = sleep(rest.saturating_sub(begun.elapsed()).max(PAUSE)) => {}
            () = doubted(&cluster, failures) => {}
        }
    }
}

/// Something speaks against the map; while nobody answers, doubts change nothing.
async fn doubted(cluster: &Cluster, failures: u32) {
    if failures > 0 {
        return std::future::pending().await;
    }
    cluster.wanted.notified().await;
    sleep(PAUSE).await;
}

fn take_over(parts: &Parts, cluster: &Cluster, map: &SlotMap, from: &Address) {
    parts.cells.add(Counter::MapRefreshes, 1);
    let change = cluster.apply(map, |member| place(parts, member, from));
    if change.is_empty() {
        return;
    }
    parts.cells.add(Counter::TopologyChanges, 1);
    tell(cluster, &change);
    parts.tell();
}

fn tell(cluster: &Cluster, change: &Change) {
    let names = |addresses: &[Address]| addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(", ");
    let (come, gone) = (names(&change.come), names(&change.gone));
    tracing::info!(
        upstream = %cluster,
        slots_moved = change.moved,
        nodes_come = %come,
        nodes_gone = %gone,
        "the cluster has changed: cached entries of moved slots are dropped"
    );
}

/// Where a member is, as seen from here: without a host of its own, at that of the node that was asked.
fn place(parts: &Parts, member: &Member, from: &Address) -> Option<Address> {
    let host = match (&member.host, from) {
        (Some(host), _) => host.as_str(),
        (None, Address::Tcp { host, .. }) => return Some(Address::Tcp { host: host.clone(), port: member.port }),
        (None, Address::Unix(_)) => return None,
    };
    let (host, port) = parts.address_map.apply(host, member.port);
    Some(Address::Tcp { host, port })
}

// === impl Asking ===

impl Asking<'_> {
    /// The map of the first node that has one to give; each time another is asked first.
    async fn ask(&mut self) -> Result<(SlotMap, Address), NoMap> {
        let mut places = self.cluster.places();
        // Of a seed that is no node any more none is kept.
        let nodes = self.cluster.nodes();
        self.pools.retain(|(address, _)| nodes.iter().any(|(_, node)| node.address == *address));
        let masters = self.cluster.masters().len().max(1);
        let first = self.cluster.take_hint().or_else(|| places.get(self.turn % masters).cloned());
        self.turn = self.turn.wrapping_add(1);
        if let Some(first) = first {
            places.retain(|place| *place != first);
            places.insert(0, first);
        }
        let mut problem = NoMap::Unanswered(Unanswered::NoTarget);
        for place in places {
            match timeout(LIMIT, self.ask_one(&place)).await.unwrap_or(Err(NoMap::Late)) {
                Ok(map) => return Ok((map, place)),
                Err(error) => {
                    tracing::debug!(node = %place, cause = %error, "no slot map");
                    self.pools.retain(|(address, _)| *address != place);
                    problem = error;
                }
            }
        }
        Err(problem)
    }

    async fn ask_one(&mut self, place: &Address) -> Result<SlotMap, NoMap> {
        let pool = match self.pools.iter().find(|(address, _)| address == place) {
            Some((_, pool)) => pool.clone(),
            None => {
                let target = (self.parts.target)(place.clone()).ok_or(Unanswered::NoTarget)?;
                let pool = target.pool().await?;
                self.pools.push((place.clone(), pool.clone()));
                pool
            }
        };
        let mut connection = pool.get().await.map_err(Unanswered::from)?;
        // CLUSTER SHARDS tells who is healthy, and is as old as Redis 7.0.
        let mut shards = redis::cmd("CLUSTER");
        let map = match shards.arg("SHARDS").query_async::<redis::Value>(&mut *connection).await {
            Ok(reply) => SlotMap::from_shards(&value(reply))?,
            Err(error) if error.code().is_some_and(|code| code == "ERR") => {
                let mut slots = redis::cmd("CLUSTER");
                let reply: redis::Value =
                    slots.arg("SLOTS").query_async(&mut *connection).await.map_err(Unanswered::from)?;
                SlotMap::from_slots(&value(reply))?
            }
            Err(error) => return Err(Unanswered::from(error).into()),
        };
        match map.check() {
            Ok(()) | Err(MapFault::Partial(_)) => Ok(map),
            Err(fault) => Err(fault.into()),
        }
    }
}

/// In our own words.
fn value(value: redis::Value) -> Value {
    let all = |values: Vec<redis::Value>| values.into_iter().map(self::value).collect();
    match value {
        redis::Value::Int(number) => Value::Integer(number),
        redis::Value::BulkString(bytes) => Value::Bulk(bytes),
        redis::Value::SimpleString(text) => Value::Simple(text.into_bytes()),
        redis::Value::Okay => Value::Simple(b"OK".to_vec()),
        redis::Value::Array(values) | redis::Value::Set(values) => Value::Array(all(values)),
        redis::Value::Map(pairs) => {
            Value::Map(pairs.into_iter().map(|(key, of)| (self::value(key), self::value(of))).collect())
        }
        redis::Value::VerbatimString { text, .. } => Value::Bulk(text.into_bytes()),
        redis::Value::Double(number) => Value::Double(number),
        redis::Value::Boolean(truth) => Value::Boolean(truth),
        // None of these is part of a map.
        _ => Value::Null,
    }
}

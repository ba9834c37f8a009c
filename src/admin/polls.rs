//! What no push tells, asked in the background: SWAPDB, and whether the server holds hash fields with TTLs.
//!
//! SWAPDB sends no invalidation on any server; its count in INFO commandstats is the only sign of it (verified on Redis
//! 7.0.15 and Valkey 9.1.2). A hash field's expiry may come seconds late or not at all; while INFO keyspace shows such
//! fields, replies about hashes live no longer than the bound on staleness. *Invariant:* upstream is polled only while
//! the cache is in use. Not here: what the cache makes of it (`coherence`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bb8_redis::redis::{self, aio::MultiplexedConnection};

use crate::coherence::Shared;
use crate::net::Address;
use crate::switch::{Rule, on};
use crate::upstream::control::{Target, Unanswered};

/// Longest time between two polls: a SWAPDB is noticed within a second.
const PERIOD_MAX: Duration = Duration::from_millis(500);

/// Shortest, whatever the bound on staleness.
const PERIOD_MIN: Duration = Duration::from_millis(25);

/// Polls without any activity before the polling stops.
const QUIET_MAX: u32 = 8;

/// What the last poll has seen.
#[derive(Default)]
struct Seen {
    /// Whom it has asked.
    server: Option<Address>,
    /// SWAPDBs executed, as commandstats counts them.
    swaps: Option<u64>,
    /// Whether hash fields with TTLs are held.
    hash_ttls: bool,
    /// Whether the operator has been told that INFO is denied.
    warned: bool,
}

/// Polls upstream for as long as the task lives.
pub async fn watch(target: impl Fn() -> Option<Target>, shared: Arc<Shared>, max_staleness: Duration) {
    let period = (max_staleness / 2).clamp(PERIOD_MIN, PERIOD_MAX);
    let mut seen = Seen::default();
    loop {
        // The first poll comes before the first client: what it sees is what later ones are compared with.
        let mut quiet = 0;
        while quiet < QUIET_MAX {
            quiet = if shared.activity.swap(0, Ordering::Relaxed) > 0 { 0 } else { quiet + 1 };
            if let Err(error) = poll_until_failure(&target, &shared, &mut seen, period, &mut quiet).await {
                seen.nothing(&shared, &error);
                // As good as it gets: an upstream that gives us no INFO is no reason to serve no hits. Any other failure
                // says nothing of what was while nobody looked.
                if error.is_refusal() {
                    looked(&shared);
                }
                tokio::time::sleep(period).await;
            }
        }
        shared.unwatched.store(true, Ordering::SeqCst);
        tracing::debug!("background polls rest");
        // It may have rung while they did not rest, and nothing happened since.
        while shared.activity.load(Ordering::Relaxed) == 0 {
            shared.active.notified().await;
        }
    }
}

/// Polls all masters of a cluster, where there is no SWAPDB, for as long as the task lives.
pub async fn watch_cluster(targets: impl Fn() -> Vec<Target>, shared: Arc<Shared>, max_staleness: Duration) {
    let period = (max_staleness / 2).clamp(PERIOD_MIN, PERIOD_MAX);
    let mut seen = Seen::default();
    let mut connections: Vec<(Address, MultiplexedConnection)> = Vec::new();
    loop {
        let mut quiet = 0;
        while quiet < QUIET_MAX {
            let targets = targets();
            connections.retain(|(of, _)| targets.iter().any(|target| target.address == *of));
            // While nobody is known there, or one does not answer, such fields may be held.
            let mut held = targets.is_empty();
            for target in targets {
                held |= match tokio::time::timeout(PERIOD_MAX, keyspace_of(&target, &mut connections)).await {
                    Ok(Ok(keyspace)) => holds_hash_ttls(&keyspace),
                    failed => {
                        tracing::debug!(node = %target.address, ?failed, "background poll failed");
                        connections.retain(|(of, _)| *of != target.address);
                        true
                    }
                };
            }
            seen.holds(&shared, held);
            looked(&shared);
            tokio::time::sleep(period).await;
            quiet = if shared.activity.swap(0, Ordering::Relaxed) > 0 { 0 } else { quiet + 1 };
        }
        // Nobody would tell meanwhile that such fields are held.
        shared.unwatched.store(true, Ordering::SeqCst);
        tracing::debug!("background polls rest");
        while shared.activity.load(Ordering::Relaxed) == 0 {
            shared.active.notified().await;
        }
    }
}

/// INFO keyspace of one master.
async fn keyspace_of(
    target: &Target,
    connections: &mut Vec<(Address, MultiplexedConnection)>,
) -> Result<String, Unanswered> {
    let kept = connections.iter().find(|(of, _)| *of == target.address).map(|(_, connection)| connection.clone());
    let mut connection = match kept {
        Some(connection) => connection,
        None => {
            let connection = target.connect().await?;
            connections.push((target.address.clone(), connection.clone()));
            connection
        }
    };
    info(&mut connection, "keyspace").await.map_err(Unanswered::of_answer)
}

/// Polls on one connection until it fails or the cache falls quiet.
async fn poll_until_failure(
    target: &impl Fn() -> Option<Target>,
    shared: &Shared,
    seen: &mut Seen,
    period: Duration,
    quiet: &mut u32,
) -> Result<(), Unanswered> {
    let asked = target().ok_or(Unanswered::NoTarget)?;
    let mut connection = asked.connect().await?;
    seen.looks_at(&asked.address);
    while *quiet < QUIET_MAX {
        if target().is_none_or(|target| target.address != asked.address) {
            return Ok(());
        }
        // Not as one pipeline: of its errors the codes are lost.
        let mut second = connection.clone();
        let ask = async { tokio::try_join!(info(&mut connection, "commandstats"), info(&mut second, "keyspace")) };
        let Ok(answer) = tokio::time::timeout(PERIOD_MAX * 4, ask).await else {
            return Err(Unanswered::NoConnection);
        };
        let (stats, keyspace) = answer.map_err(Unanswered::of_answer)?;
        seen.apply(shared, &stats, &keyspace);
        looked(shared);
        tokio::time::sleep(period).await;
        *quiet = if shared.activity.swap(0, Ordering::Relaxed) > 0 { 0 } else { *quiet + 1 };
    }
    Ok(())
}

async fn info(connection: &mut MultiplexedConnection, section: &str) -> redis::RedisResult<String> {
    redis::cmd("INFO").arg(section).query_async(connection).await
}

/// Upstream has answered a poll, and what was seen is applied.
fn looked(shared: &Shared) {
    shared.looks.send_modify(|looks| *looks += 1);
    if *shared.looks.borrow() == 1 {
        // What was filled before was dropped just now.
        tracing::debug!("background polls have looked");
    }
    shared.unwatched.store(false, Ordering::SeqCst);
}

// === impl Seen ===

impl Seen {
    /// What comes next is told by this server; another's count tells nothing of its own.
    fn looks_at(&mut self, server: &Address) {
        if self.server.as_ref() != Some(server) {
            self.server = Some(server.clone());
            self.swaps = None;
        }
    }

    /// A poll has failed: as long as nothing is known, hash fields with TTLs may be held.
    fn nothing(&mut self, shared: &Shared, error: &Unanswered) {
        if error.is_denial() && !self.warned {
            self.warned = true;
            tracing::warn!(
                %error,
                "upstream denies INFO: a SWAPDB stays unnoticed until entries age, and replies about hashes are kept short"
            );
        } else {
            tracing::debug!(%error, "background poll failed");
        }
        if on(Rule::HashTtlsMayBe) && !self.hash_ttls {
            self.hash_ttls = true;
            shared.hash_ttls.store(true, Ordering::SeqCst);
            shared.node.bump();
        }
    }

    fn apply(&mut self, shared: &Shared, stats: &str, keyspace: &str) {
        let swaps = swaps(stats);
        if on(Rule::SwapSeen) && self.swaps != Some(swaps) {
            if self.swaps.is_some() {
                tracing::info!("SWAPDB seen upstream: cached entries dropped");
            }
            // At the first look too: what was filled before it may be from before a SWAPDB that it counts already.
            shared.node.bump();
        }
        self.swaps = Some(swaps);
        self.holds(shared, holds_hash_ttls(keyspace));
    }

    /// Whether hash fields with TTLs are held, or may be.
    fn holds(&mut self, shared: &Shared, hash_ttls: bool) {
        if self.hash_ttls != hash_ttls {
            self.hash_ttls = hash_ttls;
            shared.hash_ttls.store(hash_ttls, Ordering::SeqCst);
            if on(Rule::HashTtlsSeenDrop) {
                shared.node.bump();
            }
        }
    }
}

/// How many SWAPDBs commandstats counts, failed ones aside.
fn swaps(stats: &str) -> u64 {
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_swapdb:"));
    let calls = line.and_then(|line| line.split(',').find_map(|part| part.strip_prefix("calls=")));
    calls.and_then(|calls| calls.trim().parse().ok()).unwrap_or(0)
}

/// Whether any database holds hash fields with TTLs (`keys_with_volatile_items` on Valkey 9, `subexpiry` on Redis 7.4).
fn holds_hash_ttls(keyspace: &str) -> bool {
    let parts = keyspace.lines().flat_map(|line| line.trim_end().split(','));
    let counts = parts
        .filter_map(|part| part.strip_prefix("keys_with_volatile_items=").or_else(|| part.strip_prefix("subexpiry=")));
    counts.filter_map(|count| count.parse::<u64>().ok()).any(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swapdb_drops_the_nodes_entries_and_so_does_the_first_look() {
        let (shared, mut seen) = (Shared::default(), Seen::default());
        let epoch = shared.node.current();
        seen.apply(&shared, "cmdstat_swapdb:calls=3,usec=1\r\n", "");
        assert_ne!(shared.node.current(), epoch);
        let epoch = shared.node.current();
        seen.apply(&shared, "cmdstat_swapdb:calls=3,usec=9\r\n", "");
        assert_eq!(shared.node.current(), epoch);
        seen.apply(&shared, "cmdstat_get:calls=9,usec=1\r\ncmdstat_swapdb:calls=4,usec=1\r\n", "");
        assert_ne!(shared.node.current(), epoch);
    }

    #[test]
    fn the_first_look_at_another_server_drops_entries_whatever_it_counts() {
        let (shared, mut seen) = (Shared::default(), Seen::default());
        let [old, new] = [1, 2].map(|port| Address::Tcp { host: "h".into(), port });
        let mut drops = |server: &Address| {
            let epoch = shared.node.current();
            seen.looks_at(server);
            seen.apply(&shared, "cmdstat_swapdb:calls=3,usec=1\r\n", "");
            shared.node.current() != epoch
        };
        assert_eq!([&old, &old, &new, &new].map(&mut drops), [true, false, true, false]);
    }

    #[test]
    fn hash_fields_with_ttls_are_seen_on_both_servers() {
        let (shared, mut seen) = (Shared::default(), Seen::default());
        seen.apply(&shared, "", "db0:keys=1,expires=0,avg_ttl=0,keys_with_volatile_items=0\r\n");
        assert!(!shared.hash_ttls.load(Ordering::SeqCst));
        seen.apply(
            &shared,
            "",
            "db0:keys=1,expires=0\r\ndb3:keys=1,expires=0,avg_ttl=0,keys_with_volatile_items=1\r\n",
        );
        assert!(shared.hash_ttls.load(Ordering::SeqCst));
        assert!(holds_hash_ttls("db0:keys=1,expires=0,avg_ttl=0,subexpiry=2\r\n"));
    }
}

//! Upstream's own INFO, for the `sidecache_upstream_*` metrics.
//!
//! Invariant: upstream is asked only while somebody reads `/metrics`, and at most once in
//! `INTERVAL`; a process whose metrics nobody reads costs upstream nothing. This is the control
//! plane: a connection of its own, never on a client's way.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bb8_redis::redis;
use tokio::time::{Instant, timeout};

use crate::telemetry::Registry;
use crate::telemetry::metrics::Upstream;
use crate::upstream::control::{Pool, Target, Unanswered};

/// Least time between two INFOs.
const INTERVAL: Duration = Duration::from_secs(5);
/// Time for an INFO, connecting included. Below `INTERVAL`, so that no two overlap.
const LIMIT: Duration = Duration::from_secs(3);
/// How long `/metrics` waits for fresh values before it shows the last ones.
const PATIENCE: Duration = Duration::from_millis(200);

/// INFO's integers and where they go.
const FIELDS: [(&str, Upstream); 14] = [
    ("used_memory", Upstream::MemoryUsed),
    ("maxmemory", Upstream::MemoryMax),
    ("connected_clients", Upstream::Clients),
    ("tracking_clients", Upstream::TrackingClients),
    ("tracking_total_keys", Upstream::TrackedKeys),
    ("blocked_clients", Upstream::BlockedClients),
    ("instantaneous_ops_per_sec", Upstream::OpsPerSecond),
    ("keyspace_hits", Upstream::KeyspaceHits),
    ("keyspace_misses", Upstream::KeyspaceMisses),
    ("expired_keys", Upstream::ExpiredKeys),
    ("evicted_keys", Upstream::EvictedKeys),
    ("connected_slaves", Upstream::Replicas),
    ("loading", Upstream::Loading),
    ("uptime_in_seconds", Upstream::Uptime),
];

/// Brings upstream's figures into a registry.
pub struct Scraper {
    registry: Arc<Registry>,
    /// Whom to ask now; it changes with the master. `None`: unknown.
    target: Box<dyn Fn() -> Option<Target> + Send + Sync>,
    /// When the last INFO was begun. Held to compare and set.
    begun: Mutex<Option<Instant>>,
    /// A connection that worked, and whose it is. Held to take it out or put it back.
    pool: Mutex<Option<(Target, Pool)>>,
}

// === impl Scraper ===

impl Scraper {
    /// A scraper that asks whomever `target` names at that time.
    pub fn new(registry: Arc<Registry>, target: impl Fn() -> Option<Target> + Send + Sync + 'static) -> Scraper {
        Scraper { registry, target: Box::new(target), begun: Mutex::new(None), pool: Mutex::new(None) }
    }

    /// Asks upstream in the background if the last time is long enough ago, and waits a moment for it.
    pub async fn refresh(self: &Arc<Self>) {
        if !self.is_due() {
            return;
        }
        let scraper = Arc::clone(self);
        let asked = tokio::spawn(async move { scraper.ask().await });
        // When patience ends the task goes on; its values are for the next reader.
        let _ = timeout(PATIENCE, asked).await;
    }

    fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let due = begun.is_none_or(|begun| now.duration_since(begun) >= INTERVAL);
        if due {
            *begun = Some(now);
        }
        due
    }

    async fn ask(&self) {
        match timeout(LIMIT, self.info()).await.unwrap_or(Err(Unanswered::NoConnection)) {
            Ok(info) => publish(&self.registry, &info),
            Err(error) => {
                tracing::debug!(%error, "upstream gave no INFO");
                self.registry.set_upstream(Upstream::Up, i64::from(error.is_denial()));
            }
        }
    }

    /// INFO's text. A pool that failed, or whose target is no longer ours, is not kept: the next
    /// one resolves names anew and reads the password file again.
    async fn info(&self) -> Result<String, Unanswered> {
        let target = (self.target)().ok_or(Unanswered::NoTarget)?;
        let kept = self.pool.lock().unwrap_or_else(PoisonError::into_inner).take();
        let pool = match kept.filter(|(of, _)| *of == target) {
            Some((_, pool)) => pool,
            None => target.pool().await?,
        };
        let mut connection = pool.get().await.map_err(Unanswered::from)?;
        let info = redis::cmd("INFO").query_async(&mut *connection).await?;
        drop(connection);
        *self.pool.lock().unwrap_or_else(PoisonError::into_inner) = Some((target, pool));
        Ok(info)
    }
}

impl std::fmt::Debug for Scraper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scraper").finish_non_exhaustive()
    }
}

/// Puts INFO's figures into the registry. What is missing (older servers) stays as it is.
fn publish(registry: &Registry, info: &str) {
    registry.set_upstream(Upstream::Up, 1);
    let lines = || info.lines().filter_map(|line| line.trim_end().split_once(':'));
    let text = |name: &str| lines().find(|(field, _)| *field == name).map(|(_, value)| value);
    for (field, gauge) in FIELDS {
        if let Some(value) = text(field).and_then(|value| value.parse().ok()) {
            registry.set_upstream(gauge, value);
        }
    }
    if let Some(role) = text("role") {
        registry.set_upstream(Upstream::RoleMaster, i64::from(role == "master"));
        registry.set_upstream(Upstream::RoleReplica, i64::from(role == "slave"));
    }
    let databases = lines().filter(|(field, _)| field.strip_prefix("db").is_some_and(|n| n.parse::<u32>().is_ok()));
    registry.set_upstream(Upstream::Keys, databases.filter_map(|(_, value)| keys(value)).sum());
    let server = text("server_name").unwrap_or("redis");
    // Valkey gives a Redis version that it is compatible with beside its own.
    if let Some(version) = text("valkey_version").or_else(|| text("redis_version")) {
        registry.set_upstream_server(server, version);
    }
}

/// The keys of one database from `keys=12,expires=3,…`.
fn keys(database: &str) -> Option<i64> {
    database.split(',').find_map(|part| part.strip_prefix("keys="))?.parse().ok()
}

#[cfg(test)]
mod tests;

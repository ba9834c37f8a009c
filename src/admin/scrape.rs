//! Upstream's own INFO, for the `sidecache_upstream_*` metrics.
//!
//! Invariant: upstream is asked only while somebody reads `/metrics`, and at most once in
//! `INTERVAL`; a process whose metrics nobody reads costs upstream nothing. This is the control
//! plane: a connection of its own, never on a client's way.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bb8_redis::redis::{self, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use bb8_redis::{RedisConnectionManager, bb8};
use tokio::time::{Instant, timeout};

use crate::net::Address;
use crate::telemetry::Registry;
use crate::telemetry::metrics::Upstream;

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

type Pool = bb8::Pool<RedisConnectionManager>;

/// Whom to ask, and as whom.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// Where upstream is.
    pub address: Address,
    /// The user; empty: the default user.
    pub user: String,
    /// Its password; empty: none.
    pub password: String,
    /// A file that holds the password instead; read at each connect.
    pub password_file: Option<PathBuf>,
}

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

/// Why there was no INFO.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoInfo {
    #[error("upstream's address is not known")]
    NoTarget,
    #[error("cannot read the password file: {0}")]
    PasswordFile(#[from] std::io::Error),
    #[error("no connection within the limit")]
    NoConnection,
    #[error("upstream gives no INFO: {0}")]
    Refused(redis::RedisError),
    #[error("{0}")]
    Redis(#[from] redis::RedisError),
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
        match timeout(LIMIT, self.info()).await.unwrap_or(Err(NoInfo::NoConnection)) {
            Ok(info) => publish(&self.registry, &info),
            Err(error) => {
                tracing::debug!(%error, "upstream gave no INFO");
                self.registry.set_upstream(Upstream::Up, i64::from(error.is_denial()));
            }
        }
    }

    /// INFO's text. A pool that failed, or whose target is no longer ours, is not kept: the next
    /// one resolves names anew and reads the password file again.
    async fn info(&self) -> Result<String, NoInfo> {
        let target = (self.target)().ok_or(NoInfo::NoTarget)?;
        let kept = self.pool.lock().unwrap_or_else(PoisonError::into_inner).take();
        let pool = match kept.filter(|(of, _)| *of == target) {
            Some((_, pool)) => pool,
            None => target.pool().await?,
        };
        let mut connection = pool.get().await.map_err(NoInfo::from)?;
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

// === impl Target ===

impl Target {
    /// A pool of one connection that stays without being tended. It is opened here, since bb8 tells
    /// a connection's error only when it builds: later it would wait for the whole time-out.
    async fn pool(&self) -> Result<Pool, NoInfo> {
        let manager = RedisConnectionManager::new(self.connection_info()?)?;
        let builder = Pool::builder().max_size(1).min_idle(1).max_lifetime(None).idle_timeout(None);
        Ok(builder.retry_connection(false).connection_timeout(LIMIT).build(manager).await?)
    }

    /// A connection of its own, not tried before it is used: who may not even PING can still be told so by INFO itself.
    /// How long it waits for replies is its user's affair.
    pub(super) async fn connect(&self) -> Result<redis::aio::MultiplexedConnection, NoInfo> {
        let client = redis::Client::open(self.connection_info()?)?;
        let unlimited = redis::AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connecting = client.get_multiplexed_async_connection_with_config(&unlimited);
        Ok(timeout(LIMIT, connecting).await.map_err(|_| NoInfo::NoConnection)??)
    }

    fn connection_info(&self) -> Result<ConnectionInfo, NoInfo> {
        let password = match &self.password_file {
            Some(path) => std::fs::read_to_string(path)?.trim_end_matches(['\r', '\n']).to_owned(),
            None => self.password.clone(),
        };
        let mut login = RedisConnectionInfo::default().set_lib_name("sidecache", env!("CARGO_PKG_VERSION"));
        if !self.user.is_empty() {
            login = login.set_username(&self.user);
        }
        if !password.is_empty() {
            login = login.set_password(password);
        }
        let address = match &self.address {
            Address::Tcp { host, port } => ConnectionAddr::Tcp(host.clone(), *port),
            Address::Unix(path) => ConnectionAddr::Unix(path.clone()),
        };
        Ok(address.into_connection_info()?.set_redis_settings(login))
    }
}

// === impl NoInfo ===

impl NoInfo {
    /// What stands behind an error in place of INFO's own reply. An upstream that denies INFO, does not know it, or wants a
    /// password that we were not given, will say the same next time; one that loads its data or runs a script will not.
    pub(super) fn of_answer(error: redis::RedisError) -> NoInfo {
        if matches!(error.code(), Some("NOPERM" | "NOAUTH" | "ERR")) {
            NoInfo::Refused(error)
        } else {
            NoInfo::Redis(error)
        }
    }

    /// Whether upstream is there and gives us no INFO, now or later.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, NoInfo::Refused(_))
    }

    /// Whether upstream is there and denies it to our user.
    pub(super) fn is_denial(&self) -> bool {
        matches!(self, NoInfo::Redis(error) | NoInfo::Refused(error) if error.code() == Some("NOPERM"))
    }
}

impl From<bb8::RunError<redis::RedisError>> for NoInfo {
    fn from(error: bb8::RunError<redis::RedisError>) -> NoInfo {
        match error {
            bb8::RunError::User(error) => NoInfo::Redis(error),
            bb8::RunError::TimedOut => NoInfo::NoConnection,
        }
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("address", &self.address).field("user", &self.user).finish_non_exhaustive()
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

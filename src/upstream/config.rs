//! The upstream side's settings.

use std::time::Duration;

/// One pool's limits (bb8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Most connections at once, per worker and upstream user.
    pub max: u32,
    /// Connections kept open even when idle.
    pub min_idle: u32,
    /// A connection older than this is closed when it is next idle.
    pub max_age: Duration,
    /// A connection idle for this long is closed.
    pub idle_timeout: Duration,
    /// How long a client waits for one.
    pub wait_timeout: Duration,
}

/// What a command whose keys lie in several slots of a cluster gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossSlot {
    /// Those that can be split are.
    Split,
    /// Redis's own error.
    Error,
}

/// Whom reads go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// The master.
    Master,
    /// A replica; if none is fit, they fail.
    Replica,
    /// A replica; if none is fit, the master.
    PreferReplica,
    /// Whoever answers fastest.
    Nearest,
}

/// The upstream side's settings.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// `redis://[user:password@]host[:port][/db]` or `unix:///path[?db=n]`.
    pub url: String,
    /// The upstream user; empty: the default user.
    pub user: String,
    /// Its password; empty: none. Never shown.
    pub password: String,
    /// A file that holds the password; read at each connect, so that it can be rotated.
    pub password_file: Option<std::path::PathBuf>,
    /// The user at Sentinels; empty: the default user. `user` and `password` are the servers' alone.
    pub sentinel_user: String,
    /// Its password; empty: none. Never shown.
    pub sentinel_password: String,
    /// A file that holds the password; read at each connect, so that it can be rotated.
    pub sentinel_password_file: Option<std::path::PathBuf>,
    /// Time for connecting and handshaking; commands wait so long for a connection, and then fail.
    pub connect_timeout: Duration,
    /// Time for a command from taking it to its reply; blocking commands are exempt.
    pub command_timeout: Duration,
    /// How long a command that was certainly not sent waits for a failover to end; at most `command_timeout`.
    pub failover_wait: Duration,
    /// MGET, MSET, DEL and the like over several slots of a cluster.
    pub cross_slot: CrossSlot,
    /// Where nodes are, as seen from here: `told=reachable`, each a host or host:port.
    pub address_map: Vec<String>,
    /// Whom cacheable reads go to.
    pub read_from: ReadFrom,
    /// A replica that may be further behind its master than this is not read from.
    pub replica_max_lag: Duration,
    /// First and largest pause between connection attempts; in between they double, with full jitter.
    pub backoff_min: Duration,
    /// See `backoff_min`.
    pub backoff_max: Duration,
    /// Most commands that a lane may owe replies to.
    pub lane_max_commands: usize,
    /// Most bytes that may wait to be written to a lane.
    pub lane_max_bytes: usize,
    /// A lane unused for this long is closed.
    pub lane_idle_timeout: Duration,
    /// Most bytes of replies held until invalidations are in, per worker.
    pub held_max_bytes: usize,
    /// Requests beyond this size take a dedicated connection.
    pub large_request_bytes: usize,
    /// Transactions, large values and unknown commands.
    pub pool: PoolConfig,
    /// What waits on others: blocking commands, subscriptions, MONITOR.
    pub waiting_pool: PoolConfig,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("upstream::Config").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Self {
        let pool = PoolConfig {
            max: 32,
            min_idle: 0,
            max_age: Duration::from_secs(30 * 60),
            idle_timeout: Duration::from_secs(5 * 60),
            wait_timeout: Duration::from_secs(1),
        };
        Config {
            url: "redis://127.0.0.1:6379".into(),
            user: String::new(),
            password: String::new(),
            password_file: None,
            sentinel_user: String::new(),
            sentinel_password: String::new(),
            sentinel_password_file: None,
            connect_timeout: Duration::from_secs(1),
            command_timeout: Duration::from_secs(5),
            failover_wait: Duration::from_secs(5),
            cross_slot: CrossSlot::Split,
            read_from: ReadFrom::Master,
            replica_max_lag: Duration::from_secs(2),
            address_map: Vec::new(),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            lane_max_commands: 100_000,
            lane_max_bytes: 64 * 1024 * 1024,
            lane_idle_timeout: Duration::from_secs(5 * 60),
            held_max_bytes: 64 * 1024 * 1024,
            large_request_bytes: 64 * 1024,
            waiting_pool: PoolConfig { max: 1024, ..pool.clone() },
            pool,
        }
    }
}

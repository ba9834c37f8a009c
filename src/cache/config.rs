//! The cache's settings.

use std::time::Duration;

/// How the cache is kept right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By the server's invalidations (CLIENT TRACKING): all promises hold.
    Tracking,
    /// By age alone: entries live `ttl_mode_age` at most.
    Ttl,
    /// Nothing is cached; reads are still forwarded and counted.
    Off,
}

/// A rule for the keys that match a glob pattern (Redis's KEYS syntax). The first match decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The glob.
    pub pattern: String,
    /// The mode for such keys; `None`: the cache's.
    pub mode: Option<Mode>,
    /// Entries of such keys live no longer than this.
    pub max_age: Option<Duration>,
}

/// What MGET does when only a part of its keys is in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mget {
    /// Forward it whole: the reply is one snapshot.
    Snapshot,
    /// Fetch only the missing.
    Split,
}

/// The cache's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// How the cache is kept right.
    pub mode: Mode,
    /// Bytes the cache may hold, over all workers, keys and overhead included.
    pub bytes: u64,
    /// P4: no value overwritten longer ago than this is served.
    pub max_staleness: Duration,
    /// No entry lives longer, jittered by ±10 %.
    pub max_age: Duration,
    /// Larger replies are passed on but not kept.
    pub max_entry_bytes: usize,
    /// How long entries live where upstream cannot track.
    pub ttl_mode_age: Duration,
    /// A key read twice within this time is admitted.
    pub admission_window: Duration,
    /// One in so many hits is compared with upstream; 0: none.
    pub audit_every: u64,
    /// Whether a violation found by the audit stops the cache until restart.
    pub audit_bypass: bool,
    /// What MGET does when only a part of its keys is in the cache.
    pub mget: Mget,
    /// Rules per key pattern.
    pub rules: Vec<Rule>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            mode: Mode::Tracking,
            bytes: 64 * 1024 * 1024,
            max_staleness: Duration::from_secs(1),
            max_age: Duration::from_secs(60),
            max_entry_bytes: 256 * 1024,
            ttl_mode_age: Duration::from_secs(1),
            admission_window: Duration::from_secs(60),
            audit_every: 10_000,
            audit_bypass: true,
            mget: Mget::Snapshot,
            rules: Vec::new(),
        }
    }
}

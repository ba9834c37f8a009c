//! The client side's settings.

use std::time::Duration;

/// The client side's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where clients connect: `host:port` or `unix:/path`.
    pub listen: Vec<String>,
    /// Most clients at once, over all workers.
    pub max_clients: usize,
    /// A client silent for this long is closed; zero: never. Subscribers and blocked clients are exempt.
    pub idle_timeout: Duration,
    /// Whether a client must AUTH before anything else.
    pub require_auth: bool,
    /// While more than this waits to be read by a client, none of its commands are taken.
    pub output_pause_bytes: usize,
    /// A client for which more than this waits is closed.
    pub output_limit_bytes: usize,
    /// Most commands of one client under way at once; more are taken when replies are in.
    pub max_pipeline: usize,
    /// Refused commands to allow all the same (lower case; subcommands as `config|set`).
    pub allow: Vec<String>,
    /// Further commands to refuse.
    pub refuse: Vec<String>,
    /// Commands the table lacks that are plain: they may ride a lane.
    pub plain: Vec<String>,
    /// Time for what is under way when the process is told to end.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: vec!["127.0.0.1:6380".into()],
            max_clients: 10_000,
            idle_timeout: Duration::ZERO,
            require_auth: false,
            output_pause_bytes: 1024 * 1024,
            output_limit_bytes: 256 * 1024 * 1024,
            max_pipeline: 1024,
            allow: Vec::new(),
            refuse: Vec::new(),
            plain: Vec::new(),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

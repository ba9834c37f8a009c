//! Real clients run a session through a sidecache, with their libraries' defaults: redis-py and redis-cli as
//! programs of their own, redis-rs in this process. What was run with which version stands in docs/clients.md.

mod redis_cli;
mod redis_py;
mod redis_rs;

use crate::support::redis::KINDS;
use crate::support::{Kind, Server, Sidecar};

/// A server, and a sidecache in front of it.
pub struct Pair {
    pub sidecar: Sidecar,
    pub server: Server,
}

impl Pair {
    /// Both with the defaults, but for the number of workers.
    #[track_caller]
    pub fn start(kind: Kind, threads: usize) -> Pair {
        let server = Server::with(kind, &[]);
        let sidecar = Sidecar::start(&server, &format!("threads = {threads}"));
        Pair { sidecar, server }
    }
}

/// Each kind of server behind one worker and behind four.
pub fn everywhere() -> impl Iterator<Item = (Kind, usize)> {
    KINDS.into_iter().flat_map(|kind| [(kind, 1), (kind, 4)])
}

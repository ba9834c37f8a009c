//! Real clients run a session through a sidecache, with their libraries' defaults: most as programs of their own, the
//! Rust ones in this process. What was run with which version stands in docs/clients.md.

mod cluster;
mod fred;
mod programs;
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
    /// Both with the defaults, but for the number of workers and a lease that programs on a busy machine do not outlast.
    #[track_caller]
    pub fn start(kind: Kind, threads: usize) -> Pair {
        Pair::before(Server::with(kind, &[]), threads)
    }

    /// A sidecache in front of a server that has been in use.
    #[track_caller]
    pub fn before(server: Server, threads: usize) -> Pair {
        let sidecar = Sidecar::start(&server, &format!("threads = {threads}\ncache.max_staleness = '1m'"));
        Pair { sidecar, server }
    }
}

/// Each kind of server behind one worker and behind four.
pub fn everywhere() -> impl Iterator<Item = (Kind, usize)> {
    KINDS.into_iter().flat_map(|kind| [(kind, 1), (kind, 4)])
}

/// Where the programs run: each kind of server, one worker and several, but not every pair of these: what a library
/// does differs by the one or by the other.
pub const PLACES: [(Kind, usize); 2] = [(Kind::Redis, 1), (Kind::Valkey, 4)];

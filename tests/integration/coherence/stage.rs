//! Where the promises of coherence are tried: a server, a link, a sidecar, and clients on all its workers.
//!
//! *Invariant:* between `Stage::slow_lanes` and `Stage::quick` only the lanes are slow; what dedicated connections
//! and direct clients say passes at once, so that news has every chance to overtake an invalidation.

use std::time::Duration;

use crate::support::link::Connection;
use crate::support::{Conn, Dir, Kind, Link, Server, Sidecar, V, eventually};

/// A server behind a link behind a sidecar.
pub struct Stage {
    // Dropped in this order: a sidecar that outlives its upstream complains.
    pub sidecar: Sidecar,
    pub link: Link,
    pub server: Server,
    /// Workers of the sidecar.
    pub threads: usize,
}

/// Runs `body` with one worker and with four.
pub fn with_workers(toml: &str, body: impl Fn(&Stage)) {
    for threads in [1, 4] {
        body(&Stage::new(Kind::Redis, threads, toml));
    }
}

/// As `with_workers`, on stages as of `Stage::timeless`.
pub fn with_workers_timeless(toml: &str, body: impl Fn(&Stage)) {
    for threads in [1, 4] {
        body(&Stage::timeless(Kind::Redis, threads, toml));
    }
}

impl Stage {
    /// A stage; the user `app` with the password `secret` may do everything.
    pub fn new(kind: Kind, threads: usize, toml: &str) -> Stage {
        let server = Server::with(kind, &[]);
        server.outside("ACL SETUSER app on >secret ~* &* +@all");
        let link = Link::to(server.addr());
        let sidecar = Sidecar::start(&link, &format!("threads = {threads}\n{toml}"));
        Stage { sidecar, link, server, threads }
    }

    /// A stage where no standstill drops what is cached: how many reads go upstream is not a matter of time. The lease
    /// outlasts the test, and no background poll can come too late.
    pub fn timeless(kind: Kind, threads: usize, toml: &str) -> Stage {
        Stage::unpolled(kind, threads, &format!("cache.max_staleness = '1m'\n{toml}"))
    }

    /// A stage where the background polls are denied INFO: none is late, which would drop what is cached.
    pub fn unpolled(kind: Kind, threads: usize, toml: &str) -> Stage {
        let server = Server::with(kind, &[]);
        server.outside("ACL SETUSER app on >secret ~* &* +@all");
        server.outside("ACL SETUSER unpolled on >secret ~* &* +@all -info");
        let link = Link::to(server.addr());
        let user = "upstream.user = 'unpolled'\nupstream.password = 'secret'";
        let sidecar = Sidecar::start(&link, &format!("threads = {threads}\n{user}\n{toml}"));
        sidecar.allow_log("upstream denies INFO");
        Stage { sidecar, link, server, threads }
    }

    /// How many background polls have begun.
    pub fn polls(&self) -> usize {
        let polls = |connection: &std::sync::Arc<Connection>| connection.times_said(Dir::ToServer, "commandstats");
        self.link.connections().iter().map(polls).sum()
    }

    /// Clients on every worker, and one more there as the user `app`: each on a lane of its own.
    pub fn readers(&self) -> Vec<Conn> {
        let mut readers: Vec<Conn> = (0..self.threads).map(|_| self.sidecar.conn()).collect();
        let mut other = self.sidecar.conn();
        assert_eq!(other.line("AUTH app secret"), V::Simple("OK".into()));
        readers.push(other);
        readers
    }

    /// A client in this database.
    pub fn client_in(&self, db: u32) -> Conn {
        let mut client = self.sidecar.conn();
        assert_eq!(client.line(&format!("SELECT {db}")), V::Simple("OK".into()));
        client
    }

    /// The connections that said CLIENT TRACKING.
    pub fn lanes(&self) -> Vec<std::sync::Arc<Connection>> {
        self.link.those(|connection| connection.said(Dir::ToServer, "TRACKING"))
    }

    /// From here on what lanes say arrives late, each a little later than the one before.
    pub fn slow_lanes(&self, delay: Duration) {
        for (i, lane) in self.lanes().iter().enumerate() {
            lane.delay(Dir::ToClient, delay + delay / 8 * u32::try_from(i).unwrap());
        }
    }

    /// All connections are as quick as they can be.
    pub fn quick(&self) {
        self.lanes().iter().for_each(|lane| lane.delay(Dir::ToClient, Duration::ZERO));
    }

    /// Hits so far, of all workers.
    pub fn hits(&self) -> f64 {
        self.sidecar.metric("sidecache_commands_total{class=\"read\",outcome=\"hit\"}")
    }

    /// Reads `line` by each of the readers until it is a hit for all of them, each reply being `expected`.
    #[track_caller]
    pub fn warm(&self, readers: &mut [Conn], line: &str, expected: &V) {
        eventually("every reader hits", || {
            let before = self.hits();
            let replies: Vec<V> = readers.iter_mut().map(|reader| reader.line(line)).collect();
            let right = replies.iter().all(|reply| reply == expected);
            right && self.hits() - before >= readers.len() as f64
        });
    }

    /// Every reader must see this now.
    #[track_caller]
    pub fn all_see(&self, readers: &mut [Conn], line: &str, expected: &V, why: &str) {
        readers.iter_mut().for_each(|reader| reader.send(&line.split(' ').collect::<Vec<_>>()));
        for (i, reader) in readers.iter_mut().enumerate() {
            assert_eq!(reader.value(), *expected, "{why}: reader {i} of {} workers", self.threads);
        }
    }
}

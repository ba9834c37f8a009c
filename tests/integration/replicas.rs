//! Reads from replicas, in orders that no real server can be made to show: what a replica gets of its master, when it says
//! that it has it, and pushes that are still on their way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::support::{Scripted, Sidecar, V, eventually};

/// Patience that no busy machine uses up; and no lease ends, as if lanes were kept fresh all the while.
const FRESH: &str = "upstream.connect_timeout = '20s'\nupstream.command_timeout = '60s'\ncache.max_staleness = '1h'\n\
                     cache.audit_every = 0\nupstream.read_from = 'prefer-replica'";

/// How much a replica has of what its master has, and whether it is connected to it.
#[derive(Default)]
struct Replication {
    behind: AtomicBool,
    cut_off: AtomicBool,
    /// GETs that the replica has executed.
    reads: AtomicU64,
}

/// A master, and a replica whose pushes do not come before they must: ahead of the answer to what was sent after them.
struct Stage {
    now: Arc<Replication>,
    sidecar: Sidecar,
    _nodes: [Scripted; 2],
}

impl Stage {
    fn start(toml: &str) -> Stage {
        let now = Arc::<Replication>::default();
        let state = Arc::clone(&now);
        let replica = Scripted::start(move |turn| {
            turn.take("PING");
            let mut is_lane = false;
            while let Some(command) = turn.next() {
                let (behind, cut_off) = (state.behind.load(Ordering::SeqCst), state.cut_off.load(Ordering::SeqCst));
                match command[0].as_str() {
                    "PING" => {
                        if is_lane && !behind {
                            turn.invalidate(&["k"]);
                        }
                        turn.reply("+PONG\r\n");
                    }
                    "GET" => {
                        is_lane = true;
                        state.reads.fetch_add(1, Ordering::SeqCst);
                        turn.reply(if behind { "$3\r\nold\r\n" } else { "$3\r\nnew\r\n" });
                    }
                    "ROLE" => {
                        let link = if cut_off { "$7\r\nconnect\r\n" } else { "$9\r\nconnected\r\n" };
                        let offset = if behind { 10 } else { 20 };
                        turn.reply(format!("*5\r\n$5\r\nslave\r\n$1\r\nm\r\n:1\r\n{link}:{offset}\r\n"));
                    }
                    _ => turn.reply("-ERR unknown command\r\n"),
                }
            }
        });
        let (state, port) = (Arc::clone(&now), replica.addr().port().to_string());
        let has_written = AtomicBool::new(false);
        let master = Scripted::start(move |turn| {
            // Nothing of the master is kept, so that what is can only be the replica's.
            turn.answer("CLIENT CACHING", "-BUSY\r\n");
            while let Some(command) = turn.next() {
                // What it has written the replica does not have until it is behind no more.
                let written = has_written.load(Ordering::SeqCst) || !state.behind.load(Ordering::SeqCst);
                match command[0].as_str() {
                    "GET" if written => turn.reply("$3\r\nnew\r\n"),
                    "GET" => turn.reply("$3\r\nold\r\n"),
                    "SET" => {
                        has_written.store(true, Ordering::SeqCst);
                        turn.reply("+OK\r\n");
                    }
                    "ROLE" => {
                        let (offset, length) = (if written { 20 } else { 10 }, port.len());
                        turn.reply(format!(
                            "*3\r\n$6\r\nmaster\r\n:{offset}\r\n*1\r\n*3\r\n$9\r\n127.0.0.1\r\n${length}\r\n{port}\r\n:10\r\n"
                        ));
                    }
                    _ => turn.reply("-ERR unknown command\r\n"),
                }
            }
        });
        now.behind.store(true, Ordering::SeqCst);
        let sidecar = Sidecar::start(&master, &format!("{FRESH}\n{toml}"));
        Stage { now, sidecar, _nodes: [master, replica] }
    }

    fn hits(&self) -> f64 {
        self.sidecar.metric("sidecache_commands_total{class=\"read\",outcome=\"hit\"}")
    }

    /// A key is read from the replica until it is a hit there; then a write from outside has it changed at the master.
    fn warm_and_write(&self) {
        let mut client = self.sidecar.conn();
        eventually("the replica's value is a hit", || {
            let (reads, hits) = (self.now.reads.load(Ordering::SeqCst), self.hits());
            assert_eq!(client.line("GET k"), V::bulk("old"));
            reads > 0 && self.hits() > hits
        });
        // Past this sidecar, as far as it can tell: it never learns what was written.
        let mut outside = crate::support::Conn::open(self._nodes[0].addr());
        assert_eq!(outside.line("SET k new"), V::Simple("OK".into()));
    }

    /// The replica has caught up, and is read from again; its push has not come.
    fn catch_up(&self) {
        let mut client = self.sidecar.conn();
        eventually("the master is read from", || client.line("GET k") == V::bulk("new"));
        let before = self.now.reads.load(Ordering::SeqCst);
        self.now.behind.store(false, Ordering::SeqCst);
        self.now.cut_off.store(false, Ordering::SeqCst);
        eventually("the replica is read from", || {
            assert_eq!(client.line("GET k"), V::bulk("new"), "what was kept before it was unfit");
            self.now.reads.load(Ordering::SeqCst) > before
        });
    }
}

#[test]
fn a_replica_that_was_cut_off_shows_nothing_of_before_when_it_is_fit_again() {
    let stage = Stage::start("upstream.replica_max_lag = '1h'");
    stage.warm_and_write();
    stage.now.cut_off.store(true, Ordering::SeqCst);
    stage.catch_up();
}

#[test]
fn a_replica_that_lagged_shows_nothing_of_before_when_it_is_fit_again() {
    let stage = Stage::start("");
    stage.warm_and_write();
    stage.catch_up();
}

/// Read by another client before the replica had it, its old value is kept there; that the replica has it now is known before
/// its push has come.
#[test]
fn who_has_written_is_not_shown_what_is_kept_of_a_replica_from_before() {
    let stage = Stage::start("upstream.replica_max_lag = '1h'");
    let (mut writer, mut other) = (stage.sidecar.conn(), stage.sidecar.conn());
    assert_eq!(writer.line("SET k new"), V::Simple("OK".into()));
    eventually("the replica's value is a hit", || {
        let (reads, hits) = (stage.now.reads.load(Ordering::SeqCst), stage.hits());
        let is_old = other.line("GET k") == V::bulk("old");
        assert_eq!(writer.line("GET k"), V::bulk("new"), "the replica has not got it");
        is_old && reads > 0 && stage.hits() > hits
    });
    let before = stage.now.reads.load(Ordering::SeqCst);
    stage.now.behind.store(false, Ordering::SeqCst);
    eventually("the writer reads from the replica", || {
        assert_eq!(writer.line("GET k"), V::bulk("new"), "it had its answer long ago");
        stage.now.reads.load(Ordering::SeqCst) > before
    });
}

//! Every declared metric is really counted: a bit of everything is driven, and each family must have moved.

use std::collections::HashMap;
use std::time::Duration;

use sidecache::telemetry::metrics::FAMILIES;

use crate::support::link::Dir;
use crate::support::resp::{encode, words};
use crate::support::wait::pass;
use crate::support::{Cluster, Conn, Kind, Link, Server, Sidecar, V, eventually};

/// What this test cannot or must not bring about, and why.
const STILL: [(&str, &str); 10] = [
    ("sidecache_accept_errors_total", "needs exhausted file descriptors; see limits"),
    ("sidecache_audit_differences_explained_total", "needs a write between a hit and its audit"),
    ("sidecache_audit_violations_total", "needs a bug"),
    ("sidecache_audit_bypass", "needs a bug"),
    ("sidecache_upstream_loading", "needs a large data set"),
    ("sidecache_upstream_memory_max_bytes", "the server has no limit"),
    ("sidecache_upstream_evicted_keys", "the server has no limit"),
    ("sidecache_upstream_expired_keys", "needs a wait for upstream's own expiry"),
    ("sidecache_upstream_replicas", "needs a replica"),
    ("sidecache_sentinels", "needs Sentinels; see sentinel"),
];

/// The highest value that each family has shown at any time.
#[derive(Default)]
struct Seen(HashMap<String, f64>);

impl Seen {
    fn look(&mut self, sidecar: &Sidecar) {
        for (series, value) in sidecar.metrics() {
            let name = series.split('{').next().unwrap_or(&series);
            let family = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| name.strip_suffix(end));
            let family = family.filter(|family| FAMILIES.iter().any(|of| of.name == *family)).unwrap_or(name);
            let highest = self.0.entry(family.to_string()).or_default();
            *highest = highest.max(value);
        }
    }

    fn moved(&self, family: &str) -> bool {
        self.0.get(family).is_some_and(|value| *value > 0.0)
    }

    #[track_caller]
    fn shows(&mut self, sidecar: &Sidecar, family: &str) {
        eventually(family, || {
            self.look(sidecar);
            self.moved(family)
        });
    }
}

#[test]
fn every_metric_moves_when_what_it_counts_happens() {
    let server = Server::redis();
    let link = Link::to(server.addr());
    let sidecar = Sidecar::start(
        &link,
        "cache.audit_every = 2\ncache.bytes = '1MiB'\nclient.max_clients = 40\n\
         upstream.pool.max = 1\nclient.output_pause_bytes = '64KiB'",
    );
    crate::faults::allow_loss(&sidecar);
    let mut seen = Seen::default();
    let mut conn = sidecar.conn();
    reads_and_writes(&server, &mut conn);
    // Hits so far apart that only a heartbeat can keep the lease.
    conn.line("SET hot 1");
    eventually("heartbeats", || {
        conn.pipeline(&["GET hot", "GET hot"]);
        pass(Duration::from_millis(300));
        seen.look(&sidecar);
        seen.moved("sidecache_heartbeats_total")
    });
    seen.shows(&sidecar, "sidecache_cache_evictions_total");
    seen.shows(&sidecar, "sidecache_audit_checks_total");
    let mut subscriber = sidecar.conn();
    subscriber.line("SUBSCRIBE ch");
    server.outside("PUBLISH ch m");
    seen.shows(&sidecar, "sidecache_subscriptions");
    seen.shows(&sidecar, "sidecache_messages_total");
    pools_and_clients(&sidecar, &mut seen);
    orders(&server, &mut seen);
    idle_and_fat(&server, &mut seen);
    losses(&link, &sidecar, &mut seen);
    timeouts(&server, &mut seen);
    a_cluster(&mut seen);
    seen.look(&sidecar);
    let families = FAMILIES.iter().map(|family| family.name);
    let still: Vec<&str> = families.filter(|name| !seen.moved(name)).collect();
    let unexpected: Vec<_> = still.iter().filter(|name| !STILL.iter().any(|(listed, _)| listed == *name)).collect();
    assert!(unexpected.is_empty(), "never moved: {unexpected:?}");
}

/// A slot that moves while it is asked for.
fn a_cluster(seen: &mut Seen) {
    let cluster = Cluster::start(Kind::Redis, 2, 0);
    let sidecar = &Sidecar::start(&cluster, "");
    let key = cluster.key_on(0, "k");
    let mut conn = sidecar.conn();
    conn.line(&format!("SET {key} 1"));
    let moving = cluster.begin_move(cluster.slot(&key), 0, 1);
    moving.keys(10);
    assert_eq!(conn.line(&format!("GET {key}")), V::bulk("1"));
    seen.shows(sidecar, "sidecache_redirects_total");
    moving.finish();
    seen.shows(sidecar, "sidecache_slot_map_refreshes_total");
    seen.shows(sidecar, "sidecache_topology_changes_total");
}

fn reads_and_writes(server: &Server, conn: &mut Conn) {
    let value = "x".repeat(10_000);
    for n in 0..150 {
        assert_eq!(conn.call(&["SET", &format!("k{n}"), &value]), b"+OK\r\n");
        (0..3).for_each(|_| drop(conn.line(&format!("GET k{n}"))));
    }
    for n in 0..150 {
        server.outside(&format!("SET k{n} 1"));
    }
    server.outside("FLUSHALL");
    conn.pipeline(&["GET k1", "GET k1", "GET k1", "FLUSHALL", "SHUTDOWN", "INFO", "MGET a b"]);
}

fn pools_and_clients(sidecar: &Sidecar, seen: &mut Seen) {
    let mut watcher = sidecar.conn();
    assert_eq!(watcher.line("WATCH k"), V::Simple("OK".into()));
    let mut waiting = sidecar.conn();
    waiting.send(&["WATCH", "k"]);
    seen.shows(sidecar, "sidecache_pool_waiting");
    assert!(waiting.value().text().contains("upstream.pool.max"));
    let mut blocked = sidecar.conn();
    blocked.send(&["BLPOP", "nothing", "0"]);
    seen.shows(sidecar, "sidecache_pool_in_use");
    eventually("upstream tells of it", || {
        seen.look(sidecar);
        seen.moved("sidecache_upstream_blocked_clients")
    });
    drop((watcher, waiting));
    seen.shows(sidecar, "sidecache_pool_timeouts_total");
    let mut lazy = sidecar.conn();
    assert_eq!(lazy.call(&["SET", "large", &"x".repeat(60_000)]), b"+OK\r\n");
    let mut writer = lazy.writer();
    let asking = std::thread::spawn(move || {
        drop(std::io::Write::write_all(&mut writer, &encode(&words("GET large")).repeat(3000)))
    });
    seen.shows(sidecar, "sidecache_clients_paused");
    drop(lazy);
    asking.join().unwrap();
    let many: Vec<_> = (0..45).map(|_| sidecar.conn()).collect();
    seen.shows(sidecar, "sidecache_clients_rejected_total");
    drop(many);
    eventually("there is room", || sidecar.metric("sidecache_clients") < 10.0);
}

/// Parked reads, flights, fences and held replies: seen while the network is held up, by one with more patience.
fn orders(server: &Server, seen: &mut Seen) {
    let link = Link::to(server.addr());
    let sidecar = Sidecar::start(&link, "cache.max_staleness = '5s'");
    let (mut conn, mut other) = (sidecar.conn(), sidecar.conn());
    server.outside("SET p 1");
    assert_eq!(other.line("SELECT 1"), V::Simple("OK".into()));
    (0..3).for_each(|_| drop((conn.line("GET p"), other.line("GET x"))));
    let lanes = link.those(|connection| connection.said(Dir::ToServer, "TRACKING"));
    lanes.iter().for_each(|lane| lane.hold(Dir::ToClient));
    // Its invalidation stands before the reply that the parked read waits for.
    server.outside("SET p 2");
    conn.send_raw(&[encode(&words("GET missing")), encode(&words("GET p"))].concat());
    seen.shows(&sidecar, "sidecache_parked_reads");
    seen.shows(&sidecar, "sidecache_flights");
    lanes.iter().for_each(|lane| lane.resume(Dir::ToClient));
    assert_eq!((conn.value(), conn.value()), (V::Nil, V::bulk("2")));
    seen.shows(&sidecar, "sidecache_parked_reads_refetched_total");
    // Database 1's lane has entries and is slow: what a script tells waits for it.
    let busy = lanes.iter().filter(|lane| lane.said(Dir::ToServer, "SELECT\r\n$1\r\n1"));
    busy.clone().for_each(|lane| lane.hold(Dir::ToClient));
    conn.send(&["EVAL", "return('news')", "0"]);
    seen.shows(&sidecar, "sidecache_held_replies");
    busy.for_each(|lane| lane.resume(Dir::ToClient));
    assert_eq!(conn.value(), V::bulk("news"));
}

/// A client that says nothing is closed, and a value too large to keep is read past the cache.
fn idle_and_fat(server: &Server, seen: &mut Seen) {
    server.conn().call(&["SET", "fat", &"x".repeat(400_000)]);
    let sidecar = Sidecar::start(server, "client.idle_timeout = '5s'");
    let mut conn = sidecar.conn();
    (0..4).for_each(|_| assert_eq!(conn.call(&["GET", "fat"]).len(), 400_011));
    conn.expect_closed();
    seen.shows(&sidecar, "sidecache_clients_closed_total");
    seen.shows(&sidecar, "sidecache_cache_bypass_total");
}

/// Lost connections, retries.
fn losses(link: &Link, sidecar: &Sidecar, seen: &mut Seen) {
    let mut conn = sidecar.conn();
    eventually("it answers", || conn.line("GET r1") == V::Nil);
    // Written and lost with its connection, before its patience has ended.
    let mut tries = 0;
    eventually("a read is sent again", || {
        let lanes = link.those(|connection| connection.said(Dir::ToServer, "TRACKING"));
        let written = || lanes.iter().map(|lane| lane.bytes(Dir::ToServer)).sum::<u64>();
        let before = written();
        lanes.iter().for_each(|lane| lane.hold(Dir::ToServer));
        tries += 1;
        conn.send(&["LLEN", &format!("retried{tries}")]);
        eventually("it is written", || written() > before);
        link.cut();
        conn.value();
        eventually("it answers", || matches!(conn.line("LLEN l"), V::Int(_)));
        seen.look(sidecar);
        seen.moved("sidecache_retries_total")
    });
}

/// Silence, late replies, backoff: by one with less patience, though more than a standstill of the machine uses up.
fn timeouts(server: &Server, seen: &mut Seen) {
    let link = Link::to(server.addr());
    let sidecar = &Sidecar::start(&link, "upstream.command_timeout = '4s'");
    crate::faults::allow_loss(sidecar);
    let (mut conn, mut reader) = (sidecar.conn(), sidecar.conn());
    let lane = || link.those(|connection| connection.said(Dir::ToServer, "TRACKING"));
    // Ever slower, but not as fast as time goes by, or nothing would pass: tombstones and late replies. On a
    // machine that is itself too slow the lane is lost instead: then once more.
    for _ in 0..5 {
        for n in 0..80 {
            lane().iter().for_each(|lane| lane.delay(Dir::ToClient, Duration::from_millis(60 * n)));
            reader.send(&["LLEN", &format!("l{n}")]);
            pass(Duration::from_millis(100));
        }
        lane().iter().for_each(|lane| lane.delay(Dir::ToClient, Duration::ZERO));
        (0..80).for_each(|_| drop(reader.value()));
        eventually("all late replies are in", || sidecar.metric("sidecache_lane_fifo_commands") == 0.0);
        seen.look(sidecar);
        if seen.moved("sidecache_late_replies_total") {
            break;
        }
        eventually("it answers", || matches!(conn.line("LLEN l"), V::Int(_)));
    }
    seen.shows(sidecar, "sidecache_lane_fifo_commands");
    fence_timed_out(&link, sidecar, seen);
    stopped(server, seen);
}

/// An upstream that neither reads nor speaks.
fn stopped(server: &Server, seen: &mut Seen) {
    // No link, which would read.
    let sidecar = &Sidecar::start(server, "upstream.command_timeout = '4s'");
    crate::faults::allow_loss(sidecar);
    let conn = sidecar.conn();
    server.stop();
    // More than the kernel's buffers take: bytes wait in the lane.
    let bytes = encode(&["APPEND", "k", &"x".repeat(60_000)]).repeat(200);
    let mut writer = conn.writer();
    let sending = std::thread::spawn(move || drop(std::io::Write::write_all(&mut writer, &bytes)));
    seen.shows(sidecar, "sidecache_lane_output_bytes");
    seen.shows(sidecar, "sidecache_lanes_closed_silent_total");
    seen.shows(sidecar, "sidecache_reconnect_attempts_total");
    server.cont();
    drop(conn);
    sending.join().unwrap();
}

/// One lane must be fenced for what another's script has done, and does not answer.
fn fence_timed_out(link: &Link, sidecar: &Sidecar, seen: &mut Seen) {
    let (mut here, mut there) = (sidecar.conn(), sidecar.conn());
    eventually("it answers", || !matches!(here.line("GET a"), V::Error(_)));
    eventually("database 2 answers", || there.line("SELECT 2") == V::Simple("OK".into()));
    eventually("a fence times out", || {
        eventually("it answers", || there.line("GET b") == V::Nil);
        (0..4).for_each(|_| drop(there.line("GET b")));
        for lane in link.those(|connection| connection.said(Dir::ToServer, "SELECT\r\n$1\r\n2")) {
            lane.swallow(Dir::ToServer);
        }
        assert_eq!(here.ask(&["EVAL", "return('news')", "0"]), V::bulk("news"));
        seen.look(sidecar);
        seen.moved("sidecache_fences_timed_out_total")
    });
}

//! Upstream away, killed, stopped, silent, slow, restarted, full or mad: the right error in time or the right
//! value, one reply per command, never a swapped one, and recovery without a restart.

mod load;
mod once;
mod upstream_says;

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::link::Dir;
use crate::support::wait::pass;
use crate::support::{Conn, Link, Scripted, Server, Sidecar, V, eventually};
use load::{Load, match_counters, seed};

/// Patience so short that a test can outwait it, and so long that a busy machine does not end it by itself.
const IMPATIENT: &str = "upstream.command_timeout = '1s'\nupstream.connect_timeout = '500ms'\n\
                         upstream.backoff_max = '100ms'";

/// What an impatient sidecar may take for an error, on a machine that stands still for seconds: less than the tests' own
/// patience.
const IN_TIME: Duration = Duration::from_secs(9);

/// Announces what a sidecar logs of a lost upstream.
pub fn allow_loss(sidecar: &Sidecar) {
    sidecar.allow_log("lane lost");
    sidecar.allow_log("no connection to upstream");
}

/// Sends a line and takes its reply, which must be an error of ours, in time.
#[track_caller]
fn error_in_time(conn: &mut Conn, line: &str) -> String {
    let begun = Instant::now();
    let V::Error(text) = conn.line(line) else { panic!("{line}: no error") };
    assert!(begun.elapsed() < IN_TIME, "{line}: only after {:?}", begun.elapsed());
    assert!(text.starts_with("ERR sidecache: "), "{line}: {text}");
    text
}

#[track_caller]
fn is_ready(sidecar: &Sidecar) -> bool {
    sidecar.http("/readyz").0 == 200
}

#[test]
fn a_sidecar_started_before_its_upstream_says_so_and_serves_once_it_is_there() {
    let server = Server::redis();
    server.kill();
    let sidecar = Sidecar::start_alone(&server, IMPATIENT);
    allow_loss(&sidecar);
    assert_eq!((is_ready(&sidecar), sidecar.http("/livez").0), (false, 200));
    let mut conn = sidecar.conn();
    let mut watcher = sidecar.conn();
    for line in ["GET k", "SET k 1", "EVAL return(1) 0", "BLPOP k 0", "WATCH k", "MGET a b", "NOSUCH"] {
        let text = error_in_time(if line == "WATCH k" { &mut watcher } else { &mut conn }, line);
        assert!(text.contains("unreachable") && text.contains("not executed"), "{line}: {text}");
    }
    watcher.expect_closed();
    server.restart();
    // Nobody asks: whether upstream is back must show all the same.
    eventually("it is ready", || is_ready(&sidecar));
    let served = [V::Simple("OK".into()), V::bulk("1")];
    eventually("it serves", || conn.pipeline(&["SET k 1", "GET k"]) == served);
}

#[test]
fn an_idle_sidecar_notices_that_its_upstream_has_gone_and_come_back() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, IMPATIENT);
    allow_loss(&sidecar);
    eventually("it is ready", || is_ready(&sidecar));
    server.kill();
    eventually("it is not ready", || !is_ready(&sidecar));
    server.restart();
    eventually("it is ready again", || is_ready(&sidecar));
}

#[test]
fn an_upstream_killed_under_load_costs_clear_errors_and_nothing_else() {
    let server = Server::redis();
    seed(&server);
    let sidecar = Sidecar::start(&server, IMPATIENT);
    allow_loss(&sidecar);
    let load = Load::begin(&sidecar, 6);
    load.goes_on(20);
    server.kill();
    eventually("errors", || load.errors().len() > 20);
    let tallies = load.end();
    assert!(tallies.iter().all(|tally| tally.closed == 0 && tally.slowest < IN_TIME), "{tallies:?}");
    server.restart();
    seed(&server);
    let load = Load::begin(&sidecar, 6);
    load.goes_on(20);
    load.end();
    eventually("nothing is owed", || sidecar.metric("sidecache_lane_fifo_commands") == 0.0);
}

#[test]
fn a_short_standstill_of_upstream_costs_no_error() {
    let server = Server::redis();
    seed(&server);
    let sidecar = Sidecar::start(&server, "");
    let load = Load::begin(&sidecar, 4);
    load.goes_on(10);
    server.stop();
    pass(Duration::from_millis(300));
    server.cont();
    load.goes_on(10);
    assert_eq!(load.errors(), [""; 0]);
    match_counters(&server, &load.end());
}

#[test]
fn a_long_standstill_of_upstream_costs_errors_in_time_and_no_memory() {
    let server = Server::redis();
    seed(&server);
    let sidecar = Sidecar::start(&server, IMPATIENT);
    allow_loss(&sidecar);
    let load = Load::begin(&sidecar, 6);
    load.goes_on(20);
    let before = crate::limits::rss(&sidecar);
    server.stop();
    // Six times its patience: half a minute's standstill at the default.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(6) {
        let metrics = sidecar.metrics();
        assert!(metrics["sidecache_lane_fifo_commands"] < 200.0 && metrics["sidecache_lane_output_bytes"] < 1e6);
        pass(Duration::from_millis(50));
    }
    let grown = crate::limits::rss(&sidecar).saturating_sub(before);
    assert!(grown < 8 << 20, "grown by {grown} bytes");
    assert!(load.errors().len() > 20, "{:?}", load.errors());
    server.cont();
    load.goes_on(10);
    let tallies = load.end();
    assert!(tallies.iter().all(|tally| tally.closed == 0 && tally.slowest < IN_TIME), "{tallies:?}");
    match_counters(&server, &tallies);
    assert!(sidecar.metric("sidecache_lanes_closed_silent_total") >= 1.0);
}

#[test]
fn a_silent_network_costs_errors_in_time_and_what_was_held_back_harms_nobody() {
    let server = Server::redis();
    seed(&server);
    let link = Link::to(server.addr());
    let sidecar = Sidecar::start(&link, IMPATIENT);
    allow_loss(&sidecar);
    let load = Load::begin(&sidecar, 4);
    load.goes_on(10);
    link.hold();
    eventually("errors", || load.errors().len() > 20);
    link.resume();
    load.goes_on(10);
    let tallies = load.end();
    assert!(tallies.iter().all(|tally| tally.closed == 0 && tally.slowest < IN_TIME), "{tallies:?}");
    match_counters(&server, &tallies);
}

#[test]
fn a_network_that_swallows_one_direction_costs_errors_in_time() {
    for dir in [Dir::ToServer, Dir::ToClient] {
        let server = Server::redis();
        seed(&server);
        let link = Link::to(server.addr());
        let sidecar = Sidecar::start(&link, IMPATIENT);
        allow_loss(&sidecar);
        let load = Load::begin(&sidecar, 3);
        load.goes_on(5);
        link.connections().iter().for_each(|connection| connection.swallow(dir));
        eventually("errors", || !load.errors().is_empty());
        load.goes_on(10);
        let tallies = load.end();
        assert!(tallies.iter().all(|tally| tally.closed == 0 && tally.slowest < IN_TIME), "{tallies:?}");
        match_counters(&server, &tallies);
    }
}

#[test]
fn a_slow_network_costs_time_only() {
    let server = Server::redis();
    seed(&server);
    let link = Link::to(server.addr());
    let sidecar = Sidecar::start(&link, "");
    link.delay(Dir::ToServer, Duration::from_millis(20));
    link.delay(Dir::ToClient, Duration::from_millis(30));
    let load = Load::begin(&sidecar, 8);
    load.goes_on(10);
    assert_eq!(load.errors(), [""; 0]);
    match_counters(&server, &load.end());
}

#[test]
fn what_was_cached_before_a_restart_of_upstream_is_not_served_after_it() {
    let server = Server::redis();
    let sidecar = Sidecar::start(&server, "upstream.backoff_max = '100ms'");
    allow_loss(&sidecar);
    let mut conn = sidecar.conn();
    conn.line("SET k old");
    server.outside("SET j old");
    let hit = r#"sidecache_commands_total{class="read",outcome="hit"}"#;
    while sidecar.metric(hit) < 4.0 {
        assert_eq!(conn.pipeline(&["GET k", "GET j"]), [V::bulk("old"), V::bulk("old")]);
    }
    server.restart();
    server.outside("SET k new");
    // Until then it may show what it has, for as long as the lease holds.
    eventually("the loss is seen", || sidecar.metric("sidecache_lane_losses_total") >= 1.0);
    eventually("it is ready", || !matches!(conn.line("PING"), V::Error(_)));
    assert_eq!(conn.pipeline(&["GET k", "GET j"]), [V::bulk("new"), V::Nil]);
}

#[test]
fn lanes_and_pools_killed_at_the_server_under_load_cost_errors_and_no_command_runs_twice() {
    let server = Server::redis();
    seed(&server);
    let sidecar = Sidecar::start(&server, "");
    allow_loss(&sidecar);
    let load = Load::begin(&sidecar, 6);
    for round in 0..5 {
        load.goes_on(5);
        server.outside("CLIENT KILL TYPE normal SKIPME yes");
        let losses = move |sidecar: &Sidecar| sidecar.metric("sidecache_lane_losses_total");
        eventually("the loss is counted", || losses(&sidecar) > f64::from(round));
    }
    load.goes_on(5);
    match_counters(&server, &load.end());
}

#[test]
fn a_network_that_resets_and_cuts_under_load_costs_errors_and_no_command_runs_twice() {
    let server = Server::redis();
    seed(&server);
    let link = Link::to(server.addr());
    let sidecar = Sidecar::start(&link, "");
    allow_loss(&sidecar);
    let load = Load::begin(&sidecar, 6);
    for round in 0..12 {
        load.goes_on(3);
        match round % 4 {
            0 => link.reset(),
            1 => link.cut(),
            2 => link.connections().iter().for_each(|connection| connection.cut_in_next(Dir::ToClient)),
            _ => link.connections().iter().for_each(|connection| connection.cut_in_next(Dir::ToServer)),
        }
    }
    load.goes_on(5);
    let tallies = load.end();
    assert!(tallies.iter().all(|tally| tally.closed == 0), "{tallies:?}");
    match_counters(&server, &tallies);
}

#[test]
fn a_small_reply_cut_in_the_middle_is_an_error_to_its_client() {
    let server = Server::redis();
    server.outside("SET k 0123456789");
    let link = Link::to(server.addr());
    let sidecar = Sidecar::start(&link, "");
    allow_loss(&sidecar);
    let mut conn = sidecar.conn();
    link.connections().iter().for_each(|connection| connection.cut_in_next(Dir::ToClient));
    // A write: a read would be sent again.
    let V::Error(text) = conn.line("GETSET k x") else { panic!("no error") };
    assert!(text.contains("was lost") && text.contains("may have been executed"), "{text}");
    assert_eq!(conn.line("GET k"), V::bulk("x"));
}

#[test]
fn a_large_reply_cut_in_the_middle_closes_its_client_and_is_an_error_to_others() {
    let large = format!("${}\r\n{}\r\n", 6 << 20, "x".repeat(6 << 20));
    let (whole, length, reply) = (AtomicBool::new(false), large.len(), large.clone());
    let upstream = Scripted::start(move |turn| {
        while let Some(command) = turn.next() {
            let cuts = command[0] == "GET" && !whole.swap(true, Ordering::SeqCst);
            turn.reply(match command[0].as_str() {
                "GET" if cuts => &reply[..length / 2],
                "GET" => &reply,
                _ => "+OK\r\n",
            });
            // The one behind it on the same connection is read, and not answered either.
            if cuts {
                turn.expect("SET k v");
                return;
            }
        }
    });
    let sidecar = Sidecar::start(&upstream, "");
    allow_loss(&sidecar);
    let (mut reader, mut other) = (sidecar.conn(), sidecar.conn());
    reader.send(&["GET", "large"]);
    let mut head = vec![0; 1 << 20];
    reader.writer().read_exact(&mut head).unwrap();
    let text = other.line("SET k v").text();
    assert!(text.starts_with("ERR sidecache: the connection"), "{text}");
    let mut rest = Vec::new();
    let _ = reader.writer().read_to_end(&mut rest);
    let got = [head, rest].concat();
    assert!(got.len() < length && large.as_bytes().starts_with(&got), "half a reply cannot be made whole");
    assert_eq!(sidecar.conn().call(&["GET", "large"]).len(), length);
}
